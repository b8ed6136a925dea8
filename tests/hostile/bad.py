"""Files that cannot be opened, with the errors that they must give."""

# ruff: noqa: E501 (one input a line)

import io
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

import good
import written
from good import photo
from written import LONG, SHORT, encoded, png_chunk, tiff, tiff_tags

Make = Callable[[Path], object]
DAMAGED = ("truncated",)
SHARES = (0.03, 0.2, 0.5, 0.8, 0.97)  # of a file that is cut
NOISE = np.random.default_rng(7).bytes(4096)


@dataclass(frozen=True, slots=True)
class Bad:
    """An input that cannot be opened: its bytes or a function that creates it, the accepted kinds
    of error, and words that the message must contain.
    """

    group: str
    name: str
    made: bytes | Make
    kinds: tuple[str, ...]
    words: str = ""


# --- cut and damaged ---------------------------------------------------------------------------


@cache
def seeds() -> dict[str, bytes]:
    """Return an image of every kind that is decoded differently."""
    image = photo(60, 45)
    layer = good.see_through().resize(image.size)
    wide = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    palette = image.quantize(32)
    return {
        "baseline.jpg": encoded(image, "JPEG", exif=written.exif(6)),
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "inks.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "two.mpo": encoded(image, "MPO", save_all=True, append_images=[image]),
        "rgba.png": encoded(layer, "PNG", exif=written.exif(6)),
        "palette.png": encoded(palette, "PNG", transparency=1),
        "16.png": encoded(wide, "PNG"),
        "two.gif": encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
        "lossy.webp": encoded(layer, "WEBP", exif=written.exif(6)),
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "plain.tif": encoded(image, "TIFF", exif=Image.Exif()),
        "lzw.tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "float.tif": encoded(image.convert("F"), "TIFF", compression="tiff_adobe_deflate"),
        "palette.bmp": encoded(palette, "BMP"),
        "png.ico": encoded(image, "ICO"),
        "runs.tga": encoded(image, "TGA", compression="tga_rle"),
        "binary.ppm": encoded(image, "PPM"),
        "boxes.jp2": encoded(image, "JPEG2000"),
        "still.avif": encoded(layer, "AVIF", speed=10),
    }


def cut() -> Iterator[Bad]:
    """Yield every kind of image, truncated at many positions."""
    for name, data in seeds().items():
        # of several frames the second may be missing
        whole = {"two.gif": 0.5, "two.mpo": 0.4}.get(name, 1.0)
        for share in SHARES:
            end = max(1, int(len(data) * share * whole))
            kinds = DAMAGED
            if name.endswith(".tga") or end < 16:
                kinds = ("truncated", "not_an_image")
            yield Bad("cut", f"{share}-{name}", data[:end], kinds)
    no_end = encoded(photo(), "JPEG").removesuffix(b"\xff\xd9")
    yield Bad("cut", "no-end.jpg", no_end, DAMAGED, "is truncated or corrupt")


SIGNATURES = {
    "jpg": b"\xff\xd8\xff",
    "png": written.PNG_MAGIC,
    "gif": b"GIF89a",
    "tif": b"II*\0",
    "big.tif": b"II+\0",
    "ico": b"\0\0\1\0",
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "j2k": b"\xff\x4f\xff\x51",
    "bmp": b"BM\x40\0\0\0\0\0\0\0",
    "webp": b"RIFF\x20\0\0\0WEBP",
    "avif": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1",
    "ppm": b"P6 ",
}


def signatures() -> Iterator[Bad]:
    """Yield signatures followed by nothing, zeros or noise."""
    for suffix, magic in SIGNATURES.items():
        if suffix != "ppm":
            yield Bad("signature", f"alone.{suffix}", magic, DAMAGED)
        for name, rest in (("zeros", bytes(300)), ("noise", NOISE)):
            kinds = ("truncated", "not_an_image", "unsupported_format", "too_large")
            yield Bad("signature", f"{name}.{suffix}", magic + rest, kinds)


def damaged() -> Iterator[Bad]:
    """Yield complete files with damaged contents."""
    plain = {name: bytearray(data) for name, data in seeds().items()}
    png, jpeg = encoded(photo(), "PNG"), encoded(photo(), "JPEG")
    pixels = png.index(b"IDAT")
    size = photo().size
    for name, data, kinds in (
        ("wrong-checksum.png", png[: pixels + 40] + b"\0\1\2\3" + png[pixels + 44 :], DAMAGED),
        ("no-pixels.png", png[: pixels - 4] + png_chunk(b"IEND", b""), DAMAGED),
        ("no-header.png", written.PNG_MAGIC + png[33:], DAMAGED),
        ("no-pixel-data.png", without_chunk(png, b"IDAT"), DAMAGED),
        ("7-bits.png", written.png((4, 4), 7, 2, [bytes(12)] * 4), (*DAMAGED, "unsupported_format")),
        ("no-size.png", written.png((0, 0), 8, 2, []), DAMAGED),
        ("no-width.png", written.png((0, 9), 8, 2, [b""] * 9), DAMAGED),
        ("line-ends.png", png.replace(b"\r\n", b"\n"), ("not_an_image",)),
        ("no-quantisation.jpg", without_segment(jpeg, b"\xff\xdb"), DAMAGED),
        ("no-size.jpg", written.jpeg_sized(jpeg, 0, 0), DAMAGED),
        ("no-height.jpg", written.jpeg_sized(jpeg, 100, 0), DAMAGED),
        ("tables-only.jpg", jpeg[: jpeg.index(b"\xff\xc0")] + b"\xff\xd9", DAMAGED),
        ("12-bits.jpg", jpeg.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), (*DAMAGED, "unsupported_format")),
        ("no-loss.jpg", jpeg.replace(b"\xff\xc0", b"\xff\xc3"), (*DAMAGED, "unsupported_format")),
        ("no-frames.gif", b"GIF89a\4\0\4\0\0\0\0;", DAMAGED),
        ("no-size.gif", gif_sized(0, 0), DAMAGED),
        ("no-directory.tif", b"II*\0\0\0\0\0" + bytes(60), DAMAGED),
        ("far-directory.tif", b"II*\0\xff\xff\xff\x7f" + bytes(60), DAMAGED),
        ("far-directory-64.tif", b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(60), DAMAGED),
        ("looped-directory.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0", DAMAGED),
        ("no-size.tif", tiff(tiff_tags((0, 0), (8, 8, 8), 2), b"123"), DAMAGED),
        ("far-pixels.tif", far_pixels(), DAMAGED),
        ("compressed-somehow.tif", tiff({**tiff_tags(size, (8,) * 3, 2), 259: (SHORT, 34892)}, NOISE), (*DAMAGED, "unsupported_format")),
        ("no-size.bmp", written.bmp((0, 0), 24, b""), DAMAGED),
        ("of-a-jpeg.bmp", written.bmp(size, 0, jpeg, 4), ("unsupported_format",)),
        ("of-a-png.bmp", written.bmp(size, 0, png, 5), ("unsupported_format",)),
        ("3-bits.bmp", written.bmp(size, 3, bytes(9000)), (*DAMAGED, "unsupported_format")),
        ("odd-header.bmp", bytes(plain["palette.bmp"][:14] + b"\x63" + plain["palette.bmp"][15:]), (*DAMAGED, "unsupported_format")),
        ("no-entries.ico", b"\0\0\1\0\0\0" + bytes(30), DAMAGED),
        ("far-entry.ico", struct.pack("<HHHBBBBHHII", 0, 1, 1, 9, 9, 0, 0, 1, 32, 99, 2**31), DAMAGED),
        ("no-size.ppm", b"P6 0 0 255\n", DAMAGED),
        ("letters.ppm", b"P6 1x 10 255\n" + bytes(300), (*DAMAGED, "not_an_image")),
        ("no-maximum.ppm", b"P6 4 4 0\n" + bytes(300), DAMAGED),
        ("maximum.ppm", b"P6 4 4 99999\n" + bytes(300), DAMAGED),
        ("long-number.ppm", b"P3 4 4 255\n" + b"1" * 5000, DAMAGED),
        ("no-codestream.jp2", bytes(plain["boxes.jp2"][: plain["boxes.jp2"].index(b"jp2c") - 4]), DAMAGED),
        ("endless-box.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\0jp2h" + NOISE, DAMAGED),
        ("five-channels.jp2", five_channels(), (*DAMAGED, "unsupported_format")),
        ("wrong-length.webp", bytes(plain["lossy.webp"][:4] + b"\xff\xff\xff\x7f" + plain["lossy.webp"][8:]), DAMAGED),
        ("no-pixels.webp", written.webp_canvas(bytes(plain["lossless.webp"]), 50, 50)[:40], DAMAGED),
        ("no-pixels.avif", bytes(plain["still.avif"][: plain["still.avif"].index(b"mdat") - 4]), DAMAGED),
        ("noise-inside.avif", noise_behind(plain["still.avif"], b"mdat"), DAMAGED),
    ):  # fmt: skip
        yield Bad("damaged", name, data, kinds)


def without_chunk(data: bytes, kind: bytes) -> bytes:
    chunks = (png_chunk(*chunk) for chunk in written.png_chunks(data) if chunk[0] != kind)
    return written.PNG_MAGIC + b"".join(chunks)


def without_segment(data: bytes, marker: bytes) -> bytes:
    while marker in data:
        start = data.index(marker)
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        data = data[:start] + data[start + 2 + length :]
    return data


def gif_sized(width: int, height: int) -> bytes:
    data = encoded(photo().quantize(8), "GIF")
    start = data.index(b",", 13 + 3 * 8)
    here = struct.pack("<HH", width, height)
    return data[:6] + here + data[10 : start + 5] + here + data[start + 9 :]


def far_pixels() -> bytes:
    data = tiff(tiff_tags((9, 9), (8, 8, 8), 2), bytes(243))
    entry = data.index(struct.pack("<HHI", 273, 4, 1))
    return data[: entry + 8] + b"\xff\xff\xff\xff" + data[entry + 12 :]


def five_channels() -> bytes:
    data = encoded(photo(), "JPEG2000", no_jp2=True)
    return data[:40] + b"\0\5" + data[42:]


def noise_behind(data: bytearray, mark: bytes) -> bytes:
    place = data.index(mark) + 4
    return bytes(data[:place]) + (NOISE * 9)[: len(data) - place]


# --- other files -------------------------------------------------------------------------------

ISO = b"\0\0\0\x18ftyp%b\0\0\0\0%b%b" + bytes(64)
PAGE = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>"


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.png", encoded(photo(), "PNG"))
    return file.getvalue()


def others() -> Iterator[Bad]:
    """Yield other kinds of files under image names."""
    none, unknown = ("not_an_image",), ("unsupported_format",)
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
    for name, data, kinds, words in (
        ("nothing.jpg", b"", ("empty",), "0 bytes"),
        ("one-byte.jpg", b"\xff", none, ""),
        ("zeros.jpg", bytes(5000), none, "zero bytes"),
        ("noise.jpg", NOISE[:1000], none, ""),
        ("text.jpg", b"hello, world\n" * 20, none, "text"),
        ("accents.jpg", "déjà vu\n".encode() * 20, none, "text"),
        ("utf-16.jpg", "hello, world\n".encode("utf-16"), none, "text"),
        ("csv.jpg", b"path,label\na.jpg,cat\n", none, "text"),
        ("script.jpg", b"#!/bin/sh\nrm -rf /\n", none, "text"),
        ("base64.jpg", b"/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQ\n", none, "text"),
        ("data-address.jpg", b"data:image/png;base64,iVBORw0KGgo=", none, "text"),
        ("page.jpg", PAGE, none, "HTML"),
        ("page-in-capitals.png", b"\xef\xbb\xbf\r\n <HTML><BODY>", none, "HTML"),
        ("page-with-comment.png", b"<!-- a proxy -->\n" + PAGE, none, "HTML"),
        ("xhtml.png", b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x">\n<html/>', none, "HTML"),
        ("page.gif", b"<html><img src='GIF89a'>" + encoded(photo(), "GIF"), none, "HTML"),
        ("answer.jpg", b'{"error": {"code": 403}}', none, "JSON"),
        ("list.jpg", b"[1, 2, 3]", none, "JSON"),
        ("feed.jpg", b'<?xml version="1.0"?><rss version="2.0"/>', none, "XML"),
        ("access-denied.jpg", b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', none, "XML"),
        ("lfs.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", none, "Git LFS"),
        ("document.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + NOISE, none, "PDF"),
        ("document-and-jpeg.jpg", b"%PDF-1.4\n" + encoded(photo(), "JPEG"), none, "PDF"),
        ("postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n", none, "PostScript"),
        ("drawing.png", drawing, unknown, "SVG"),
        ("drawing-of-xml.png", b'<?xml version="1.0"?>\n<!-- x -->\n' + drawing, unknown, "SVG"),
        ("laughs.png", b'<!DOCTYPE svg [<!ENTITY a "&b;&b;"><!ENTITY b "lol">]>' + drawing, unknown, "SVG"),
        ("phone.jpg", ISO % (b"heic", b"mif1", b"heic"), unknown, "HEIC"),
        ("phone-10-bits.jpg", ISO % (b"heix", b"mif1", b"heix"), unknown, "HEIC"),
        ("phone-series.jpg", ISO % (b"msf1", b"hevc", b"msf1"), unknown, "HEIC"),
        ("film.jpg", ISO % (b"isom", b"isom", b"mp42"), none, "video"),
        ("film-of-apple.jpg", ISO % (b"qt  ", b"qt  ", b"qt  "), none, "video"),
        ("film.webm", b"\x1aE\xdf\xa3" + NOISE, none, "video"),
        ("film.avi", b"RIFF\x10\0\0\0AVI LIST" + bytes(64), none, "RIFF"),
        ("sound.wav", b"RIFF\x10\0\0\0WAVEfmt " + bytes(64), none, "RIFF"),
        ("sound.mp3", b"ID3\4\0" + NOISE, none, "MP3"),
        ("raw.cr2", b"II*\0\x10\0\0\0CR\2\0" + NOISE, unknown, "raw camera"),
        ("raw.cr3", ISO % (b"crx ", b"crx ", b"isom"), unknown, "raw camera"),
        ("raw.raf", b"FUJIFILMCCD-RAW " + NOISE, unknown, "raw camera"),
        ("raw.rw2", b"IIU\0\x18\0\0\0" + NOISE, unknown, "raw camera"),
        ("raw.orf", b"IIRO\x08\0\0\0" + NOISE, unknown, "raw camera"),
        ("x.jxl", b"\xff\x0a" + NOISE, ("truncated", "too_large"), "JPEG XL"),
        ("boxes.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + NOISE, ("truncated", "too_large"), "JPEG XL"),
        ("x.psd", b"8BPS\0\1" + bytes(64), unknown, "Photoshop"),
        ("x.xcf", b"gimp xcf v011\0" + bytes(64), unknown, "GIMP"),
        ("x.exr", b"v/1\1\2\0\0\0" + bytes(64), unknown, "OpenEXR"),
        ("x.hdr", b"#?RADIANCE\n" + bytes(64), unknown, "Radiance"),
        ("x.fits", b"SIMPLE  =                    T" + bytes(64), unknown, "FITS"),
        ("x.cur", b"\0\0\2\0\1\0\x20\x20" + bytes(64), unknown, "cursor"),
        ("x.icns", b"icns\0\0\1\0" + bytes(64), unknown, "icon"),
        ("x.qoi", b"qoif\0\0\0\4\0\0\0\4\3\0" + bytes(64), unknown, "QOI"),
        ("x.dds", b"DDS \x7c\0\0\0" + bytes(124), unknown, "DDS"),
        ("x.pcx", encoded(photo(), "PCX"), unknown, "PCX"),
        ("x.sgi", encoded(photo(), "SGI"), unknown, "SGI"),
        ("x.pfm", b"Pf\n4 4\n-1.0\n" + bytes(64), unknown, "float"),
        ("x.pam", b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(48), unknown, "PAM"),
        ("x.xbm", encoded(photo().convert("1"), "XBM"), unknown, "X bitmap"),
        ("x.djvu", b"AT&TFORM\0\0\0\x20DJVU" + bytes(64), unknown, "DjVu"),
        ("x.wmf", b"\xd7\xcd\xc6\x9a" + bytes(64), unknown, "Windows metafile"),
        ("x.dcm", bytes(128) + b"DICM" + bytes(64), unknown, "DICOM"),
        ("x.bpg", b"BPG\xfb" + bytes(64), unknown, "BPG"),
        ("packed.jpg", archive(), none, "ZIP"),
        ("bomb.jpg", b"\x1f\x8b\x08\0" + NOISE, none, "gzip"),
        ("x.bz2", b"BZh91AY&SY" + NOISE, none, "bzip2"),
        ("x.zst", b"\x28\xb5\x2f\xfd" + NOISE, none, "Zstandard"),
        ("x.xz", b"\xfd7zXZ\0" + NOISE, none, "xz"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c" + NOISE, none, "7-Zip"),
        ("x.rar", b"Rar!\x1a\7" + NOISE, none, "RAR"),
        ("x.tar", b"a.jpg".ljust(257, b"\0") + b"ustar\0" + b"00" + bytes(200), none, "tar"),
        ("program.jpg", b"\x7fELF\2\1\1" + NOISE, none, "program"),
        ("program.exe.jpg", b"MZ\x90\0" + NOISE, none, "program"),
        ("program-of-apple.jpg", b"\xcf\xfa\xed\xfe\7\0\0\1" + NOISE, none, "program"),
        ("class.jpg", b"\xca\xfe\xba\xbe\0\0\0\x34" + NOISE, none, "program"),
        ("modules.jpg", b"\0asm\1\0\0\0" + NOISE, none, "program"),
        ("base.jpg", b"SQLite format 3\0" + NOISE, none, "SQLite"),
        ("array.jpg", b"\x93NUMPY\1\0v\0" + NOISE, none, "NumPy"),
        ("pickle.jpg", b"\x80\4\x95\x1a\0\0\0\0\0\0\0\x8c\5posix\x94\x8c\6system\x94\x93\x94", none, "pickle"),
        ("x.h5", b"\x89HDF\r\n\x1a\n" + NOISE, none, "HDF5"),
        ("x.parquet", b"PAR1\x15\4" + NOISE, none, "Parquet"),
        ("office.jpg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + NOISE, none, "Office"),
        ("letter.jpg", b"{\\rtf1\\ansi hello}", none, "RTF"),
        ("._apple.jpg", b"\0\5\x16\7\0\2\0\0" + bytes(200), none, "macOS"),
    ):  # fmt: skip
        yield Bad("other", name, data, kinds, words)


# --- bombs -------------------------------------------------------------------------------------


def zeros(size_bytes: int) -> bytes:
    """Return compressed zeros without allocating them."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(size_bytes >> 20)]
    return b"".join(parts) + packer.flush()


def bombs() -> Iterator[Bad]:
    """Yield small files that need a lot of memory or time."""
    size, huge = ("too_large",), 50_000
    small = encoded(photo(), "PNG")
    jpeg = encoded(photo(), "JPEG")
    progressive = encoded(photo(), "JPEG", progressive=True)
    gray16 = encoded(photo(), "JPEG2000")
    body = written.png((huge, huge), 8, 2, [bytes(100)])
    packed = zeros(100 << 20)
    many = (*size, "truncated")
    for name, data, kinds in (
        ("pixels.png", body, size),
        ("pixels-16.png", written.png((12_000, 12_000), 16, 6, [bytes(100)]), size),
        ("line.png", written.png((2_000_000_000, 1), 8, 2, [bytes(100)]), size),
        ("most.png", written.png((2**31 - 1, 2**31 - 1), 1, 0, [bytes(100)]), size),
        ("just-above.png", written.png((10_000, 8_901), 1, 0, [bytes(100)]), size),
        ("pixels.jpg", written.jpeg_sized(jpeg, huge, huge), size),
        ("pixels-progressive.jpg", written.jpeg_sized(progressive, huge, huge, b"\xff\xc2"), size),
        ("pixels.gif", gif_sized(65_000, 65_000), size),
        ("pixels.bmp", written.bmp((huge, huge), 24, bytes(100)), size),
        ("pixels-down.bmp", written.bmp((huge, -huge), 24, bytes(100)), size),
        ("run-lengths.bmp", written.bmp((60_000, 60_000), 8, b"\0\1", 1, bytes(1024)), size),
        ("pixels.tif", tiff(tiff_tags((huge, huge), (8, 8, 8), 2), bytes(100)), size),
        ("packed.tif", tiff({**tiff_tags((huge, huge), 8, 1), 259: (SHORT, 8)}, zeros(1 << 20)), size),
        ("tile.tif", one_tile(30_000, zeros(1 << 20)), size),
        ("tags.tif", written.crowded_directory(2000, 200_000), many),
        ("pixels.tga", written.tga((65_000, 65_000), 24, bytes(100), 0), size),
        ("pixels-runs.tga", written.tga((65_000, 65_000), 24, b"\xff\0\0\0" * 99, 0, 10), size),
        ("pixels.ppm", b"P6 %d %d 255\n" % (huge, huge), size),
        ("pixels.pbm", b"P4 %d %d\n" % (huge * 9, huge * 9), size),
        ("digits.ppm", b"P6 99999999999999999999 99999999999999999999 255\n", many),
        ("of-png.ico", written.ico((16, 16, body)), size),
        ("of-bmp.ico", written.ico((16, 16, written.bmp((huge, 2 * huge), 32, bytes(99))[14:])), size),
        ("canvas.webp", written.webp_canvas(encoded(photo(), "WEBP"), 16_000, 16_000), many),
        ("largest.webp", written.webp_canvas(encoded(photo(), "WEBP"), 1 << 24, 1 << 24), many),
        ("pixels.jp2", written.jpeg_2000_sized(gray16, (huge, huge), None), size),
        ("tiles.jp2", written.jpeg_2000_sized(gray16, (9_000, 9_000), (1, 1)), many),
        ("codestream.jp2", small_header(written.jpeg_2000_sized(gray16, (huge, huge), (huge, huge))), many),
        ("pixels.avif", avif_sized(60_000, 60_000), many),
        ("text.png", written.png_with(small, png_chunk(b"zTXt", b"a\0\0" + packed)), size),
        ("text-of-the-world.png", written.png_with(small, png_chunk(b"iTXt", b"a\0\1\0\0\0" + packed)), size),
        ("profile.png", written.png_with(small, png_chunk(b"iCCP", b"a\0\0" + packed)), size),
        ("texts.png", written.png_with(small, *[png_chunk(b"zTXt", b"a%d\0\0" % i + zeros(8 << 20)) for i in range(12)]), size),
        ("scans.jpg", with_scans(6_000), size),
        ("scans-unhurried.jpg", with_repeated_scans(2_000), size),
        ("scans.tif", scans_in_tiff(6_000), many),
    ):  # fmt: skip
        yield Bad("bomb", name, data, kinds)


def one_tile(side: int, packed: bytes) -> bytes:
    """Return an image of 100 x 100 in one much larger tile."""
    tags = {**tiff_tags((100, 100), 8, 1), 259: (SHORT, 8), 322: (LONG, side), 323: (LONG, side), 324: (LONG, 0)}  # fmt: skip
    del tags[278]
    return tiff(tags, packed)


def small_header(data: bytes) -> bytes:
    """Return a JPEG 2000 whose boxes give a smaller size than its codestream."""
    place = data.index(b"ihdr") + 4
    return data[:place] + struct.pack(">II", 10, 10) + data[place + 8 :]


def avif_sized(width: int, height: int) -> bytes:
    data = seeds()["still.avif"]
    place = data.index(b"ispe") + 8
    return data[:place] + struct.pack(">II", width, height) + data[place + 8 :]


def with_scans(count: int, side: int = 8000) -> bytes:
    """Return a progressive JPEG with many scans."""
    data = encoded(Image.new("L", (8, 8)), "JPEG", progressive=True)
    data = written.jpeg_sized(data, side, side, b"\xff\xc2")
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + b"\xff\xd9"


def with_repeated_scans(count: int) -> bytes:
    """Return a baseline JPEG of 8000 x 8000 that repeats the scan of its first component."""
    data = written.jpeg_sized(encoded(Image.new("RGB", (8, 8)), "JPEG", subsampling=0), 8000, 8000)
    start = data.index(b"\xff\xda")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    pixels = data[start + 2 + length : -2]
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0" + pixels
    return data[:start] + scan * count + b"\xff\xd9"


def scans_in_tiff(count: int) -> bytes:
    """Return a TIFF with the same JPEG inside."""
    tags = {**tiff_tags((1000, 1000), 8, 1), 259: (SHORT, 7)}
    return tiff(tags, with_scans(count, 1000))


# --- paths -------------------------------------------------------------------------------------


def unread(path: Path) -> None:
    path.write_bytes(encoded(photo(), "PNG"))
    path.chmod(0)


def socketed(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def linked(target: str | Path) -> Make:
    return lambda path: path.symlink_to(target)


def is_root() -> bool:
    return os.geteuid() == 0


def paths() -> Iterator[Bad]:
    """Yield paths that are not regular files."""
    no_file, missing = ("not_a_file",), ("missing",)
    yield Bad("path", "pipe.jpg", partial(os.mkfifo), no_file, "pipe")
    yield Bad("path", "socket.jpg", socketed, no_file, "socket")
    yield Bad("path", "dangling.jpg", linked("nothing"), missing, "Broken symlink to 'nothing'")
    yield Bad("path", "loop.jpg", lambda path: path.symlink_to(path.name), missing, "Symlink loop")
    yield Bad("path", "gone.jpg", lambda _: None, missing, "no such file")
    yield Bad("path", "empty-folder.jpg", lambda path: path.mkdir(), no_file, "no images")
    for name, target in (
        ("zero.jpg", "/dev/zero"),
        ("null.jpg", "/dev/null"),
        ("noise.jpg", "/dev/urandom"),
        ("full.jpg", "/dev/full"),
        ("terminal.jpg", "/dev/tty"),
    ):
        yield Bad("path", name, linked(target), no_file, "device")
    for name, target in (
        ("status.jpg", "/proc/self/status"),
        ("memory.jpg", "/proc/self/mem"),
        ("kernel.jpg", "/proc/kmsg"),
        ("system.jpg", "/sys/kernel/uevent_seqnum"),
    ):
        if Path(target).exists():
            yield Bad("path", name, linked(target), no_file, "system file")
    if not is_root():
        yield Bad("path", "unreadable.jpg", unread, ("unreadable",), "Permission")


GROUPS = (cut, signatures, damaged, others, bombs, paths)


@cache
def bad_inputs() -> tuple[Bad, ...]:
    """Return all bad inputs."""
    return tuple(bad for group in GROUPS for bad in group())


def name_of(bad: Bad) -> bytes:
    """Return the unique name of an input."""
    return os.fsencode(f"{bad.group}-{bad.name}")
