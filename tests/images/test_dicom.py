"""DICOM images are seen as pydicom and the standard say, or refused, and patients stay unnamed."""

import importlib.util
import io
import random
import re
import time
import warnings
import zlib
from pathlib import Path
from typing import get_args

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, Sequence, dcmread, dcmwrite, uid
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array

from effnet_cli.images import dicom_codecs
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.sandbox import SandboxedLoader
from effnet_cli.models.variants import VARIANTS
from effnet_cli.options import ErrorKind, ImageOptions
from effnet_cli.system.errors import ImageError, UsageError
from images import dicom_files, tiff_files
from images.dicom_files import PATIENT, SHIPPED, encode, make_dataset, make_header

PREPROCESSING = VARIANTS["lite0"].preprocessing
RAMP = np.arange(-1200, 2896, dtype=np.int16).reshape(64, 64)  # 12 bits, as in CT
RGB = tiff_files.make_rgb()
COMPRESSED = (uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1, uid.RLELossless)
NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
Pixels = npt.NDArray[np.int64]
dicom_codecs.register()  # pydicom decodes with it, too


def see(source: bytes | Path, **options: object) -> Pixels:
    """Return what the loader opens: [H,W,3], or [H,W] if it is grey."""
    image = ImageLoader(PREPROCESSING, ImageOptions(**options)).open(source)
    assert image.mode == "RGB"
    pixels = np.asarray(image).astype(np.int64)
    return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels


def fail(source: bytes | Path, **options: object) -> ImageError:
    with pytest.raises(ImageError) as caught:
        ImageLoader(PREPROCESSING, ImageOptions(**options)).open(source)
    error = caught.value
    assert error.kind in get_args(ErrorKind)
    assert error.message.endswith(".")
    assert error.hint.endswith(".")
    assert PATIENT not in str(error)
    return error


def to_8_bits(values: np.ndarray, low: float, high: float) -> Pixels:
    return np.floor((values.astype(np.float64) - low) / (high - low) * 255 + 0.5).astype(np.int64)


# --- the files that pydicom comes with ------------------------------------------------------------


def read_with_pydicom(path: Path) -> Pixels | None:
    """Return the first frame as pydicom reads it, in 8 bits; `None` if it cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = dcmread(path)
            plugin = dicom_codecs.PLUGINS.get(data.file_meta.TransferSyntaxUID, "")
            values = pixel_array(data, index=0, decoding_plugin=plugin)
        except Exception:
            return None
        if data.PhotometricInterpretation == "PALETTE COLOR":
            return to_8_bits(apply_color_lut(values, data), 0, 65535)
        if data.SamplesPerPixel == 3:
            return to_8_bits(values, 0, 2.0**data.BitsStored - 1)
        values = apply_modality_lut(values, data)
        low, high = float(values.min()), float(values.max())
        if "WindowCenter" in data:
            ends = np.array([-(1 << data.BitsStored - 1), (1 << data.BitsStored - 1) - 1])
            ends += 0 if data.PixelRepresentation else 1 << data.BitsStored - 1
            low, high = map(float, apply_modality_lut(ends, data))
        gray = to_8_bits(apply_voi_lut(values, data), low, high)
        return 255 - gray if data.PhotometricInterpretation == "MONOCHROME1" else gray


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(dicom_files.ROOT)))
def test_shipped_file_is_seen_as_by_pydicom(path: Path) -> None:
    expected = read_with_pydicom(path)
    if expected is None:
        fail(path)
    else:
        np.testing.assert_array_equal(see(path), expected)


def test_pydicom_ships_files_of_many_kinds() -> None:
    readable = [path for path in SHIPPED if read_with_pydicom(path) is not None]
    assert len(readable) > 70
    assert len(SHIPPED) - len(readable) > 30


TWINS = {
    "MR_small.dcm": [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
    "SC_rgb_rle.dcm": ["SC_rgb_jpeg_gdcm.dcm", "SC_rgb_gdcm_KY.dcm", "SC_rgb_rle_16bit.dcm"],
    "rtdose.dcm": ["rtdose_rle.dcm", "rtdose_expb.dcm"],
}


@pytest.mark.parametrize("name", TWINS)
def test_lossless_copies_are_seen_alike(name: str) -> None:
    for copy in TWINS[name]:
        np.testing.assert_array_equal(see(dicom_files.ROOT / copy), see(dicom_files.ROOT / name))


def test_lossy_12_bit_jpeg_is_nearly_seen_as_it_is() -> None:
    values = (RAMP + 1200).astype(np.uint16)
    header = make_dataset(values, 12)
    expected = see(encode(header))
    header.file_meta.TransferSyntaxUID = uid.JPEGExtended12Bit
    header.PixelData = encapsulate([imagecodecs.jpeg8_encode(values, level=98, bitspersample=12)])
    header["PixelData"].VR = "OB"
    assert np.abs(see(encode(header)) - expected).mean() < 0.5


def test_predict_gives_each_file_one_row(run, tmp_path: Path) -> None:  # noqa: ANN001
    names = "".join(f"{path}\n" for path in SHIPPED).encode()
    page = tmp_path / "page.html"
    done = run("predict", "-", "--format", "jsonl", "--html", str(page), stdin=names)
    rows = done.stdout.decode().splitlines()
    assert len(rows) == len(SHIPPED)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr.decode()
    assert "Warning" not in done.stderr.decode()
    assert sum('"status": "ok"' in row for row in rows) > 70
    for name in read_patients():
        assert name not in (done.stdout + done.stderr + page.read_bytes()).decode("utf-8")


def read_patients() -> set[str]:
    """Return the names of the patients in the files, as they are written and in parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {str(dcmread(path, force=True).get("PatientName", "")) for path in SHIPPED}
    parts = {part for name in names for part in re.split(r"[\^= ]", name)}
    return {name for name in names | parts if len(name) > 4}


# --- grey values ----------------------------------------------------------------------------------


def show(values: np.ndarray, window: tuple[float, float], function: str = "LINEAR") -> np.ndarray:
    """Return 0..1 by the formulas of PS3.3, C.11.2.1.2.1 and C.11.2.1.3."""
    x, (c, w) = values.astype(np.float64), window
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-4 * (x - c) / w))
    if function == "LINEAR_EXACT":
        inside = (x - c) / w + 0.5
        return np.select([x <= c - w / 2, x > c + w / 2], [0.0, 1.0], inside)
    inside = (x - (c - 0.5)) / max(w - 1, 1e-9) + 0.5
    return np.select([x <= c - 0.5 - (w - 1) / 2, x > c - 0.5 + (w - 1) / 2], [0.0, 1.0], inside)


@st.composite
def gray_images(draw: st.DrawFn) -> tuple[Dataset, np.ndarray]:
    bits = draw(st.sampled_from([1, 2, 7, 8, 10, 12, 16, 32]))
    is_signed = draw(st.booleans()) and bits > 1
    allocated = next(size for size in (8, 16, 32) if size >= bits)
    low = -(1 << bits - 1) if is_signed else 0
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 9).filter(lambda size: size != 3))
    numbers = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    values = numbers.integers(low, low + (1 << bits), shape)
    values = values.astype(f"{'i' if is_signed else 'u'}{allocated // 8}")
    syntax = draw(st.sampled_from(NATIVE))
    header = make_dataset(values, bits, syntax)
    header.PhotometricInterpretation = draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))
    if draw(st.booleans()):
        header.RescaleSlope = draw(st.sampled_from([1, 2, 0.25, -1]))
        header.RescaleIntercept = draw(st.integers(-2000, 2000))
    if draw(st.booleans()):
        others = draw(st.lists(st.integers(1, 99), max_size=2))
        header.WindowCenter = [draw(st.integers(-3000, 70_000)), *others]
        header.WindowWidth = [draw(st.integers(1, 70_000)), *others]
        function = draw(st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]))
        if function:
            header.VOILUTFunction = function
    if draw(st.booleans()) and allocated == 16:
        header.PixelPaddingValue = int(draw(st.sampled_from(values.ravel().tolist())))
    return header, values


def expect_gray(
    header: Dataset, values: np.ndarray, window: tuple[float, float] | None = None
) -> Pixels:
    """Return the 8 bits that the standard asks for."""
    real = values.astype(np.float64)
    is_padding = np.zeros(values.shape, bool)
    if "PixelPaddingValue" in header:
        is_padding = values == header.PixelPaddingValue
    if "RescaleSlope" in header:
        real = real * float(header.RescaleSlope) + float(header.RescaleIntercept)
    if window is None and "WindowCenter" in header:
        window = tuple(  # type: ignore[assignment]
            float(one if isinstance(one, float | int) else one[0])
            for one in (header.WindowCenter, header.WindowWidth)
        )
    if window is not None:
        levels = show(real, window, header.get("VOILUTFunction", "LINEAR"))
    else:
        shown = real[~is_padding] if not is_padding.all() else np.zeros(1)
        levels = ((real - shown.min()) / ((shown.max() - shown.min()) or 1)).clip(0, 1)
    gray = np.floor(levels * 255 + 0.5).astype(np.int64)
    if header.PhotometricInterpretation == "MONOCHROME1":
        gray = 255 - gray
    return np.where(is_padding, 0, gray)


@given(gray_images(), st.none() | st.tuples(st.integers(-3000, 3000), st.integers(1, 5000)))
@settings(max_examples=300, deadline=None)
def test_gray_follows_the_standard(
    image: tuple[Dataset, np.ndarray], window: tuple[int, int] | None
) -> None:
    header, values = image
    expected = expect_gray(header, values, window)
    seen = see(encode(header), window=window)
    assert np.abs(seen - expected).max() <= 1  # where a value is at half a level
    assert (seen != expected).mean() <= 0.05


@given(st.integers(1, 40), st.integers(1, 40), st.data())
@settings(max_examples=100, deadline=None)
def test_compressed_pixels_are_seen_as_the_uncompressed_ones(
    height: int, width: int, data: st.DataObject
) -> None:
    numbers = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    bits = data.draw(st.sampled_from([8, 12, 16]))
    values = numbers.integers(0, 1 << bits, (height, width))
    values = values.astype(np.uint8 if bits == 8 else np.uint16)
    expected = see(encode(make_dataset(values[None], bits)))
    for syntax in COMPRESSED:
        header = make_dataset(values[None], bits)
        compressed = encode(dicom_files.compress(header, values[None], syntax))
        np.testing.assert_array_equal(see(compressed), expected, err_msg=syntax)


def test_window_is_in_rescaled_units() -> None:
    header = make_dataset((RAMP + 1200).astype(np.uint16), 12)
    header.RescaleSlope, header.RescaleIntercept = 1, -1200
    seen = see(encode(header), window=(40, 400))
    assert set(seen[RAMP <= -160].tolist()) == {0}
    assert set(seen[RAMP >= 240].tolist()) == {255}
    assert abs(int(seen[RAMP == 40][0]) - 128) <= 1


def test_tables_of_the_file_are_applied() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    item = Dataset()
    item.LUTDescriptor = [256, 0, 16]
    item.LUTData = np.arange(65535, -1, -257).astype("<u2").tobytes()
    header = make_dataset(values)
    header.WindowCenter, header.WindowWidth = 10, 20
    header.VOILUTSequence = Sequence([item])
    header.RescaleSlope, header.RescaleIntercept = 1, 0
    np.testing.assert_array_equal(see(encode(header)), 255 - values.astype(np.int64))
    assert (see(encode(header), window=(10, 20)) == expect_gray(header, values)).all()
    del header.RescaleSlope, header.RescaleIntercept, header.VOILUTSequence
    header.ModalityLUTSequence = Sequence([item])
    header.WindowCenter, header.WindowWidth = 32768, 65536
    assert np.abs(see(encode(header)) - (255 - values.astype(np.int64))).max() <= 1


def test_functional_groups_replace_the_header() -> None:
    frames = np.stack([RAMP, RAMP])
    header = make_dataset(frames)
    header.RescaleSlope, header.RescaleIntercept = 7, 7
    rescale, first, second = Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -10
    shared = Dataset()
    shared.PixelValueTransformationSequence = Sequence([rescale])
    header.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for window, voi in (((0, 100), first), ((1000, 500), second)):
        voi.WindowCenter, voi.WindowWidth = window
        groups.append(Dataset())
        groups[-1].FrameVOILUTSequence = Sequence([voi])
    header.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data = encode(header)
    for number, window in ((1, (0, 100)), (2, (1000, 500))):
        expected = np.floor(show(2.0 * RAMP - 10, window) * 255 + 0.5)
        assert np.abs(see(data, frame=number) - expected).max() <= 1


@pytest.mark.parametrize(
    ("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (-4, "SIGMOID"), (400, "OTHER")]
)
def test_invalid_window_of_the_file_can_be_replaced(width: float, function: str) -> None:
    header = make_dataset(RAMP)
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = 40, width, function
    error = fail(encode(header))
    assert "window" in error.message
    assert "--window" in error.hint
    assert np.ptp(see(encode(header), window=(40, 400))) == 255


def test_float_pixels_are_seen() -> None:
    header = make_dataset(RAMP.astype(np.int32))
    del header.PixelData, header.PixelRepresentation, header.BitsStored, header.HighBit
    values = RAMP.astype(np.float32) / 7
    values[0, 0] = np.nan
    header.FloatPixelData = values.tobytes()
    seen = see(encode(header))
    assert seen[0, 0] == 0
    rest = RAMP[0, 0] != RAMP
    assert np.abs(seen - expect_gray(make_dataset(RAMP), RAMP))[rest].max() <= 1


# --- colours and frames ---------------------------------------------------------------------------


def test_colour_planes_and_pixels_are_seen_alike() -> None:
    header = make_dataset(RGB)
    np.testing.assert_array_equal(see(encode(header)), RGB)
    header.PlanarConfiguration = 1
    header.PixelData = np.ascontiguousarray(RGB.transpose(2, 0, 1)).tobytes()
    np.testing.assert_array_equal(see(encode(header)), RGB)


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_compressed_colours_are_seen_as_they_are(syntax: str) -> None:
    header = dicom_files.compress(make_dataset(RGB), RGB, syntax)
    np.testing.assert_array_equal(see(encode(header)), RGB)


def test_ybr_is_converted() -> None:
    stored = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    header = make_dataset(stored)
    header.PhotometricInterpretation = "YBR_FULL"
    assert np.abs(see(encode(header)) - RGB).max() <= 4  # twice rounded


def test_window_leaves_colours_alone() -> None:
    np.testing.assert_array_equal(see(encode(make_dataset(RGB)), window=(1, 1)), RGB)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_is_applied(bits: int) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colors = np.random.default_rng(0).integers(0, 256, (256, 3))
    header = make_dataset(values)
    header.PhotometricInterpretation = "PALETTE COLOR"
    for name, column in zip(("Red", "Green", "Blue"), colors.T, strict=True):
        header[f"{name}PaletteColorLookupTableDescriptor"] = header_element(name, bits)
        entries = column.astype(np.uint8) if bits == 8 else (column * 257).astype("<u2")
        setattr(header, f"{name}PaletteColorLookupTableData", entries.tobytes())
    np.testing.assert_array_equal(see(encode(header)), colors[values])


def test_palette_in_segments_is_applied_if_it_is_not_too_large() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    header = make_dataset(values)
    header.PhotometricInterpretation = "PALETTE COLOR"
    line = [0, 1, 0, 1, 255, 255 * 257]  # black, then a line of 255 entries to white
    for name in ("Red", "Green", "Blue"):
        header[f"{name}PaletteColorLookupTableDescriptor"] = header_element(name, 16)
        tag = f"Segmented{name}PaletteColorLookupTableData"
        setattr(header, tag, np.array(line, "<u2").tobytes())
    assert np.abs(see(encode(header)) - values.astype(np.int64)).max() <= 1
    for bomb in ([0, 1, 0] + [1, 65535, 9] * 3, [*line, 2, 1, 0, 0]):
        header.SegmentedRedPaletteColorLookupTableData = np.array(bomb, "<u2").tobytes()
        assert "repeated segments" in fail(encode(header)).message


def header_element(name: str, bits: int) -> object:
    from pydicom.dataelem import DataElement

    return DataElement(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, bits])


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, *COMPRESSED])
def test_frames_are_numbered_from_1(syntax: str) -> None:
    frames = np.stack([np.full((8, 9), 10 * i, np.uint8) for i in range(1, 4)])
    frames[:, 0, 0], frames[:, 0, 1] = 0, 255
    header = make_dataset(frames)
    if syntax != uid.ExplicitVRLittleEndian:
        header = dicom_files.compress(header, frames, syntax)
    data = encode(header)
    assert [see(data, frame=number)[4, 4] for number in (1, 2, 3)] == [10, 20, 30]
    assert see(data)[4, 4] == 10
    error = fail(data, frame=4)
    assert (error.kind, error.message) == (
        "missing",
        "This DICOM image has 3 frames, and no frame 4.",
    )


# --- other files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", NATIVE)
def test_file_without_preamble_is_recognised(syntax: str) -> None:
    header = make_dataset(RAMP, syntax=syntax)
    data = encode(header)
    meta_end = 144 + int.from_bytes(data[140:144], "little")
    np.testing.assert_array_equal(see(data[meta_end:]), see(data))
    np.testing.assert_array_equal(see(data[132:]), see(data))


def test_preamble_may_be_that_of_another_format() -> None:
    data = encode(make_dataset(RAMP))
    np.testing.assert_array_equal(see(b"II*\0" + data[4:]), see(data))
    assert see(b"\xff\xd8\xff\xe0" + data[4:]).shape == RAMP.shape


def test_folder_of_files_without_suffix_is_found(run, tmp_path: Path) -> None:  # noqa: ANN001
    for number in range(3):
        (tmp_path / f"IM{number}").write_bytes(encode(make_dataset(RAMP)))
    (tmp_path / "notes").write_bytes(b"words")
    done = run("predict", str(tmp_path), "--format", "jsonl", "--window", "40,400")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("sop_class", "name"),
    [
        (dicom_files.REPORT, "Basic Text SR"),
        ("1.2.840.10008.1.3.10", "Media Storage Directory"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "Encapsulated PDF"),
    ],
)
def test_file_without_an_image_is_named(sop_class: str, name: str) -> None:
    error = fail(encode(make_header(sop_class=sop_class)))
    assert error.kind == "not_an_image"
    assert error.message == f"This is a DICOM file that holds no image ({name})."


def test_file_of_an_unknown_kind_is_unsupported() -> None:
    assert fail(encode(make_header(sop_class="1.2.3.4.5"))).kind == "unsupported_format"


def test_image_without_pixels_is_truncated() -> None:
    assert fail(encode(make_header())).message == "This is a DICOM image without pixels (CT Image)."
    header = make_dataset(RAMP)
    del header.PixelData
    assert fail(encode(header)).kind == "truncated"


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, *COMPRESSED])
@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.2])
def test_cut_file_is_an_error(syntax: str, share: float) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    header = make_dataset(values, 12)
    if syntax != uid.ExplicitVRLittleEndian:
        header = dicom_files.compress(header, values, syntax)
    data = encode(header)
    end = len(data) - 8 * (syntax in COMPRESSED)  # the last 8 bytes only mark the end
    assert fail(data[: int(end * share)]).kind == "truncated"


def test_size_is_checked_by_the_header() -> None:
    header = make_dataset(RAMP)
    header.Rows = header.Columns = 60_000
    error = fail(encode(header))
    assert error.kind == "too_large"
    assert "3,600,000,000 pixels (60000 x 60000)" in error.message
    assert fail(encode(make_dataset(RAMP)), max_pixels=4095).kind == "too_large"


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1])
def test_stream_that_is_larger_than_its_header_is_refused(syntax: str) -> None:
    values = np.zeros((600, 600), np.uint16)
    header = dicom_files.compress(make_dataset(values, 16), values, syntax)
    header.Rows = header.Columns = 8
    assert fail(encode(header)).kind == "truncated"
    baseline = io.BytesIO()
    Image.new("L", (600, 600)).save(baseline, "JPEG")
    header = make_dataset(np.zeros((8, 8), np.uint8))
    header.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    header.PixelData = encapsulate([baseline.getvalue()])
    header["PixelData"].VR = "OB"
    assert fail(encode(header)).kind == "truncated"


def test_deflated_bomb_is_refused() -> None:
    header = make_dataset(RAMP)
    header.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    data = encode(header)
    np.testing.assert_array_equal(see(data), see(encode(make_dataset(RAMP))))
    meta_end = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(1 << 20)) + packer.flush()
    assert fail(data[:meta_end] + bomb, max_pixels=100_000).kind == "too_large"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"PhotometricInterpretation": "YBR_PARTIAL_420"}, "photometric interpretation"),
        ({"SamplesPerPixel": 4, "PhotometricInterpretation": "ARGB"}, "4 samples"),
        ({"BitsAllocated": 128}, "128 bits"),
    ],
)
def test_unknown_kind_of_pixels_is_refused(change: dict[str, object], reason: str) -> None:
    header = make_dataset(RGB)
    for name, value in change.items():
        setattr(header, name, value)
    error = fail(encode(header))
    assert error.kind == "unsupported_format"
    assert reason in error.message


@pytest.mark.parametrize(
    ("syntax", "name"),
    [("1.2.840.10008.1.2.4.100", "MPEG2"), ("1.2.3.4", "an unknown transfer syntax")],
)
def test_unknown_encoding_is_named(syntax: str, name: str) -> None:
    header = make_dataset(RAMP)
    header.PixelData, header["PixelData"].VR = encapsulate([b"abcd"]), "OB"
    header.file_meta.TransferSyntaxUID = uid.UID(syntax)
    file = io.BytesIO()
    dcmwrite(file, header, implicit_vr=False, little_endian=True, enforce_file_format=True)
    error = fail(file.getvalue())
    assert error.kind == "unsupported_format"
    assert name in error.message


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = encode(make_dataset(RAMP))
    values = RAMP.astype(np.uint16)
    compressed = encode(dicom_files.compress(make_dataset(values), values, uid.JPEGLosslessSV1))
    see(plain)
    find_spec = importlib.util.find_spec
    for missing, data in (("imagecodecs", compressed), ("pydicom", plain)):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n, m=missing: None if n == m else find_spec(n)
        )
        error = fail(data)
        assert error.kind == "unsupported_format"
        assert f"needs the package {missing}." in error.message
        assert "pip install 'effnet-cli[dicom]'" in error.hint
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_nifti_is_refused_with_the_way_out() -> None:
    import gzip

    header = bytearray(352)
    header[:4], header[344:348] = (348).to_bytes(4, "little"), b"n+1\0"
    volume = bytes(header) + bytes(4000)
    second = (540).to_bytes(4, "little") + b"n+2\0\r\n\x1a\n" + bytes(600)
    for data in (volume, second, gzip.compress(volume), gzip.compress(second)):
        error = fail(data)
        assert error.kind == "unsupported_format"
        assert error.message == "This is a NIfTI volume, an unsupported format."
        assert error.hint == "Convert its slices to PNG or DICOM."
    assert "gzip" in fail(gzip.compress(bytes(9999))).message


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", ["40,400", [40, 400], (40.0, 400.0)])
def test_window_is_read_from_text_and_json(window: object) -> None:
    assert ImageOptions(window=window).window == (40.0, 400.0)


@pytest.mark.parametrize("window", ["40", "40,0.5", "40,x", "nan,40", "40,inf", "1,2,3", [], 40])
def test_invalid_window_is_refused(window: object) -> None:
    with pytest.raises(UsageError, match="Invalid --window"):
        ImageOptions(window=window)


def test_separate_process_sees_the_same() -> None:
    header = make_dataset(RAMP)
    isolated = SandboxedLoader(PREPROCESSING, ImageOptions(isolate=True, window=(40, 400)))
    here = ImageLoader(PREPROCESSING, ImageOptions(window=(40, 400)))
    data = encode(header)
    np.testing.assert_array_equal(isolated.load(data), here.load(data))
    for damaged in (data[:900], data[:3000]):
        with pytest.raises(ImageError):
            isolated.load(damaged)


# --- damage ---------------------------------------------------------------------------------------

SEEDS = [path for path in SHIPPED if path.stat().st_size < 70_000 and path.suffix == ".dcm"]


def damage(data: bytes, seed: int) -> bytes:
    """Change, remove or insert bytes, mostly in the header."""
    choose = random.Random(seed)
    changed = bytearray(data)
    for _ in range(choose.choice((1, 3, 30))):
        end = len(changed) if choose.random() < 0.3 else min(len(changed), 3000)
        place = choose.randrange(128, max(129, end))
        match choose.randrange(4):
            case 0:
                changed[place : place + 1] = bytes([choose.randrange(256)])
            case 1:
                changed[place : place + 4] = choose.choice((b"\xff" * 4, bytes(4), b"\x7f" * 4))
            case 2:
                del changed[place : place + choose.randrange(1, 9)]
            case _:
                changed[place:place] = bytes(choose.randrange(256) for _ in range(3))
    return bytes(changed[: choose.randrange(len(changed))] if choose.random() < 0.2 else changed)


@given(st.sampled_from(SEEDS), st.integers(0, 1 << 30))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_file_is_an_image_or_an_image_error(path: Path, seed: int) -> None:
    started = time.monotonic()
    loader = ImageLoader(PREPROCESSING, ImageOptions(max_pixels=1_000_000))
    try:
        image = loader.open(damage(path.read_bytes(), seed))
    except ImageError as error:
        assert error.kind in get_args(ErrorKind)
    else:
        assert image.mode == "RGB"
        assert image.width * image.height <= 1_000_000
    assert time.monotonic() - started < 20


@given(st.integers(0, 1 << 30))
@settings(max_examples=200, deadline=None)
def test_damage_never_reveals_the_patient(seed: int) -> None:
    header = make_dataset(RAMP)
    header.add_new(0x00100020, "LO", PATIENT)
    data = damage(encode(header), seed)
    try:
        ImageLoader(PREPROCESSING).open(data)
    except ImageError as error:
        chain: BaseException | None = error
        while chain is not None and not chain.__suppress_context__:
            assert "Confidential" not in str(chain)
            chain = chain.__cause__ or chain.__context__
