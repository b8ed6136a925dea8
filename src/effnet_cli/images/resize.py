"""Resize and crop, to the bit as torchvision's `weights.transforms()` does it on a Pillow image.

Pillow resizes in two passes and rounds to 8 bits between them, so that each pass may be given only
what the crop keeps of the other axis, and the result stays the same to the last bit if the passes
come in Pillow's order.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.images.preprocessing import Interpolation, Preprocessing
from effnet_cli.options import Fit

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SUPPORT_PX = {"bilinear": 1.0, "bicubic": 2.0}
# Pillow's fixed-point arithmetic for 8-bit images (Pillow, src/libImaging/Resample.c)
PRECISION_BITS = 32 - 8 - 2
# An image longer than this many times its shorter side is resized window by window: Pillow would
# make all of the long side, 1,280,000 pixels for 1x5000 at 256, of which the crop keeps 224.
EXTREME_ASPECT = 16


class Placement(NamedTuple):
    """Where an image goes: resized to `width` x `height`, of which the crop starts at `left`,
    `top` (may be < 0).
    """

    width: int
    height: int
    left: int
    top: int


def place(width: int, height: int, preprocessing: Preprocessing, fit: Fit) -> Placement:
    """The placement of a `width` x `height` image (pixels, at least 1x1).

    `crop`: shorter side to `resize_px`, centre crop, as the weights were evaluated. `pad`: longer
    side to `crop_px`, the rest of the square is filled. `stretch`: both sides to `crop_px`,
    whatever the shape.
    """
    crop_px = preprocessing.crop_px
    short, long = sorted((width, height))
    if fit == "stretch":
        return Placement(crop_px, crop_px, 0, 0)
    if fit == "pad":
        other = max(1, round(crop_px * short / long))
        new_width, new_height = (crop_px, other) if width >= height else (other, crop_px)
        return Placement(
            new_width, new_height, -((crop_px - new_width) // 2), -((crop_px - new_height) // 2)
        )
    other = int(preprocessing.resize_px * long / short)
    new_width, new_height = (
        (other, preprocessing.resize_px) if width > height else (preprocessing.resize_px, other)
    )
    return Placement(
        new_width, new_height, round((new_width - crop_px) / 2), round((new_height - crop_px) / 2)
    )


def resize_and_crop(
    image: Image.Image, placement: Placement, crop_px: int, interpolation: Interpolation
) -> Image.Image:
    """The part of an RGB image, resized as `placement` says, that lies in the `crop_px` square.

    It is `crop_px` x `crop_px` unless the resized image is smaller than the square (`pad`).
    """
    width, height, left, top = placement
    left, right = max(left, 0), min(left + crop_px, width)
    top, bottom = max(top, 0), min(top + crop_px, height)
    if max(image.size) > EXTREME_ASPECT * min(image.size):
        return _windowed(image, placement, (left, top, right, bottom), interpolation)
    resample = FILTERS[interpolation]

    def columns(image: Image.Image) -> Image.Image:
        image = image.resize((width, image.height), resample) if width != image.width else image
        whole = (left, right) == (0, width)
        return image if whole else image.crop((left, 0, right, image.height))

    def rows(image: Image.Image) -> Image.Image:
        image = image.resize((image.width, height), resample) if height != image.height else image
        whole = (top, bottom) == (0, height)
        return image if whole else image.crop((0, top, image.width, bottom))

    if _rows_come_first(image, placement):
        return columns(rows(image))
    return rows(columns(image))


def _rows_come_first(image: Image.Image, placement: Placement) -> bool:
    """Since 13.0 Pillow shrinks an image's height first if it shrinks by much more than the width
    (Pillow, src/libImaging/Resample.c).
    """
    return image.height - placement.height > 2 * max(0, image.width - placement.width)


def _windowed(
    image: Image.Image,
    placement: Placement,
    box: tuple[int, int, int, int],
    interpolation: Interpolation,
) -> Image.Image:
    """`resize_and_crop` that makes no pixel the crop drops; Pillow's own arithmetic, so that no bit
    differs.
    """
    left, top, right, bottom = box
    columns = _taps(image.width, placement.width, left, right, interpolation)
    rows = _taps(image.height, placement.height, top, bottom, interpolation)
    first_row, last_row = rows[0][0], rows[-1][0] + len(rows[-1][1])
    first_column, last_column = columns[0][0], columns[-1][0] + len(columns[-1][1])
    pixels = np.asarray(image.crop((first_column, first_row, last_column, last_row)))

    def resized_columns(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if placement.width == image.width:
            return pixels[:, left - first_column : right - first_column]
        return _resampled(pixels.transpose(1, 0, 2), columns, first_column).transpose(1, 0, 2)

    def resized_rows(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if placement.height == image.height:
            return pixels[top - first_row : bottom - first_row]
        return _resampled(pixels, rows, first_row)

    if _rows_come_first(image, placement):
        pixels = resized_columns(resized_rows(pixels))
    else:
        pixels = resized_rows(resized_columns(pixels))
    return Image.fromarray(np.ascontiguousarray(pixels))


_Taps = list[tuple[int, npt.NDArray[np.int64]]]


def _taps(size: int, new_size: int, start: int, stop: int, interpolation: Interpolation) -> _Taps:
    """For outputs `start`..`stop` of an axis resized from `size` to `new_size`: first input and
    fixed-point weights.
    """
    scale = size / new_size
    filter_scale = max(scale, 1.0)
    support = SUPPORT_PX[interpolation] * filter_scale
    taps = []
    for output in range(start, stop):
        center = (output + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), size)
        weights = [
            _weight((x - center + 0.5) / filter_scale, interpolation) for x in range(first, last)
        ]
        total = sum(weights)
        fixed = [_round_half_away(w / total * (1 << PRECISION_BITS)) for w in weights]
        taps.append((first, np.array(fixed, dtype=np.int64)))
    return taps


def _weight(x: float, interpolation: Interpolation) -> float:
    """The interpolation's kernel at distance `x`; bicubic with a = -0.5, as in Pillow."""
    x = abs(x)
    if interpolation == "bilinear":
        return max(1.0 - x, 0.0)
    if x < 1.0:
        return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2.0 else 0.0


def _round_half_away(value: float) -> int:
    return int(value - 0.5) if value < 0 else int(value + 0.5)


def _resampled(pixels: npt.NDArray[np.uint8], taps: _Taps, offset: int) -> npt.NDArray[np.uint8]:
    """Axis 0 of `pixels` (uint8, inputs `offset`...) resampled by `taps`."""
    rows = [
        np.tensordot(
            weights, pixels[first - offset : first - offset + len(weights)].astype(np.int64), 1
        )
        for first, weights in taps
    ]
    half = 1 << (PRECISION_BITS - 1)
    return ((np.stack(rows) + half) >> PRECISION_BITS).clip(0, 255).astype(np.uint8)
