"""Read PPM and PGM images of other depths than 8 bits, or in plain text, with NumPy.

Pillow decodes these value by value in Python, which takes a second for each megapixel and keeps all
other threads waiting.
"""

import re

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.images import rgb

# The header (netpbm's ppm.5 and pgm.5): kind, width, height and largest value, each after white
# space or comments; a single white space precedes the pixels.
SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
HEADER = re.compile(rb"P([2356])" + 3 * (SPACE + rb"(\d{1,9})") + rb"\s")
PLAIN, COLOR = (2, 3), (3, 6)
BYTE_MAX, WORD_MAX = 255, 65535


def read(data: bytes) -> Image.Image | None:
    """Decode an image to RGB; `None` if Pillow is as fast, or has to say what is wrong."""
    header = HEADER.match(data)
    if header is None:
        return None
    kind, width, height, largest = map(int, header.groups())
    shape = (height, width, 3) if kind in COLOR else (height, width, 1)
    is_fast = kind not in PLAIN and largest == BYTE_MAX
    if is_fast or not 0 < largest <= WORD_MAX or not width * height:
        return None
    values = _read_values(data[header.end() :], int(np.prod(shape)), kind=kind, largest=largest)
    if values is None or values.max() > largest:
        return None
    scaled = rgb.scale_to_8_bits(values.reshape(shape), bits=16, largest=largest)
    return Image.fromarray(np.broadcast_to(scaled, (height, width, 3)).copy())


def _read_values(data: bytes, count: int, kind: int, largest: int) -> npt.NDArray[np.uint16] | None:
    """Return `count` values, or `None` if there are fewer or they are not plain numbers."""
    if kind in PLAIN:
        if not re.fullmatch(rb"[\s\d]*", data):
            return None
        values = np.fromstring(data, dtype=np.int64, sep=" ", count=-1)[:count]
        if len(values) < count or values.max() > WORD_MAX:
            return None
        return values.astype(np.uint16)
    dtype = np.dtype(np.uint8 if largest <= BYTE_MAX else ">u2")
    if len(data) < count * dtype.itemsize:
        return None
    return np.frombuffer(data, dtype, count).astype(np.uint16)
