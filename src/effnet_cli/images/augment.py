"""Training augmentation: a random crop of an image, with random geometry and colours.

A view starts from the same opened image as the validation crop and takes two Pillow calls: one
resizes a random box, the other applies a colour matrix. Rotation adds an affine transform.
The randomness depends only on the seeds, never on the number of threads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.resize import FILTERS

# Luma weights of red, green and blue (ITU-R BT.601), the same as in Pillow's conversion to grey.
LUMA = np.array([0.299, 0.587, 0.114])
# Red, green, blue -> luma and two colour axes (YIQ, NTSC 1953). Hue is an angle in their plane.
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
MAX_BOX_ATTEMPTS = 10

Box = tuple[float, float, float, float]  # left, upper, right, lower


@dataclass(frozen=True, slots=True)
class AugmentPolicy:
    """How much a view may differ from the image.

    `crop_scale` is the side of the views for training the whole model, as a share of the model's
    input side. Random boxes enlarge objects; smaller views make them about as large as in
    validation (Touvron et al. 2019, arXiv 1906.06423), and training faster. `area` is the smallest
    share of the image's area that a box keeps, `aspect` its largest width / height or height /
    width (an Inception crop, but with a much larger area than the usual 0.08 from scratch).
    `rotate_degrees` and `shear` bound the affine transform, which has probability `affine_prob`.
    `brightness`, `contrast` and `saturation` bound their factors (0.4: from 0.6 to 1.4),
    `hue_degrees` the hue's rotation. `gray_prob` is the probability of losing all colour.
    """

    crop_scale: float = 1.0
    area: float = 1.0
    aspect: float = 1.0
    flip_prob: float = 0.0
    affine_prob: float = 0.0
    rotate_degrees: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue_degrees: float = 0.0
    gray_prob: float = 0.0


POLICIES: Mapping[Literal["none", "light", "strong"], AugmentPolicy] = {
    "none": AugmentPolicy(),
    "light": AugmentPolicy(
        crop_scale=0.86,
        area=0.5,
        aspect=4 / 3,
        flip_prob=0.5,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue_degrees=10,
        gray_prob=0.05,
    ),
    "strong": AugmentPolicy(
        crop_scale=0.8,
        area=0.35,
        aspect=4 / 3,
        flip_prob=0.5,
        affine_prob=0.5,
        rotate_degrees=15,
        shear=0.15,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue_degrees=20,
        gray_prob=0.1,
    ),
}


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How to make views: `policy`, their width and height `crop_px`, and the random `seeds`."""

    policy: AugmentPolicy
    crop_px: int
    seeds: tuple[int, ...]


def augment_image(
    image: Image.Image, preprocessing: Preprocessing, views: Augmentation, *, index: int
) -> npt.NDArray[np.uint8]:
    """Make a random view of the dataset's `index`-th image (RGB): uint8 [crop_px,crop_px,3].

    `preprocessing` gives the interpolation and the neutral colour that fills empty corners.
    """
    policy, crop_px = views.policy, views.crop_px
    rng = np.random.default_rng((*views.seeds, index))
    box = _choose_box(image.size, policy, rng)
    crop = image.resize((crop_px, crop_px), FILTERS[preprocessing.interpolation], box=box)
    if rng.random() < policy.flip_prob:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < policy.affine_prob:
        crop = crop.transform(
            crop.size,
            Image.Transform.AFFINE,
            _choose_affine(crop_px, policy, rng),
            Image.Resampling.BILINEAR,
            fillcolor=preprocessing.neutral_rgb,
        )
    matrix = _choose_colors(crop, policy, rng)
    return np.asarray(crop if matrix is None else crop.convert("RGB", matrix))


def _choose_box(size: tuple[int, int], policy: AugmentPolicy, rng: np.random.Generator) -> Box:
    """Choose a box of the image, in fractional pixels: its centre square if `area` is 1."""
    width, height = size
    side = min(size)
    if policy.area == 1.0:
        left, upper = (width - side) / 2, (height - side) / 2
        return left, upper, left + side, upper + side
    for _ in range(MAX_BOX_ATTEMPTS):
        area = width * height * rng.uniform(policy.area, 1.0)
        aspect = math.exp(rng.uniform(-1, 1) * math.log(policy.aspect))
        box_width, box_height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if box_width <= width and box_height <= height:
            left = rng.uniform(0, width - box_width)
            upper = rng.uniform(0, height - box_height)
            return left, upper, left + box_width, upper + box_height
    left, upper = rng.uniform(0, width - side + 1e-9), rng.uniform(0, height - side + 1e-9)
    return left, upper, min(left + side, width), min(upper + side, height)


def _choose_affine(
    crop_px: int, policy: AugmentPolicy, rng: np.random.Generator
) -> tuple[float, ...]:
    """Choose a rotation and shear about the centre, as Pillow coefficients (output -> input)."""
    angle = math.radians(rng.uniform(-1, 1) * policy.rotate_degrees)
    shear = rng.uniform(-1, 1) * policy.shear
    a, b = math.cos(angle), math.sin(angle) + shear
    d, e = -math.sin(angle), math.cos(angle)
    center = crop_px / 2
    return a, b, center - a * center - b * center, d, e, center - d * center - e * center


def _choose_colors(
    crop: Image.Image, policy: AugmentPolicy, rng: np.random.Generator
) -> tuple[float, ...] | None:
    """Choose colour changes: one matrix [3,4], row by row, or `None` if the policy has none."""
    bounds = (policy.brightness, policy.contrast, policy.saturation)
    if not any((*bounds, policy.hue_degrees)):
        return None
    brightness, contrast, saturation = (1 + rng.uniform(-1, 1) * bound for bound in bounds)
    if rng.random() < policy.gray_prob:
        saturation = 0.0
    angle = math.radians(rng.uniform(-1, 1) * policy.hue_degrees)
    cos, sin = saturation * math.cos(angle), saturation * math.sin(angle)
    rotation = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix = brightness * contrast * (np.linalg.inv(YIQ) @ rotation @ YIQ)
    mean = LUMA @ np.asarray(crop.resize((1, 1), Image.Resampling.BOX), dtype=np.float64)[0, 0]
    offset = np.full((3, 1), brightness * (1 - contrast) * mean)
    return tuple(float(value) for value in np.hstack([matrix, offset]).ravel())
