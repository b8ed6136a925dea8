"""Rotate and flip images according to their EXIF orientation."""

from collections.abc import Mapping
from contextlib import suppress

from PIL import Image

from effnet_cli.images.rgb import to_rgb

EXIF_ORIENTATION = 274
XMP_KEYS = {"xmp", "XML:com.adobe.xmp"}  # in an image's `info`
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, rotated and flipped by its EXIF orientation."""
    flat = to_rgb(image)
    # a broken EXIF block does not mean a broken image, and Pillow raises any exception for it
    with suppress(Exception):
        return turn_upright(flat, _read_orientation(image))
    return flat


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 if there is none.

    Pillow also reads XMP, which libvips, ImageMagick, OpenCV and browsers ignore.
    """
    if image.format == "TIFF":
        tags: Mapping[int, int] = getattr(image, "tag_v2", {})
        return tags.get(EXIF_ORIENTATION, 1)
    if XMP_KEYS.isdisjoint(image.info):
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    twin = Image.new("1", (1, 1))
    twin.info = {key: value for key, value in image.info.items() if key not in XMP_KEYS}
    return int(twin.getexif().get(EXIF_ORIENTATION, 1))


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Rotate and flip an image by the value of its EXIF orientation; ignore unknown values."""
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image
