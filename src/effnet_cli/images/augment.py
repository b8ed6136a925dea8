"""Training views: an image -> one of the many squares that it might have been.

A view starts from the same opened image as validation's, and is made of two calls of Pillow: one
resize of a random box (and, where an image is turned, one affine transform), one colour matrix.
What is drawn depends on the seeds alone, never on the number of threads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.resize import FILTERS
from effnet_cli.options import Augment

# Luma of red, green, blue (ITU-R BT.601), as Pillow's own conversion to gray weighs them.
LUMA = np.array([0.299, 0.587, 0.114])
# Red, green, blue -> luma and two axes of colour (YIQ, NTSC 1953): hue is an angle between these.
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is made of images: views by `policy`, `crop_px` wide and high, drawn by `seeds`."""

    policy: "AugmentPolicy"
    crop_px: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AugmentPolicy:
    """How far a view may be from the image.

    `crop_scale` is the share of the model's own resolution at which the whole model learns: views
    are parts of images, blown up, and smaller squares undo that, so that things are about as large
    as in validation (Touvron et al. 2019, arXiv 1906.06423), and learned from faster.
    `area` and `aspect` are the least share of the image's area and the largest change of its
    shape that a box keeps (Inception's crop, but with a much larger least share than the 0.08 of
    training from scratch). `turn_degrees` and `shear` bound the affine transform, which is done
    with the chance `turn_chance`. `light`, `contrast` and `colour` bound the factors of brightness,
    contrast and saturation (0.4: from 0.6 to 1.4); `hue_degrees` the angle; `gray_chance` is that
    of losing all colour.
    """

    crop_scale: float = 1.0
    area: float = 1.0
    aspect: float = 1.0
    flip_chance: float = 0.0
    turn_chance: float = 0.0
    turn_degrees: float = 0.0
    shear: float = 0.0
    light: float = 0.0
    contrast: float = 0.0
    colour: float = 0.0
    hue_degrees: float = 0.0
    gray_chance: float = 0.0


POLICIES: Mapping[Augment, AugmentPolicy] = {
    "none": AugmentPolicy(),
    "light": AugmentPolicy(
        crop_scale=0.86,
        area=0.5,
        aspect=4 / 3,
        flip_chance=0.5,
        light=0.3,
        contrast=0.3,
        colour=0.3,
        hue_degrees=10,
        gray_chance=0.05,
    ),
    "strong": AugmentPolicy(
        crop_scale=0.8,
        area=0.35,
        aspect=4 / 3,
        flip_chance=0.5,
        turn_chance=0.5,
        turn_degrees=15,
        shear=0.15,
        light=0.4,
        contrast=0.4,
        colour=0.4,
        hue_degrees=20,
        gray_chance=0.1,
    ),
}


def augment_image(
    image: Image.Image, preprocessing: Preprocessing, views: Augmentation, index: int
) -> npt.NDArray[np.uint8]:
    """One training view of an RGB image, the dataset's `index`-th: uint8 [crop_px,crop_px,3].

    `preprocessing` gives the interpolation and the neutral colour.
    """
    policy, crop_px = views.policy, views.crop_px
    rng = np.random.default_rng((*views.seeds, index))
    resample = FILTERS[preprocessing.interpolation]
    box = _box(image.width, image.height, policy, rng)
    crop = image.resize((crop_px, crop_px), resample, box=box)
    if rng.random() < policy.flip_chance:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < policy.turn_chance:
        fill = tuple(round(255 * mean) for mean in preprocessing.mean)
        crop = crop.transform(
            crop.size,
            Image.Transform.AFFINE,
            _turn(crop_px, policy, rng),
            Image.Resampling.BILINEAR,
            fillcolor=fill,
        )
    matrix = _colours(crop, policy, rng)
    if matrix is not None:
        crop = crop.convert("RGB", matrix)
    return np.asarray(crop)


def _box(
    width: int, height: int, policy: AugmentPolicy, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A box (left, upper, right, lower) of the image, in pixels and fractions of them.

    Without randomness it is the centre square, as the network sees it.
    """
    side = min(width, height)
    if policy.area == 1.0:
        left, upper = (width - side) / 2, (height - side) / 2
        return left, upper, left + side, upper + side
    for _ in range(10):
        area = width * height * rng.uniform(policy.area, 1.0)
        aspect = math.exp(rng.uniform(-1, 1) * math.log(policy.aspect))
        box_width, box_height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if box_width <= width and box_height <= height:
            left = rng.uniform(0, width - box_width)
            upper = rng.uniform(0, height - box_height)
            return left, upper, left + box_width, upper + box_height
    left, upper = rng.uniform(0, width - side + 1e-9), rng.uniform(0, height - side + 1e-9)
    return left, upper, min(left + side, width), min(upper + side, height)


def _turn(
    crop_px: int, policy: AugmentPolicy, rng: np.random.Generator
) -> tuple[float, float, float, float, float, float]:
    """Pillow's affine coefficients (output -> input) of a turn and a shear about the centre."""
    angle = math.radians(rng.uniform(-1, 1) * policy.turn_degrees)
    shear = rng.uniform(-1, 1) * policy.shear
    a, b = math.cos(angle), math.sin(angle) + shear
    d, e = -math.sin(angle), math.cos(angle)
    centre = crop_px / 2
    return a, b, centre - a * centre - b * centre, d, e, centre - d * centre - e * centre


def _colours(
    crop: Image.Image, policy: AugmentPolicy, rng: np.random.Generator
) -> tuple[float, ...] | None:
    """Brightness, contrast, saturation and hue as one matrix [3,4], row by row; `None` for none."""
    if not (policy.light or policy.contrast or policy.colour or policy.hue_degrees):
        return None
    light, contrast, colour = (
        1 + rng.uniform(-1, 1) * bound for bound in (policy.light, policy.contrast, policy.colour)
    )
    if rng.random() < policy.gray_chance:
        colour = 0.0
    angle = math.radians(rng.uniform(-1, 1) * policy.hue_degrees)
    turn = np.array(
        [
            [1, 0, 0],
            [0, colour * math.cos(angle), -colour * math.sin(angle)],
            [0, colour * math.sin(angle), colour * math.cos(angle)],
        ]
    )
    matrix = light * contrast * (np.linalg.inv(YIQ) @ turn @ YIQ)
    mean = LUMA @ np.asarray(crop.resize((1, 1), Image.Resampling.BOX), dtype=np.float64)[0, 0]
    offset = np.full((3, 1), light * (1 - contrast) * mean)
    return tuple(float(value) for value in np.hstack([matrix, offset]).ravel())
