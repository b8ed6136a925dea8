"""Read one frame of a DICOM image with pydicom (an extra), as a viewer shows it.

Only the tags listed here are read, none of which says anything about the patient. Errors quote no
text of the file, and pydicom's own messages are never passed on, because they do.
"""

import importlib.util
import io
import re
import warnings
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array

from effnet_cli.images import dicom_codecs, dicom_gray, rgb
from effnet_cli.images.sources import CODECS, CONVERT, INSTALL_DICOM
from effnet_cli.options import ImageOptions
from effnet_cli.system.errors import ImageError

SIZE_TAGS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
PIXEL_TAGS = (*SIZE_TAGS, "BitsStored", "PixelRepresentation", "PhotometricInterpretation")
COLORS = ("Red", "Green", "Blue")
DESCRIPTOR_TAGS = tuple(f"{color}PaletteColorLookupTableDescriptor" for color in COLORS)
PALETTE_TAGS = tuple(f"{color}PaletteColorLookupTableData" for color in COLORS)
SEGMENTS_TAGS = tuple(f"Segmented{tag}" for tag in PALETTE_TAGS)
# A palette in segments (PS3.3, C.7.9.2): each has a kind, a number of entries, and all of these
# entries, or only the last of a line. A third kind repeats other segments.
VALUES_SEGMENT, LINE_SEGMENT, MAX_PALETTE_ENTRIES = 0, 1, 1 << 16
# An enhanced multi-frame image has them for all frames, or one item per frame (PS3.3, C.7.6.16)
GROUP_TAGS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
MACRO_TAGS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
HEADER_TAGS = [
    *("SOPClassUID", "NumberOfFrames", *PIXEL_TAGS, *dicom_gray.GRAY_TAGS),
    *(*DESCRIPTOR_TAGS, *PALETTE_TAGS, *SEGMENTS_TAGS, *GROUP_TAGS, *MACRO_TAGS),
]
PIXEL_DATA_TAGS = (
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "PlanarConfiguration"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
PALETTE_COLOR = "PALETTE COLOR"
YBR_COLORS = ("YBR_FULL", "YBR_FULL_422")  # pydicom converts them to RGB
MAX_SAMPLE_BITS = 64
# The type ("VR") of the pixels, if the encoding is explicit, and where it is in their element
PIXELS_VRS, PIXELS_VR = (b"OB", b"OW", b"OF", b"OD"), slice(4, 6)
META_BYTES = 1 << 16  # at the start of a file, which contain its transfer syntax
META_LENGTH_END = 144  # of the element that says how long the rest of the meta group is
# A deflated header and its pixels may have this many bytes per permitted pixel
MAX_INFLATED_BYTES_PER_PIXEL = 8
DAMAGED_HINT = "Download or copy it again."
PYDICOM_MODULES = r"pydicom(\.|$)"

CheckSize = Callable[[str, tuple[int, int]], None]
Array = npt.NDArray[Any]


def read(file: BinaryIO, options: ImageOptions, check_size: CheckSize) -> Image.Image:
    """Read frame `options.frame` as RGB, with grey values of `options.window` or the file's own.

    Raises:
        ImageError: the file has no such image, or it is damaged or of an unsupported kind.
    """
    _ignore_warnings()
    dicom_codecs.register()
    try:
        with np.errstate(all="ignore"):  # damaged values
            return _read(_inflate(file, options.max_pixels), options, check_size)
    except (ImageError, MemoryError):
        raise
    except Exception:
        # pydicom raises all kinds of errors, and quotes values of the file in them
        message = "This is a DICOM image that is truncated or corrupt."
        raise ImageError("truncated", message, DAMAGED_HINT) from None


def _ignore_warnings() -> None:
    """Ignore the warnings of pydicom, which quote values of the file.

    Filters are for all threads, so this one is not removed when a file has been read.
    """
    if ("ignore", None, Warning, re.compile(PYDICOM_MODULES), 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module=PYDICOM_MODULES)


def _inflate(file: BinaryIO, max_pixels: int) -> BinaryIO:
    """Return a deflated file as an uncompressed one; others as they are.

    pydicom would inflate it without a limit.
    """
    start = file.read(META_BYTES)
    file.seek(0)
    deflated = uid.DeflatedExplicitVRLittleEndian.encode()
    if deflated not in start:
        return file
    meta_length = int.from_bytes(start[META_LENGTH_END - 4 : META_LENGTH_END], "little")
    file.seek(META_LENGTH_END + meta_length)
    limit = MAX_INFLATED_BYTES_PER_PIXEL * max_pixels
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), limit)
    if inflater.unconsumed_tail:
        message = f"This DICOM file unpacks to more than {limit:,} bytes."
        raise ImageError("too_large", message, "Increase --max-pixels if you trust the file.")
    plain = uid.ExplicitVRLittleEndian.encode().ljust(len(deflated), b"\0")
    return io.BytesIO(start[: META_LENGTH_END + meta_length].replace(deflated, plain) + data)


def _read(file: BinaryIO, options: ImageOptions, check_size: CheckSize) -> Image.Image:
    header = dcmread(
        file, force=True, stop_before_pixels=True, specific_tags=cast(Any, HEADER_TAGS)
    )
    _check_is_image(header)
    check_size("image", (header.Columns, header.Rows))
    index = _find_frame(header, options.frame)
    _apply_groups(header, index)
    syntax = _find_transfer_syntax(header)
    _check_kind(header, syntax)
    values = _decode(file, index, syntax)
    if header.PhotometricInterpretation == PALETTE_COLOR:
        return _apply_palette(values, header)
    if header.SamplesPerPixel == len(COLORS):
        return Image.fromarray(_scale(values, header.BitsStored))
    return Image.fromarray(dicom_gray.shade(values, header, options.window)).convert("RGB")


def _decode(file: BinaryIO, index: int, syntax: uid.UID) -> Array:
    """Return the stored pixels of one frame, [H,W] or [H,W,3], without reading the others.

    `file` is at the element with the pixels.
    """
    plugin = dicom_codecs.PLUGINS[syntax]
    is_implicit = file.read(PIXELS_VR.stop)[PIXELS_VR] not in PIXELS_VRS
    file.seek(0)
    if is_implicit == syntax.is_implicit_VR:
        return pixel_array(file, index=index, decoding_plugin=plugin, transfer_syntax_uid=syntax)
    # the file is not encoded as it says, which pydicom understands only if it reads all of it
    whole = dcmread(file, specific_tags=cast(Any, [*HEADER_TAGS, *PIXEL_DATA_TAGS]))
    return pixel_array(whole, index=index, decoding_plugin=plugin)


# --- the header -----------------------------------------------------------------------------------


def _check_is_image(header: Dataset) -> None:
    """Refuse what has no pixels, such as reports and documents, by its kind ("SOP class")."""
    if all(header.get(name) for name in SIZE_TAGS):
        return
    kind = header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID")
    name = _find_name(kind)
    if "Image" in name:
        message = f"This is a DICOM image without pixels ({name.removesuffix(' Storage')})."
        raise ImageError("truncated", message, DAMAGED_HINT)
    if not name:
        message = "This is a DICOM file of an unknown kind, without an image."
        raise ImageError("unsupported_format", message, "Pass a DICOM file with an image.")
    message = f"This is a DICOM file that holds no image ({name.removesuffix(' Storage')})."
    raise ImageError("not_an_image", message, "Pass a DICOM file with an image.")


def _find_name(identifier: uid.UID | None) -> str:
    """Return the name that the standard gives a UID; nothing for others, which may be any text."""
    name = "" if identifier is None else identifier.name
    return "" if name == identifier else name


def _find_frame(header: Dataset, number: int) -> int:
    """Return the index of a frame; they are numbered from 1, as in the standard."""
    count = max(1, int(header.get("NumberOfFrames") or 1))
    if number <= count:
        return number - 1
    frames = "1 frame" if count == 1 else f"{count:,} frames"
    message = f"This DICOM image has {frames}, and no frame {number:,}."
    raise ImageError("missing", message, f"Use --frame with a number up to {count}.")


def _apply_groups(header: Dataset, index: int) -> None:
    """Let the functional groups of a frame, and else those of all frames, replace the header's
    values.
    """
    shared, per_frame = (header.get(name) or [] for name in GROUP_TAGS)
    for group in (*shared[:1], *per_frame[index : index + 1]):
        for name in MACRO_TAGS:
            for item in (group.get(name) or [])[:1]:
                header.update(item)


def _find_transfer_syntax(header: Dataset) -> uid.UID:
    """Return how the file is encoded: by what pydicom found in it, if it does not say so."""
    declared = header.file_meta.get("TransferSyntaxUID")
    if declared:
        return uid.UID(declared)
    is_implicit, is_little_endian = header.original_encoding
    if not is_little_endian:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if is_implicit else uid.ExplicitVRLittleEndian


def _check_kind(header: Dataset, syntax: uid.UID) -> None:
    """Refuse an image that cannot be decoded, or whose pixels are of an unknown kind."""
    name = _find_name(syntax) or "an unknown transfer syntax"
    if syntax not in dicom_codecs.PLUGINS:
        raise _unsupported(name)
    if dicom_codecs.PLUGINS[syntax] == CODECS and importlib.util.find_spec(CODECS) is None:
        message = f"This is a DICOM image ({name}), which needs the package {CODECS}."
        raise ImageError("unsupported_format", message, INSTALL_DICOM)
    colors = ["RGB", *YBR_COLORS]
    if syntax in uid.JPEG2000TransferSyntaxes:
        colors += dicom_codecs.JPEG_2000_COLORS
    known = {1: [*dicom_gray.INTERPRETATIONS, PALETTE_COLOR], len(COLORS): colors}
    samples = int(header.SamplesPerPixel)
    if header.PhotometricInterpretation not in known.get(samples, ()):
        raise _unsupported(f"photometric interpretation, {samples} samples per pixel")
    if header.BitsAllocated > MAX_SAMPLE_BITS:
        raise _unsupported(f"{header.BitsAllocated} bits per sample")


def _unsupported(what: str) -> ImageError:
    message = f"This is a DICOM image with an unsupported encoding ({what})."
    return ImageError("unsupported_format", message, CONVERT)


# --- colours --------------------------------------------------------------------------------------


def _scale(values: Array, bits: int) -> npt.NDArray[np.uint8]:
    largest = (1 << bits) - 1
    return rgb.scale_to_8_bits(np.clip(values, 0, largest), bits, largest)


def _apply_palette(values: Array, header: Dataset) -> Image.Image:
    order = "<" if header.original_encoding[1] else ">"
    entry = np.uint8 if header[DESCRIPTOR_TAGS[0]].value[2] == 8 else np.dtype(f"{order}u2")
    for name in SEGMENTS_TAGS:
        if header.get(name):
            _check_segments(np.frombuffer(header[name].value, entry).tolist())
    colors = apply_color_lut(values, header)
    # many writers leave the upper byte of 16-bit entries empty
    bits = 8 if colors.max(initial=0) < 1 << 8 else 8 * colors.itemsize
    return Image.fromarray(_scale(colors, bits))


def _check_segments(entries: list[int]) -> None:
    """Refuse a palette that pydicom would expand to more entries than there can be."""
    place = count = 0
    while place + 1 < len(entries):
        kind, length = entries[place : place + 2]
        count += length
        place += 2 + (1 if kind == LINE_SEGMENT else length)
        if kind not in (VALUES_SEGMENT, LINE_SEGMENT) or count > MAX_PALETTE_ENTRIES:
            raise _unsupported("a palette with repeated segments")
