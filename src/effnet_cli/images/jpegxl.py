"""Read JPEG XL images with imagecodecs (an extra)."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from effnet_cli.images import rgb
from effnet_cli.system.errors import ImageError

JXL_CODESTREAM = b"\xff\x0a"
BOXES = (b"jxlc", b"jxlp")  # hold the codestream, whole or in parts
PART_INDEX_BYTES = 4
# The header of an image (ISO/IEC 18181-1, D.2): bits of a side by selector, and sides by ratio
SIDE_BITS = (9, 13, 18, 30)
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
BANDS_WITH_ALPHA = {2: "LA", 4: "RGBA"}


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height from the header, without decoding; `ValueError` if it is damaged."""
    start = _find_codestream(data) + len(JXL_CODESTREAM)
    header = int.from_bytes(data[start : start + 10], "little")

    def take(count: int) -> int:
        nonlocal header
        value = header & ((1 << count) - 1)
        header >>= count
        return value

    is_small = take(1)

    def take_side() -> int:
        return 8 * (take(5) + 1) if is_small else take(SIDE_BITS[take(2)]) + 1

    height = take_side()
    ratio = take(3)
    if ratio == 0:
        return take_side(), height
    numerator, denominator = RATIOS[ratio - 1]
    return height * numerator // denominator, height


def _find_codestream(data: bytes) -> int:
    if data.startswith(JXL_CODESTREAM):
        return 0
    for kind, start in _boxes(data):
        if kind in BOXES:
            return start + (PART_INDEX_BYTES if kind == b"jxlp" else 0)
    raise ValueError("no image in the container")


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the type of each box of a container, and where its content starts."""
    start = 0
    while start + 8 <= len(data):
        size, header_bytes = int.from_bytes(data[start : start + 4]), 8
        if size == 1:
            size, header_bytes = int.from_bytes(data[start + 8 : start + 16]), 16
        yield data[start + 4 : start + 8], start + header_bytes
        if size < header_bytes:  # 0: up to the end of the file
            return
        start += size


def read(data: bytes) -> Image.Image:
    """Decode the first frame to RGB, upright, transparency over white.

    Raises:
        ImageError: the image has other channels than grey or RGB, with or without alpha.
        Exception: any of imagecodecs' own.
    """
    import imagecodecs  # an extra

    values = np.asarray(imagecodecs.jpegxl_decode(data, index=0, numthreads=1))
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not 1 <= values.shape[-1] <= 4:
        message = f"This is a JPEG XL image with an unsupported layout {values.shape}."
        raise ImageError("unsupported_format", message, "Convert it to JPEG or PNG.")
    largest = 1 if values.dtype.kind == "f" else int(np.iinfo(values.dtype).max)
    pixels = rgb.scale_to_8_bits(values.clip(0, largest), bits=16, largest=largest)
    mode = BANDS_WITH_ALPHA.get(values.shape[-1])
    image = Image.fromarray(pixels[..., 0] if values.shape[-1] == 1 else pixels, mode)
    return rgb.to_rgb(image)
