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

from effnet_cli.images import PictureLoader
from effnet_cli.images.thumbnails import thumbnail_of
from effnet_cli.models import build as model
from effnet_cli.models.weights import resolve
from effnet_cli.options import ModelOptions, PictureOptions
from effnet_cli.predict.classifier import Prediction
from effnet_cli.predict.organize import new_file
from effnet_cli.system.errors import EffnetError, PictureError
from effnet_cli.system.files import cannot_write

LIBRARY, INSTALL = "pytorch_grad_cam", "pip install 'effnet-cli[explain]'"
MAX_STEM_CHARS = 50  # of a picture's name, in that of its overlay
PICTURE_WEIGHT = 0.55  # of the picture under its heat


class Explainer:
    """Draws over pictures what speaks for a class.

    Raises:
        UsageError: the model's file holds no weights: gradients need them.
        EffnetError: the library is missing.
    """

    def __init__(self, options: ModelOptions, pictures: PictureOptions = PictureOptions()) -> None:
        if importlib.util.find_spec(LIBRARY) is None:
            raise EffnetError("Overlays need the library grad-cam.", f"Install it: {INSTALL}")
        network = resolve(options)
        self._classes = {name: index for index, name in enumerate(network.card.classes)}
        self._loader = PictureLoader(network.card.preprocessing, pictures)
        self._module = model.of(network)
        model.imported("torchvision")  # the library needs it, and would not say so
        library: Any = import_module(LIBRARY)
        targets: Any = import_module(f"{LIBRARY}.utils.model_targets")
        self._draw: Any = import_module(f"{LIBRARY}.utils.image").show_cam_on_image
        self._target = targets.ClassifierOutputTarget
        last = list(self._module.get_submodule("features").children())[-1]
        self._map = library.GradCAM(model=self._module, target_layers=[last])

    def overlay(self, path: str, label: str) -> npt.NDArray[np.uint8] | None:
        """The square that the network sees, uint8 [H,W,3], reddened where it speaks for `label`;
        `None` if the picture cannot be opened.
        """
        try:
            square = self._loader.fit(self._loader.open(path))
        except PictureError:
            return None
        return self.drawn(square, self._classes[label])

    def drawn(self, square: npt.NDArray[np.uint8], index: int) -> npt.NDArray[np.uint8]:
        """The square, uint8 [H,W,3], reddened where it speaks for the class of this index."""
        pixels = torch.from_numpy(self._loader.normalise(square))[None].requires_grad_()
        (heat,) = self._map(input_tensor=pixels, targets=[self._target(index)])
        share = square.astype(np.float32) / 255
        drawn: npt.NDArray[np.uint8] = self._draw(
            share, heat, use_rgb=True, image_weight=PICTURE_WEIGHT
        )
        return drawn

    def watch(self, predictions: Iterable[Prediction], folder: Path) -> Iterator[Prediction]:
        """The same rows with overlays for the best class, and the file in `folder` that has picture
        and overlay side by side. The rows bring what the network saw.

        Raises:
            EffnetError: the folder cannot be written.
        """
        for prediction in predictions:
            best = next((a.index for a in prediction.predictions if a.index is not None), None)
            if prediction.square is None or best is None:
                yield prediction
                continue
            overlay = self.drawn(prediction.square, best)
            pair = np.hstack((prediction.square, overlay))
            content = thumbnail_of(pair, max(pair.shape))
            name = f"{Path(prediction.path).stem[-MAX_STEM_CHARS:]}.jpg"
            try:
                file, _ = new_file(folder, name, lambda part: part.write_bytes(content))  # noqa: B023 (called at once)
            except OSError as error:
                raise cannot_write(folder, error) from error
            yield replace(prediction, overlay=overlay, explained=str(file))
