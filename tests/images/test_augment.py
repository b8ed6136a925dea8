"""Training views are square, follow their policy and depend only on the seed."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effnet_cli.images.augment import LUMA, POLICIES, Augmentation, AugmentPolicy, augment_image
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.options import Augment

MEAN = (0.485, 0.456, 0.406)


def preprocessing(crop_px: int = 24, interpolation: Any = "bicubic") -> Preprocessing:
    """Preprocessing whose crop has the whole shorter side, as in training."""
    return Preprocessing(crop_px, crop_px, interpolation, MEAN, (0.229, 0.224, 0.225))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, colour)


def augment(image: Any, policy: AugmentPolicy, seed: int = 0, crop_px: int = 24) -> np.ndarray:
    return augment_image(image, preprocessing(), Augmentation(policy, crop_px, (seed,)), index=0)


probabilities = st.floats(0, 1)
policies = st.sampled_from(list(POLICIES.values())) | st.builds(
    AugmentPolicy,
    area=st.floats(0.01, 1),
    aspect=st.floats(1, 4),
    flip_prob=probabilities,
    affine_prob=probabilities,
    rotate_degrees=st.floats(0, 180),
    shear=st.floats(0, 2),
    brightness=probabilities,
    contrast=probabilities,
    saturation=probabilities,
    hue_degrees=st.floats(0, 180),
    gray_prob=probabilities,
)
sides = st.integers(1, 70) | st.sampled_from([1, 2, 1000])
seeds = st.integers(0, 2**32)


@given(sides, sides, policies, seeds, st.integers(1, 40), st.sampled_from(["bilinear", "bicubic"]))
def test_view_has_the_size_of_the_crop_for_any_image(
    width: int, height: int, policy: AugmentPolicy, seed: int, crop_px: int, interpolation: str
) -> None:
    views = Augmentation(policy, crop_px, (seed, 1))
    view = augment_image(noise(width, height), preprocessing(24, interpolation), views, index=2)
    assert view.shape == (crop_px, crop_px, 3)
    assert view.dtype == np.uint8


@given(sides, sides, policies, seeds)
def test_same_seed_gives_the_same_bytes_and_keeps_the_image(
    width: int, height: int, policy: AugmentPolicy, seed: int
) -> None:
    image = noise(width, height)
    before = image.tobytes()
    first, second = augment(image, policy, seed), augment(image, policy, seed)
    assert first.tobytes() == second.tobytes()
    assert image.tobytes() == before


@pytest.mark.parametrize("name", ["light", "strong"])
def test_seeds_give_different_views(name: Augment) -> None:
    image = noise(64, 48)
    assert len({augment(image, POLICIES[name], seed).tobytes() for seed in range(50)}) == 50
    views = Augmentation(POLICIES[name], 24, (0, 1))
    assert (
        len(
            {
                augment_image(image, preprocessing(), views, index=index).tobytes()
                for index in range(50)
            }
        )
        == 50
    )


# --- the box ------------------------------------------------------------------------------------


class BoxRecorder:
    """An image that records the box of each requested square."""

    def __init__(self, width: int, height: int) -> None:
        self.size = self.width, self.height = width, height
        self.box: tuple[float, float, float, float] = (0, 0, 0, 0)

    def resize(
        self, size: tuple[int, int], resample: int, box: tuple[float, float, float, float]
    ) -> Image.Image:
        self.box = box
        return Image.new("RGB", size)


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.builds(AugmentPolicy, area=st.floats(0.01, 1), aspect=st.floats(1, 4)),
    seeds,
)
def test_box_is_in_the_image_and_large_enough(
    width: int, height: int, policy: AugmentPolicy, seed: int
) -> None:
    recorder = BoxRecorder(width, height)
    augment(recorder, policy, seed)
    left, upper, right, lower = recorder.box
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    area, side = (right - left) * (lower - upper), min(width, height)
    # an image too long for every box of the policy gets a square of its shorter side
    is_square = right - left == pytest.approx(lower - upper) == pytest.approx(side)
    assert is_square or area >= policy.area * width * height * (1 - 1e-9)
    if not is_square:
        shape = (right - left) / (lower - upper)
        assert 1 / policy.aspect * (1 - 1e-9) <= shape <= policy.aspect * (1 + 1e-9)


@pytest.mark.parametrize("name", ["light", "strong"])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 500)])
def test_boxes_cover_the_whole_range(name: Augment, size: tuple[int, int]) -> None:
    policy, recorder = POLICIES[name], BoxRecorder(*size)
    areas, lefts = [], []
    for seed in range(400):
        augment(recorder, policy, seed)
        left, upper, right, lower = recorder.box
        areas.append((right - left) * (lower - upper) / (size[0] * size[1]))
        lefts.append(left / max(size[0] - (right - left), 1e-9))
    assert min(areas) == pytest.approx(policy.area, abs=0.02)
    assert max(areas) > 0.9
    assert np.mean(lefts) == pytest.approx(0.5, abs=0.1)
    assert np.std(lefts) > 0.2


@given(
    st.integers(1, 90),
    st.integers(1, 40),
    st.sampled_from(["bilinear", "bicubic"]),
    st.integers(0, 9),
)
def test_no_augmentation_of_a_square_is_the_validation_crop(
    side: int, crop_px: int, interpolation: str, seed: int
) -> None:
    image, crop_preprocessing = noise(side, side, seed), preprocessing(crop_px, interpolation)
    view = augment_image(
        image, crop_preprocessing, Augmentation(POLICIES["none"], crop_px, (seed,)), index=0
    )
    assert np.array_equal(view, ImageLoader(crop_preprocessing).crop(image))


@given(st.integers(20, 90), st.integers(20, 90))
def test_no_augmentation_is_the_validation_crop_within_a_pixel(width: int, height: int) -> None:
    # a smooth image, so that rounding the crop to whole pixels changes values little
    image = noise(3, 3).resize((width, height), Image.Resampling.BICUBIC)
    expected = ImageLoader(preprocessing()).crop(image).astype(int)
    view = augment(image, POLICIES["none"]).astype(int)
    assert np.abs(view - expected).mean() < 12
    assert np.abs(view[::-1, ::-1] - expected).mean() > np.abs(view - expected).mean()


# --- flip, rotation -------------------------------------------------------------------------------


def test_flip_is_horizontal() -> None:
    image = noise(40, 30)
    plain = augment(image, AugmentPolicy())
    assert np.array_equal(augment(image, AugmentPolicy(flip_prob=1)), plain[:, ::-1])
    assert not np.array_equal(plain, plain[:, ::-1])


def test_flip_is_as_frequent_as_its_probability() -> None:
    image = noise(24, 24)
    plain = augment(image, AugmentPolicy()).tobytes()
    unflipped = sum(
        augment(image, AugmentPolicy(flip_prob=0.25), seed).tobytes() == plain
        for seed in range(400)
    )
    assert 260 < unflipped < 340


def test_rotation_by_zero_degrees_changes_nothing() -> None:
    image = noise(40, 40)
    assert np.array_equal(
        augment(image, AugmentPolicy(affine_prob=1)), augment(image, AugmentPolicy())
    )


def test_rotation_keeps_the_center_and_fills_corners_with_the_mean() -> None:
    image = Image.new("RGB", (41, 41), (255, 0, 0))
    policy = AugmentPolicy(affine_prob=1, rotate_degrees=45)
    corners = set()
    for seed in range(30):
        view = augment(image, policy, seed, crop_px=41)
        assert tuple(view[20, 20]) == (255, 0, 0)
        corners.add(tuple(int(value) for value in view[0, 0]))
    assert tuple(round(255 * value) for value in MEAN) in corners


def test_rotation_goes_both_ways_up_to_its_angle() -> None:
    line = np.zeros((101, 101, 3), dtype=np.uint8)
    line[50] = 255  # horizontal, through the centre
    angles, policy = [], AugmentPolicy(affine_prob=1, rotate_degrees=15)
    for seed in range(60):
        view = augment(Image.fromarray(line), policy, seed, 101)
        row = int(view[:, 90, 0].argmax())
        angles.append(np.degrees(np.arctan((row - 50) / 40)))
    assert min(angles) < -10
    assert max(angles) > 10
    assert np.abs(angles).max() < 15 + 1.5


# --- colours --------------------------------------------------------------------------------------


@given(st.integers(0, 255), st.integers(0, 9))
def test_grays_stay_when_colors_change(value: int, seed: int) -> None:
    policy = AugmentPolicy(saturation=1, hue_degrees=180)
    view = augment(flat((value,) * 3), policy, seed).astype(int)
    assert np.abs(view - value).max() <= 1


@given(st.tuples(*[st.integers(110, 145)] * 3), st.integers(0, 50))
def test_hue_and_saturation_keep_the_luma(colour: tuple[int, int, int], seed: int) -> None:
    view = augment(flat(colour), AugmentPolicy(saturation=1, hue_degrees=180), seed)
    luma = LUMA @ np.array(colour)
    assert np.abs(view @ LUMA - luma).max() < 1.5


def test_hue_rotates_colors_within_its_angle() -> None:
    before = np.array([160, 110, 120])
    yiq = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])

    def angle(colour: np.ndarray) -> float:
        i, q = yiq @ colour
        return float(np.degrees(np.arctan2(q, i)))

    policy = AugmentPolicy(hue_degrees=20)
    rotations = [
        angle(augment(flat((160, 110, 120)), policy, seed)[0, 0]) - angle(before)
        for seed in range(60)
    ]
    assert min(rotations) < -14
    assert max(rotations) > 14
    assert np.abs(rotations).max() < 20 + 2


def test_image_without_color_is_gray() -> None:
    policy = AugmentPolicy(saturation=0.4, gray_prob=1)
    view = augment(noise(40, 40), policy).astype(int)
    assert np.ptp(view, axis=2).max() <= 1
    assert (
        np.ptp(augment(noise(40, 40), AugmentPolicy(saturation=0.4)).astype(int), axis=2).max() > 50
    )


@pytest.mark.parametrize("bound", ["brightness", "contrast", "saturation"])
def test_factors_stay_within_their_bounds(bound: str) -> None:
    """Measured on an image of two halves: mean, contrast and saturation."""
    pixels = np.full((40, 40, 3), (90, 100, 110), dtype=np.uint8)
    pixels[:, 20:] = (140, 130, 120)

    def measure(view: np.ndarray) -> dict[str, float]:
        luma = view.astype(float) @ LUMA
        colours = view[:, 2].astype(float) - luma[:, 2, None]
        return {
            "brightness": float(luma.mean()),
            "contrast": float(luma[:, -4:].mean() - luma[:, :4].mean()),
            "saturation": float(np.abs(colours).mean()),
        }

    before = measure(pixels)
    factors: list[dict[str, float]] = []
    for seed in range(80):
        policy = AugmentPolicy(**{bound: 0.4})
        after = measure(augment(Image.fromarray(pixels), policy, seed, crop_px=40))
        factors.append({name: after[name] / before[name] for name in before})
    values = [row[bound] for row in factors]
    assert 0.57 < min(values) < 0.68
    assert 1.32 < max(values) < 1.43
    unchanged = {
        "brightness": (),
        "contrast": ("brightness",),
        "saturation": ("brightness", "contrast"),
    }[bound]
    for name in unchanged:
        assert [row[name] for row in factors] == pytest.approx([1.0] * 80, abs=0.03)


def test_every_option_value_has_a_policy() -> None:
    assert {"auto", *POLICIES} == set(get_args(Augment))
    assert POLICIES["none"] == AugmentPolicy()
