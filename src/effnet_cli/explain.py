"""Where a network looks: class-activation overlays (Grad-CAM: Selvaraju et al. 2017, arXiv
1610.02391).
"""

import importlib.util
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from effnet_cli import model
from effnet_cli.errors import EffnetError, PictureError
from effnet_cli.images import PictureLoader
from effnet_cli.options import ModelOptions, PictureOptions
from effnet_cli.weights import resolve

LIBRARY, INSTALL = "pytorch_grad_cam", "pip install 'effnet-cli[explain]'"
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
        library: Any = import_module(LIBRARY)
        targets: Any = import_module(f"{LIBRARY}.utils.model_targets")
        self._drawn: Any = import_module(f"{LIBRARY}.utils.image").show_cam_on_image
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
        pixels = torch.from_numpy(self._loader.normalise(square))[None].requires_grad_()
        (heat,) = self._map(input_tensor=pixels, targets=[self._target(self._classes[label])])
        share = square.astype(np.float32) / 255
        drawn: npt.NDArray[np.uint8] = self._drawn(
            share, heat, use_rgb=True, image_weight=PICTURE_WEIGHT
        )
        return drawn
