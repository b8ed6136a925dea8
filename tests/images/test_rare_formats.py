"""JPEG XL images and Photoshop documents are seen as they are, or refused."""

import importlib.util
import io
import struct

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from effnet_cli.images import jpegxl
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.variants import VARIANTS
from effnet_cli.options import ImageOptions
from effnet_cli.system.errors import ImageError
from images import tiff_files

PREPROCESSING = VARIANTS["lite0"].preprocessing
LOADER = ImageLoader(PREPROCESSING)
RGB, GRAY = tiff_files.make_rgb(), tiff_files.make_gray()


def see(data: bytes) -> npt.NDArray[np.int64]:
    return np.asarray(LOADER.open(data)).astype(np.int64)


# --- JPEG XL --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("container", [False, True])
def test_jpeg_xl_is_seen_as_it_is(dtype: str, container: bool) -> None:
    settings_ = {"lossless": True, "usecontainer": container}
    values = tiff_files.convert(RGB, dtype)
    data = imagecodecs.jpegxl_encode(values, **settings_)
    assert np.abs(see(data) - RGB).max() <= 1
    data = imagecodecs.jpegxl_encode(tiff_files.convert(GRAY, dtype), **settings_)
    assert np.abs(see(data) - GRAY[..., None]).max() <= 1


def test_transparent_jpeg_xl_lies_over_white() -> None:
    values = np.dstack([RGB, np.zeros_like(GRAY)])
    data = imagecodecs.jpegxl_encode(values, lossless=True)
    assert see(data).min() == 255


@given(st.integers(1, 700), st.integers(1, 700), st.booleans())
@settings(max_examples=40, deadline=None)
def test_jpeg_xl_size_is_read_without_decoding(width: int, height: int, container: bool) -> None:
    values = np.zeros((height, width, 3), np.uint8)
    data = imagecodecs.jpegxl_encode(values, lossless=True, effort=1, usecontainer=container)
    assert jpegxl.read_size(data) == (width, height)


def test_large_jpeg_xl_is_refused_by_its_header() -> None:
    data = imagecodecs.jpegxl_encode(np.zeros((600, 800, 3), np.uint8), effort=1)
    loader = ImageLoader(PREPROCESSING, ImageOptions(max_pixels=100_000))
    with pytest.raises(ImageError, match=r"480,000 pixels \(800 x 600\)"):
        loader.open(data)


def test_jpeg_xl_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = imagecodecs.jpegxl_encode(RGB)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match="needs the package imagecodecs") as caught:
        LOADER.open(data)
    assert "effnet-cli[science]" in caught.value.hint


# --- Photoshop ------------------------------------------------------------------------------------


def psd(
    planes: npt.NDArray[np.uint8], mode: int = 3, bits: int = 8, has_composite: bool = True
) -> bytes:
    """Return a document without layers: planes uint8 [C,H,W] as they are stored."""
    channels, height, width = planes.shape
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, channels, height, width, bits, mode)
    version = struct.pack(">IB", 1, has_composite) + bytes(8)
    resource = b"8BIM" + struct.pack(">H2xI", 1057, len(version)) + version + b"\0"
    blocks = struct.pack(">I", 0) + struct.pack(">I", len(resource)) + resource
    return header + blocks + struct.pack(">IH", 0, 0) + planes.tobytes()


def test_photoshop_composite_is_seen_as_it_is() -> None:
    planes = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    assert np.abs(see(psd(planes)) - RGB).max() == 0
    selection = np.concatenate([planes, np.zeros_like(planes[:1])])
    assert np.abs(see(psd(selection)) - RGB).max() == 0, "the fourth channel is no transparency"
    assert np.abs(see(psd(GRAY[None], mode=1)) - GRAY[..., None]).max() == 0


def test_photoshop_inks_are_colours() -> None:
    planes = np.concatenate([RGB.transpose(2, 0, 1), np.full_like(GRAY, 255)[None]])
    assert np.abs(see(psd(planes, mode=4)) - RGB).mean() <= 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (psd(np.zeros((3, 4, 4), np.uint8), has_composite=False), "without a composite image"),
        (psd(np.zeros((3, 4, 4), np.uint8), mode=7), "multichannel mode"),
        (psd(np.zeros((6, 4, 4), np.uint8), bits=16), "not 8 bits per channel"),
    ],
)
def test_photoshop_without_an_image_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        LOADER.open(data)
    assert caught.value.kind == "unsupported_format"


# --- JPEG 2000 ------------------------------------------------------------------------------------


def with_channel_order(data: bytes, order: tuple[int, ...]) -> bytes:
    """Add a channel definition box: channel i holds the colour `order[i]` (1 is red)."""
    rows = b"".join(struct.pack(">HHH", i, 0, color) for i, color in enumerate(order))
    content = struct.pack(">H", len(order)) + rows
    box = struct.pack(">I", 8 + len(content)) + b"cdef" + content
    start = data.index(b"jp2h") - 4
    (size,) = struct.unpack(">I", data[start : start + 4])
    header = struct.pack(">I", size + len(box)) + data[start + 4 : start + size] + box
    return data[:start] + header + data[start + size :]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_jpeg2000_channels_follow_their_definition(order: tuple[int, int, int]) -> None:
    stored = np.dstack([RGB[..., color - 1] for color in order])
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "JPEG2000")
    data = with_channel_order(file.getvalue(), order)
    assert np.abs(see(data) - RGB).max() == 0
