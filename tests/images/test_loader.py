"""The image loader: exact pixels for valid files, and an error kind for all others."""

import errno
import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import imagecodecs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from torchvision.models import get_weight
from torchvision.transforms.functional import pil_to_tensor

import heic
from effnet_cli.engines.normalise import normalise
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.resize import place
from effnet_cli.models.variants import PUBLISHED, VARIANTS, Variant
from effnet_cli.options import MAX_PIXELS, ErrorKind, ImageOptions
from effnet_cli.system.errors import ImageError
from good import clear_where, over_white
from helpers import load_pixels
from written import ORIENTATION_TAG, encoded, png_chunk, without_adobe_marker

TORCHVISION = [row for row in PUBLISHED if row.source.package is None]
LITE = [row for row in PUBLISHED if row.source.package is not None]
B0 = VARIANTS["b0"].preprocessing
EXACT = ImageOptions(exact_decode=True)
UPRIGHT = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INVERSE = {
    Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
}
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
LOSSY = {
    "JPEG": {"quality": 98, "subsampling": 0},
    "AVIF": {"quality": 98, "subsampling": "4:4:4"},
}
# Allowed mean difference of a lossy format, of 255.
LOSSY_LEVELS = 3.0

Size = tuple[int, int]


@pytest.fixture(autouse=True)
def restore_pillow_limit() -> Iterator[None]:
    """Restore Pillow's limit, which loaders set for the whole process."""
    before = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = before


def source_image(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Return a smooth image with a little noise, with statistics similar to a photo's."""
    random_values = np.random.default_rng(seed)
    blobs = random_values.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC))
    noise = random_values.integers(-6, 7, soft.shape)
    return Image.fromarray((soft.astype(np.int64) + noise).clip(0, 255).astype(np.uint8))


def open_image(source: bytes | str | Path, options: ImageOptions = EXACT) -> Image.Image:
    image = ImageLoader(B0, options).open(source)
    assert image.mode == "RGB"
    return image


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.int64)


def assert_same(source: bytes | str | Path, expected: Image.Image, tolerance: float = 0) -> None:
    """Compare images; `tolerance` is the allowed mean difference of 255."""
    image = open_image(source)
    assert image.size == expected.size
    if tolerance:
        assert np.abs(levels(image) - levels(expected.convert("RGB"))).mean() <= tolerance
    else:
        np.testing.assert_array_equal(levels(image), levels(expected.convert("RGB")))


def load_error(source: bytes | str | Path, options: ImageOptions = ImageOptions()) -> ImageError:
    with pytest.raises(ImageError) as caught:
        ImageLoader(B0, options).load(source)
    assert caught.value.kind in get_args(ErrorKind)
    assert caught.value.message.endswith(".")
    assert caught.value.hint.endswith(".")
    return caught.value


def bits(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return float32 as integers, so that 0.0 and -0.0 differ, too."""
    array = np.asarray(values)
    assert array.dtype == np.float32
    return array.view(np.int32)


# --- the tensor --------------------------------------------------------------------------------

SHAPES = [(640, 480), (427, 640), (200, 200), (333, 1000), (120, 700), (1000, 60), (50, 37)]


@pytest.mark.parametrize("size", SHAPES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("row", TORCHVISION, ids=lambda row: row.name)
def test_input_equals_torchvisions_transforms_to_the_bit(row: Variant, size: Size) -> None:
    data = encoded(source_image(*size), "JPEG", quality=92)
    loader = ImageLoader(row.preprocessing, EXACT)
    expected = get_weight(row.weight_set).transforms()(loader.open(data))
    np.testing.assert_array_equal(bits(load_pixels(loader, data)), bits(expected))


@pytest.mark.parametrize("size", SHAPES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("row", LITE, ids=lambda row: row.name)
def test_input_of_lite_models_equals_pillow_and_torch(row: Variant, size: Size) -> None:
    data = encoded(source_image(*size), "JPEG", quality=92)
    loader = ImageLoader(row.preprocessing, EXACT)
    crop_px = row.architecture.paper_px
    resize_px = crop_px + 32
    image = loader.open(data)
    short, long = sorted(image.size)
    long = int(resize_px * long / short)
    resized = image.resize(
        (long, resize_px) if image.width > image.height else (resize_px, long),
        Image.Resampling.BICUBIC,
    )
    left = round((resized.width - crop_px) / 2)
    top = round((resized.height - crop_px) / 2)
    values = pil_to_tensor(resized.crop((left, top, left + crop_px, top + crop_px)))
    expected = values.to(torch.float32).div(255)
    expected = expected.sub(127 / 255).div(128 / 255)
    np.testing.assert_array_equal(bits(load_pixels(loader, data)), bits(expected))


def published_mean_and_std(row: Variant) -> tuple[list[float], list[float]]:
    if row in LITE:
        return [127 / 255] * 3, [128 / 255] * 3
    transforms = get_weight(row.weight_set).transforms()
    return transforms.mean, transforms.std


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
def test_every_value_is_normalised_as_torch_does(row: Variant) -> None:
    mean, std = published_mean_and_std(row)
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    channels = torch.from_numpy(values).permute(2, 0, 1).to(torch.float32).div(255)
    expected = channels.sub(torch.tensor(mean)[:, None, None]).div(torch.tensor(std)[:, None, None])
    (actual,) = normalise(values[None], row.preprocessing)
    assert actual.flags.c_contiguous
    np.testing.assert_array_equal(bits(actual), bits(expected))


def test_path_text_and_bytes_give_the_same_input(tmp_path: Path) -> None:
    data = encoded(source_image(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    loader = ImageLoader(B0)
    expected = load_pixels(loader, data)
    np.testing.assert_array_equal(load_pixels(loader, path), expected)
    np.testing.assert_array_equal(load_pixels(loader, str(path)), expected)


def test_threads_give_the_same_inputs() -> None:
    files = [encoded(source_image(300, 200, seed), "JPEG") for seed in range(24)]
    loader = ImageLoader(B0)
    alone = [load_pixels(loader, data) for data in files]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda data: load_pixels(loader, data), files))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "I;16"])
def test_pillow_image_gives_the_input_of_its_file(format: str, mode: str) -> None:
    if (format, mode) in {("PNG", "CMYK"), ("JPEG", "I;16")}:
        return  # the format does not support the mode
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    data = encoded(source_image().convert(mode), format, exif=exif)
    loader = ImageLoader(B0)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        before = image.mode, image.size, image.tobytes()
        np.testing.assert_array_equal(loader.load(image), loader.load(data))
        assert (image.mode, image.size, image.tobytes()) == before


def test_pillow_image_of_a_truncated_file_is_an_error() -> None:
    data = encoded(source_image(), "PNG")[:-100]
    with Image.open(io.BytesIO(data)) as image, pytest.raises(ImageError) as caught:
        ImageLoader(B0).load(image)
    assert caught.value.kind == "truncated"


# --- DCT-scaled decode -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3200, 2400), (1600, 2401), (1601, 1201), (5000, 1100)])
def test_large_jpeg_is_decoded_smaller_but_large_enough(size: Size) -> None:
    data = encoded(source_image(*size), "JPEG")
    loader = ImageLoader(B0)
    scaled = loader.open(data)
    needed = place(size, B0, "crop")
    assert scaled.width < size[0]
    assert scaled.width >= 2 * needed.width
    assert scaled.height >= 2 * needed.height
    exact = ImageLoader(B0, EXACT)
    assert exact.open(data).size == size
    difference = np.abs(
        loader.crop(scaled).astype(np.int64) - exact.crop(exact.open(data)).astype(np.int64)
    )
    assert difference.mean() < 1
    assert difference.max() < 16


@pytest.mark.parametrize("size", [(600, 400), (1023, 767), (4000, 300)])
def test_jpeg_slightly_larger_than_needed_is_decoded_in_full(size: Size) -> None:
    data = encoded(source_image(*size), "JPEG")
    assert ImageLoader(B0).open(data).size == size


@pytest.mark.parametrize("mode", ["L", "CMYK", "progressive", "MPO"])
def test_every_kind_of_large_jpeg_is_scaled(mode: str) -> None:
    image = source_image(2048, 1536)
    data = {
        "L": lambda: encoded(image.convert("L"), "JPEG"),
        "CMYK": lambda: encoded(image.convert("CMYK"), "JPEG"),
        "progressive": lambda: encoded(image, "JPEG", progressive=True),
        "MPO": lambda: encoded(image, "MPO", save_all=True, append_images=[source_image(64, 64)]),
    }[mode]()
    scaled = open_image(data, ImageOptions())
    assert scaled.size == (1024, 768)
    reference = open_image(data).resize((1024, 768), Image.Resampling.BOX)
    assert np.abs(levels(scaled) - levels(reference)).mean() < LOSSY_LEVELS


def test_scaled_decode_keeps_the_orientation() -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    upright = source_image(1536, 2048)
    data = encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    scaled = open_image(data, ImageOptions())
    assert scaled.size == (768, 1024)
    reference = upright.resize((768, 1024), Image.Resampling.BOX)
    assert np.abs(levels(scaled) - levels(reference)).mean() < LOSSY_LEVELS


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_scaled_decode_supports_every_fit(fit: str) -> None:
    data = encoded(source_image(3600, 1200), "JPEG")
    loader = ImageLoader(B0, ImageOptions(fit=fit))
    exact = ImageLoader(B0, ImageOptions(fit=fit, exact_decode=True))
    assert loader.open(data).width < 3600
    difference = load_pixels(loader, data) - load_pixels(exact, data)
    assert np.abs(difference).mean() < 1 / 255 / min(B0.std)


# --- unusual but valid -------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY])
def test_orientation_is_applied(format: str, orientation: int) -> None:
    upright = source_image(48, 32)
    transpose = UPRIGHT[orientation]
    stored = upright if transpose is None else upright.transpose(INVERSE.get(transpose, transpose))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    data = encoded(stored, format, exif=exif, **{**LOSSLESS, **LOSSY}[format])
    assert_same(data, upright, tolerance=LOSSY_LEVELS if format in LOSSY else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    assert_same(encoded(source_image(), "PNG", exif=exif), source_image())


BROKEN_EXIF = {
    "text": b"Exif\0\0this is no TIFF header at all",
    "empty": b"Exif\0\0",
    "cut": b"Exif\0\0MM\0*\0\0",
    "loop": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,
    "far": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "orientation of text": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\2\0\0\0A\0\0\0\0\0\0\0",
}


@pytest.mark.filterwarnings("ignore")  # as the command does
@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_ignored(format: str, exif: bytes) -> None:
    options = {**LOSSLESS, **LOSSY}[format]
    reference = open_image(encoded(source_image(), format, **options))
    assert_same(encoded(source_image(), format, exif=exif, **options), reference)


def test_broken_color_profile_is_ignored() -> None:
    for format in ("PNG", "JPEG", "TIFF", "WEBP"):
        reference = open_image(encoded(source_image(), format))
        assert_same(encoded(source_image(), format, icc_profile=b"no profile" * 20), reference)


def gray(width: int = 96, height: int = 64) -> Image.Image:
    """Return gray with the full range, so that scaling by values and by type agree."""
    image = np.array(source_image(width, height).convert("L"))
    image[0, :2] = 0, 255
    return Image.fromarray(image)


def scaled_gray(scale: float, dtype: type) -> Image.Image:
    return Image.fromarray((np.asarray(gray()).astype(np.float64) * scale).astype(dtype))


DEEP_GRAY = {
    "16-bit PNG": lambda: encoded(scaled_gray(257, np.uint16), "PNG"),
    "16-bit TIFF": lambda: encoded(scaled_gray(257, np.uint16), "TIFF"),
    "16-bit big-endian TIFF": lambda: encoded(scaled_gray(257, ">u2"), "TIFF"),
    "16-bit PGM": lambda: encoded(scaled_gray(257, np.uint16), "PPM"),
    "16-bit JPEG 2000": lambda: encoded(scaled_gray(257, np.uint16), "JPEG2000"),
    "32-bit TIFF of 0..255": lambda: encoded(scaled_gray(1, np.int32), "TIFF"),
    "32-bit TIFF of 0..65535": lambda: encoded(scaled_gray(257, np.int32), "TIFF"),
    "32-bit TIFF of 0..16777215": lambda: encoded(scaled_gray(65793, np.int32), "TIFF"),
    "float TIFF of 0..1": lambda: encoded(scaled_gray(1 / 255, np.float32), "TIFF"),
    "float TIFF of 0..255": lambda: encoded(scaled_gray(1, np.float32), "TIFF"),
    "float TIFF of 0..65535": lambda: encoded(scaled_gray(257, np.float32), "TIFF"),
    "float TIFF of 0..1e9": lambda: encoded(scaled_gray(1e9 / 255, np.float32), "TIFF"),
    "PGM of 0..1020": lambda: pgm(np.asarray(gray()).astype(int) * 4, 1020),
    "text PGM": lambda: plain_pgm(np.asarray(gray())),
}


def pgm(values: np.ndarray, limit: int) -> bytes:
    height, width = values.shape
    return b"P5 %d %d %d\n" % (width, height, limit) + values.astype(">u2").tobytes()


def plain_pgm(values: np.ndarray) -> bytes:
    height, width = values.shape
    return (
        b"P2\n# a comment\n%d %d\n255\n" % (width, height)
        + " ".join(map(str, values.ravel())).encode()
    )


@pytest.mark.parametrize("data", DEEP_GRAY.values(), ids=DEEP_GRAY)
def test_deep_gray_is_scaled_and_not_clipped(data) -> None:
    assert_same(data(), gray())


def test_dark_16_bit_image_stays_dark() -> None:
    dark = (np.asarray(gray()).astype(np.uint16) // 4) * 257
    expected = Image.fromarray((dark / 257 + 0.5).astype(np.uint8))
    for format in ("PNG", "TIFF"):
        assert_same(encoded(Image.fromarray(dark), format), expected)


def test_float_values_below_zero_are_stretched() -> None:
    values = np.asarray(gray()).astype(np.float32) * 10 - 1000
    assert_same(encoded(Image.fromarray(values), "TIFF"), gray())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_does_not_affect_other_values(value: float) -> None:
    values = np.asarray(gray()).astype(np.float32) / 255
    values[5, 5] = value
    actual = levels(open_image(encoded(Image.fromarray(values), "TIFF")))
    expected = levels(gray().convert("RGB"))
    actual[5, 5] = expected[5, 5] = 0
    np.testing.assert_array_equal(actual, expected)


def test_constant_float_image_is_opened() -> None:
    for value, level in ((0.0, 0), (1.0, 255), (0.5, 128), (-7.0, 0)):
        image = open_image(encoded(Image.new("F", (8, 8), value), "TIFF"))
        assert (levels(image) == level).all()


def transparent_image() -> Image.Image:
    """Return an image whose alpha increases from 0 on the left to 255 on the right."""
    image = source_image(256, 40).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    return image


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "TGA", "JPEG2000", "AVIF", "ICO"])
def test_transparency_is_composited_over_white(format: str, tmp_path: Path) -> None:
    options = {
        "WEBP": {"lossless": True, "exact": True},
        "AVIF": LOSSY["AVIF"],
        "ICO": {"sizes": [(256, 40)]},
    }.get(format, {})
    path = tmp_path / f"x.{format.lower()}"
    path.write_bytes(encoded(transparent_image(), format, **options))
    image = open_image(path)
    difference = np.abs(levels(image) - levels(over_white(transparent_image())))
    assert difference.mean() < (LOSSY_LEVELS if format == "AVIF" else 0.6)
    assert difference.max() <= (40 if format == "AVIF" else 1)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_gray_transparency_is_composited_over_white(format: str) -> None:
    image = transparent_image().convert("LA")
    expected = over_white(image.convert("RGBA"))
    difference = np.abs(levels(open_image(encoded(image, format))) - levels(expected))
    assert difference.max() <= 1


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP"])
def test_transparent_color_of_a_palette_is_white(format: str) -> None:
    image = source_image().quantize(16)
    expected = clear_where(np.asarray(image) == 3, image)
    source = image if format != "WEBP" else make_colour_transparent(image, 3)
    options = {"lossless": True} if format == "WEBP" else {"transparency": 3}
    assert_same(encoded(source, format, **options), expected)


def make_colour_transparent(image: Image.Image, index: int) -> Image.Image:
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(np.asarray(image) == index, 0, 255).astype(np.uint8)))
    return clear


def test_half_transparent_colors_of_a_palette_are_mixed_with_white() -> None:
    image = source_image().quantize(16)
    opacity = bytes(range(0, 256, 17))
    layer = image.convert("RGBA")
    layer.putalpha(Image.fromarray(np.frombuffer(opacity, np.uint8)[np.asarray(image)]))
    actual = open_image(encoded(image, "PNG", transparency=opacity))
    assert np.abs(levels(actual) - levels(over_white(layer))).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_transparent_color_is_white(mode: str) -> None:
    image = source_image().convert(mode)
    clear = image.getpixel((10, 10))
    values = np.asarray(image.convert("RGB"))
    mask = (values == values[10, 10]).all(axis=-1)
    data = encoded(image, "PNG", transparency=clear)
    assert_same(data, clear_where(mask, image))


def cmyk(black_ink: float) -> Image.Image:
    """Return the image as CMYK; `black_ink` is the share of its gray that is printed in black."""
    inks = 255 - np.asarray(source_image()).astype(np.float64)
    black = inks.min(axis=-1, keepdims=True) * black_ink
    rest = 255 * (inks - black) / (255 - black)
    values = np.concatenate([rest, black], axis=-1).round().astype(np.uint8)
    return Image.merge("CMYK", [Image.fromarray(values[..., i]) for i in range(4)])


@pytest.mark.parametrize("black_ink", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("stored", ["with the marker", "inverted", "plain"])
def test_cmyk_jpeg_keeps_its_colors(stored: str, black_ink: float) -> None:
    image = cmyk(black_ink)
    if stored == "plain":
        image = Image.merge("CMYK", [band.point(lambda v: 255 - v) for band in image.split()])
    data = encoded(image, "JPEG", quality=98, subsampling=0)
    assert b"Adobe" in data
    if stored != "with the marker":
        data = without_adobe_marker(data)
    assert_same(data, source_image(), tolerance=LOSSY_LEVELS)


def test_ycck_jpeg_keeps_its_colors() -> None:
    """Pillow cannot write YCCK: the planes are written as CMYK, and the last byte of the marker
    says what they are.
    """
    cyan, magenta, yellow, black = cmyk(0.5).split()
    planes = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    inverted = [plane.point(lambda v: 255 - v) for plane in planes]
    data = encoded(Image.merge("CMYK", (*inverted, black)), "JPEG", quality=98, subsampling=0)
    marker = data.index(b"Adobe")
    data = data[: marker + 11] + b"\2" + data[marker + 12 :]
    assert_same(data, source_image(), tolerance=LOSSY_LEVELS)


def lab_tiff() -> bytes:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    return encoded(ImageCms.applyTransform(source_image(), to_lab), "TIFF")


LOSSLESS_FILES = {
    "PNG": lambda: encoded(source_image(), "PNG"),
    "BMP": lambda: encoded(source_image(), "BMP"),
    "PPM": lambda: encoded(source_image(), "PPM"),
    "TIFF": lambda: encoded(source_image(), "TIFF"),
    "BigTIFF": lambda: encoded(source_image(), "TIFF", big_tiff=True),
    "TIFF LZW": lambda: encoded(source_image(), "TIFF", compression="tiff_lzw"),
    "TIFF deflate": lambda: encoded(source_image(), "TIFF", compression="tiff_adobe_deflate"),
    "JPEG 2000": lambda: encoded(source_image(), "JPEG2000"),
    "JPEG 2000 codestream": lambda: encoded(source_image(), "JPEG2000", no_jp2=True),
    "TGA": lambda: encoded(source_image(), "TGA"),
    "TGA, run lengths": lambda: encoded(source_image(), "TGA", compression="tga_rle"),
    "ICO": lambda: encoded(source_image(), "ICO", sizes=[(96, 64)]),
    "ICO of a BMP": lambda: encoded(source_image(), "ICO", sizes=[(96, 64)], bitmap_format="bmp"),
    "WebP": lambda: encoded(source_image(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("data", LOSSLESS_FILES.values(), ids=LOSSLESS_FILES)
def test_every_lossless_format_gives_the_image(data) -> None:
    assert_same(data(), source_image())


LOSSY_FILES = {
    "JPEG": lambda: encoded(source_image(), "JPEG", quality=98),
    "progressive JPEG": lambda: encoded(source_image(), "JPEG", quality=98, progressive=True),
    "JPEG stored as RGB": lambda: encoded(source_image(), "JPEG", quality=98, keep_rgb=True),
    "WebP": lambda: encoded(source_image(), "WEBP", quality=98),
    "AVIF": lambda: encoded(source_image(), "AVIF", quality=98),
    "TIFF of JPEG": lambda: encoded(source_image(), "TIFF", compression="jpeg", quality=98),
    "TIFF of inks": lambda: encoded(source_image().convert("CMYK"), "TIFF"),
    "TIFF of YCbCr": lambda: encoded(source_image().convert("YCbCr"), "TIFF"),
    "TIFF of Lab": lab_tiff,
    "lossy JPEG 2000": lambda: encoded(source_image(), "JPEG2000", quality_layers=[3]),
}


@pytest.mark.parametrize("data", LOSSY_FILES.values(), ids=LOSSY_FILES)
def test_every_lossy_format_gives_the_image(data) -> None:
    assert_same(data(), source_image(), tolerance=LOSSY_LEVELS + 2)


GRAY_FORMATS = ["PNG", "TIFF", "BMP", "PPM", "TGA", "GIF", "JPEG2000"]


@pytest.mark.parametrize("format", GRAY_FORMATS)
def test_gray_image_has_three_equal_channels(format: str) -> None:
    assert_same(encoded(gray(), format), gray())


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
def test_image_of_two_colors_is_opened(format: str) -> None:
    image = gray().convert("1")
    assert_same(encoded(image, format), image)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF", "TGA"])
def test_image_with_a_palette_is_opened(format: str) -> None:
    image = source_image().quantize(64)
    assert_same(encoded(image, format), image)


FRAMES = [
    source_image(seed=1).quantize(32),
    source_image(seed=2).quantize(32),
    source_image(seed=3).quantize(32),
]


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_first_frame_is_used(format: str) -> None:
    first, *others = (frame.convert("RGB") for frame in FRAMES)
    options: dict[str, object] = {
        "WEBP": {"lossless": True},
        "AVIF": LOSSY["AVIF"],
        "MPO": LOSSY["JPEG"],
    }.get(format, {})
    source = FRAMES if format == "GIF" else [first, *others]
    data = encoded(source[0], format, save_all=True, append_images=source[1:], **options)
    assert_same(data, first, tolerance=LOSSY_LEVELS if format in ("AVIF", "MPO") else 0)


@pytest.mark.filterwarnings("ignore")  # as the command does
@pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF"])
def test_damage_after_the_first_frame_is_ignored(format: str) -> None:
    first, *others = (frame.convert("RGB") for frame in FRAMES)
    source = FRAMES if format == "GIF" else [first, *others]
    data = encoded(source[0], format, save_all=True, append_images=source[1:])
    assert_same(data[: int(len(data) * 0.8)], first)


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.txt", "a.tga", "a.heic", "-", ".png", "a.PNG~"])
def test_format_is_detected_from_the_content_not_the_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(encoded(source_image(), "PNG"))
    assert_same(path, source_image())


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "PPM"])
def test_only_the_decoder_of_the_format_is_tried(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []
    original_open = Image.open

    def recording_open(file: object, mode: str = "r", formats: object = None) -> Image.Image:
        tried.append(formats)
        return original_open(file, mode, formats)

    data = encoded(source_image(), format)
    monkeypatch.setattr(Image, "open", recording_open)
    open_image(data)
    assert tried == [(format,)]


@pytest.mark.parametrize("suffix", [".tga", ".TGA", ".icb", ".vda", ".vst"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_tga_without_footer_is_identified_by_its_name(
    mode: str, suffix: str, tmp_path: Path
) -> None:
    image = source_image().quantize(16) if mode == "P" else source_image().convert(mode)
    data = encoded(image, "TGA")
    assert data.endswith(b"TRUEVISION-XFILE.\0")
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data[:-26])
    assert_same(path, image)


# --- HEIC (optional dependency) ------------------------------------------------------------------


def test_heic_is_opened_upright() -> None:
    plain, rotated = (
        np.asarray(ImageLoader(B0).open(data), dtype=int) for data in (heic.PLAIN, heic.ROTATED)
    )
    down, right = np.mgrid[:64, :96]
    expected = np.stack([right * 255 // 95, down * 255 // 63, np.full_like(down, 40)], axis=-1)
    assert np.abs(plain - expected).mean() < 4
    assert np.abs(rotated - np.rot90(expected, -1)).mean() < 4


def test_heic_without_the_library_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"HEIC image.*effnet-cli\[heic\]") as caught:
        ImageLoader(B0).open(heic.PLAIN)
    assert caught.value.kind == "unsupported_format"


@pytest.mark.parametrize("size", range(30, len(heic.PLAIN), 60))
def test_truncated_heic_is_an_error(size: int) -> None:
    with pytest.raises(ImageError) as caught:
        ImageLoader(B0).open(heic.PLAIN[:size])
    assert caught.value.kind in ("truncated", "unsupported_format")
    assert "\n" not in str(caught.value)


# --- errors ------------------------------------------------------------------------------------

RANDOM_BYTES = random.Random(0).randbytes(4096)
ISO_HEADER = b"\0\0\0\x18ftyp%b\0\0\0\0%b%b" + bytes(64)
NOT_IMAGES = {
    "empty": (b"", "empty", "0 bytes"),
    "HTML": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "not_an_image", "HTML"),
    "HTML after blanks": (b"\xef\xbb\xbf\r\n  <HTML lang=en>", "not_an_image", "HTML"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + RANDOM_BYTES, "not_an_image", "PDF"),
    "HEIC": (ISO_HEADER % (b"heic", b"mif1", b"heic"), "unsupported_format", "HEIC"),
    "HEIC, general": (ISO_HEADER % (b"mif1", b"mif1", b"heic"), "unsupported_format", "HEIC"),
    "MP4": (ISO_HEADER % (b"isom", b"isom", b"mp42"), "not_an_image", "video"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format", "SVG"),
    "SVG of XML": (b'<?xml version="1.0"?>\n<!-- -->\n<svg/>', "unsupported_format", "SVG"),
    "XML": (b'<?xml version="1.0"?><rss/>', "not_an_image", "XML"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "not_an_image",
        "Git LFS pointer",
    ),
    "zeros": (bytes(10_000), "not_an_image", "zero bytes"),
    "one zero": (b"\0", "not_an_image", "zero bytes"),
    "random bytes": (RANDOM_BYTES, "not_an_image", "not a recognised image format"),
    "one byte": (b"\xff", "not_an_image", "not a recognised image format"),
    "JSON": (b'{"error": "not found"}', "not_an_image", "JSON"),
    "text": (b"hello, world\n", "not_an_image", "not an image"),
    "JPEG XL": (b"\xff\x0a" + RANDOM_BYTES, "truncated", "JPEG XL"),
    "Photoshop": (b"8BPS\0\1" + bytes(64), "unsupported_format", "Photoshop"),
    "cursor": (b"\0\0\2\0\1\0" + b"\x20\x20" + bytes(64), "unsupported_format", "cursor"),
    "ZIP": (b"PK\3\4" + RANDOM_BYTES, "not_an_image", "ZIP"),
}


@pytest.mark.parametrize(("data", "kind", "words"), NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_file_that_is_not_an_image_is_identified(
    data: bytes, kind: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    for source in (data, path):
        error = load_error(source)
        assert error.kind == kind
        assert words in error.message


TRUNCATED_SOURCES = {
    "JPEG": lambda: encoded(source_image(), "JPEG"),
    "progressive JPEG": lambda: encoded(source_image(), "JPEG", progressive=True),
    "large JPEG": lambda: encoded(source_image(1600, 1200), "JPEG"),
    "PNG": lambda: encoded(source_image(), "PNG"),
    "palette PNG": lambda: encoded(source_image().quantize(), "PNG"),
    "lossy WebP": lambda: encoded(source_image(), "WEBP"),
    "lossless WebP": lambda: encoded(source_image(), "WEBP", lossless=True),
    "GIF": lambda: encoded(source_image(), "GIF"),
    "TIFF": lambda: encoded(source_image(), "TIFF"),
    "LZW TIFF": lambda: encoded(source_image(), "TIFF", compression="tiff_lzw"),
    "JPEG TIFF": lambda: encoded(source_image(), "TIFF", compression="jpeg"),
    "BMP": lambda: encoded(source_image(), "BMP"),
    "ICO": lambda: encoded(source_image(), "ICO"),
    "PPM": lambda: encoded(source_image(), "PPM"),
    "JPEG 2000": lambda: encoded(source_image(), "JPEG2000"),
    "AVIF": lambda: encoded(source_image(), "AVIF"),
}


@pytest.mark.filterwarnings("ignore")  # as the command does
@pytest.mark.parametrize("source", TRUNCATED_SOURCES.values(), ids=TRUNCATED_SOURCES)
def test_file_truncated_anywhere_is_an_error(source) -> None:
    data = source()
    ImageLoader(B0).load(data)
    for share in (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95):
        error = load_error(data[: int(len(data) * share)])
        assert error.kind == "truncated", share
        assert "truncated or corrupt" in error.message


def test_truncated_tga_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.tga"
    for options in ({}, {"compression": "tga_rle"}):
        data = encoded(source_image(), "TGA", **options)
        for share in (0.1, 0.5, 0.9):
            path.write_bytes(data[: int(len(data) * share)])
            assert load_error(path).kind == "truncated"


@pytest.mark.parametrize("magic", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"])
def test_signature_without_an_image_is_an_error(magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(magic + bytes(200))
    for source in (path, path.read_bytes()):
        error = load_error(source)
        assert error.kind == "truncated"
        assert "object at 0x" not in error.message
        assert "_io." not in error.message


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", pixels)
        + png_chunk(b"IEND", b"")
    )


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(source_image(), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(source_image(), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def gif_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(source_image(), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def icon_of_png(width: int, height: int) -> bytes:
    """Return an icon listed as 16 x 16 that contains a PNG of another size."""
    body = png_header(width, height)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(body), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + body


BOMBS = {
    "PNG": png_header(50_000, 50_000),
    "PNG of a little more than the limit": png_header(10_000, 9_000),
    "PNG of under twice the limit": png_header(13_000, 13_000),
    "PNG one pixel high": png_header(2_000_000_000, 1),
    "JPEG": jpeg_header(50_000, 50_000),
    "BMP": bmp_header(50_000, 50_000),
    "GIF": gif_header(65_000, 65_000),
    "PPM": b"P6 50000 50000 255\n" + bytes(1000),
    "icon": icon_of_png(50_000, 50_000),
}


@pytest.mark.linux
@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_huge_image_is_refused_by_its_header(data: bytes) -> None:
    import resource  # noqa: PLC0415 (not on Windows)

    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = load_error(data)
    assert error.kind == "too_large"
    assert "--max-pixels" in error.hint
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 50_000


def test_limit_is_inclusive() -> None:
    data = encoded(source_image(40, 30), "PNG")
    assert open_image(data, ImageOptions(max_pixels=1200)).size == (40, 30)
    for limit in (1199, 1):
        error = load_error(data, ImageOptions(max_pixels=limit))
        assert error.kind == "too_large"
        assert "1,200 pixels (40 x 30)" in error.message


def test_higher_limit_opens_larger_images() -> None:
    data = encoded(Image.new("L", (MAX_PIXELS // 9000 + 1, 9000)), "PNG", compress_level=1)
    assert load_error(data).kind == "too_large"
    assert ImageLoader(B0, ImageOptions(max_pixels=2 * MAX_PIXELS)).open(data).height == 9000


def test_limits_of_two_loaders_are_independent() -> None:
    data = encoded(source_image(40, 30), "PNG")
    wide, narrow = ImageLoader(B0), ImageLoader(B0, ImageOptions(max_pixels=10))
    assert wide.open(data).size == (40, 30)
    with pytest.raises(ImageError):
        narrow.open(data)


# --- not regular files -----------------------------------------------------------------------


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    names = ("no.jpg", "no/no.jpg", "file/no.jpg", "x" * 256, "x/" * 3000 + "x", "a\0b.jpg")
    for name in names:
        assert load_error(f"{tmp_path}/{name}").kind == "missing", name[:20]
    assert load_error("").kind == "missing"


@pytest.mark.linux
def test_broken_links_are_errors(tmp_path: Path) -> None:
    dangling, loop = tmp_path / "dangling.jpg", tmp_path / "loop.jpg"
    dangling.symlink_to("nothing.jpg")
    loop.symlink_to(loop)
    assert load_error(dangling).kind == "missing"
    assert load_error(loop).kind == "missing"


@pytest.mark.linux
def test_link_to_an_image_is_the_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(source_image(), "PNG"))
    (tmp_path / "b").symlink_to("a.png")
    (tmp_path / "c").symlink_to("b")
    assert_same(tmp_path / "c", source_image())


@pytest.mark.linux
def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jpg")
    Path("folder.jpg").mkdir()
    Path("linked.jpg").symlink_to("pipe.jpg")
    for name, words in (
        ("pipe.jpg", "named pipe"),
        ("linked.jpg", "named pipe"),
        ("folder.jpg", "folder"),
        (".", "folder"),
    ):
        error = load_error(name)
        assert (error.kind, words in error.message) == ("not_a_file", True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")  # relative, as the length of socket paths is limited
        assert load_error("socket.jpg").kind == "not_a_file"


@pytest.mark.linux
@pytest.mark.parametrize(
    "path",
    ["/dev/zero", "/dev/null", "/dev/urandom", "/proc/self/status", "/proc/self/mem", "/proc/kmsg"],
)
def test_devices_and_kernel_files_are_not_opened(path: str) -> None:
    if not Path(path).exists():
        pytest.skip(f"no {path} on this system")
    assert load_error(path).kind == "not_a_file"


@pytest.mark.parametrize("function", ["open", "stat"])
def test_file_without_read_permission_is_an_error(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(source_image(), "PNG"))

    def refuse(*arguments: object, **options: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        with pytest.raises(ImageError) as caught:
            ImageLoader(B0).open(path)
    assert caught.value.kind == "unreadable"
    assert "Permission denied" in caught.value.message


class BadDisk(io.BufferedReader):
    """A file of which only the first bytes are readable."""

    readable_calls = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self.readable_calls <= 0:
            raise OSError(errno.EIO, "Input/output error")
        self.readable_calls -= 1
        return super().read(size)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP"])
@pytest.mark.parametrize("readable_calls", [0, 1, 2, 4])
def test_failing_disk_is_not_reported_as_a_corrupt_image(
    readable_calls: int, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(encoded(source_image(300, 200), format))

    def fdopen(descriptor: int, mode: str) -> BadDisk:
        file = BadDisk(io.FileIO(descriptor, mode))
        file.readable_calls = readable_calls
        return file

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", fdopen)
        with pytest.raises(ImageError) as caught:
            ImageLoader(B0).open(path)
    assert caught.value.kind == "unreadable"
    assert "Input/output error" in caught.value.message


@pytest.mark.linux
def test_file_replaced_by_a_pipe_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "x.png"
    os.mkfifo(pipe)
    file.write_bytes(encoded(source_image(), "PNG"))
    open_file = os.open

    def open_pipe_instead(path: object, flags: int) -> int:
        return open_file(pipe if path == file else path, flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_pipe_instead)
        with pytest.raises(ImageError) as caught:
            ImageLoader(B0).open(file)
    assert caught.value.kind == "not_a_file"


# --- mutations ---------------------------------------------------------------------------------


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change, remove or insert a few bytes, mostly in the header."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        end = len(changed) if rng.random() < 0.4 else min(len(changed), 300)
        position = rng.randrange(end)
        length = rng.randint(1, 8)
        match rng.randrange(5):
            case 0:
                changed[position] = rng.randrange(256)
            case 1:
                changed[position] ^= 1 << rng.randrange(8)
            case 2:
                del changed[position : position + length]
            case 3:
                changed[position:position] = rng.randbytes(length)
            case 4:
                changed[position : position + 4] = rng.choice(
                    (bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff")
                )
    return bytes(changed)


def mutation_sources() -> dict[str, bytes]:
    image = source_image(60, 45)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    return {
        "JPEG": encoded(image, "JPEG", exif=exif),
        "progressive": encoded(image, "JPEG", progressive=True),
        "CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "MPO": encoded(image, "MPO", save_all=True, append_images=[image]),
        "PNG": encoded(image.convert("RGBA"), "PNG", exif=exif),
        "APNG": encoded(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
        "palette": encoded(image.quantize(16), "PNG", transparency=1),
        "16 bits": encoded(Image.fromarray(np.asarray(gray()).astype(np.uint16)), "PNG"),
        "WebP": encoded(image, "WEBP", exif=exif),
        "GIF": encoded(image.quantize(16), "GIF", save_all=True, append_images=[image]),
        "TIFF": encoded(image, "TIFF", exif=exif),
        "LZW": encoded(image, "TIFF", compression="tiff_lzw"),
        "float": encoded(image.convert("F"), "TIFF"),
        "BMP": encoded(image.quantize(16), "BMP"),
        "ICO": encoded(image, "ICO"),
        "TGA": encoded(image, "TGA", compression="tga_rle"),
        "PPM": encoded(image, "PPM"),
        "JPEG 2000": encoded(image, "JPEG2000"),
        "AVIF": encoded(image, "AVIF"),
    }


@pytest.mark.filterwarnings("ignore")  # as the command does
def test_mutated_files_are_opened_or_refused() -> None:
    rng = random.Random(20)
    loader = ImageLoader(B0, ImageOptions(max_pixels=1_000_000))
    loaded = refused = 0
    for data in mutation_sources().values():
        for _ in range(40):
            try:
                values = load_pixels(loader, mutate(data, rng))
            except ImageError as error:
                assert error.kind in get_args(ErrorKind)
                refused += 1
            else:
                assert np.isfinite(values).all()
                loaded += 1
    assert loaded > 100
    assert refused > 100


# --- crops of reduced JPEGs -----------------------------------------------------------------------


@given(st.integers(900, 4200), st.integers(900, 4200))
@settings(max_examples=12, deadline=None)
def test_a_reduced_jpeg_is_cropped_like_the_full_one(width: int, height: int) -> None:
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    ramp[..., 1] = np.linspace(0, 255, height)[:, None]
    file = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).save(file, "JPEG", quality=95)
    exact = ImageLoader(VARIANTS["lite0"].preprocessing, ImageOptions(exact_decode=True))
    fast = ImageLoader(VARIANTS["lite0"].preprocessing)
    crops = [loader.load(file.getvalue()).astype(int) for loader in (exact, fast)]
    assert np.abs(crops[0] - crops[1]).mean() <= 0.5
    assert np.abs(crops[0] - crops[1]).max() <= 6


def test_white_in_deep_jpeg2000_is_white() -> None:
    values = np.full((32, 32, 3), 65535, np.uint16)
    values[:, :16] = 16384
    data = imagecodecs.jpeg2k_encode(values, level=0)
    seen = np.asarray(ImageLoader(VARIANTS["lite0"].preprocessing).open(data))
    assert seen[0, 31].tolist() == [255, 255, 255]
    assert seen[0, 0].tolist() == [64, 64, 64]


@given(
    st.sampled_from([b"P2", b"P3", b"P5", b"P6"]),
    st.sampled_from([1, 200, 254, 255, 256, 1000, 4095, 65535]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_ppm_of_any_depth_is_what_pillow_sees(
    kind: bytes, largest: int, width: int, height: int, seed: int
) -> None:
    bands = 3 if kind in (b"P3", b"P6") else 1
    values = np.random.default_rng(seed).integers(0, largest + 1, (height, width, bands))
    pixels = values.astype("u1" if largest < 256 else ">u2").tobytes()
    if kind in (b"P2", b"P3"):
        pixels = b" ".join(b"%d" % value for value in values.ravel())
    data = b"%s # a comment\n%d %d\n%d\n" % (kind, width, height, largest) + pixels
    seen = np.asarray(ImageLoader(VARIANTS["lite0"].preprocessing).open(data)).astype(int)
    exact = np.broadcast_to(values * 255 / largest, (height, width, 3))
    assert np.abs(seen - exact).max() <= 1.0


@pytest.mark.parametrize("data", [b"P3\n2 1\n255\n1 2 3 4 5", b"P6\n2 1\n1000\n12345678901"])
def test_short_ppm_is_truncated(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        ImageLoader(VARIANTS["lite0"].preprocessing).open(data)
    assert caught.value.kind == "truncated"
