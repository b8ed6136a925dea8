import dataclasses

import pytest
from hypothesis import given, strategies

from effnet_cli.finetune.view_choice import (
    CHANGES,
    MAX_LOSS_INCREASE,
    choose_policy,
    describe_policy,
    limit_policy,
    with_matching_scale,
)
from effnet_cli.images.augment import POLICIES, AugmentPolicy

HARMLESS = 0.01
STRONGEST = with_matching_scale(
    AugmentPolicy(**{name: value for levels in CHANGES for name, value in levels[0].items()})
)


def raise_loss(policy: AugmentPolicy, **limits: float) -> float:
    """Return a loss that rises beyond any limit where a field exceeds its own."""
    is_changed = policy != AugmentPolicy()
    exceeds = any(
        getattr(policy, name) < limit if name == "area" else getattr(policy, name) > limit
        for name, limit in limits.items()
    )
    return 1.0 + HARMLESS * is_changed + 2 * MAX_LOSS_INCREASE * exceeds


def test_highest_levels_are_chosen_where_nothing_is_harmful() -> None:
    assert choose_policy(raise_loss) == STRONGEST
    assert pytest.approx(STRONGEST.crop_scale, abs=1e-3) == 0.822


@pytest.mark.parametrize(
    ("limits", "field", "value"),
    [
        ({"area": 0.5}, "area", 0.5),
        ({"area": 0.9}, "area", 1.0),
        ({"flip_prob": 0.0}, "flip_prob", 0.0),
        ({"rotate_degrees": 10.0}, "rotate_degrees", 7),
        ({"brightness": 0.2}, "brightness", 0.15),
        ({"saturation": 0.0}, "saturation", 0.0),
    ],
)
def test_harmful_change_gets_a_lower_level(
    limits: dict[str, float], field: str, value: float
) -> None:
    policy = choose_policy(lambda policy: raise_loss(policy, **limits))
    assert getattr(policy, field) == value
    same = {"area", "flip_prob", "rotate_degrees", "brightness", "saturation"} - {field}
    assert all(getattr(policy, name) == getattr(STRONGEST, name) for name in same)


def test_change_without_effect_is_not_chosen() -> None:
    """Grey images have no colours to change."""
    colours = {"saturation": 0.0, "hue_degrees": 0.0, "gray_prob": 0.0}
    policy = choose_policy(lambda policy: raise_loss(dataclasses.replace(policy, **colours)))
    assert policy == dataclasses.replace(STRONGEST, **colours)


def test_changes_are_measured_on_all_images() -> None:
    measured: list[AugmentPolicy] = []
    choose_policy(lambda policy: measured.append(policy) or raise_loss(policy))  # type: ignore[func-returns-value]
    assert {policy.flip_prob for policy in measured} == {0.0, 1.0}
    assert {policy.affine_prob for policy in measured} == {0.0, 1.0}


@given(strategies.sampled_from([*POLICIES.values(), STRONGEST, AugmentPolicy()]))
def test_limited_policy_has_no_change_above_the_limit(policy: AugmentPolicy) -> None:
    light = POLICIES["light"]
    limited = limit_policy(policy, light)
    assert limited.area >= light.area
    assert limited.rotate_degrees == 0
    assert limited.brightness <= light.brightness
    assert limit_policy(limited, light) == limited


def test_description_names_each_change() -> None:
    assert describe_policy(STRONGEST) == (
        "crops down to 35% of the area, mirror images, rotation up to 15°, brightness ±40%, "
        "colours ±40%"
    )
    assert describe_policy(AugmentPolicy()) == "no changes"
