"""Grad-CAM overlays: the pixels that support a class (Selvaraju et al. 2017, arXiv 1610.02391)."""

import importlib.util
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from effnet_cli.engines.normalise import normalise
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.thumbnails import encode_thumbnail
from effnet_cli.models import build
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import ImageOptions, ModelOptions
from effnet_cli.predict.organize import write_new_file
from effnet_cli.predict.records import ImageResult, Overlay
from effnet_cli.system.errors import EffnetError, ImageError
from effnet_cli.system.files import cannot_write

GRADCAM_LIBRARY, GRADCAM_INSTALL = "pytorch_grad_cam", "pip install 'effnet-cli[explain]'"
MAX_STEM_CHARS = 50  # characters of an image's name to keep in its overlay's name
IMAGE_WEIGHT = 0.55  # weight of the image under the heat map


def load_gradcam(options: ModelOptions, images: ImageOptions = ImageOptions()) -> "GradCam":
    """Load a model for overlays.

    Raises:
        UsageError: the model is an exported file, which has no gradients.
        EffnetError: the library is not installed.
    """
    if importlib.util.find_spec(GRADCAM_LIBRARY) is None:
        raise EffnetError(
            "Overlays require the package grad-cam.", f"Install it: {GRADCAM_INSTALL}"
        )
    build.import_torchvision("torchvision")  # grad-cam needs it, but its own error is less clear
    model = resolve_model(options)
    return GradCam(model, build.load_module(model), images)


class GradCam:
    """Draws overlays for one model."""

    def __init__(self, model: Model, module: torch.nn.Module, images: ImageOptions) -> None:
        library: Any = import_module(GRADCAM_LIBRARY)
        targets: Any = import_module(f"{GRADCAM_LIBRARY}.utils.model_targets")
        self._show: Any = import_module(f"{GRADCAM_LIBRARY}.utils.image").show_cam_on_image
        self._target = targets.ClassifierOutputTarget
        self._classes = {name: index for index, name in enumerate(model.card.classes)}
        self._loader = ImageLoader(model.card.preprocessing, images)
        last = list(module.get_submodule("features").children())[-1]
        self._compute = library.GradCAM(model=module, target_layers=[last])

    def overlay(self, path: str, label: str) -> npt.NDArray[np.uint8] | None:
        """Return an image's crop, uint8 [H,W,3], with the pixels that support `label` in red, or
        `None` if the image cannot be decoded.
        """
        try:
            crop = self._loader.crop(self._loader.open(path))
        except ImageError:
            return None
        return self.draw(crop, self._classes[label])

    def draw(self, crop: npt.NDArray[np.uint8], index: int) -> npt.NDArray[np.uint8]:
        """Return the crop, uint8 [H,W,3], with the pixels that support class `index` in red."""
        pixels = torch.from_numpy(normalise(crop[None], self._loader.preprocessing))
        (heat,) = self._compute(input_tensor=pixels.requires_grad_(), targets=[self._target(index)])
        overlay: npt.NDArray[np.uint8] = self._show(
            crop.astype(np.float32) / 255, heat, use_rgb=True, image_weight=IMAGE_WEIGHT
        )
        return overlay

    def save(self, result: ImageResult, folder: Path) -> Overlay | None:
        """Save the crop and the overlay of its best class side by side.

        Returns `None` if there is no crop or no known class. Raises `EffnetError` if the folder
        cannot be written.
        """
        best = next((one.index for one in result.predictions if one.index is not None), None)
        if result.crop is None or best is None:
            return None
        overlay = self.draw(result.crop, best)
        pair = np.hstack((result.crop, overlay))
        content = encode_thumbnail(pair, max(pair.shape))
        name = f"{Path(result.path).stem[-MAX_STEM_CHARS:]}.jpg"
        try:
            file, _ = write_new_file(folder, name, lambda part: part.write_bytes(content))
        except OSError as error:
            raise cannot_write(folder, error) from error
        return Overlay(str(file), overlay)

    def read(self, overlay: Overlay) -> Overlay:
        """Load the pixels of a saved overlay; they stay `None` if it cannot be opened."""
        try:
            pair = np.asarray(self._loader.open(overlay.path))
        except ImageError:
            return overlay
        return Overlay(overlay.path, pair[:, pair.shape[1] // 2 :])
