"""Resize and crop, bit for bit like torchvision's `weights.transforms()` on a Pillow image.

Pillow resizes one axis after the other and rounds to 8 bits in between. The second pass can skip
what the crop removes of the first axis: no bit of the result changes, as long as the passes run in
Pillow's order.
"""

from collections.abc import Sequence
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
# For an image longer than this many times its shorter side, only the crop is computed. Pillow would
# compute the whole long side: 1,280,000 pixels for 1x5000 at 256, of which the crop keeps 224.
EXTREME_ASPECT = 16
WIDTH, HEIGHT = 0, 1  # axes of an image's size

_Tap = tuple[int, npt.NDArray[np.int64]]  # of an output pixel: first input, fixed-point weights


class ResizePlan(NamedTuple):
    """A resize to `width` x `height`, then a crop that starts at `left`, `top` (may be < 0)."""

    width: int
    height: int
    left: int
    top: int


def place(size: tuple[int, int], preprocessing: Preprocessing, fit: Fit) -> ResizePlan:
    """Plan how to resize and crop an image of `size` (width, height; at least 1x1).

    `crop` resizes as when the weights were evaluated and crops the centre. `pad` resizes the longer
    side to `crop_px`; the rest of the crop is filled. `stretch` resizes both sides to `crop_px`.
    """
    crop_px, resize_px = preprocessing.crop_px, preprocessing.resize_px
    (width, height), (short, long) = size, sorted(size)
    if fit == "stretch":
        new_size = crop_px, crop_px
    elif fit == "pad":
        other = max(1, round(crop_px * short / long))
        new_size = (crop_px, other) if width >= height else (other, crop_px)
        left, top = (-((crop_px - side) // 2) for side in new_size)
        return ResizePlan(*new_size, left, top)
    elif preprocessing.is_squashed:
        new_size = resize_px, resize_px
    else:
        other = int(resize_px * long / short)
        new_size = (other, resize_px) if width > height else (resize_px, other)
    left, top = (round((side - crop_px) / 2) for side in new_size)
    return ResizePlan(*new_size, left, top)


def resize_and_crop(
    image: Image.Image,
    placement: ResizePlan,
    preprocessing: Preprocessing,
    extent: tuple[float, float] | None = None,
) -> Image.Image:
    """Resize an RGB image as `placement` says, and return the part that lies in the crop.

    `extent` is the width and height that the image really has, if its last column or row is only
    partly filled. The result has `crop_px` x `crop_px`, or less where the resized image is smaller
    (`pad`).
    """
    # since 13.0 Pillow shrinks the height first if it shrinks by much more than the width
    # (Pillow, src/libImaging/Resample.c)
    fewer_columns, fewer_rows = image.width - placement.width, image.height - placement.height
    axes = (HEIGHT, WIDTH) if fewer_rows > 2 * max(0, fewer_columns) else (WIDTH, HEIGHT)
    kept = [
        range(max(start, 0), min(start + preprocessing.crop_px, size))
        for size, start in zip(placement[:2], placement[2:], strict=True)
    ]
    if max(image.size) > EXTREME_ASPECT * min(image.size):
        interpolation = preprocessing.interpolation
        taps = [
            _taps(image.size[axis], placement[axis], kept[axis], interpolation=interpolation)
            for axis in (WIDTH, HEIGHT)
        ]
        return _resample_window(image, axes, taps)
    resample = FILTERS[preprocessing.interpolation]
    ends = extent or image.size
    for axis in axes:
        image = _resize_axis(
            image, axis, placement[axis], end=ends[axis], kept=kept[axis], resample=resample
        )
    return image


def _resize_axis(
    image: Image.Image,
    axis: int,
    size: int,
    *,
    end: float,
    kept: range,
    resample: Image.Resampling,
) -> Image.Image:
    """Resize the part of one axis before `end` to `size`, and crop it to `kept`."""
    new_size, box = list(image.size), [0.0, 0.0, *image.size]
    if (new_size[axis], end) != (size, size):
        new_size[axis], box[axis + 2] = size, end
        image = image.resize(
            (new_size[0], new_size[1]), resample, box=(box[0], box[1], box[2], box[3])
        )
    if kept == range(size):
        return image
    part = [0, 0, *image.size]
    part[axis], part[axis + 2] = kept.start, kept.stop
    return image.crop((part[0], part[1], part[2], part[3]))


def _resample_window(
    image: Image.Image, axes: Sequence[int], taps: Sequence[Sequence[_Tap]]
) -> Image.Image:
    """Do what `_resize_axis` does for each of `axes`, but compute only the pixels of the crop. The
    arithmetic is the same as in Pillow, bit for bit.
    """
    left, top = (first for (first, _), *_ in taps)
    right, bottom = (first + len(weights) for *_, (first, weights) in taps)
    pixels = np.asarray(image.crop((left, top, right, bottom)))
    for axis in axes:  # arrays have the rows first
        pixels = _resample(pixels.swapaxes(0, 1 - axis), taps[axis]).swapaxes(0, 1 - axis)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _taps(size: int, new_size: int, kept: range, *, interpolation: Interpolation) -> list[_Tap]:
    """Return the taps for the outputs `kept` of an axis resized from `size` to `new_size`."""
    scale = size / new_size
    filter_scale = max(scale, 1.0)
    support = SUPPORT_PX[interpolation] * filter_scale
    taps = []
    for output in kept:
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
    """Return the interpolation kernel at distance `x` (bicubic with a = -0.5, as in Pillow)."""
    x = abs(x)
    if interpolation == "bilinear":
        return max(1.0 - x, 0.0)
    if x < 1.0:
        return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2.0 else 0.0


def _round_half_away(value: float) -> int:
    return int(value - 0.5) if value < 0 else int(value + 0.5)


def _resample(pixels: npt.NDArray[np.uint8], taps: Sequence[_Tap]) -> npt.NDArray[np.uint8]:
    """Resample axis 0 of `pixels`, which begins at the first input of the first tap."""
    begin = taps[0][0]
    rows = [
        np.tensordot(weights, pixels[first - begin :][: len(weights)].astype(np.int64), 1)
        for first, weights in taps
    ]
    half = 1 << (PRECISION_BITS - 1)
    return ((np.stack(rows) + half) >> PRECISION_BITS).clip(0, 255).astype(np.uint8)
