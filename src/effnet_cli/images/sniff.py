"""What a file is, from its first bytes: content decides, not the name."""

import codecs
import re
from typing import NamedTuple

HEAD_BYTES = 512
HEIC = "HEIF"  # its format's name in Pillow, which opens it with the library of an extra
TGA_FOOTER = b"TRUEVISION-XFILE.\0"
TGA_SUFFIXES = (".tga", ".icb", ".vda", ".vst")


class Content(NamedTuple):
    """What was found.

    `format` is Pillow's name of a format that effnet opens, else `None`; `is_picture` says whether
    a person would call it a picture; `description` goes into messages ("a PDF document").
    """

    description: str
    format: str | None = None
    is_picture: bool = True


# The formats that effnet opens: this is the allow-list given to Pillow.
_OPENED = (
    (b"\xff\xd8\xff", Content("a JPEG picture", "JPEG")),
    (b"\x89PNG\r\n\x1a\n", Content("a PNG picture", "PNG")),
    (b"GIF87a", Content("a GIF picture", "GIF")),
    (b"GIF89a", Content("a GIF picture", "GIF")),
    (b"II*\0", Content("a TIFF picture", "TIFF")),
    (b"MM\0*", Content("a TIFF picture", "TIFF")),
    (b"II+\0", Content("a TIFF picture", "TIFF")),
    (b"MM\0+", Content("a TIFF picture", "TIFF")),
    (b"\0\0\1\0", Content("an icon", "ICO")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Content("a JPEG 2000 picture", "JPEG2000")),
    (b"\xff\x4f\xff\x51", Content("a JPEG 2000 picture", "JPEG2000")),
)
_BMP = Content("a BMP picture", "BMP")
_PPM = Content("a PPM picture", "PPM")
_TGA = Content("a TGA picture", "TGA")
_WEBP = Content("a WebP picture", "WEBP")
_AVIF = Content("an AVIF picture", "AVIF")
_HEIC = Content("a HEIC picture", HEIC)

# Files that are often met among pictures.
_OTHERS = (
    (b"%PDF", Content("a PDF document", is_picture=False)),
    (b"%!PS", Content("a PostScript document", is_picture=False)),
    (b"8BPS", Content("a Photoshop document")),
    (b"\xff\x0a", Content("a JPEG XL picture")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", Content("a JPEG XL picture")),
    (b"gimp xcf", Content("a GIMP picture")),
    (b"SIMPLE  =", Content("a FITS picture")),
    (b"v/1\1", Content("an OpenEXR picture")),
    (b"II*\0\x10\0\0\0CR", Content("a raw camera picture")),
    (b"IIU\0", Content("a raw camera picture")),
    (b"IIRO", Content("a raw camera picture")),
    (b"IIRS", Content("a raw camera picture")),
    (b"FUJIFILMCCD-RAW", Content("a raw camera picture")),
    (b"icns\0", Content("a macOS icon")),
    (b"qoif\0", Content("a QOI picture")),
    (b"DDS |\0\0\0", Content("a DDS texture")),
    (b"BPG\xfb", Content("a BPG picture")),
    (b"AT&TFORM", Content("a DjVu document")),
    (b"\xd7\xcd\xc6\x9a", Content("a Windows metafile")),
    (b"#?RADIANCE", Content("a Radiance HDR picture")),
    (b"version https://git-lfs", Content("a Git LFS pointer", is_picture=False)),
    (b"PK\3\4", Content("a ZIP archive", is_picture=False)),
    (b"\x1f\x8b", Content("a gzip archive", is_picture=False)),
    (b"\xfd7zXZ", Content("an xz archive", is_picture=False)),
    (b"7z\xbc\xaf", Content("a 7-Zip archive", is_picture=False)),
    (b"Rar!", Content("a RAR archive", is_picture=False)),
    (b"\x1aE\xdf\xa3", Content("a Matroska video", is_picture=False)),
    (b"OggS", Content("an Ogg stream", is_picture=False)),
    (b"ID3", Content("an MP3 file", is_picture=False)),
    (b"\x7fELF", Content("a program", is_picture=False)),
    (b"MZ", Content("a Windows program", is_picture=False)),
    (b"SQLite format 3", Content("a SQLite database", is_picture=False)),
    (b"BZh91AY&SY", Content("a bzip2 archive", is_picture=False)),
    (b"\x28\xb5\x2f\xfd", Content("a Zstandard archive", is_picture=False)),
    (b"\xcf\xfa\xed\xfe", Content("a macOS program", is_picture=False)),
    (b"\xca\xfe\xba\xbe", Content("a Java or macOS program", is_picture=False)),
    (b"\0asm", Content("a WebAssembly program", is_picture=False)),
    (b"\x93NUMPY", Content("a NumPy array", is_picture=False)),
    (b"\x89HDF\r\n", Content("an HDF5 file", is_picture=False)),
    (b"PAR1\x15", Content("a Parquet table", is_picture=False)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", Content("an Office document", is_picture=False)),
    (b"{\\rtf", Content("an RTF document", is_picture=False)),
    # beside every file on disks that macOS writes and other systems read
    (b"\0\5\x16\7", Content("a file of macOS' notes about another file", is_picture=False)),
)
_CURSOR = Content("a Windows cursor")
# What a few first bytes do not tell, as other files begin so too.
_PATTERNS = (
    (rb"P[Ff]\n\d+ \d+\n-?[\d.]+\n", Content("a float picture (PFM)")),
    (rb"P7\nWIDTH \d+\nHEIGHT \d+\n", Content("a PAM picture")),
    (rb"#define \w+_width \d+", Content("an X bitmap")),
    (rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]", Content("a PCX picture")),
    (rb"\x01\xda[\x00\x01][\x01\x02]\x00[\x01-\x03]", Content("an SGI picture")),
    (rb"(?s).{128}DICM", Content("a DICOM picture")),
    (rb"(?s).{257}ustar", Content("a tar archive", is_picture=False)),
    (rb"\x80([\x04\x05]\x95|[\x02\x03][](}cX])", Content("a Python pickle", is_picture=False)),
)
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")


def sniff(head: bytes, name: str = "", tail: bytes = b"") -> Content | None:
    """What a file with these first and last bytes is; `None` if nothing known.

    Only TGA, which has no signature at its start, needs the name or the last bytes.
    """
    for magic, content in _OTHERS + _OPENED:
        if head.startswith(magic):
            return content
    if head[:4] == b"RIFF":
        return _WEBP if head[8:12] == b"WEBP" else Content("a RIFF file", is_picture=False)
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    # texts begin with these letters too, but have no NUL byte and no size
    if head[:2] == b"BM" and b"\0" in head[2:18]:
        return _BMP
    if re.match(rb"P[1-6]\s+[\d#]", head):
        return _PPM
    # a TGA begins with these bytes too, but has no count of pictures
    if head[:4] == b"\0\0\2\0" and head[4:6] != b"\0\0":
        return _CURSOR
    if tail.endswith(TGA_FOOTER) or (name.lower().endswith(TGA_SUFFIXES) and _is_tga_header(head)):
        return _TGA
    for pattern, content in _PATTERNS:
        if re.match(pattern, head):
            return content
    return _text(head)


def is_text(head: bytes) -> bool:
    """Whether these first bytes are those of a text, which may be a list of paths as well."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    try:  # the last character may be cut
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\t\n\f\r\x1b" for c in text.removeprefix("\ufeff"))


def _iso_media(head: bytes) -> Content:
    """AVIF, HEIC and videos share one container; the brands tell them apart."""
    size = int.from_bytes(head[:4], "big")
    brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))}
    if brands & {b"avif", b"avis"}:
        return _AVIF
    if brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}:
        return _HEIC
    if head[8:11] == b"crx":
        return Content("a raw camera picture")
    return Content("a video", is_picture=False)


def _is_tga_header(head: bytes) -> bool:
    """TGA's header: colour map 0 or 1, a defined image type, 8 to 32 bits a pixel."""
    return (
        len(head) >= 18
        and head[1] in (0, 1)
        and head[2] in (1, 2, 3, 9, 10, 11)
        and head[16] in (1, 8, 15, 16, 24, 32)
    )


def _text(head: bytes) -> Content | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:HEAD_BYTES].lower()
    is_markup = start.startswith((b"<?xml", b"<!"))
    if start.startswith(_HTML_STARTS) or (is_markup and (b"<html" in start or b"e html" in start)):
        return Content("an HTML page", is_picture=False)
    if start.startswith(b"<svg") or (is_markup and b"<svg" in start):
        return Content("an SVG drawing")
    if start.startswith(b"<?xml"):
        return Content("an XML document", is_picture=False)
    if start.startswith((b"{", b"[")):
        return Content("a JSON document", is_picture=False)
    if head and not head.strip(b"\0"):
        return Content("a file of zero bytes only", is_picture=False)
    return None
