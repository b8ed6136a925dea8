"""Make small JPEGs of images, for HTML pages."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.sources import ImageSource
from effnet_cli.system.errors import ImageError

QUALITY = 78  # of JPEG: about 3 kB for 128 pixels
# This only sets the scale at which a JPEG is decoded: sharp up to 512 pixels per side.
_PREPROCESSING = Preprocessing(256, 256, "bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def make_thumbnail(source: ImageSource, side_px: int) -> bytes | None:
    """Return an image as a JPEG of at most `side_px` per side, or `None` if it cannot be opened."""
    try:
        return _encode(ImageLoader(_PREPROCESSING).open(source), side_px)
    except ImageError:
        return None


def encode_thumbnail(pixels: npt.NDArray[np.uint8], side_px: int) -> bytes:
    """Encode pixels, uint8 [H,W,3], as a JPEG of at most `side_px` per side."""
    return _encode(Image.fromarray(pixels), side_px)


def shrink_thumbnail(content: bytes, side_px: int) -> bytes:
    """Shrink a JPEG thumbnail to at most `side_px` per side."""
    with Image.open(io.BytesIO(content)) as image:
        return _encode(image, side_px)


def _encode(image: Image.Image, side_px: int) -> bytes:
    image.thumbnail((side_px, side_px), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
