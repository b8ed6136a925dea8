"""Choose how much training views may differ from the images they are made of.

A change that makes the classifier head wrong about validation images removes what tells the classes
apart: crops of an X-ray, mirrored letters, other colours of a leaf. Training on such views makes
the model worse. So each kind of change gets the highest level that the head tolerates.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from effnet_cli.images.augment import AugmentPolicy

Level = dict[str, float]

# How much the mean log loss may rise when all images are changed at one level.
MAX_LOSS_INCREASE = 0.06
# A smaller change of the loss means that a change has no effect, such as other colours of grey.
MIN_EFFECT = 1e-6
CHOICE_IMAGES = 256  # validation images that the head is asked about
MIN_CHOICE_IMAGES = 50  # with fewer, the choice would be chance
# Kinds of change, each with its levels from the highest to the lowest.
CHANGES: tuple[tuple[Level, ...], ...] = (
    (
        {"area": 0.35, "aspect": 4 / 3},
        {"area": 0.5, "aspect": 4 / 3},
        {"area": 0.75, "aspect": 1.15},
    ),
    ({"flip_prob": 0.5},),
    (
        {"affine_prob": 0.5, "rotate_degrees": 15, "shear": 0.15},
        {"affine_prob": 0.5, "rotate_degrees": 7, "shear": 0.07},
    ),
    (
        {"brightness": 0.4, "contrast": 0.4},
        {"brightness": 0.3, "contrast": 0.3},
        {"brightness": 0.15, "contrast": 0.15},
    ),
    (
        {"saturation": 0.4, "hue_degrees": 20, "gray_prob": 0.1},
        {"saturation": 0.3, "hue_degrees": 10, "gray_prob": 0.05},
        {"saturation": 0.15, "hue_degrees": 5},
    ),
)


@dataclass(frozen=True, slots=True)
class ViewTrial:
    """How much the head's log loss rose on views with one change."""

    change: str
    increase: float


def choose_policy(measure_loss: Callable[[AugmentPolicy], float]) -> AugmentPolicy:
    """Return the policy with the highest level of each kind of change that the head tolerates.

    Args:
        measure_loss: returns the head's mean log loss on validation images under a policy.
    """
    clean = measure_loss(AugmentPolicy())
    chosen: dict[str, float] = {}
    for levels in CHANGES:
        for level in levels:
            increase = measure_loss(AugmentPolicy(**_always(level))) - clean
            if abs(increase) < MIN_EFFECT:
                break
            if increase <= MAX_LOSS_INCREASE:
                chosen |= level
                break
    return with_matching_scale(AugmentPolicy(**chosen))


def with_matching_scale(policy: AugmentPolicy) -> AugmentPolicy:
    """Return `policy` with views in which objects are as large as in validation on average.

    A box with a share `a` of an image's area enlarges objects by 1 / sqrt(a).
    """
    return replace(policy, crop_scale=math.sqrt((1 + policy.area) / 2))


def _always(level: Level) -> Level:
    """Return a level that changes every image."""
    return level | {name: 1.0 for name in ("flip_prob", "affine_prob") if name in level}


def limit_policy(policy: AugmentPolicy, limit: AugmentPolicy) -> AugmentPolicy:
    """Return `policy` with no change above its level in `limit`."""
    return AugmentPolicy(
        crop_scale=1.0,
        area=max(policy.area, limit.area),
        **{
            name: min(getattr(policy, name), getattr(limit, name))
            for name in AugmentPolicy.__dataclass_fields__
            if name not in ("crop_scale", "area")
        },
    )


def describe_policy(policy: AugmentPolicy) -> str:
    """Describe the changes of a policy in a few words."""
    return ", ".join(_describe_changes(policy)) or "no changes"


def _describe_changes(policy: AugmentPolicy) -> Iterator[str]:
    if policy.area < 1:
        yield f"crops down to {policy.area:.0%} of the area"
    if policy.flip_prob:
        yield "mirror images"
    if policy.affine_prob:
        yield f"rotation up to {policy.rotate_degrees:g}°"
    if policy.brightness:
        yield f"brightness ±{policy.brightness:.0%}"
    if policy.saturation:
        yield f"colours ±{policy.saturation:.0%}"
