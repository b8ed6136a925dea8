"""Convert any Pillow image to RGB. Grey is scaled, not clipped; transparency is composited,
not dropped.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFile

BACKGROUND = (255, 255, 255)  # red, green, blue behind transparent parts
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, UNSIGNED = 0, 1
BAND_PIXELS = 1 << 20  # converted at once; each step copies them, at up to 8 bytes per pixel


def scale_transparent_color(image: ImageFile.ImageFile) -> None:
    """Scale a PNG's transparent colour to 8 bits, as Pillow scales the pixels. Call this before
    decoding.
    """
    color = image.info.get("transparency")
    mode = image.tile[0].args if image.format == "PNG" and image.tile else None
    if isinstance(color, int) and mode in ("L;2", "L;4"):
        largest = 3 if mode == "L;2" else 15
        image.info["transparency"] = (color & largest) * 255 // largest
    elif isinstance(color, tuple) and mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in color)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB."""
    if image.mode.startswith(("I", "F")):
        return _scale_to_8_bits(image).convert("RGB")
    if image.mode == "RGBA" and image.format in ("BMP", "ICO", "TGA") and _is_clear(image):
        return image.convert("RGB")  # these formats often leave alpha at zero
    if image.format == "PSD":  # its composite lies over white already
        return image.convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _composite(image)
    if image.mode == "CMYK" and image.format == "JPEG" and _stores_ink(image):
        image = ImageChops.invert(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_clear(image: Image.Image) -> bool:
    return image.getchannel("A").getextrema() == (0, 0)


def _composite(image: Image.Image) -> Image.Image:
    """Composite a transparent image over the background, in bands."""
    slices = list(bands(image.height, image.width))
    if len(slices) == 1:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, layer).convert("RGB")
    flat = Image.new("RGB", image.size)
    for rows in slices:
        band = image.crop((0, rows.start, image.width, rows.stop))
        flat.paste(_composite(band), (0, rows.start))
    return flat


def _stores_ink(image: Image.Image) -> bool:
    """Return whether a CMYK JPEG stores amounts of ink (0 for none).

    Adobe's programs store the inverse, and Pillow assumes that all programs do. Without Adobe's
    marker, the black channel decides, because most images use little black ink.
    """
    if "adobe" in image.info:
        return False
    return bool(np.asarray(image.getchannel("K")).mean() > 127)


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit, 32-bit and float grey to 8-bit grey: scaled, never clipped."""
    values = np.asarray(image)
    tags = image.getexif() if image.format == "TIFF" else {}
    sample_format = first_value(tags.get(TIFF_SAMPLE_FORMAT, UNSIGNED))
    if image.format == "TIFF" and values.dtype == np.int32 and sample_format == UNSIGNED:
        values = values.view(np.uint32)
    bits = first_value(tags.get(TIFF_BITS)) or 16
    if image.mode.startswith("I;16"):
        values = values.astype(np.uint16, copy=False)
    elif image.mode == "I" and image.format in ("PNG", "PPM"):
        values = values.astype(np.uint16)  # Pillow has no other mode for them
    gray = scale_to_8_bits(values, bits)
    if tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
        gray = 255 - gray
    if "transparency" in image.info:
        gray[values == image.info["transparency"]] = 255
    return Image.fromarray(gray)


def scale_to_8_bits(
    values: npt.NDArray[Any], bits: int, largest: int | None = None
) -> npt.NDArray[np.uint8]:
    """Scale pixels [H,W] or [H,W,C] of any number type to 8 bits; nothing is clipped.

    Unsigned integers of up to 16 bits use the range of `bits`, or 0 to `largest`. Other types use
    the first of 0..1 (float only), 0..255 and 0..65535 that contains all their values. Anything
    else is stretched from its minimum to its maximum.
    """
    low, high = _range(values, bits) if largest is None else (0.0, float(largest))
    result = np.zeros(values.shape, np.uint8)
    for rows in bands(*values.shape[:2]) if high > low else ():
        band = np.nan_to_num(values[rows].astype(np.float64), nan=low, posinf=high, neginf=low)
        result[rows] = (band - low) * (255.0 / (high - low)) + 0.5
    return result


def _range(values: npt.NDArray[Any], bits: int) -> tuple[float, float]:
    """Return the values that become 0 and 255."""
    if values.dtype == np.bool_:
        return 0.0, 1.0
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return 0.0, float((1 << bits) - 1)
    low, high = _extremes(values)
    if low < 0 or high > 65535:
        return low, high
    limits = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    return 0.0, next(limit for limit in limits if high <= limit)


def _extremes(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest finite value, or 0 and 0 if there is none."""
    extremes = []
    for rows in bands(*values.shape[:2]):
        band = values[rows].astype(np.float64)
        finite = band[np.isfinite(band)]
        if finite.size:
            extremes += [float(finite.min()), float(finite.max())]
    return (min(extremes), max(extremes)) if extremes else (0.0, 0.0)


def bands(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of an image in slices of about BAND_PIXELS."""
    rows = max(1, BAND_PIXELS // max(1, width))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def first_value(tag: int | tuple[int, ...] | None) -> int | None:
    """Return the first value of a TIFF tag, which may have several."""
    return tag[0] if isinstance(tag, tuple) else tag
