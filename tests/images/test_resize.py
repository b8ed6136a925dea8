"""Resizing and cropping equal Pillow's resize of the whole image, bit for bit."""

import numpy as np
import pytest
import timm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from effnet_cli.engines.normalise import normalise
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Interpolation, Preprocessing
from effnet_cli.images.resize import EXTREME_ASPECT, FILTERS, place, resize_and_crop
from effnet_cli.models.variants import PUBLISHED, VARIANTS, Variant
from effnet_cli.options import Fit, ImageOptions

MAX_SIDE = 5000
MAX_DRAWN_PIXELS = 300_000
MAX_REFERENCE_PIXELS = 1_500_000
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
FITS: tuple[Fit, ...] = ("crop", "pad", "stretch")

Size = tuple[int, int]


def cap_size(size: Size) -> Size:
    width, height = size
    return width, min(height, max(1, MAX_DRAWN_PIXELS // width))


any_side = st.integers(1, MAX_SIDE)
sizes = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 3), any_side),
    st.tuples(any_side, st.integers(1, 3)),
    st.tuples(any_side, any_side).map(cap_size),
)
variants = st.sampled_from(list(VARIANTS.values()))
fits = st.sampled_from(FITS)


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocessing:
    crop_px = draw(st.integers(1, 64))
    resize_px = crop_px + draw(st.integers(0, 16))
    return Preprocessing(resize_px, crop_px, draw(st.sampled_from(list(FILTERS))), ZERO, ONE)


def noise(size: Size, seed: int = 0) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def resize_then_crop(image: Image.Image, preprocessing: Preprocessing, fit: Fit) -> Image.Image:
    """Return what `resize_and_crop` must return, by resizing the whole image with Pillow."""
    width, height, left, top = place(image.size, preprocessing, fit)
    resized = image.resize((width, height), FILTERS[preprocessing.interpolation])
    crop_px = preprocessing.crop_px
    return resized.crop(
        (max(left, 0), max(top, 0), min(left + crop_px, width), min(top + crop_px, height))
    )


def assert_equals_pillow(size: Size, preprocessing: Preprocessing, fit: Fit = "crop") -> None:
    image = noise(size, seed=size[0] * MAX_SIDE + size[1])
    placement = place(size, preprocessing, fit)
    crop = resize_and_crop(image, placement, preprocessing)
    expected = resize_then_crop(image, preprocessing, fit)
    assert crop.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(crop), np.asarray(expected))


@settings(max_examples=60)
@given(variants, sizes, fits)
@example(VARIANTS["b7"], (1, 1), "crop")
@example(VARIANTS["b7"], (1, MAX_SIDE), "crop")
@example(VARIANTS["b7"], (MAX_SIDE, 1), "crop")
@example(VARIANTS["v2_l"], (1, MAX_SIDE), "pad")
@example(VARIANTS["v2_l"], (MAX_SIDE, 1), "pad")
@example(VARIANTS["lite0"], (MAX_SIDE, 1), "stretch")
def test_any_image_gives_a_finite_input_for_any_variant(row, size: Size, fit: Fit) -> None:
    loader = ImageLoader(row.preprocessing, ImageOptions(fit=fit))
    crop_px = row.preprocessing.crop_px
    crop = loader.crop(noise(size))
    assert (crop.shape, crop.dtype) == ((crop_px, crop_px, 3), np.uint8)
    values = normalise(crop[None], loader.preprocessing)[0]
    assert (values.shape, values.dtype) == ((3, crop_px, crop_px), np.float32)
    assert np.isfinite(values).all()


@settings(max_examples=150)
@given(preprocessings(), sizes, fits)
def test_crop_equals_pillows_full_resize(preprocessing, size: Size, fit: Fit) -> None:
    placement = place(size, preprocessing, fit)
    if placement.width * placement.height <= MAX_REFERENCE_PIXELS:
        assert_equals_pillow(size, preprocessing, fit)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    "size",
    [
        (16, 1),
        (1, 17),
        (17, 1),
        (320, 20),
        (321, 20),
        (3, 400),
        (400, 3),
        (700, 20),
        (20, 700),
        (1, 300),
        (300, 1),
        (2, 33),
        (5000, 300),
    ],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
def test_crop_of_a_long_thin_image_equals_pillows_full_resize(
    size: Size, interpolation: Interpolation, fit: Fit
) -> None:
    assert_equals_pillow(size, Preprocessing(256, 224, interpolation, ZERO, ONE), fit)


@pytest.mark.parametrize("size", [(33, 2), (1, 40), (500, 375), (1, 1)])
def test_crop_of_every_variant_equals_pillows_full_resize(size: Size) -> None:
    for preprocessing in {row.preprocessing for row in PUBLISHED}:
        assert_equals_pillow(size, preprocessing)


@pytest.mark.parametrize("axis", [0, 1])
def test_axis_that_keeps_its_size_is_unchanged(axis: int) -> None:
    size = (24, 500) if axis == 0 else (500, 24)
    for interpolation in FILTERS:
        assert_equals_pillow(size, Preprocessing(24, 24, interpolation, ZERO, ONE))


def test_image_of_the_crop_size_is_unchanged() -> None:
    preprocessing = VARIANTS["v2_s"].preprocessing
    image = noise((preprocessing.crop_px, preprocessing.crop_px))
    np.testing.assert_array_equal(ImageLoader(preprocessing).crop(image), np.asarray(image))


@pytest.mark.parametrize("size", [(1, MAX_SIDE), (MAX_SIDE, 1), (100_000, 9), (9, 100_000)])
def test_long_thin_image_allocates_no_huge_image(
    size: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocessing = VARIANTS["b7"].preprocessing
    allocated_px: list[int] = []
    resize, fromarray = Image.Image.resize, Image.fromarray

    def recording_resize(image, new_size, *arguments, **options):
        allocated_px.append(new_size[0] * new_size[1])
        assert allocated_px[-1] <= image.width * image.height + preprocessing.crop_px**2
        return resize(image, new_size, *arguments, **options)

    def recording_fromarray(pixels, *arguments, **options):
        allocated_px.append(pixels.shape[0] * pixels.shape[1])
        return fromarray(pixels, *arguments, **options)

    image = noise(size)
    monkeypatch.setattr(Image.Image, "resize", recording_resize)
    monkeypatch.setattr(Image, "fromarray", recording_fromarray)
    crop = ImageLoader(preprocessing).crop(image)
    assert crop.shape == (preprocessing.crop_px, preprocessing.crop_px, 3)
    assert max(allocated_px) <= size[0] * size[1] + preprocessing.crop_px**2


def test_ordinary_image_is_resized_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Size] = []
    resize = Image.Image.resize

    def recording_resize(image, new_size, *arguments, **options):
        calls.append(new_size)
        return resize(image, new_size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", recording_resize)
    loader = ImageLoader(VARIANTS["b0"].preprocessing)
    loader.crop(noise((20 * EXTREME_ASPECT, 20)))
    assert calls
    calls.clear()
    loader.crop(noise((20 * EXTREME_ASPECT + 1, 20)))
    assert not calls


@settings(max_examples=200)
@given(variants, any_side, any_side)
def test_crop_is_centered(row, width: int, height: int) -> None:
    resize_px, crop_px = row.preprocessing.resize_px, row.preprocessing.crop_px
    placed = place((width, height), row.preprocessing, "crop")
    assert min(placed.width, placed.height) == resize_px
    long = resize_px * max(width, height) / min(width, height)  # in torchvision's order
    assert max(placed.width, placed.height) == (
        resize_px if row.preprocessing.is_squashed else int(long)
    )
    assert 0 <= placed.left <= placed.width - crop_px
    assert 0 <= placed.top <= placed.height - crop_px
    assert abs(2 * placed.left + crop_px - placed.width) <= 1
    assert abs(2 * placed.top + crop_px - placed.height) <= 1


@settings(max_examples=200)
@given(variants, any_side, any_side)
def test_pad_centers_the_whole_image(row, width: int, height: int) -> None:
    crop_px = row.preprocessing.crop_px
    placed = place((width, height), row.preprocessing, "pad")
    assert max(placed.width, placed.height) == crop_px
    assert (
        abs(min(placed.width, placed.height) - crop_px * min(width, height) / max(width, height))
        <= 1
    )
    for offset, side in ((-placed.left, placed.width), (-placed.top, placed.height)):
        assert side >= 1
        assert 0 <= offset <= crop_px - side
        assert abs(2 * offset + side - crop_px) <= 1


@settings(max_examples=50)
@given(variants, any_side, any_side)
def test_stretch_fills_the_crop_for_any_shape(row, width: int, height: int) -> None:
    crop_px = row.preprocessing.crop_px
    assert place((width, height), row.preprocessing, "stretch") == (crop_px, crop_px, 0, 0)


@settings(max_examples=100)
@given(variants, any_side, any_side, fits)
def test_placement_of_the_transposed_image_is_transposed(
    row, width: int, height: int, fit: Fit
) -> None:
    placed = place((width, height), row.preprocessing, fit)
    transposed = place((height, width), row.preprocessing, fit)
    assert (transposed.height, transposed.width, transposed.top, transposed.left) == placed


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (900, 3), (3, 900)])
def test_padding_is_the_mean_which_normalises_to_zero(size: Size) -> None:
    for row in VARIANTS.values():
        preprocessing = row.preprocessing
        loader = ImageLoader(preprocessing, ImageOptions(fit="pad"))
        crop = loader.crop(Image.new("RGB", size, (255, 255, 255)))
        placed = place(size, preprocessing, "pad")
        inside = np.zeros(crop.shape[:2], dtype=bool)
        inside[
            -placed.top : placed.height - placed.top, -placed.left : placed.width - placed.left
        ] = True
        assert (crop[inside] == 255).all()
        padding = normalise(crop[None], loader.preprocessing)[0][:, ~inside]
        half_a_step = 0.5 / 255 / np.array(preprocessing.std)
        assert padding.size
        assert (np.abs(padding) <= half_a_step[:, None] + 1e-6).all()


@settings(max_examples=30)
@given(variants, sizes, fits)
def test_constant_image_stays_constant(row, size: Size, fit: Fit) -> None:
    colour = (12, 130, 250)
    loader = ImageLoader(row.preprocessing, ImageOptions(fit=fit))
    image = Image.new("RGB", size, colour)
    crop = resize_and_crop(
        image,
        place(size, row.preprocessing, fit),
        row.preprocessing,
    )
    assert (np.asarray(crop) == colour).all()
    if fit != "pad":
        assert (loader.crop(image) == colour).all()


SETTINGS = {row.preprocessing: row for row in VARIANTS.values() if row.source.repo is not None}
LARGE_PX = 400  # crops of which take a tenth of a second
SHAPES = [
    *((1, 1), (2, 900), (900, 2), (320, 213), (213, 320), (333, 333)),
    *((301, 299), (399, 53), (224, 224), (640, 639), (17, 4), (256, 257)),
]


@pytest.mark.parametrize("row", SETTINGS.values(), ids=lambda row: row.name)
def test_crops_are_timms(row: Variant) -> None:
    """In every pixel, for all settings of timm's checkpoints."""
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(row.weight_set).to_dict(), use_test_size=True
    )
    *steps, to_tensor, normalisation = timm.data.create_transform(**config).transforms
    assert type(to_tensor).__name__ == "MaybeToTensor"
    loader = ImageLoader(row.preprocessing)
    step = 1 if row.preprocessing.crop_px < LARGE_PX else 3
    for number, shape in enumerate(SHAPES[::step]):
        image = expected = noise(shape, number)
        for step in steps:
            expected = step(expected)
        assert np.array_equal(loader.crop(image), np.asarray(expected)), shape
    pixels = normalise(loader.crop(image)[None], row.preprocessing)
    assert np.array_equal(pixels[0], normalisation(to_tensor(expected)).numpy())
