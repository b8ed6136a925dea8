"""Workarounds for Pillow: unreadable metadata, JPEGs with many scans, and its many error types."""

import errno
import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from effnet_cli.images.sniff import HEIC, Content
from effnet_cli.images.sources import CONVERT, cannot_read
from effnet_cli.system.errors import ImageError

PNG_MAGIC_BYTES = 8
# The optional chunks that change how a PNG looks. A lower-case first letter means optional.
PNG_KEPT = (b"tRNS", b"eXIf")
JPEG_EXIF, JPEG_ADOBE, JPEG_SCAN = 0xE1, 0xEE, 0xDA
JPEG_METADATA = (*range(0xE0, 0xF0), 0xFE)  # APP0..APP15 and comments
JPEG_BARE_MARKERS = (*range(0xC0), *range(0xD0, 0xD9), 0xFF)  # these have no length
# How Pillow's messages begin for intact files with an unsupported encoding.
UNSUPPORTED = ("unknown pixel mode", "unsupported", "cannot handle", "compression is not")
# Reasons that mention Pillow's own objects and values, which mean nothing to a user.
INTERNAL_REASON = r"b['\"]|\(\)|object at|driver"
MAX_PIXELS_HINT = "Increase --max-pixels if you trust the file."
BLOCK_BYTES = 1 << 20


def open_with_pillow(file: BinaryIO, content: Content) -> ImageFile.ImageFile:
    """Open an image and read its header, leaving out metadata that Pillow cannot read.

    Raises:
        Exception: whatever Pillow raises; `translate_errors` converts it.
    """
    format = str(content.format)
    if format == "TIFF":
        _register_float64_tiff()
    if format == HEIC:
        _register_heic()
    try:
        return Image.open(file, formats=(format,))
    except (UnidentifiedImageError, ValueError) as error:
        if _is_text_limit(error):
            raise
        file.seek(0)
        stripped = strip_metadata(file.read(), format)
        if stripped is not None:
            with suppress(UnidentifiedImageError, ValueError):
                return Image.open(io.BytesIO(stripped), formats=(format,))
        raise _find_reason(file, format) or error from error


def _is_text_limit(error: Exception) -> bool:
    return "MAX_TEXT_" in str(error)  # Pillow names its limits in the message


@cache
def _register_float64_tiff() -> None:
    """Let Pillow open TIFFs of 64-bit floats, which scientific programs write. It can decode them,
    but does not know their header.
    """
    from PIL.TiffImagePlugin import II, OPEN_INFO  # not needed for other formats

    for photometric in (0, 1):
        OPEN_INFO.setdefault((II, photometric, (3,), 1, (64,), ()), ("F", "F;64F"))


@cache
def _register_heic() -> None:
    from pi_heif import register_heif_opener  # an extra; `identify` has checked that it is there

    register_heif_opener()


def _find_reason(file: BinaryIO, format: str) -> Exception | None:
    """Find out why Pillow cannot identify a file. Only the format's own reader says why."""
    file.seek(0)
    try:
        Image.OPEN[format][0](file, "")
    except Exception as error:
        return error
    return None


def strip_metadata(data: bytes, format: str) -> bytes | None:
    """Remove the profiles, texts and previews of a PNG or JPEG. Return `None` for other formats,
    which open even if these are broken.
    """
    if format == "PNG":
        return data[:PNG_MAGIC_BYTES] + b"".join(_needed_chunks(data))
    if format == "JPEG":
        return data[:2] + b"".join(_needed_segments(data))
    return None


def _needed_chunks(data: bytes) -> Iterator[bytes]:
    start = PNG_MAGIC_BYTES
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        chunk = data[start : start + 12 + length]
        is_intact = chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if kind[:1].isupper() or (kind in PNG_KEPT and is_intact):
            yield chunk
        start += 12 + length


def _needed_segments(data: bytes) -> Iterator[bytes]:
    end = 2
    for start, kind, length in _segments(io.BytesIO(data)):
        if kind == JPEG_SCAN:
            break
        end = start + length
        segment = data[start:end]
        is_needed = segment[4:10] == b"Exif\0\0" if kind == JPEG_EXIF else kind == JPEG_ADOBE
        if kind not in JPEG_METADATA or (is_needed and len(segment) >= 16):
            yield segment
    yield data[end:]


def _segments(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Yield the start, marker and length of each JPEG segment, up to the first invalid one."""
    start = 2
    while file.seek(start) and len(head := file.read(4)) == 4:
        if head[0] != 0xFF or head[1] in JPEG_BARE_MARKERS:
            return
        length = 2 + int.from_bytes(head[2:])
        yield start, head[1], length
        start += length


def has_many_scans(image: Image.Image, file: BinaryIO) -> bool:
    """Return whether a JPEG can have several scans: it is progressive, or its first scan does not
    contain all colour channels.
    """
    if image.format not in ("JPEG", "MPO"):
        return False
    return "progressive" in image.info or _first_scan_bands(file) != len(image.getbands())


def _first_scan_bands(file: BinaryIO) -> int:
    """Count the bands in the first scan (0 if there is no scan), keeping the file's position."""
    position = file.tell()
    starts = (start for start, kind, _ in _segments(file) if kind == JPEG_SCAN)
    file.seek(next(starts, 0) + 4)
    bands = file.read(1)
    file.seek(position)
    return bands[0] if bands else 0


def count_scans(file: BinaryIO) -> int:
    """Return an upper bound on the scans of a JPEG, keeping the file's position."""
    position = file.tell()
    file.seek(0)
    count, last = 0, b""
    while block := file.read(BLOCK_BYTES):
        count += (last + block).count(b"\xff\xda")
        last = block[-1:]
    file.seek(position)
    return count


@contextmanager
def translate_errors(content: Content) -> Iterator[None]:
    """Raise whatever the decoder raises as `ImageError`.

    Corrupt files raise OSError, ValueError, SyntaxError, NotImplementedError, struct.error and
    more. Each is the fault of one file and must not stop the others.
    """
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise _translate(error, content) from error


def _translate(error: Exception, content: Content) -> ImageError:
    what = f"This is {content.description}"
    if isinstance(
        error, Image.DecompressionBombError | Image.DecompressionBombWarning | MemoryError
    ):
        message = f"{what} with more pixels than the limit allows."
        return ImageError("too_large", message, MAX_PIXELS_HINT)
    # EINVAL: a damaged file made the decoder seek to a negative position
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return cannot_read(error)
    if _is_text_limit(error):
        return ImageError("too_large", f"{what} with oversized metadata.", CONVERT)
    reason = _describe(error)
    # a HEIC container can hold any encoding, so an intact file may have an unsupported one
    is_other_coding = content.format == HEIC and "end of file" not in reason
    if content.format == "PSD" and any(isinstance(e, KeyError) for e in (error, *error.args)):
        is_other_coding, reason = True, "not 8 bits per channel"
    if is_other_coding or reason.lower().startswith(UNSUPPORTED):
        message = f"{what} with an unsupported encoding ({reason})."
        return ImageError("unsupported_format", message, CONVERT)
    message = f"{what} that is truncated or corrupt ({reason})."
    return ImageError("truncated", message, "Download or copy it again.")


def _describe(error: Exception) -> str:
    """Return Pillow's reason if it is meant for users, else a general one."""
    is_worded = isinstance(error, OSError | ValueError | SyntaxError | NotImplementedError)
    is_wrapped = any(isinstance(value, Exception) for value in error.args)
    reason = " ".join(str(error).split()).rstrip(".")
    if not is_worded or is_wrapped or not reason or re.search(INTERNAL_REASON, reason):
        return "unknown layout"
    return reason
