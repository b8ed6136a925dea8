"""What Python callers pass: images in many forms, models by name, groups of options."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.images.finder import Finder, ImageInput
from effnet_cli.models.variants import is_variant
from effnet_cli.options import ModelOptions
from effnet_cli.system.errors import UsageError
from effnet_cli.system.fields import Options

# A path, the bytes of an image file, a Pillow image, or uint8 [H,W], [H,W,3] or [H,W,4].
ImageLike = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
ONE_IMAGE = (str, Path, bytes, Image.Image, np.ndarray)
Group = TypeVar("Group", bound=Options)


def as_model_options(model: object) -> ModelOptions:
    """Convert the name of a variant, or a path, to options.

    Raises:
        UsageError: it is neither, nor `ModelOptions`.
    """
    if isinstance(model, str):
        return ModelOptions(variant=model) if is_variant(model) else ModelOptions.parse(model)
    if isinstance(model, Path):
        return ModelOptions(model=model)
    return check_options(model, ModelOptions)


def check_options(options: object, kind: type[Group]) -> Group:
    """Return `options`; raise `UsageError` if they are of another kind."""
    if isinstance(options, kind):
        return options
    name = kind.__name__
    raise UsageError(
        f"Expected {name}, got {options!r:.100}.",
        f"Use effnet_cli.options.{name}.",
    )


def find_inputs(
    images: ImageLike | Iterable[ImageLike | ImageInput], *, offline: bool
) -> Iterator[ImageInput]:
    """Yield the images that are passed, and those in folders and patterns; URLs unless `offline`.

    Raises:
        TypeError: one is not an image.
    """
    for image in [images] if isinstance(images, ONE_IMAGE) else images:
        if isinstance(image, str | Path):
            yield from Finder([str(image)], offline=offline)
        else:
            yield image if isinstance(image, ImageInput) else as_input(image)


def as_input(image: ImageLike) -> ImageInput:
    """Convert one image; a path must name a file here, unlike in `find_inputs`.

    Raises:
        TypeError: it is not an image.
    """
    if isinstance(image, str | Path):
        return ImageInput(str(image), str(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (3,), (4,)):
            raise TypeError(
                "Expected a uint8 array of shape [H,W], [H,W,3] or [H,W,4], "
                f"got {image.dtype} of shape {list(image.shape)}."
            )
        image = Image.fromarray(image)
    if isinstance(image, bytes | Image.Image):
        return ImageInput("-", image)
    raise TypeError(
        f"Expected a path, bytes, a Pillow image or a NumPy array, got {type(image).__name__}."
    )
