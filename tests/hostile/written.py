"""Image files written byte by byte, for what Pillow reads but does not write."""

import io
import struct
import zlib
from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_GRAY, PNG_RGB, PNG_PALETTE, PNG_GRAY_ALPHA, PNG_RGBA = 0, 2, 3, 4, 6
# Of TIFF: how many bytes a value of each type has.
TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4, 12: 8}
TIFF_CODES = {3: "H", 4: "I", 8: "h", 9: "i", 11: "f", 12: "d"}
SHORT, LONG = 3, 4
ORIENTATION_TAG = 0x0112


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """Encode an image with Pillow."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


# --- PNG ---------------------------------------------------------------------------------------


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk with its checksum."""
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(
    size: tuple[int, int], bits: int, colour: int, rows: Iterable[bytes], *chunks: bytes
) -> bytes:
    """Return a PNG of packed rows; `chunks` come before the pixels."""
    return b"".join(
        (
            PNG_MAGIC,
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)),
            *chunks,
            png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            png_chunk(b"IEND", b""),
        )
    )


def png_of(values: np.ndarray, bits: int, colour: int, *chunks: bytes) -> bytes:
    """Return a PNG of values [H,W] or [H,W,C] with 1, 2, 4, 8 or 16 bits each."""
    height, width = values.shape[:2]
    return png(
        (width, height), bits, colour, (packed(row.ravel(), bits) for row in values), *chunks
    )


def packed(values: np.ndarray, bits: int) -> bytes:
    """Pack integers of `bits` bits, highest bit first, padded to a whole byte."""
    if bits == 16:
        return values.astype(">u2").tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((values[:, None] >> shifts) & 1).tobytes()


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Yield the kind and body of each chunk."""
    chunks, place = [], len(PNG_MAGIC)
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def png_with(data: bytes, *chunks: bytes, before: bytes = b"IDAT") -> bytes:
    """Insert chunks into a PNG before the first one of a kind."""
    place = data.index(before) - 4
    return data[:place] + b"".join(chunks) + data[place:]


# --- JPEG --------------------------------------------------------------------------------------


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """Return a marker with its length and body."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_with(data: bytes, *segments: bytes) -> bytes:
    """Insert segments at the start of a JPEG."""
    return data[:2] + b"".join(segments) + data[2:]


def jpeg_sized(data: bytes, width: int, height: int, frame: bytes = b"\xff\xc0") -> bytes:
    """Change the size in the header of a JPEG."""
    start = data.index(frame)
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


def without_adobe_marker(data: bytes) -> bytes:
    """Return a CMYK JPEG without the marker that says how it is stored."""
    start = data.index(b"\xff\xee")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    return data[:start] + data[start + 2 + length :]


# --- TIFF and EXIF -----------------------------------------------------------------------------


def tiff(tags: Mapping[int, tuple[int, object]], pixels: bytes, order: str = "<") -> bytes:
    """Return a TIFF of one image: `tags` are type and value (or values), `pixels` one strip; its
    offset is filled in.
    """
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels))
    place_tag = 324 if 324 in tags else 273
    tags = {
        **tags,
        place_tag: (LONG, 8),
        place_tag + (1 if place_tag == 324 else 6): (LONG, len(pixels)),
    }
    return head + pixels + tiff_directory(tags, 8 + len(pixels), order)


def tiff_directory(tags: Mapping[int, tuple[int, object]], place: int, order: str = "<") -> bytes:
    """Return the list of tags at offset `place`, followed by the values that do not fit into it."""
    entries, rest = b"", b""
    behind = place + 2 + 12 * len(tags) + 4
    for tag, (kind, value) in sorted(tags.items()):
        body, count = tiff_value(kind, value, order)
        if len(body) > 4:
            where, rest = behind + len(rest), rest + body
            body = struct.pack(order + "I", where)
        entries += struct.pack(order + "HHI", tag, kind, count) + body.ljust(4, b"\0")
    return struct.pack(order + "H", len(tags)) + entries + bytes(4) + rest


def tiff_value(kind: int, value: object, order: str) -> tuple[bytes, int]:
    """Return the bytes and the count of a tag's value."""
    if isinstance(value, bytes):
        return value, len(value) // TIFF_SIZES[kind]
    values = value if isinstance(value, tuple) else (value,)
    return struct.pack(f"{order}{len(values)}{TIFF_CODES[kind]}", *values), len(values)


def tiff_tags(
    size: tuple[int, int], bits: int | tuple[int, ...], photometric: int, **more: int
) -> dict[int, tuple[int, object]]:
    """Return the tags that every TIFF needs; `more` are `tNUMBER=value`."""
    samples = len(bits) if isinstance(bits, tuple) else 1
    return {
        256: (LONG, size[0]),
        257: (LONG, size[1]),
        258: (SHORT, bits),
        259: (SHORT, 1),
        262: (SHORT, photometric),
        277: (SHORT, samples),
        278: (LONG, size[1]),
        **{int(tag[1:]): (SHORT, value) for tag, value in more.items()},
    }


def exif(orientation: int, order: str = "<", kind: int = SHORT) -> bytes:
    """Return an EXIF block with one tag."""
    head = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    return b"Exif\0\0" + head + tiff_directory({ORIENTATION_TAG: (kind, orientation)}, 8, order)


def exif_with_thumbnail(orientation: int, of_thumbnail: int) -> bytes:
    """Return an EXIF block in which the image and its thumbnail have different orientations."""
    first = tiff_directory({ORIENTATION_TAG: (SHORT, orientation)}, 8)
    second = tiff_directory({ORIENTATION_TAG: (SHORT, of_thumbnail)}, 8 + len(first))
    return b"Exif\0\0II*\0\x08\0\0\0" + first[:-4] + struct.pack("<I", 8 + len(first)) + second


def crowded_directory(tags: int, size_bytes: int, order: str = "<") -> bytes:
    """Return a TIFF header with many tags that all refer to the same bytes."""
    head = b"II*\0\x08\0\0\0"
    behind = 8 + 2 + 12 * tags + 4
    entries = b"".join(
        struct.pack(order + "HHII", 1000 + tag, 7, size_bytes, behind) for tag in range(tags)
    )
    return head + struct.pack(order + "H", tags) + entries + bytes(4) + bytes(size_bytes)


# --- BMP, ICO, TGA, GIF ------------------------------------------------------------------------


def bmp(
    size: tuple[int, int],
    bits: int,
    pixels: bytes,
    compression: int = 0,
    extra: bytes = b"",
    header_bytes: int = 40,
) -> bytes:
    """Return a BMP, top row first if the height is negative; `extra` follows the header."""
    header = struct.pack(
        "<IiiHHIIiiII", header_bytes, *size, 1, bits, compression, len(pixels), 0, 0, 0, 0
    )
    start = 14 + len(header) + len(extra)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + header + extra + pixels


def bmp_rows(values: np.ndarray) -> bytes:
    """Return rows, uint8 [H,W,C] or [H,W], padded to four bytes each, the last row first."""
    rows = [row.tobytes() for row in values[::-1]]
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


def ico(*images: tuple[int, int, bytes]) -> bytes:
    """Return an icon of images: width and height as listed, and the bytes."""
    place = 6 + 16 * len(images)
    entries = b""
    for width, height, data in images:
        entries += struct.pack(
            "<BBBBHHII", width % 256, height % 256, 0, 0, 1, 32, len(data), place
        )
        place += len(data)
    return struct.pack("<HHH", 0, 1, len(images)) + entries + b"".join(p[2] for p in images)


def icon_of_bmp(values: np.ndarray, mask: np.ndarray) -> bytes:
    """Return an icon's image of values uint8 [H,W,4] (BGRA), with its transparency mask."""
    height, width = mask.shape
    rows = [packed(row, 1) for row in mask[::-1].astype(np.uint8)]
    return bmp(
        (width, 2 * height), 32, bmp_rows(values) + b"".join(r + bytes(-len(r) % 4) for r in rows)
    )[14:]


def tga(size: tuple[int, int], bits: int, pixels: bytes, flags: int, kind: int = 2) -> bytes:
    """Return a TGA with a footer; `flags` has the first corner and the alpha bits."""
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, kind, 0, 0, 0, 0, 0, *size, bits, flags)
    return header + pixels + bytes(8) + b"TRUEVISION-XFILE.\0"


def gif_comment(text: bytes) -> bytes:
    """Return a comment in sub-blocks."""
    blocks = b"".join(
        bytes([end - start]) + text[start:end]
        for start, end in pairwise([*range(0, len(text), 255), len(text)])
    )
    return b"!\xfe" + blocks + b"\0"


# --- JPEG 2000, AVIF, WebP ---------------------------------------------------------------------


def box(kind: bytes, body: bytes) -> bytes:
    """Return a box of the ISO container (AVIF, JPEG 2000)."""
    return struct.pack(">I", 8 + len(body)) + kind + body


def jpeg_2000_sized(data: bytes, size: tuple[int, int], tile: tuple[int, int] | None) -> bytes:
    """Change the size in all headers of a JPEG 2000, and optionally its tiles."""
    changed = bytearray(data)
    if b"ihdr" in data:
        place = data.index(b"ihdr") + 4
        changed[place : place + 8] = struct.pack(">II", size[1], size[0])
    place = data.index(b"\xff\x51") + 6
    changed[place : place + 8] = struct.pack(">II", *size)
    if tile is not None:
        changed[place + 16 : place + 24] = struct.pack(">II", *tile)
    return bytes(changed)


def webp_canvas(data: bytes, width: int, height: int) -> bytes:
    """Wrap a simple WebP in an extended one with its own canvas size."""
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + canvas + data[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body
