"""Any of Pillow's images as upright RGB: nothing is clipped, and what can be seen through is not
dropped.
"""

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFile, ImageOps

# Transparent parts show this colour behind them (red, green, blue).
BACKGROUND = (255, 255, 255)
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, UNSIGNED = 0, 1
BLOCK_BYTES = 1 << 20


def turn_upright(image: Image.Image) -> None:
    """Turn an image as its EXIF orientation says."""
    # a broken EXIF block says nothing about the image, and Pillow raises anything for it
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def widen_clear_colour(image: ImageFile.ImageFile) -> None:
    """The colour of a PNG that is transparent, in the 8 bits to which Pillow brings all others; not
    yet decoded.
    """
    clear = image.info.get("transparency")
    how = image.tile[0].args if image.format == "PNG" and image.tile else None
    if isinstance(clear, int) and how in ("L;2", "L;4"):
        most = 3 if how == "L;2" else 15
        image.info["transparency"] = (clear & most) * 255 // most
    elif isinstance(clear, tuple) and how == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def flattened(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB."""
    if image.mode.startswith(("I", "F")):
        return _scaled_to_8_bits(image).convert("RGB")
    if image.format in ("BMP", "ICO", "TGA") and image.mode == "RGBA" and _is_all_clear(image):
        return image.convert("RGB")  # they have the channel, and often leave it at zero
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _over_background(image)
    if image.mode == "CMYK" and image.format == "JPEG" and _stores_ink(image):
        image = ImageChops.invert(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_background(image: Image.Image) -> Image.Image:
    """An image that can be seen through, as RGB; some rows after the others, as each of the steps
    takes four bytes a pixel.
    """
    width, height = image.size
    rows = max(1, BLOCK_BYTES // width)
    if height <= rows:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, layer).convert("RGB")
    flat = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        flat.paste(_over_background(band), (0, top))
    return flat


def _is_all_clear(image: Image.Image) -> bool:
    return image.getchannel("A").getextrema() == (0, 0)


def _stores_ink(image: Image.Image) -> bool:
    """Whether a CMYK JPEG stores ink (0 is none) and not its inverse, as Adobe's programs do and
    Pillow assumes.

    Without Adobe's marker a file does not say; then the black plate tells: images use little
    black ink.
    """
    if "adobe" in image.info:
        return False
    black = np.asarray(image.getchannel("K"))
    return bool(black.mean() > 127)


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float gray as 8-bit gray: scaled, never clipped.

    Files of 12 and 16 bits use their whole range. For 32-bit and float files the values tell:
    within 0..1, 0..255 and 0..65535 these are the range, anything else is stretched from its
    minimum to its maximum.
    """
    values = np.asarray(image)
    tags = image.getexif() if image.format == "TIFF" else {}
    if values.dtype == np.int32 and first(tags.get(TIFF_SAMPLE_FORMAT)) == UNSIGNED:
        values = values.view(np.uint32)
    low, high = _extremes(values)
    if image.mode.startswith("I;16"):
        low, high = 0.0, float((1 << (first(tags.get(TIFF_BITS)) or 16)) - 1)
    elif image.mode == "I" and image.format in ("PNG", "PPM"):
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 65535:
        low, high = 0.0, next(limit for limit in _limits(image) if high <= limit)
    eight_bits = np.zeros(values.shape, np.uint8)
    for rows in _bands(values) if high > low else ():
        band = np.nan_to_num(values[rows].astype(np.float64), nan=low, posinf=high, neginf=low)
        eight_bits[rows] = (band - low) * (255.0 / (high - low)) + 0.5
    if tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
        eight_bits = 255 - eight_bits
    if "transparency" in image.info:
        eight_bits[values == image.info["transparency"]] = 255
    return Image.fromarray(eight_bits)


def first(value: int | tuple[int, ...] | None) -> int | None:
    """The value of a TIFF tag that may have several."""
    return value[0] if isinstance(value, tuple) else value


def _extremes(values: npt.NDArray[np.generic]) -> tuple[float, float]:
    """The least and the greatest finite value; 0 and 0 if there is none."""
    lows, highs = [], []
    for rows in _bands(values):
        band = values[rows].astype(np.float64)
        finite = band[np.isfinite(band)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    return (min(lows), max(highs)) if lows else (0.0, 0.0)


def _bands(values: npt.NDArray[np.generic]) -> Iterator[slice]:
    """Some rows after the others: the copies that arithmetic makes stay small."""
    height = max(1, BLOCK_BYTES // max(1, values.shape[1]))
    return (slice(top, top + height) for top in range(0, len(values), height))


def _limits(image: Image.Image) -> tuple[float, ...]:
    return (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
