"""Read the JPEG 2000 images that Pillow sees wrongly.

It rounds colours of more than 8 bits with an overflow, so that white becomes black: these are read
with imagecodecs (an extra). It also ignores the order of the channels.
"""

import importlib.util
import struct

import numpy as np
from PIL import Image

from effnet_cli.images import rgb
from effnet_cli.images.sources import CODECS, CONVERT, INSTALL_SCIENCE
from effnet_cli.system.errors import ImageError

# The SIZ segment (ISO/IEC 15444-1, A.5.1): the number of components comes 40 bytes after the
# codestream's start, then 3 bytes for each: bits - 1, with the highest bit set if signed, and steps
CHANNEL_DEFINITION = b"cdef"
CODESTREAM_START = b"\xff\x4f\xff\x51"
COUNT_OFFSET, COMPONENTS_OFFSET, COMPONENT_BYTES = 40, 42, 3
RGB_BANDS, RGBA_BANDS = 3, 4


def deep_color_bits(data: bytes) -> int | None:
    """Return the bits per channel of a colour image if there are more than 8, else `None`."""
    start = data.find(CODESTREAM_START)
    if start < 0 or len(data) < start + COMPONENTS_OFFSET:
        return None
    (count,) = struct.unpack_from(">H", data, start + COUNT_OFFSET)
    first = start + COMPONENTS_OFFSET
    sizes = data[first : first + count * COMPONENT_BYTES : COMPONENT_BYTES]
    bits = max(((size & 0x7F) + 1 for size in sizes), default=0)
    return bits if count >= RGB_BANDS and bits > 8 else None


def channel_order(data: bytes) -> tuple[int, int, int] | None:
    """Return where red, green and blue are stored, if the file defines another order than that.

    Its "channel definition" box (ISO/IEC 15444-1, I.5.3.6) lists channels, their types (0: colour)
    and the colours they are associated with (1: red), in 16 bits each.
    """
    start = data.find(CHANNEL_DEFINITION)
    if start < 0 or start > data.find(CODESTREAM_START) or len(data) < start + 6:
        return None
    (count,) = struct.unpack_from(">H", data, start + 4)
    entries = data[start + 6 : start + 6 + 6 * count]
    rows = struct.iter_unpack(">HHH", entries[: len(entries) // 6 * 6])
    places = {color: channel for channel, kind, color in rows if kind == 0}
    order = tuple(places.get(color, -1) for color in (1, 2, 3))
    if sorted(order) != [0, 1, 2] or order == (0, 1, 2):
        return None
    return order[0], order[1], order[2]


def reorder(image: Image.Image, order: tuple[int, int, int]) -> Image.Image:
    """Return an RGB or RGBA image whose colours are stored in another order, put right."""
    bands = image.getbands()
    if bands[:3] != ("R", "G", "B"):
        return image
    planes = image.split()
    return Image.merge(image.mode, [planes[place] for place in order] + list(planes[3:]))


def read(data: bytes, bits: int) -> Image.Image:
    """Decode a colour image of `bits` per channel to RGB, transparency over white.

    Raises:
        ImageError: the library is missing, or the image has other channels than RGB and alpha.
        Exception: any of imagecodecs' own.
    """
    if importlib.util.find_spec(CODECS) is None:
        message = f"This is a JPEG 2000 image of {bits} bits, which needs the package {CODECS}."
        raise ImageError("unsupported_format", message, INSTALL_SCIENCE)
    import imagecodecs  # an extra

    values = np.asarray(imagecodecs.jpeg2k_decode(data))
    if values.ndim != 3 or values.shape[-1] not in (RGB_BANDS, RGBA_BANDS):
        message = f"This is a JPEG 2000 image with an unsupported layout {values.shape}."
        raise ImageError("unsupported_format", message, CONVERT)
    pixels = rgb.scale_to_8_bits(values, bits)
    return rgb.to_rgb(Image.fromarray(pixels))
