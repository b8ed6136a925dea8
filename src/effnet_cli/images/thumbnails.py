"""Small pictures for pages."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.images.loader import PictureLoader
from effnet_cli.images.sources import Source
from effnet_cli.models.variants import DEFAULT_VARIANT, find
from effnet_cli.system.errors import PictureError

QUALITY = 78  # of JPEG: about 3 kB for 128 pixels


def thumbnail(source: Source, side_px: int) -> bytes | None:
    """A picture as a JPEG of at most `side_px` a side; `None` if it cannot be opened."""
    try:
        image = PictureLoader(find(DEFAULT_VARIANT).preprocessing).open(source)
    except PictureError:
        return None
    return _jpeg(image, side_px)


def thumbnail_of(square: npt.NDArray[np.uint8], side_px: int) -> bytes:
    """Pixels, uint8 [H,W,3], as a JPEG of at most `side_px` a side."""
    return _jpeg(Image.fromarray(square), side_px)


def smaller(content: bytes, side_px: int) -> bytes:
    """A thumbnail, made here, at most `side_px` a side."""
    with Image.open(io.BytesIO(content)) as image:
        return _jpeg(image, side_px)


def _jpeg(image: Image.Image, side_px: int) -> bytes:
    image.thumbnail((side_px, side_px), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
