"""Odd but valid images, each with a plain image that must give the same prediction."""

# ruff: noqa: E501 (one input a line)

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

import written
from written import LONG, SHORT, encoded, png_chunk, png_of, tiff, tiff_tags

SAMPLES = Path(__file__).parents[2] / "sample_images"
UNDONE_BY = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LOSSY = 4.0  # of 255, the mean difference that a lossy format makes
ROUNDED = 0.6  # what rounding makes of mixed colours
JPEG = {"quality": 97, "subsampling": 0}
AVIF = {"quality": 96, "subsampling": "4:4:4", "speed": 10}
WEBP = {"lossless": True, "exact": True, "method": 0}


@dataclass(frozen=True, slots=True)
class Good:
    """An image file and its pixels, which may differ by `levels` of 255 on average."""

    group: str
    name: str | bytes
    data: bytes
    twin: Image.Image
    levels: float = 0.0


@cache
def photo(width: int = 128, height: int = 96) -> Image.Image:
    """Return a photo with a confident prediction that differs in all orientations."""
    with Image.open(SAMPLES / "coffee.jpg") as image:
        return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


@cache
def gray() -> Image.Image:
    """Return a gray image with both black and white."""
    values = np.array(photo().convert("L"))
    values[0, :2] = 0, 255
    return Image.fromarray(values)


def rgb() -> np.ndarray:
    """Return the photo, uint8 [H,W,3]."""
    return np.asarray(photo())


@cache
def see_through() -> Image.Image:
    """Return the photo, transparent on the left and opaque on the right."""
    image = photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    return image


def over_white(image: Image.Image) -> Image.Image:
    """Blend an image over white."""
    values = np.asarray(image.convert("RGBA")).astype(np.float64)
    opacity = values[..., 3:] / 255
    return Image.fromarray((values[..., :3] * opacity + 255 * (1 - opacity) + 0.5).astype(np.uint8))


def clear_where(mask: np.ndarray, image: Image.Image) -> Image.Image:
    """Make the image white where `mask` is true."""
    values = np.array(image.convert("RGB"))
    values[mask] = 255
    return Image.fromarray(values)


# --- turned ------------------------------------------------------------------------------------

TURNED_FORMATS = {
    "jpg": ("JPEG", JPEG, LOSSY),
    "png": ("PNG", {}, 0.0),
    "webp": ("WEBP", WEBP, 0.0),
    "avif": ("AVIF", AVIF, LOSSY),
    "tif": ("TIFF", {}, 0.0),
}


def stored_as(orientation: int) -> Image.Image:
    """Return the photo as a camera held in this orientation stores it."""
    turn = UNDONE_BY[orientation]
    return photo() if turn is None else photo().transpose(turn)


def turned() -> Iterator[Good]:
    """Yield every orientation in every format that has one, also in its rarer places."""
    for suffix, (format, options, levels) in TURNED_FORMATS.items():
        for orientation in UNDONE_BY:
            image = stored_as(orientation)
            block = written.exif(orientation)
            if format == "TIFF":
                block = Image.Exif()
                block[written.ORIENTATION_TAG] = orientation
            data = encoded(image, format, exif=block, **options)
            yield Good("orientation", f"{orientation}.{suffix}", data, photo(), levels)
    six = stored_as(6)
    jpeg, plain_png = encoded(six, "JPEG", **JPEG), encoded(six, "PNG")
    block = written.exif(6)
    for name, data, levels in (
        ("big-endian.jpg", encoded(six, "JPEG", exif=written.exif(6, ">"), **JPEG), LOSSY),
        ("long.jpg", encoded(six, "JPEG", exif=written.exif(6, kind=LONG), **JPEG), LOSSY),
        ("thumbnail.jpg", encoded(six, "JPEG", exif=written.exif_with_thumbnail(6, 1), **JPEG), LOSSY),
        ("after-jfif.jpg", after_first_segment(jpeg, written.jpeg_segment(0xE1, block)), LOSSY),
        ("mpo.mpo", encoded(six, "MPO", save_all=True, append_images=[photo()], exif=block, **JPEG), LOSSY),
        ("after-pixels.png", written.png_with(plain_png, png_chunk(b"eXIf", block[6:]), before=b"IEND"), 0),
        ("with-prefix.png", written.png_with(plain_png, png_chunk(b"eXIf", block)), 0),
        ("big-endian.png", written.png_with(plain_png, png_chunk(b"eXIf", written.exif(6, ">")[6:])), 0),
        ("raw-profile.png", encoded(six, "PNG", pnginfo=raw_profile(block)), 0),
        ("animated.webp", encoded(six, "WEBP", save_all=True, append_images=[photo().resize(six.size)], exif=block, **WEBP), 0),
        ("big-endian.tif", tiff({**rgb_tags(six), 274: (SHORT, 6)}, np.asarray(six).tobytes(), ">"), 0),
        ("lzw.tif", encoded(six, "TIFF", compression="tiff_lzw", tiffinfo={274: 6}), 0),
    ):  # fmt: skip
        yield Good("orientation", name, data, photo(), levels)
    large = photo(1536, 1100).transpose(UNDONE_BY[8])
    data = encoded(large, "JPEG", exif=written.exif(8), quality=90)
    yield Good("orientation", "large.jpg", data, photo(1536, 1100), LOSSY)
    for orientation in (0, 9, 65535):
        data = encoded(photo(), "PNG", exif=written.exif(orientation))
        yield Good("orientation", f"none-such-{orientation}.png", data, photo())
    for what, block in BROKEN_EXIF.items():
        yield Good("broken EXIF", f"{what}.png", encoded(photo(), "PNG", exif=block), photo())
        yield Good("broken EXIF", f"{what}.jpg", encoded(photo(), "JPEG", exif=block, **JPEG), photo(), LOSSY)  # fmt: skip


def noted() -> Iterator[Good]:
    """Yield images with metadata: XMP orientations, which other readers ignore, and broken blocks."""
    six = stored_as(6)
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    in_png = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    in_jpeg = written.jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    yield Good("orientation", "xmp.png", written.png_with(encoded(six, "PNG"), in_png), six)
    yield Good("orientation", "xmp.webp", encoded(six, "WEBP", xmp=xmp, **WEBP), six)
    data = written.jpeg_with(encoded(six, "JPEG", **JPEG), in_jpeg)
    yield Good("orientation", "xmp.jpg", data, six, LOSSY)
    plain = encoded(six, "PNG", exif=written.exif(6))
    for what, chunk in BROKEN_CHUNKS.items():
        yield Good("broken notes", f"{what}.png", written.png_with(plain, chunk), photo())
    plain = encoded(six, "JPEG", exif=written.exif(6), **JPEG)
    for what, segments in BROKEN_SEGMENTS.items():
        data = written.jpeg_with(plain, *segments)
        yield Good("broken notes", f"{what}.jpg", data, photo(), LOSSY)


BROKEN_CHUNKS = {
    "checksum": png_chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "empty-profile": png_chunk(b"iCCP", b""),
    "short-size": png_chunk(b"pHYs", b"\0"),
    "short-gamma": png_chunk(b"gAMA", b""),
    "packed-somehow": png_chunk(b"zTXt", b"a\0\7?"),
    "texts": png_chunk(b"tEXt", b"a") + png_chunk(b"zTXt", b"a") + png_chunk(b"iTXt", b"a"),
    "no-frames": png_chunk(b"acTL", bytes(8)),
}
BROKEN_SEGMENTS = {
    "short-jfif": [written.jpeg_segment(0xE0, b"JFIF")],
    "short-adobe": [written.jpeg_segment(0xEE, b"Adobe")],
    "profile-out-of-order": [
        written.jpeg_segment(0xE2, b"ICC_PROFILE\0\2\3abc"),
        written.jpeg_segment(0xE2, b"ICC_PROFILE\0"),
    ],
    "cut-resources": [written.jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\3\xed")],
    "index-of-images": [written.jpeg_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff")],
    "nothing": [written.jpeg_segment(0xE1, b""), written.jpeg_segment(0xFE, b"")],
}
BROKEN_EXIF = {
    "text": b"Exif\0\0this is no TIFF header at all",
    "cut": b"Exif\0\0MM\0*\0\0",
    "loop": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,
    "crowded": b"Exif\0\0" + written.crowded_directory(1000, 40_000),
}


def after_first_segment(jpeg: bytes, segment: bytes) -> bytes:
    """Return a JPEG whose second segment is `segment`."""
    end = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:end] + segment + jpeg[end:]


def raw_profile(block: bytes) -> PngImagePlugin.PngInfo:
    """Return EXIF as old versions of ImageMagick write it into a PNG."""
    info = PngImagePlugin.PngInfo()
    lines = block.hex()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{lines}\n", zip=True)
    return info


def rgb_tags(image: Image.Image) -> dict[int, tuple[int, object]]:
    return tiff_tags(image.size, (8, 8, 8), 2)


# --- deep gray ---------------------------------------------------------------------------------


def deep() -> Iterator[Good]:
    """Yield gray images of more than 8 bits per pixel."""
    values = np.asarray(gray())
    size = gray().size
    wide = values.astype(np.uint16) * 257
    dark = (values.astype(np.uint16) // 4) * 257

    def tiff_of(pixels: np.ndarray, bits: int, format: int = 1, order: str = "<", dark: int = 1) -> bytes:  # fmt: skip
        tags = tiff_tags(size, bits, dark, t339=format)
        return tiff(tags, pixels.astype(pixels.dtype.newbyteorder(order)).tobytes(), order)

    for name, data in (
        ("16.png", png_of(wide, 16, 0)),
        ("16.tif", tiff_of(wide, 16)),
        ("16-big-endian.tif", tiff_of(wide, 16, order=">")),
        ("16-lzw.tif", encoded(Image.fromarray(wide), "TIFF", compression="tiff_lzw")),
        ("16-white-is-zero.tif", tiff_of(65535 - wide, 16, dark=0)),
        ("8-white-is-zero.tif", tiff_of(255 - values, 8, dark=0)),
        ("12.tif", tiff(tiff_tags(size, 12, 1), packed_12(values))),
        ("16-signed.tif", tiff_of((wide.astype(np.int32) - 32768).astype(np.int16), 16, 2)),
        ("32-small.tif", tiff_of(values.astype(np.int32), 32, 2)),
        ("32-medium.tif", tiff_of(wide.astype(np.int32), 32, 2)),
        ("32-unsigned.tif", tiff_of(values.astype(np.uint32) * 16843009, 32, 1)),
        ("float-1.tif", tiff_of(values.astype(np.float32) / 255, 32, 3)),
        ("float-255.tif", tiff_of(values.astype(np.float32), 32, 3)),
        ("float-big-endian.tif", tiff_of(values.astype(np.float32) / 255, 32, 3, ">")),
        ("float-below-zero.tif", tiff_of(values.astype(np.float32) * 3 - 500, 32, 3)),
        ("double.tif", tiff_of(values.astype(np.float64) / 255, 64, 3)),
        ("16.pgm", b"P5 %d %d 65535\n" % size + wide.astype(">u2").tobytes()),
        (
            "1020.pgm",
            b"P5 %d %d 1020\n" % size + (values.astype(np.uint16) * 4).astype(">u2").tobytes(),
        ),
        ("16.jp2", encoded(Image.fromarray(wide), "JPEG2000")),
    ):
        yield Good("deep gray", name, data, gray())
    with_nan = values.astype(np.float32) / 255
    with_nan[-1, -1] = np.nan
    twin = values.copy()
    twin[-1, -1] = 0
    yield Good("deep gray", "nan.tif", tiff_of(with_nan, 32, 3), Image.fromarray(twin))
    for suffix, data in (("png", png_of(dark, 16, 0)), ("tif", tiff_of(dark, 16))):
        yield Good("deep gray", f"dark.{suffix}", data, Image.fromarray((dark >> 8).astype(np.uint8)))  # fmt: skip


def packed_12(values: np.ndarray) -> bytes:
    return b"".join(
        np.packbits(((row[:, None].astype(int) * 4095 // 255) >> np.arange(11, -1, -1)) & 1)
        .astype(np.uint8)
        .tobytes()
        for row in values
    )


# --- transparency ------------------------------------------------------------------------------


def clear() -> Iterator[Good]:
    """Yield transparent images, which are blended over white."""
    layer, twin = see_through(), over_white(see_through())
    for suffix, format, options in (
        ("png", "PNG", {}),
        ("webp", "WEBP", WEBP),
        ("tif", "TIFF", {}),
        ("tga", "TGA", {}),
        ("jp2", "JPEG2000", {}),
        ("ico", "ICO", {"sizes": [layer.size]}),
    ):
        yield Good("transparency", f"smooth.{suffix}", encoded(layer, format, **options), twin, ROUNDED)  # fmt: skip
    yield Good("transparency", "smooth.avif", encoded(layer, "AVIF", **AVIF), twin, LOSSY)
    lossy = encoded(layer, "WEBP", quality=97, exact=True)
    yield Good("transparency", "lossy.webp", lossy, twin, LOSSY)
    mixed = layer.convert("LA")
    for suffix, format in (("png", "PNG"), ("tif", "TIFF"), ("tga", "TGA"), ("jp2", "JPEG2000")):
        data = encoded(mixed, format)
        yield Good("transparency", f"gray.{suffix}", data, over_white(mixed), ROUNDED)
    values = np.asarray(layer)
    yield Good("transparency", "16-bit.png", png_of(values.astype(np.uint16) * 257, 16, 6), twin, ROUNDED)  # fmt: skip
    ink = (values[..., :3] * (values[..., 3:] / 255) + 0.5).astype(np.uint8)
    premultiplied = np.concatenate([ink, values[..., 3:]], axis=-1)
    tags = tiff_tags(layer.size, (8, 8, 8, 8), 2, t338=1)
    yield Good("transparency", "premultiplied.tif", tiff(tags, premultiplied.tobytes()), twin, 1.0)
    nothing = Image.new("RGBA", layer.size, (0, 0, 0, 0))
    white = Image.new("RGB", layer.size, "white")
    yield Good("transparency", "nothing.png", encoded(nothing, "PNG"), white)
    yield from one_clear_colour()
    yield from clear_bitmaps()


def one_clear_colour() -> Iterator[Good]:
    """Yield formats in which one colour, or each colour of a palette, is transparent."""
    palette = photo().quantize(16)
    indexes = np.asarray(palette)
    twin = clear_where(indexes == 3, palette)
    for suffix, format in (("png", "PNG"), ("gif", "GIF")):
        data = encoded(palette, format, transparency=3)
        yield Good("clear colour", f"palette.{suffix}", data, twin)
    opacity = bytes(range(0, 256, 17))
    layer = palette.convert("RGBA")
    layer.putalpha(Image.fromarray(np.frombuffer(opacity, np.uint8)[indexes]))
    data = encoded(palette, "PNG", transparency=opacity)
    yield Good("clear colour", "palette-smooth.png", data, over_white(layer), ROUNDED)
    few = encoded(palette, "PNG", transparency=bytes([0, 128]))
    layer.putalpha(Image.fromarray(np.array([0, 128] + [255] * 254, np.uint8)[indexes]))
    yield Good("clear colour", "palette-two.png", few, over_white(layer), ROUNDED)
    values = np.asarray(gray())
    for bits in (1, 2, 4, 8, 16):
        most = (1 << bits) - 1
        coarse = (values.astype(np.uint32) * most + 127) // 255
        level = int(coarse[40, 60])
        data = png_of(coarse, bits, 0, png_chunk(b"tRNS", struct.pack(">H", level)))
        shown = Image.fromarray((coarse * 255 // most).astype(np.uint8))
        yield Good("clear colour", f"gray-{bits}.png", data, clear_where(coarse == level, shown))
    for bits in (8, 16):
        scale = 257 if bits == 16 else 1
        colour = rgb()[40, 60].astype(int)
        chunk = png_chunk(b"tRNS", struct.pack(">HHH", *(colour * scale)))
        data = png_of(rgb().astype(np.uint16) * scale, bits, 2, chunk) if bits == 16 else png_of(rgb(), 8, 2, chunk)  # fmt: skip
        mask = (rgb() == rgb()[40, 60]).all(axis=-1)
        yield Good("clear colour", f"rgb-{bits}.png", data, clear_where(mask, photo()))


def clear_bitmaps() -> Iterator[Good]:
    """Yield BMP, ICO and TGA with a fourth channel that is or is not alpha."""
    layer, twin = see_through(), over_white(see_through())
    width, height = layer.size
    bgra = np.asarray(layer)[..., [2, 1, 0, 3]]
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    data = written.bmp((width, height), 32, written.bmp_rows(bgra), 3, masks, 108)
    yield Good("transparency", "masks.bmp", data, twin, ROUNDED)
    unused = np.concatenate([rgb()[..., ::-1], np.zeros((height, width, 1), np.uint8)], axis=-1)
    data = written.bmp((width, height), 32, written.bmp_rows(unused))
    yield Good("transparency", "unused.bmp", data, photo())
    data = written.bmp((width, height), 32, written.bmp_rows(unused), 3, masks, 108)
    yield Good("transparency", "masks-unused.bmp", data, photo())
    hole = np.zeros((height, width), bool)
    hole[20:50, 30:80] = True
    opaque = np.where(hole[..., None], 0, np.concatenate([unused[..., :3], np.full_like(hole[..., None], 255, np.uint8)], axis=-1)).astype(np.uint8)  # fmt: skip
    data = written.ico((width, height, written.icon_of_bmp(opaque, hole)))
    yield Good("transparency", "32.ico", data, clear_where(hole, photo()))
    data = written.ico((width, height, written.icon_of_bmp(unused, np.zeros_like(hole))))
    yield Good("transparency", "32-unused.ico", data, photo())
    without = written.tga((width, height), 32, unused.tobytes(), 0x20)
    yield Good("transparency", "unused.tga", without, photo())
    top_left = written.tga((width, height), 32, bgra.tobytes(), 0x28)
    yield Good("transparency", "top-left.tga", top_left, twin, ROUNDED)


# --- colours -----------------------------------------------------------------------------------


def inks(black: float) -> Image.Image:
    """Return the photo as CMYK; `black` is the share of its gray that is printed in black."""
    values = 255 - rgb().astype(np.float64)
    key = values.min(axis=-1, keepdims=True) * black
    rest = 255 * (values - key) / np.maximum(255 - key, 1)
    planes = np.concatenate([rest, key], axis=-1).round().astype(np.uint8)
    return Image.merge("CMYK", [Image.fromarray(planes[..., i]) for i in range(4)])


def inverted(image: Image.Image) -> Image.Image:
    return Image.merge(image.mode, [band.point(lambda v: 255 - v) for band in image.split()])


def ycck(black: float) -> bytes:
    """Return a YCCK JPEG. Pillow cannot write one: the planes are written as CMYK, and the last byte of
    the marker says what they are.
    """
    cyan, magenta, yellow, key = inks(black).split()
    planes = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    planes = [plane.point(lambda v: 255 - v) for plane in planes]
    data = encoded(Image.merge("CMYK", (*planes, key)), "JPEG", **JPEG)
    marker = data.index(b"Adobe")
    return data[: marker + 11] + b"\2" + data[marker + 12 :]


def coloured() -> Iterator[Good]:
    """Yield other colour models."""
    for black in (0.0, 0.5, 1.0):
        plain = encoded(inks(black), "JPEG", **JPEG)
        bare = written.without_adobe_marker(encoded(inverted(inks(black)), "JPEG", **JPEG))
        for name, data in (
            ("cmyk", plain),
            ("cmyk-no-marker", written.without_adobe_marker(plain)),
            ("cmyk-no-marker-plain", bare),
            ("ycck", ycck(black)),
        ):
            yield Good("inks", f"{name}-{black}.jpg", data, photo(), LOSSY)
    yield Good("inks", "cmyk.tif", encoded(inks(0.5), "TIFF"), photo(), LOSSY)
    tags = tiff_tags(photo().size, (16,) * 4, 5)
    wide = np.asarray(inks(0.5)).astype(np.uint16) * 257
    yield Good("inks", "cmyk-16.tif", tiff(tags, wide.tobytes()), photo(), LOSSY)
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    for name, data in (
        ("rgb.jpg", encoded(photo(), "JPEG", keep_rgb=True, quality=97)),
        ("lab.tif", encoded(ImageCms.applyTransform(photo(), to_lab), "TIFF")),
        ("ycbcr.tif", encoded(photo().convert("YCbCr"), "TIFF")),
        ("jpeg.tif", encoded(photo(), "TIFF", compression="jpeg", quality=97)),
        ("lossy.webp", encoded(photo(), "WEBP", quality=98)),
        ("lossy.avif", encoded(photo(), "AVIF", **AVIF)),
        ("lossy.jp2", encoded(photo(), "JPEG2000", quality_layers=[2])),
        ("lossy-colours.jp2", encoded(photo(), "JPEG2000", irreversible=True, mct=1, quality_layers=[4])),
    ):  # fmt: skip
        yield Good("colours", name, data, photo(), LOSSY)
    for suffix, format, options, levels in (
        ("jpg", "JPEG", JPEG, LOSSY),
        ("png", "PNG", {}, 0.0),
        ("tif", "TIFF", {}, 0.0),
        ("bmp", "BMP", {}, 0.0),
        ("tga", "TGA", {}, 0.0),
        ("gif", "GIF", {}, 0.0),
        ("jp2", "JPEG2000", {}, 0.0),
        ("webp", "WEBP", WEBP, 0.0),
        ("avif", "AVIF", AVIF, LOSSY),
        ("pgm", "PPM", {}, 0.0),
    ):
        yield Good("gray", f"8.{suffix}", encoded(gray(), format, **options), gray(), levels)
    yield from palettes()
    yield from exact_colours()


def palettes() -> Iterator[Good]:
    """Yield palettes of every depth, and bilevel images."""
    for suffix, format in (("png", "PNG"), ("tif", "TIFF"), ("bmp", "BMP"), ("gif", "GIF"), ("tga", "TGA")):  # fmt: skip
        image = photo().quantize(200)
        yield Good("palette", f"200.{suffix}", encoded(image, format), image)
    for colours in (2, 4, 16):
        image = photo().quantize(colours)
        yield Good("palette", f"{colours}.png", encoded(image, "PNG"), image)
    image = photo().quantize(16)
    yield Good("palette", "16.bmp", encoded(image, "BMP", bits=4), image)
    two = gray().convert("1")
    for suffix, format in (("png", "PNG"), ("tif", "TIFF"), ("bmp", "BMP"), ("gif", "GIF"), ("pbm", "PPM")):  # fmt: skip
        yield Good("two colours", f"1.{suffix}", encoded(two, format), two)
    for name, compression in (("fax", "group4"), ("fax3", "group3"), ("packbits", "packbits")):
        yield Good("two colours", f"{name}.tif", encoded(two, "TIFF", compression=compression), two)
    lines = b"".join(written.packed(row.astype(np.uint8), 1) for row in ~np.asarray(two))
    data = tiff(tiff_tags(two.size, 1, 0), lines)
    yield Good("two colours", "white-is-zero.tif", data, two)


def exact_colours() -> Iterator[Good]:
    """Yield the photo in every lossless encoding."""
    image, values = photo(), rgb()
    size, wide = photo().size, rgb().astype(np.uint16) * 257
    planes = values.transpose(2, 0, 1)
    tags = tiff_tags(size, (8, 8, 8), 2)
    info = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, data in (
        ("16.png", png_of(wide, 16, 2)),
        ("16.tif", tiff(tiff_tags(size, (16,) * 3, 2), wide.tobytes())),
        ("16-big-endian.tif", tiff(tiff_tags(size, (16,) * 3, 2), wide.astype(">u2").tobytes(), ">")),
        ("16.ppm", b"P6 %d %d 65535\n" % size + wide.astype(">u2").tobytes()),
        ("16.jp2", encoded(image, "JPEG2000", num_resolutions=2)),
        ("text.ppm", b"P3\n# why not\n%d %d\n255\n" % size + " ".join(map(str, values.ravel())).encode()),
        ("6.ppm", encoded(image, "PPM")),
        ("interlaced.png", interlaced(values)),
        ("small-pieces.png", in_small_pieces(encoded(image, "PNG"))),
        ("private-chunk.png", written.png_with(encoded(image, "PNG"), png_chunk(b"prVt", b"\0" * 99))),
        ("gamma.png", written.png_with(encoded(image, "PNG"), png_chunk(b"gAMA", struct.pack(">I", 10_000)))),
        ("background.png", written.png_with(encoded(image, "PNG"), png_chunk(b"bKGD", bytes(6)))),
        ("junk-behind.png", encoded(image, "PNG") + b"junk" * 99),
        ("planes.tif", planar(planes)),
        ("tiles.tif", tiled(values)),
        ("extra-sample.tif", tiff(tiff_tags(size, (8,) * 4, 2, t338=0), np.dstack([values, values[..., 0]]).tobytes())),
        ("strips.tif", encoded(image, "TIFF", compression="tiff_lzw", strip_size=2000)),
        ("deflate.tif", encoded(image, "TIFF", compression="tiff_adobe_deflate")),
        ("predictor.tif", encoded(image, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})),
        ("packbits.tif", encoded(image, "TIFF", compression="packbits")),
        ("big.tif", encoded(image, "TIFF", big_tiff=True)),
        ("lossless.tif", tiff(tags, values.tobytes())),
        ("big-endian.tif", tiff(tags, values.tobytes(), ">")),
        ("24.bmp", encoded(image, "BMP")),
        ("top-down.bmp", written.bmp((size[0], -size[1]), 24, written.bmp_rows(values[::-1, :, ::-1]))),
        ("os2.bmp", os2_bmp(values)),
        ("rle.tga", encoded(image, "TGA", compression="tga_rle")),
        ("top-left.tga", written.tga(size, 24, values[..., ::-1].tobytes(), 0x20)),
        ("bottom-right.tga", written.tga(size, 24, values[::-1, ::-1, ::-1].tobytes(), 0x10)),
        ("top-right.tga", written.tga(size, 24, values[:, ::-1, ::-1].tobytes(), 0x30)),
        ("of-png.ico", encoded(image, "ICO", sizes=[size])),
        ("of-bmp.ico", encoded(image, "ICO", sizes=[size], bitmap_format="bmp")),
        ("several.ico", written.ico((16, 16, encoded(photo(16, 16), "PNG")), (*size, encoded(image, "PNG")))),
        ("boxes.jp2", encoded(image, "JPEG2000")),
        ("codestream.j2k", encoded(image, "JPEG2000", no_jp2=True)),
        ("tiles.jp2", encoded(image, "JPEG2000", tile_size=(40, 40))),
        ("lossless.webp", encoded(image, "WEBP", **WEBP)),
        ("extended.webp", encoded(image, "WEBP", icc_profile=info, xmp=b"<x/>", **WEBP)),
    ):  # fmt: skip
        yield Good("exact colours", name, data, image)
    half = (values >> 3).astype(np.uint16)
    words = (half[..., 0] << 10) | (half[..., 1] << 5) | half[..., 2]
    twin = Image.fromarray(((values >> 3) * (255 / 31) + 0.5).astype(np.uint8))
    yield Good(
        "exact colours", "555.bmp", written.bmp(size, 16, written.bmp_rows(words)), twin, 1.0
    )
    words = (half[..., 0] << 11) | ((values[..., 1].astype(np.uint16) >> 2) << 5) | half[..., 2]
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    data = written.bmp(size, 16, written.bmp_rows(words), 3, masks)
    yield Good("exact colours", "565.bmp", data, photo(), 4.0)
    indexes = np.asarray(gray()) // 4 * 4
    table = b"".join(bytes([level, level, level, 0]) for level in range(256))
    data = written.bmp(size, 8, run_lengths(indexes), 1, table)
    yield Good("exact colours", "run-lengths.bmp", data, Image.fromarray(indexes))


def run_lengths(values: np.ndarray) -> bytes:
    """Return a BMP with run lengths of one pixel, the last row first."""
    rows = (b"".join(b"\1" + bytes([v]) for v in row) + b"\0\0" for row in values[::-1])
    return b"".join(rows) + b"\0\1"


def os2_bmp(values: np.ndarray) -> bytes:
    """Return a BMP with the short header of OS/2."""
    height, width = values.shape[:2]
    pixels = written.bmp_rows(values[..., ::-1])
    head = struct.pack("<2sIHHIIHHHH", b"BM", 26 + len(pixels), 0, 0, 26, 12, width, height, 1, 24)
    return head + pixels


def interlaced(values: np.ndarray) -> bytes:
    """Return a PNG with Adam7 interlacing."""
    height, width = values.shape[:2]
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # fmt: skip
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in passes
        for row in values[top::down, left::right]
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return b"".join(
        (
            written.PNG_MAGIC,
            png_chunk(b"IHDR", header),
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        )
    )


def in_small_pieces(data: bytes) -> bytes:
    """Return a PNG with seven bytes of pixels per chunk."""
    chunks = []
    for kind, body in written.png_chunks(data):
        step = 7 if kind == b"IDAT" else max(1, len(body))
        pieces = [body[i : i + step] for i in range(0, len(body), step)] or [b""]
        chunks += [png_chunk(kind, piece) for piece in pieces]
    return written.PNG_MAGIC + b"".join(chunks)


def planar(planes: np.ndarray) -> bytes:
    """Return a TIFF with separate planes of red, green and blue."""
    count, height, width = planes.shape
    size_bytes = height * width
    tags = tiff_tags((width, height), (8,) * count, 2, t284=2)
    tags |= {
        273: (LONG, tuple(8 + i * size_bytes for i in range(count))),
        279: (LONG, (size_bytes,) * count),
    }
    head = b"II*\0" + struct.pack("<I", 8 + planes.size)
    return head + planes.tobytes() + written.tiff_directory(tags, 8 + planes.size)


def tiled(values: np.ndarray, side: int = 32) -> bytes:
    """Return a tiled TIFF."""
    height, width = values.shape[:2]
    across, down = -(-width // side), -(-height // side)
    full = np.zeros((down * side, across * side, 3), np.uint8)
    full[:height, :width] = values
    tiles = full.reshape(down, side, across, side, 3).swapaxes(1, 2).tobytes()
    size_bytes, count = side * side * 3, across * down
    tags = tiff_tags((width, height), (8, 8, 8), 2)
    del tags[278]
    tags |= {
        322: (SHORT, side),
        323: (SHORT, side),
        324: (LONG, tuple(8 + i * size_bytes for i in range(count))),
        325: (LONG, (size_bytes,) * count),
    }
    return b"II*\0" + struct.pack("<I", 8 + len(tiles)) + tiles + written.tiff_directory(tags, 8 + len(tiles))  # fmt: skip


# --- frames, profiles, shapes, structure -------------------------------------------------------


def framed() -> Iterator[Good]:
    """Yield files of several images; the first one counts."""
    others = [photo().rotate(90), photo().rotate(180)]
    palette = photo().quantize(64)
    for name, source, format, options, levels in (
        ("three.gif", palette, "GIF", {"duration": 50}, 0.0),
        ("three.png", photo(), "PNG", {}, 0.0),
        ("three.webp", photo(), "WEBP", WEBP, 0.0),
        ("three.tif", photo(), "TIFF", {}, 0.0),
        ("three.avif", photo(), "AVIF", AVIF, LOSSY),
        ("three.mpo", photo(), "MPO", JPEG, LOSSY),
        ("of-an-mpo.jpg", photo(), "MPO", JPEG, LOSSY),
    ):
        frames = [frame.quantize(64) for frame in others] if format == "GIF" else others
        data = encoded(source, format, save_all=True, append_images=frames, **options)
        yield Good("frames", name, data, source, levels)
        if format in ("GIF", "PNG", "TIFF"):
            yield Good("frames", f"cut-{name}", data[: int(len(data) * 0.85)], source)
    data = encoded(photo(), "MPO", save_all=True, append_images=others, **JPEG)
    place = data.index(b"MPF\0")
    broken = data[: place + 8] + b"\xff" * 8 + data[place + 16 :]
    yield Good("frames", "broken-index.mpo", broken, photo(), LOSSY)
    hidden = encoded(photo(), "PNG", save_all=True, append_images=others, default_image=True)
    yield Good("frames", "hidden-first.png", hidden, photo())


def profiled() -> Iterator[Good]:
    """Yield images with colour profiles, also broken ones."""
    real = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profiles = {"right": real, "broken": b"no profile at all" * 9, "cut": real[:100]}
    noise = np.random.default_rng(0).bytes(3_000_000)
    for name, profile in {**profiles, "three-megabytes": noise}.items():
        for suffix, format, options, levels in (
            ("jpg", "JPEG", JPEG, LOSSY),
            ("png", "PNG", {"compress_level": 1}, 0.0),
            ("tif", "TIFF", {}, 0.0),
            ("webp", "WEBP", WEBP, 0.0),
        ):
            data = encoded(photo(), format, icc_profile=profile, **options)
            yield Good("profiles", f"{name}.{suffix}", data, photo(), levels)
    plain = encoded(photo(), "PNG")
    for name, body in (("unpacked", b"x\0\0no deflate"), ("nameless", b"\0\0")):
        data = written.png_with(plain, png_chunk(b"iCCP", body))
        yield Good("profiles", f"{name}.png", data, photo())
    inked = encoded(inks(0.5), "JPEG", icc_profile=real, **JPEG)
    yield Good("profiles", "for-inks.jpg", inked, photo(), LOSSY)


SHAPES = ((1, 1), (2, 1), (3, 2), (1, 5000), (5000, 1), (7, 3000), (16, 16), (1, 60_000))


def shaped() -> Iterator[Good]:
    """Yield the smallest and most extreme shapes."""
    for width, height in SHAPES:
        image = photo(min(width, 300), min(height, 300)).resize((width, height))
        for suffix, format in (("png", "PNG"), ("bmp", "BMP")):
            data = encoded(image, format)
            yield Good("shapes", f"{width}x{height}.{suffix}", data, image)


def structured() -> Iterator[Good]:
    """Yield unusually structured JPEGs and GIFs, and files of two formats at once."""
    plain = encoded(photo(), "JPEG", **JPEG)
    noise = np.random.default_rng(0).bytes(40_000)
    app = b"".join(written.jpeg_segment(0xE0 + i, b"x" * 5000) for i in range(3, 14))
    for name, data in (
        ("progressive.jpg", encoded(photo(), "JPEG", progressive=True, **JPEG)),
        ("optimised.jpg", encoded(photo(), "JPEG", optimize=True, **JPEG)),
        ("restarts.jpg", encoded(photo(), "JPEG", restart_marker_blocks=1, **JPEG)),
        ("halved-colours.jpg", encoded(photo(), "JPEG", quality=97, subsampling="4:2:2")),
        ("quartered-colours.jpg", encoded(photo(), "JPEG", quality=97, subsampling="4:2:0")),
        ("junk-behind.jpg", plain + noise),
        ("film-behind.jpg", plain + written.box(b"ftyp", b"mp42" + bytes(4)) + noise),
        ("archive-behind.jpg", plain + b"PK\3\4" + noise),
        ("script-inside.jpg", written.jpeg_with(plain, written.jpeg_segment(0xFE, b"<?php system($_GET[0]); ?>"))),
        ("page-inside.jpg", written.jpeg_with(plain, written.jpeg_segment(0xFE, b"<html><script>alert(1)</script>"))),
        ("many-segments.jpg", after_first_segment(plain, app)),
        ("filled.jpg", plain[:2] + b"\xff" * 40 + plain[2:]),
    ):  # fmt: skip
        yield Good("structure", name, data, photo(), LOSSY)
    palette = photo().quantize(128)
    plain = encoded(palette, "GIF")
    start = plain.index(b",", 13 + 3 * 128)
    for name, data in (
        ("87a.gif", b"GIF87a" + plain[6:]),
        ("interlaced.gif", encoded(palette, "GIF", interlace=True)),
        ("comment.gif", plain[:start] + written.gif_comment(b"<script>" * 999) + plain[start:]),
        ("no-end.gif", plain.removesuffix(b";")),
        ("junk-behind.gif", plain + b"<html>" * 99),
    ):
        yield Good("structure", name, data, palette)


# --- names -------------------------------------------------------------------------------------

WRONG_SUFFIXES = ("png.jpg", "jpg.png", "gif.jpg", "webp.jpg", "tif.png", "bmp.jpg", "avif.jpg", "jp2.tif")  # fmt: skip
ODD_NAMES = (
    b"-dash.png",
    b"--version.png",
    b"-",
    b"@list.png",
    b"new\nline.png",
    b"carriage\rreturn.png",
    b"tab\tinside.png",
    b"\x1b[31mred\x1b[0m.png",
    b"\x1b]0;title\x07.png",
    b"bell\x07.png",
    b"[red]bold[%2fred].png",
    b"[bold][link=x].png",
    b"*.png",
    b"what?.png",
    b"a[0-9].png",
    b"{a,b}.png",
    b"~.png",
    b"$HOME.png",
    b"`id`.png",
    b"%s%n%x.png",
    b"{0}.png",
    b"<script>alert(1)<%2fscript>.png",
    b"&lt;&amp;.png",
    b"=cmd().png",
    b"+1+1.png",
    b'=HYPERLINK("x","y").png',
    b"a,b;c.png",
    b"'single' \"double\".png",
    b" blank in front.png",
    b"blank behind.png ",
    b"back\\slash.png",
    b"http:.png",
    b"\xff\xfe\x80.png",
    b"caf\xe9.png",
    b"cut-\xf0\x9f\x90.png",
    b"\xed\xa0\x80surrogate.png",
    b"c1-\xc2\x9b31m.png",
    "🐱👩‍🔬.png".encode(),
    b"\xc3\xa9.png",
    b"e\xcc\x81.png",
    "\u202egnp.exe.png".encode(),
    "\u2028line\u2029.png".encode(),
    "\ufeffbom.png".encode(),
    "\u200bzero-width.png".encode(),
    b"\x7fdelete.png",
    b"CON.png",
    b"x" * 251 + b".png",
    "🐱".encode() * 62 + b".png",
)


def named() -> Iterator[Good]:
    """Yield unusual names."""
    formats = {
        "png": ("PNG", {}, 0.0),
        "jpg": ("JPEG", JPEG, LOSSY),
        "webp": ("WEBP", WEBP, 0.0),
        "tif": ("TIFF", {}, 0.0),
        "bmp": ("BMP", {}, 0.0),
        "avif": ("AVIF", AVIF, LOSSY),
        "jp2": ("JPEG2000", {}, 0.0),
    }
    for name in WRONG_SUFFIXES:
        kind = name.partition(".")[0]
        if kind == "gif":
            palette = photo().quantize(100)
            yield Good("wrong suffix", name, encoded(palette, "GIF"), palette)
            continue
        format, options, levels = formats[kind]
        yield Good("wrong suffix", name, encoded(photo(), format, **options), photo(), levels)
    plain = encoded(photo(), "PNG")
    for name in (
        "no-suffix",
        "x.txt",
        "x.heic",
        "x.html",
        "x.tga",
        "X.PNG",
        "x.png.bak",
        ".hidden",
    ):
        yield Good("wrong suffix", name.encode(), plain, photo())
    for name in ODD_NAMES:
        yield Good("odd name", name, plain, photo())


GROUPS = (turned, noted, deep, clear, coloured, framed, profiled, shaped, structured, named)


@cache
def good_images() -> tuple[Good, ...]:
    """Return all good images."""
    return tuple(image for group in GROUPS for image in group())


def name_of(image: Good) -> bytes:
    """Return the unique file name."""
    if isinstance(image.name, bytes):
        return image.name
    return os.fsencode(f"{image.group} {image.name}".replace(" ", "-"))
