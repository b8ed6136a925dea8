"""Read the TIFFs that Pillow refuses or, worse, reads as noise, with tifffile (an extra).

TIFF has more kinds of pixels than any reader knows. `tests/images/test_tiff.py` compares files of
each kind with the arrays they were made from, and `is_read_by_pillow` is what follows from that.
"""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2 as Tags
from PIL.TiffImagePlugin import TiffImageFile

from effnet_cli.images import rgb
from effnet_cli.images.orientation import EXIF_ORIENTATION, turn_upright
from effnet_cli.images.rgb import UNSIGNED, WHITE_IS_ZERO
from effnet_cli.images.sources import CONVERT, COPY_AGAIN, INSTALL_SCIENCE
from effnet_cli.system.errors import ImageError

TIFF_LIBRARIES = ("tifffile", "imagecodecs")

# Tags and their values (TIFF 6.0, sections 8 and 22 to 26)
BITS, COMPRESSION, PHOTOMETRIC, BAND_COUNT, PLANAR = 258, 259, 262, 277, 284
COLOR_MAP, EXTRA, FORMAT, SUBSAMPLING = 320, 338, 339, 530
UNCOMPRESSED, WEBP = 1, 50001
LOSSLESS = (UNCOMPRESSED, 5, 8, 32773, 32946, 34925, 50000)  # LZW, deflate, PackBits, LZMA, zstd
GRAY, RGB, PALETTE, CMYK, YCBCR = 1, 2, 3, 5, 6
PLANES = 2
UNDEFINED = 4
ASSOCIATED, UNASSOCIATED = 1, 2  # alpha that the colours are, or are not, multiplied by
COLOR_BANDS = {WHITE_IS_ZERO: 1, GRAY: 1, RGB: 3, PALETTE: 1, CMYK: 4}
MAX_BYTES_PER_PIXEL = 64  # of the image as stored

CheckSize = Callable[[str, tuple[int, int]], None]
Array = npt.NDArray[Any]


def is_unsupported(file: BinaryIO, error: Exception) -> bool:
    """Return whether Pillow's error is about a kind of TIFF that it cannot read, not damage."""
    file.seek(0)
    is_big_endian_bigtiff = file.read(4) == b"MM\0+"
    is_unknown_value = any(isinstance(cause, KeyError) for cause in (error, *error.args))
    return is_big_endian_bigtiff or is_unknown_value or "pixel mode" in str(error)


def is_read_by_pillow(image: TiffImageFile) -> bool:
    """Return whether Pillow sees what the file shows. False is no claim about damage."""
    tags: Tags = image.tag_v2
    bits, formats = _values(tags, BITS, (1,)), _values(tags, FORMAT, (UNSIGNED,))
    bands = int(tags.get(BAND_COUNT, 1))
    is_planar = bands > 1 and tags.get(PLANAR) == PLANES
    is_compressed = tags.get(COMPRESSION, UNCOMPRESSED) != UNCOMPRESSED
    is_subsampled = tags.get(PHOTOMETRIC) == YCBCR and tags.get(SUBSAMPLING) != (1, 1)
    if tags.get(COMPRESSION) == WEBP or (is_subsampled and not is_compressed):
        return False
    if len(set(bits)) > 1 or len(set(formats)) > 1:
        return False
    is_unsigned = formats[0] in (UNSIGNED, UNDEFINED)
    if max(bits) <= 8:
        return is_unsigned and not (is_planar and tags.get(EXTRA)) and image.mode != "La"
    if max(bits) <= 16 and is_unsigned:
        return not is_planar or (is_compressed and bands == COLOR_BANDS[RGB])
    return not (is_compressed and tags.prefix == b"MM")


def has_8_bit_colors(image: TiffImageFile) -> bool:
    """Return whether a colour map has values of 8 bits, where the standard asks for 16.

    Old programs write these, and libtiff reads them. Pillow would see black.
    """
    return image.mode == "P" and max(image.tag_v2.get(COLOR_MAP, (256,))) < 256


def use_8_bit_colors(image: TiffImageFile) -> None:
    """Replace the palette by the colour map's values as they are."""
    planes = np.array(image.tag_v2[COLOR_MAP], np.uint8).reshape(3, -1)
    image.putpalette(planes.T.tobytes())


def read(file: BinaryIO, check_size: CheckSize) -> Image.Image:
    """Read the first image with tifffile, as RGB and upright.

    Raises:
        ImageError: the libraries are missing, or the image cannot be shown in colour.
        Exception: any of tifffile's and imagecodecs' own.
    """
    if any(importlib.util.find_spec(name) is None for name in TIFF_LIBRARIES):
        message = "This is a TIFF image of a kind that needs the packages tifffile and imagecodecs."
        raise ImageError("unsupported_format", message, INSTALL_SCIENCE)
    import tifffile  # an extra

    logging.getLogger("tifffile").disabled = True  # errors are raised regardless
    file.seek(0)
    with tifffile.TiffFile(file, name="image") as opened:
        page: Any = opened.pages.first
        check_size("image", (page.imagewidth, page.imagelength))
        check_size("image's tile", (page.tilewidth, page.tilelength))
        if page.axes not in ("YX", "YXS", "SYX"):
            raise _unsupported(f"axes {page.axes}")
        if 0 in page.dataoffsets or 0 in page.databytecounts:
            raise ImageError("truncated", "Parts of this TIFF image are missing.", COPY_AGAIN)
        stored_bytes = page.size * page.dtype.itemsize if page.dtype is not None else 0
        if stored_bytes > MAX_BYTES_PER_PIXEL * page.imagewidth * page.imagelength:
            raise _unsupported(f"{page.samplesperpixel:,} bands")
        values = _decode(page)
        if page.axes == "SYX":
            values = np.moveaxis(values, 0, -1)
        flat = _to_rgb(values.reshape(*values.shape[:2], -1), page)
        return turn_upright(flat, page.tags.valueof(EXIF_ORIENTATION, 1))


def _decode(page: Any) -> Array:
    try:
        values: Array = page.asarray()
    except Exception as error:
        if page.compression in LOSSLESS:
            raise
        raise _unsupported(f"{page.compression.name}, which cannot be decoded") from error
    return values


def _to_rgb(values: Array, page: Any) -> Image.Image:
    """Convert pixels [H,W,S] to RGB."""
    photometric, extra = int(page.photometric), tuple(map(int, page.extrasamples or ()))
    num_colors = COLOR_BANDS.get(photometric)
    if values.dtype.kind not in "buif":
        raise _unsupported(f"{values.dtype} values")
    if photometric == YCBCR and values.dtype == np.uint8 and values.shape[-1] == 3:
        num_colors = COLOR_BANDS[RGB]  # the decoder has converted it
    if num_colors is None or not num_colors <= values.shape[-1] <= max(num_colors, len(extra) + 3):
        raise _unsupported(f"photometric interpretation {photometric}")
    if num_colors == 1 and values.shape[-1] > 2:
        raise _unsupported(f"{values.shape[-1]} bands without colours")
    if photometric == PALETTE:
        return _apply_palette(values[..., 0], page)
    gray_or_rgb = rgb.scale_to_8_bits(values[..., :num_colors], page.bitspersample)
    if photometric == CMYK:
        return Image.fromarray(gray_or_rgb, "CMYK").convert("RGB")
    if photometric == WHITE_IS_ZERO:
        gray_or_rgb = 255 - gray_or_rgb
    if gray_or_rgb.shape[-1] == 1:
        gray_or_rgb = np.repeat(gray_or_rgb, 3, axis=-1)
    if extra[:1] in ((ASSOCIATED,), (UNASSOCIATED,)):
        alpha = _opacity(values[..., num_colors])
        return _composite(gray_or_rgb, alpha, is_multiplied=extra[0] == ASSOCIATED)
    return Image.fromarray(gray_or_rgb)


def _apply_palette(indexes: Array, page: Any) -> Image.Image:
    colors = np.asarray(page.colormap)
    if colors.max(initial=0) > 255:
        colors = colors >> 8
    return Image.fromarray(np.ascontiguousarray(colors.T.astype(np.uint8)[indexes]))


def _opacity(alpha: Array) -> npt.NDArray[np.float32]:
    """Return alpha [H,W] as 0..1: [H,W,1]."""
    largest = np.float32(1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max)
    opacity: npt.NDArray[np.float32] = np.nan_to_num(alpha[..., None].astype(np.float32)) / largest
    return opacity.clip(0, 1)


def _composite(
    colors: npt.NDArray[np.uint8], alpha: npt.NDArray[np.float32], *, is_multiplied: bool
) -> Image.Image:
    front = colors * (np.float32(1) if is_multiplied else alpha)
    flat = front + np.array(rgb.BACKGROUND, np.float32) * (1 - alpha)
    return Image.fromarray(np.clip(flat + 0.5, 0, 255).astype(np.uint8))


def _values(tags: Tags, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return value if isinstance(value, tuple) else (value,)


def _unsupported(what: str) -> ImageError:
    message = f"This is a TIFF image with an unsupported encoding ({what})."
    return ImageError("unsupported_format", message, CONVERT)
