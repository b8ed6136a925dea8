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

    `format` is Pillow's name of a format that effnet opens, else `None`; `is_image` says whether
    a person would call it an image; `description` goes into messages ("a PDF document").
    """

    description: str
    format: str | None = None
    is_image: bool = True


# The formats that effnet opens: this is the allow-list given to Pillow.
_OPENED = (
    (b"\xff\xd8\xff", Content("a JPEG image", "JPEG")),
    (b"\x89PNG\r\n\x1a\n", Content("a PNG image", "PNG")),
    (b"GIF87a", Content("a GIF image", "GIF")),
    (b"GIF89a", Content("a GIF image", "GIF")),
    (b"II*\0", Content("a TIFF image", "TIFF")),
    (b"MM\0*", Content("a TIFF image", "TIFF")),
    (b"II+\0", Content("a TIFF image", "TIFF")),
    (b"MM\0+", Content("a TIFF image", "TIFF")),
    (b"\0\0\1\0", Content("an icon", "ICO")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Content("a JPEG 2000 image", "JPEG2000")),
    (b"\xff\x4f\xff\x51", Content("a JPEG 2000 image", "JPEG2000")),
)
_BMP = Content("a BMP image", "BMP")
_PPM = Content("a PPM image", "PPM")
_TGA = Content("a TGA image", "TGA")
_WEBP = Content("a WebP image", "WEBP")
_AVIF = Content("an AVIF image", "AVIF")
_HEIC = Content("a HEIC image", HEIC)

# Files that are often met among images.
_OTHERS = (
    (b"%PDF", Content("a PDF document", is_image=False)),
    (b"%!PS", Content("a PostScript document", is_image=False)),
    (b"8BPS", Content("a Photoshop document")),
    (b"\xff\x0a", Content("a JPEG XL image")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", Content("a JPEG XL image")),
    (b"gimp xcf", Content("a GIMP image")),
    (b"SIMPLE  =", Content("a FITS image")),
    (b"v/1\1", Content("an OpenEXR image")),
    (b"II*\0\x10\0\0\0CR", Content("a raw camera image")),
    (b"IIU\0", Content("a raw camera image")),
    (b"IIRO", Content("a raw camera image")),
    (b"IIRS", Content("a raw camera image")),
    (b"FUJIFILMCCD-RAW", Content("a raw camera image")),
    (b"icns\0", Content("a macOS icon")),
    (b"qoif\0", Content("a QOI image")),
    (b"DDS |\0\0\0", Content("a DDS texture")),
    (b"BPG\xfb", Content("a BPG image")),
    (b"AT&TFORM", Content("a DjVu document")),
    (b"\xd7\xcd\xc6\x9a", Content("a Windows metafile")),
    (b"#?RADIANCE", Content("a Radiance HDR image")),
    (b"version https://git-lfs", Content("a Git LFS pointer", is_image=False)),
    (b"PK\3\4", Content("a ZIP archive", is_image=False)),
    (b"\x1f\x8b", Content("a gzip archive", is_image=False)),
    (b"\xfd7zXZ", Content("an xz archive", is_image=False)),
    (b"7z\xbc\xaf", Content("a 7-Zip archive", is_image=False)),
    (b"Rar!", Content("a RAR archive", is_image=False)),
    (b"\x1aE\xdf\xa3", Content("a Matroska video", is_image=False)),
    (b"OggS", Content("an Ogg stream", is_image=False)),
    (b"ID3", Content("an MP3 file", is_image=False)),
    (b"\x7fELF", Content("a program", is_image=False)),
    (b"MZ", Content("a Windows program", is_image=False)),
    (b"SQLite format 3", Content("a SQLite database", is_image=False)),
    (b"BZh91AY&SY", Content("a bzip2 archive", is_image=False)),
    (b"\x28\xb5\x2f\xfd", Content("a Zstandard archive", is_image=False)),
    (b"\xcf\xfa\xed\xfe", Content("a macOS program", is_image=False)),
    (b"\xca\xfe\xba\xbe", Content("a Java or macOS program", is_image=False)),
    (b"\0asm", Content("a WebAssembly program", is_image=False)),
    (b"\x93NUMPY", Content("a NumPy array", is_image=False)),
    (b"\x89HDF\r\n", Content("an HDF5 file", is_image=False)),
    (b"PAR1\x15", Content("a Parquet table", is_image=False)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", Content("an Office document", is_image=False)),
    (b"{\\rtf", Content("an RTF document", is_image=False)),
    # beside every file on disks that macOS writes and other systems read
    (b"\0\5\x16\7", Content("a file of macOS' notes about another file", is_image=False)),
)
_CURSOR = Content("a Windows cursor")
# What a few first bytes do not tell, as other files begin so too.
_PATTERNS = (
    (rb"P[Ff]\n\d+ \d+\n-?[\d.]+\n", Content("a float image (PFM)")),
    (rb"P7\nWIDTH \d+\nHEIGHT \d+\n", Content("a PAM image")),
    (rb"#define \w+_width \d+", Content("an X bitmap")),
    (rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]", Content("a PCX image")),
    (rb"\x01\xda[\x00\x01][\x01\x02]\x00[\x01-\x03]", Content("an SGI image")),
    (rb"(?s).{128}DICM", Content("a DICOM image")),
    (rb"(?s).{257}ustar", Content("a tar archive", is_image=False)),
    (rb"\x80([\x04\x05]\x95|[\x02\x03][](}cX])", Content("a Python pickle", is_image=False)),
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
        return _WEBP if head[8:12] == b"WEBP" else Content("a RIFF file", is_image=False)
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    # texts begin with these letters too, but have no NUL byte and no size
    if head[:2] == b"BM" and b"\0" in head[2:18]:
        return _BMP
    if re.match(rb"P[1-6]\s+[\d#]", head):
        return _PPM
    # a TGA begins with these bytes too, but has no count of images
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
        return Content("a raw camera image")
    return Content("a video", is_image=False)


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
        return Content("an HTML page", is_image=False)
    if start.startswith(b"<svg") or (is_markup and b"<svg" in start):
        return Content("an SVG drawing")
    if start.startswith(b"<?xml"):
        return Content("an XML document", is_image=False)
    if start.startswith((b"{", b"[")):
        return Content("a JSON document", is_image=False)
    if head and not head.strip(b"\0"):
        return Content("a file of zero bytes only", is_image=False)
    return None
