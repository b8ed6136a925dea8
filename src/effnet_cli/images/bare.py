"""Image files without what is not the image: for those whose notes are broken and pixels are
not.
"""

import struct
import zlib
from collections.abc import Iterator

PNG_MAGIC_BYTES = 8
# What changes how a PNG looks; the rest of what starts with a small letter may be left out.
PNG_NEEDED = (b"tRNS", b"eXIf")
JPEG_EXIF, JPEG_ADOBE, JPEG_SCAN = 0xE1, 0xEE, 0xDA
JPEG_NOTES = (*range(0xE0, 0xF0), 0xFE)  # APP0..APP15 and comments


def bare(data: bytes, format: str) -> bytes | None:
    """A file of `format` (Pillow's name) without profiles, texts and previews; `None` for formats
    in which they break nothing.
    """
    match format:
        case "PNG":
            return data[:PNG_MAGIC_BYTES] + b"".join(_needed_chunks(data))
        case "JPEG":
            return data[:2] + b"".join(_needed_segments(data))
    return None


def _needed_chunks(data: bytes) -> Iterator[bytes]:
    place = PNG_MAGIC_BYTES
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunk = data[place : place + 12 + length]
        is_whole = chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if kind[:1].isupper() or (kind in PNG_NEEDED and is_whole):
            yield chunk
        place += 12 + length


def _needed_segments(data: bytes) -> Iterator[bytes]:
    place = 2
    while place + 4 <= len(data):
        mark, kind, length = struct.unpack_from(">BBH", data, place)
        if mark != 0xFF or kind == JPEG_SCAN:
            break
        segment = data[place : place + 2 + length]
        is_needed = segment[4:10] == b"Exif\0\0" if kind == JPEG_EXIF else kind == JPEG_ADOBE
        if kind not in JPEG_NOTES or (is_needed and len(segment) >= 16):
            yield segment
        place += 2 + length
    yield data[place:]
