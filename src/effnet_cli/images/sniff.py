"""Identify a file by its first bytes: its content decides, not its name."""

import codecs
import re
import zlib
from contextlib import suppress
from typing import NamedTuple

HEAD_BYTES = 1024  # a PICT begins with 512 zero bytes
JPEG_XL = "JXL"  # not in Pillow
HEIC = "HEIF"  # the format's name in Pillow, which needs an extra library for it
DICOM = "DICOM"  # not in Pillow
GZIP, GZIP_ONLY = b"\x1f\x8b", 16  # its first bytes; in zlib's window bits, its format
TGA_FOOTER = b"TRUEVISION-XFILE.\0"
TGA_SUFFIXES = (".tga", ".icb", ".vda", ".vst")


class Content(NamedTuple):
    """What a file is.

    `description` completes "This is ...". `format` is Pillow's name if effnet opens the format.
    `is_image` is also true for images that effnet does not open, and `hint` says what to do with
    them if they cannot be converted to JPEG or PNG as they are.
    """

    description: str
    format: str | None = None
    is_image: bool = True
    hint: str | None = None


DICOM_IMAGE = Content("a DICOM image", DICOM)
NIFTI_VOLUME = Content("a NIfTI volume", hint="Convert its slices to PNG or DICOM.")
_Signatures = dict[tuple[bytes, ...], Content]
# The formats that effnet opens; `format` goes into the allow-list given to Pillow.
_OPENED: _Signatures = {
    (b"\xff\xd8\xff",): Content("a JPEG image", "JPEG"),
    (b"\x89PNG\r\n\x1a\n",): Content("a PNG image", "PNG"),
    (b"8BPS\0\1",): Content("a Photoshop document", "PSD"),
    (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"): Content("a JPEG XL image", JPEG_XL),
    (b"GIF87a", b"GIF89a"): Content("a GIF image", "GIF"),
    (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"): Content("a TIFF image", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"): Content("a JPEG 2000 image", "JPEG2000"),
}
# Other formats that are often found among images.
_OTHER_IMAGES: dict[tuple[bytes, ...], str] = {
    (b"8BPS\0\2",): "a large Photoshop document (PSB)",
    (b"gimp xcf",): "a GIMP image",
    (b"SIMPLE  =",): "a FITS image",
    (b"v/1\1",): "an OpenEXR image",
    (b"II*\0\x10\0\0\0CR", b"IIU\0", b"IIRO", b"IIRS", b"FUJIFILMCCD-RAW"): "a raw camera image",
    (b"icns\0",): "a macOS icon",
    (b"qoif\0",): "a QOI image",
    (b"DDS |\0\0\0",): "a DDS texture",
    (b"BPG\xfb",): "a BPG image",
    (b"\x97JB2\r\n\x1a\n",): "a JBIG2 image",
    (b"/* XPM */",): "an X pixmap",
    (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjpm ",): "a JPM document",
    (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypmjp2",): "a Motion JPEG 2000 video",
    (b"AT&TFORM",): "a DjVu document",
    (b"\xd7\xcd\xc6\x9a",): "a Windows metafile",
    (b"#?RADIANCE",): "a Radiance HDR image",
}
_NOT_IMAGES: dict[tuple[bytes, ...], str] = {
    (b"%PDF",): "a PDF document",
    (b"%!PS",): "a PostScript document",
    (b"version https://git-lfs",): "a Git LFS pointer",
    (b"PK\3\4",): "a ZIP archive",
    (GZIP,): "a gzip archive",
    (b"\xfd7zXZ",): "an xz archive",
    (b"7z\xbc\xaf",): "a 7-Zip archive",
    (b"Rar!",): "a RAR archive",
    (b"BZh91AY&SY",): "a bzip2 archive",
    (b"\x28\xb5\x2f\xfd",): "a Zstandard archive",
    (b"\x1aE\xdf\xa3",): "a Matroska video",
    (b"OggS",): "an Ogg stream",
    (b"ID3",): "an MP3 file",
    (b"\x7fELF",): "a program",
    (b"MZ",): "a Windows program",
    (b"\xcf\xfa\xed\xfe",): "a macOS program",
    (b"\xca\xfe\xba\xbe",): "a Java or macOS program",
    (b"\0asm",): "a WebAssembly program",
    (b"SQLite format 3",): "a SQLite database",
    (b"\x93NUMPY",): "a NumPy array",
    (b"\x89HDF\r\n",): "an HDF5 file",
    (b"PAR1\x15",): "a Parquet table",
    (b"\xd0\xcf\x11\xe0\xa1\xb1",): "an Office document",
    (b"{\\rtf",): "an RTF document",
    (b"\0\5\x16\7",): "a macOS AppleDouble file",  # macOS adds one to each file on non-Mac disks
}
_SIGNATURES: _Signatures = {
    **{magic: Content(what, is_image=False) for magic, what in _NOT_IMAGES.items()},
    **{magic: Content(what) for magic, what in _OTHER_IMAGES.items()},
    (b"\xff\xd8\xff\xf7",): Content("a JPEG-LS image"),
    **_OPENED,  # last: others begin like TIFF, JPEG and JPEG 2000
}
# Formats that need a pattern, because other files begin with the same few bytes.
_PATTERNS = (
    # DICOM without a preamble: the meta group; or the group 0008 with a SOP class of the standard
    (rb"\x02\x00\x00\x00UL\x04\x00", DICOM_IMAGE),
    (rb"(?s)(?=\x08\x00).*\x08\x00\x16\x00(UI..|..\x00\x00)1\.2\.840\.10008\.", DICOM_IMAGE),
    (rb"(?s)(?=\x00\x08).*\x00\x08\x00\x16(UI..|\x00\x00..)1\.2\.840\.10008\.", DICOM_IMAGE),
    (rb"(?s)(\x5c\x01\x00\x00|\x00\x00\x01\x5c).{340}n[+i]1\x00", NIFTI_VOLUME),
    (rb"(\x1c\x02\x00\x00|\x00\x00\x02\x1c)n[+i]2\x00\r\n\x1a\n", NIFTI_VOLUME),
    (rb"(?s)RIFF....WEBP", Content("a WebP image", "WEBP")),
    (rb"RIFF", Content("a RIFF file", is_image=False)),
    (rb"(?s)BM.{0,15}\0", Content("a BMP image", "BMP")),  # text has no NUL byte
    # 0 and a small offset, where an icon has the number of its images
    (
        rb"(?s)\x00\x00\x01\x00\x00(?!\x00\x00\x00)...",
        Content("a macOS resource file, such as a font", is_image=False),
    ),
    (rb"\x00\x00\x01\x00", Content("an icon", "ICO")),
    (rb"(?s)\x00{512}.{10}\x00\x11\x02\xff", Content("a PICT image")),
    (rb"P[1-6]\s+[\d#]", Content("a PPM image", "PPM")),
    (
        rb"(?s)\x00\x00\x02\x00(?!\x00\x00)..",
        Content("a Windows cursor"),
    ),  # the number of images; 0 in a TGA
    (rb"P[Ff]\n\d+ \d+\n-?[\d.]+\n", Content("a float image (PFM)")),
    (rb"P7\nWIDTH \d+\nHEIGHT \d+\n", Content("a PAM image")),
    (rb"#define \w+_width \d+", Content("an X bitmap")),
    (rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]", Content("a PCX image")),
    (rb"\x01\xda[\x00\x01][\x01\x02]\x00[\x01-\x03]", Content("an SGI image")),
    (rb"(?s).{257}ustar", Content("a tar archive", is_image=False)),
    (rb"\x80([\x04\x05]\x95|[\x02\x03][](}cX])", Content("a Python pickle", is_image=False)),
    (rb"\0+\Z", Content("a file of zero bytes only", is_image=False)),
)
# For text in lower case, without leading white space.
_TEXT_PATTERNS = (
    (rb"<!doctype html|<html|<head|<body|<script", Content("an HTML page", is_image=False)),
    (rb"(?s)<(\?xml|!).*(<html|e html)", Content("an HTML page", is_image=False)),
    (rb"(?s)<svg|<(\?xml|!).*<svg", Content("an SVG drawing")),
    (rb"<\?xml", Content("an XML document", is_image=False)),
    (rb"[{\[]", Content("a JSON document", is_image=False)),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


def sniff(head: bytes, name: str = "", tail: bytes = b"") -> Content | None:
    """Identify a file by its first and last bytes. Return `None` if it is unknown.

    Only TGA, which has no signature at its start, needs the name or the last bytes.
    """
    if head[128:132] == b"DICM":  # the 128 bytes before it may be those of any other format
        return DICOM_IMAGE
    for magic, content in _SIGNATURES.items():
        if head.startswith(magic):
            return _sniff_gzip(head) if head.startswith(GZIP) else content
    if head[4:8] == b"ftyp":
        return _sniff_iso_media(head)
    is_tga_name = name.lower().endswith(TGA_SUFFIXES)
    if tail.endswith(TGA_FOOTER) or (is_tga_name and _is_tga_header(head)):
        return Content("a TGA image", "TGA")
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()[:HEAD_BYTES].lower()
    for patterns, start in ((_PATTERNS, head), (_TEXT_PATTERNS, text)):
        for pattern, content in patterns:
            if re.match(pattern, start):
                return content
    return None


def _sniff_gzip(head: bytes) -> Content:
    """Tell NIfTI volumes, which are usually compressed, from other archives."""
    start = b""
    with suppress(zlib.error):
        start = zlib.decompressobj(zlib.MAX_WBITS | GZIP_ONLY).decompress(head, HEAD_BYTES)
    is_volume = sniff(start) is NIFTI_VOLUME
    return NIFTI_VOLUME if is_volume else Content("a gzip archive", is_image=False)


def is_text(head: bytes) -> bool:
    """Return whether these first bytes are text, such as a list of paths."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    try:  # the last character may be incomplete
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\t\n\f\r\x1b" for c in text.removeprefix("\ufeff"))


def _sniff_iso_media(head: bytes) -> Content:
    """Tell AVIF, HEIC and videos apart by the brands of the container that they share."""
    size = int.from_bytes(head[:4], "big")
    brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))}
    if brands & _AVIF_BRANDS:
        return Content("an AVIF image", "AVIF")
    if brands & _HEIC_BRANDS:
        return Content("a HEIC image", HEIC)
    if head[8:11] == b"crx":
        return Content("a raw camera image")
    return Content("a video", is_image=False)


def _is_tga_header(head: bytes) -> bool:
    """Check for colour map 0 or 1, a defined image type, and a valid number of bits per pixel."""
    is_whole = len(head) >= 18
    return is_whole and (
        head[1] in (0, 1) and head[2] in (1, 2, 3, 9, 10, 11) and head[16] in (1, 8, 15, 16, 24, 32)
    )
