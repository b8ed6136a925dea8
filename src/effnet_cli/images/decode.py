"""Pillow with its gaps closed: what it does not look for; its many exceptions as one of ours."""

import errno
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from effnet_cli.images.bare import bare
from effnet_cli.images.sniff import HEIC, Content
from effnet_cli.images.sources import CONVERT
from effnet_cli.system.errors import ImageError

NO_SEGMENTS = (*range(0xC0), *range(0xD0, 0xD9), 0xFF)  # JPEG's markers without a length
# What Pillow says of files that are whole, but of a kind that it does not decode.
UNSUPPORTED = ("unknown pixel mode", "unsupported", "cannot handle", "compression is not")
# Reasons that are about Pillow's own objects and values, and tell a person nothing.
PYTHONS_WORDS = r"b['\"]|\(\)|object at|driver"
BLOCK_BYTES = 1 << 20


def opened_by_pillow(file: BinaryIO, content: Content) -> ImageFile.ImageFile:
    """An image whose header is read; broken notes in it are left out.

    Raises:
        Exception: Pillow's own, for `translated`.
    """
    format = str(content.format)
    if format == "TIFF":
        _know_doubles()
    if format == HEIC:
        _know_heic()
    try:
        return Image.open(file, formats=(format,))
    except (UnidentifiedImageError, ValueError) as error:
        if _is_text_limit(error):
            raise
        file.seek(0)
        if notes_left_out := bare(file.read(), format):
            with suppress(UnidentifiedImageError, ValueError):
                return Image.open(io.BytesIO(notes_left_out), formats=(format,))
        raise _reason(file, format) or error from error


def _is_text_limit(error: Exception) -> bool:
    return "MAX_TEXT_" in str(error)  # how Pillow's limits are called


@cache
def _know_doubles() -> None:
    """Pillow decodes TIFFs of doubles, as scientific programs write them, but does not look for
    them.
    """
    from PIL.TiffImagePlugin import II, OPEN_INFO  # not needed for other formats

    for photometric in (0, 1):
        OPEN_INFO.setdefault((II, photometric, (3,), 1, (64,), ()), ("F", "F;64F"))


@cache
def _know_heic() -> None:
    from pi_heif import register_heif_opener  # an extra; `opening` has looked for it

    register_heif_opener()


def _reason(file: BinaryIO, format: str) -> Exception | None:
    """Why Pillow does not know a file: it keeps that to itself, but the format's reader tells."""
    file.seek(0)
    try:
        Image.OPEN[format][0](file, "")
    except Exception as error:
        return error
    return None


def has_many_scans(image: Image.Image, file: BinaryIO) -> bool:
    """Whether a JPEG may be gone over more than once: it is progressive, or its first scan lacks
    some of its colours.
    """
    if image.format not in ("JPEG", "MPO"):
        return False
    return "progressive" in image.info or _colours_of_first_scan(file) != len(image.getbands())


def _colours_of_first_scan(file: BinaryIO) -> int:
    """0 if something other than segments comes before it. The file's position stays as it is."""
    position = file.tell()
    place = 2
    try:
        while file.seek(place) and len(segment := file.read(5)) == 5 and segment[0] == 0xFF:
            if segment[1] == 0xDA:
                return segment[4]
            if segment[1] in NO_SEGMENTS:
                return 0
            place += 2 + int.from_bytes(segment[2:4])
        return 0
    finally:
        file.seek(position)


def count_of(file: BinaryIO, mark: bytes) -> int:
    """How often two bytes occur in a file, whose position stays as it is."""
    position = file.tell()
    file.seek(0)
    count, before = 0, b""
    while block := file.read(BLOCK_BYTES):
        count += (before + block).count(mark)
        before = block[-1:]
    file.seek(position)
    return count


@contextmanager
def translated(content: Content) -> Iterator[None]:
    """Pillow's many exceptions for hostile and damaged files as one of ours.

    Mutated files raise OSError, ValueError, SyntaxError, NotImplementedError, struct.error and
    more; whatever comes out of the decoder is this file's fault, and stops no other file.
    """
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageError(
            "too_large",
            f"This is {content.description} with more pixels than the limit allows.",
            "Raise the limit with --max-pixels if you trust it.",
        ) from error
    except OSError as error:
        # EINVAL: a damaged file sent the decoder to a place before its start
        if error.errno not in (None, errno.EINVAL):
            raise ImageError(
                "unreadable", f"The file cannot be read: {error.strerror}.", "Check the disk."
            ) from error
        raise _damaged(content, error) from error
    except Exception as error:
        if _is_text_limit(error):
            raise ImageError(
                "too_large",
                f"This is {content.description} with more text or colour profile than is unpacked.",
                CONVERT,
            ) from error
        raise _damaged(content, error) from error


def _damaged(content: Content, error: Exception) -> ImageError:
    is_worded = isinstance(error, OSError | ValueError | SyntaxError | NotImplementedError)
    reason = " ".join(str(error).split()).rstrip(".") if is_worded else ""
    is_wrapped = any(isinstance(value, Exception) for value in error.args)
    if not reason or is_wrapped or re.search(PYTHONS_WORDS, reason):
        reason = "unknown layout"
    # the container of HEIC takes any coding, so that what is whole may be of a kind not known here
    is_other_coding = content.format == HEIC and "end of file" not in reason
    if is_other_coding or reason.lower().startswith(UNSUPPORTED):
        return ImageError(
            "unsupported_format",
            f"This is {content.description} of a rare kind ({reason}).",
            CONVERT,
        )
    return ImageError(
        "truncated",
        f"This is {content.description} that is cut off or damaged ({reason}).",
        "Fetch it again.",
    )
