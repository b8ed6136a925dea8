"""Where a network looks: class-activation overlays (Grad-CAM: Selvaraju et al. 2017, arXiv
1610.02391).
"""

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import replace
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
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import ImageOptions, ModelOptions
from effnet_cli.predict.organize import new_file
from effnet_cli.predict.records import ImageResult
from effnet_cli.system.errors import EffnetError, ImageError
from effnet_cli.system.files import cannot_write

LIBRARY, INSTALL = "pytorch_grad_cam", "pip install 'effnet-cli[explain]'"
MAX_STEM_CHARS = 50  # of an image's name, in that of its overlay
IMAGE_WEIGHT = 0.55  # of the image under its heat


class Explainer:
    """Draws over images what speaks for a class.

    Raises:
        UsageError: the model's file holds no weights: gradients need them.
        EffnetError: the library is missing.
    """

    def __init__(self, options: ModelOptions, images: ImageOptions = ImageOptions()) -> None:
        if importlib.util.find_spec(LIBRARY) is None:
            raise EffnetError("Overlays need the library grad-cam.", f"Install it: {INSTALL}")
        network = resolve_model(options)
        self._classes = {name: index for index, name in enumerate(network.card.classes)}
        self._loader = ImageLoader(network.card.preprocessing, images)
        self._module = build.load_module(network)
        build.import_torchvision("torchvision")  # the library needs it, and would not say so
        library: Any = import_module(LIBRARY)
        targets: Any = import_module(f"{LIBRARY}.utils.model_targets")
        self._draw: Any = import_module(f"{LIBRARY}.utils.image").show_cam_on_image
        self._target = targets.ClassifierOutputTarget
        last = list(self._module.get_submodule("features").children())[-1]
        self._map = library.GradCAM(model=self._module, target_layers=[last])

    def overlay(self, path: str, label: str) -> npt.NDArray[np.uint8] | None:
        """The square that the network sees, uint8 [H,W,3], reddened where it speaks for `label`;
        `None` if the image cannot be opened.
        """
        try:
            crop = self._loader.crop(self._loader.open(path))
        except ImageError:
            return None
        return self.drawn(crop, self._classes[label])

    def drawn(self, crop: npt.NDArray[np.uint8], index: int) -> npt.NDArray[np.uint8]:
        """The square, uint8 [H,W,3], reddened where it speaks for the class of this index."""
        pixels = torch.from_numpy(normalise(crop[None], self._loader.preprocessing))
        (heat,) = self._map(input_tensor=pixels.requires_grad_(), targets=[self._target(index)])
        share = crop.astype(np.float32) / 255
        drawn: npt.NDArray[np.uint8] = self._draw(
            share, heat, use_rgb=True, image_weight=IMAGE_WEIGHT
        )
        return drawn

    def watch(self, predictions: Iterable[ImageResult], folder: Path) -> Iterator[ImageResult]:
        """The same rows with overlays for the best class, and the file in `folder` that has image
        and overlay side by side. The rows bring what the network saw.

        Raises:
            EffnetError: the folder cannot be written.
        """
        for prediction in predictions:
            best = next((a.index for a in prediction.predictions if a.index is not None), None)
            if prediction.crop is None or best is None:
                yield prediction
                continue
            overlay = self.drawn(prediction.crop, best)
            pair = np.hstack((prediction.crop, overlay))
            content = encode_thumbnail(pair, max(pair.shape))
            name = f"{Path(prediction.path).stem[-MAX_STEM_CHARS:]}.jpg"
            try:
                file, _ = new_file(folder, name, lambda part: part.write_bytes(content))  # noqa: B023 (called at once)
            except OSError as error:
                raise cannot_write(folder, error) from error
            yield replace(prediction, overlay=overlay, explained=str(file))
