"""TIFF files of every common layout, each with the image that it shows."""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

Array = npt.NDArray[Any]
HEIGHT, WIDTH = 48, 64
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
SIGNED = ("int8", "int16", "int32", "int64")
FLOATS = ("float16", "float32", "float64")
LOSSLESS = (None, "zlib", "lzw", "packbits", "zstd", "lzma")


@dataclass(frozen=True)
class TiffFile:
    """A TIFF file, and the image it shows: uint8 [H,W,3]."""

    name: str
    content: bytes
    image: Array


def make_gray() -> Array:
    """Draw a dark half, a bright half, and a ramp over the full range below them: uint8 [H,W]."""
    gray = np.full((HEIGHT, WIDTH), 40, np.uint8)
    gray[:, WIDTH // 2 :] = 215
    gray[HEIGHT * 2 // 3 :] = np.linspace(0, 255, WIDTH).astype(np.uint8)
    return gray


def make_rgb() -> Array:
    """Draw three different planes: uint8 [H,W,3]."""
    gray = make_gray()
    return np.dstack([gray, gray[:, ::-1], np.roll(gray, 16, axis=1)])


def convert(image: Array, dtype: str) -> Array:
    """Spread 0..255 over the range of an integer type, or over 0..1 for floats."""
    if dtype in FLOATS:
        return (image / 255).astype(dtype)
    info = np.iinfo(dtype)
    step = (int(info.max) - int(info.min)) // 255
    values = [int(info.min) + step * value for value in range(256)]
    return np.array(values, dtype)[image]


def _write(values: Array, **settings: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **settings)
    return file.getvalue()


def list_files() -> Iterator[TiffFile]:
    """Yield the systematic set."""
    yield from _list_types()
    yield from _list_alpha()
    yield from _list_special()
    yield from _list_compressions()


def _list_types() -> Iterator[TiffFile]:
    for dtype, order, compression in itertools.product(
        (*UNSIGNED, *SIGNED, *FLOATS), "<>", (None, "zlib")
    ):
        about = f"{dtype} {'little' if order == '<' else 'big'}-endian {compression or 'plain'}"
        settings = {"byteorder": order, "compression": compression}
        gray, rgb = make_gray(), make_rgb()
        values = convert(gray, dtype)
        content = _write(values, photometric="minisblack", **settings)
        yield TiffFile(f"{about} gray", content, np.dstack([gray] * 3))
        content = _write(values, photometric="miniswhite", **settings)
        yield TiffFile(f"{about} white is zero", content, 255 - np.dstack([gray] * 3))
        values = convert(rgb, dtype)
        yield TiffFile(f"{about} RGB", _write(values, photometric="rgb", **settings), rgb)
        planes = np.ascontiguousarray(values.transpose(2, 0, 1))
        content = _write(planes, photometric="rgb", planarconfig="separate", **settings)
        yield TiffFile(f"{about} RGB in planes", content, rgb)


def _list_alpha() -> Iterator[TiffFile]:
    gray, rgb = make_gray(), make_rgb()
    for dtype, planes in itertools.product(("uint8", "uint16", "float32"), (False, True)):
        opaque = 1 if dtype == "float32" else np.iinfo(dtype).max
        for color, extra in itertools.product(("gray", "rgb"), ("unassalpha", "assocalpha")):
            image = gray[..., None] if color == "gray" else rgb
            values = convert(image, dtype)
            values = np.dstack([values, np.full((HEIGHT, WIDTH), opaque, dtype)])
            content = _write(
                np.ascontiguousarray(values.transpose(2, 0, 1)) if planes else values,
                photometric="minisblack" if color == "gray" else "rgb",
                planarconfig="separate" if planes else "contig",
                extrasamples=[extra],
            )
            name = f"{dtype} {color} {extra} {'planes' if planes else 'pixels'}"
            yield TiffFile(name, content, np.broadcast_to(image, (HEIGHT, WIDTH, 3)))


def _list_special() -> Iterator[TiffFile]:
    gray, rgb = make_gray(), make_rgb()
    shown = np.dstack([gray] * 3)
    ramp = np.arange(256, dtype=np.uint16)
    for name, scale in (("16-bit", 257), ("8-bit", 1)):
        colors = np.stack([ramp * scale] * 3)
        content = _write(gray, photometric="palette", colormap=colors)
        yield TiffFile(f"palette of {name} values", content, shown)
    bits = gray >= 128
    yield TiffFile("bilevel", _write(bits, photometric="minisblack"), np.dstack([bits * 255] * 3))
    ink = np.dstack([255 - rgb, np.zeros((HEIGHT, WIDTH), np.uint8)])
    yield TiffFile("CMYK", _write(ink, photometric="separated"), rgb)
    for order in "<>":
        options: Any = {"photometric": "rgb", "byteorder": order}
        yield TiffFile(f"BigTIFF {order}", _write(rgb, bigtiff=True, **options), rgb)
        yield TiffFile(f"tiles {order}", _write(rgb, tile=(16, 16), **options), rgb)
        values = convert(rgb, "uint16")
        yield TiffFile(f"16-bit tiles {order}", _write(values, tile=(16, 16), **options), rgb)
        content = _write(values, predictor=True, compression="zlib", **options)
        yield TiffFile(f"16-bit predictor {order}", content, rgb)
        content = _write(convert(gray, "float32"), byteorder=order, predictor=3, compression="zlib")
        yield TiffFile(f"float predictor {order}", content, shown)
    yield TiffFile("strips", _write(rgb, photometric="rgb", rowsperstrip=7), rgb)
    five = np.dstack([rgb, rgb[..., :2]])
    yield TiffFile("five bands", _write(five, photometric="minisblack", planarconfig="contig"), rgb)
    content = _write(convert(gray, "float32").astype(np.complex64), photometric="minisblack")
    yield TiffFile("complex", content, shown)


def _list_compressions() -> Iterator[TiffFile]:
    gray, rgb = make_gray(), make_rgb()
    for compression, dtype in itertools.product(LOSSLESS[2:], ("uint8", "uint16", "float32")):
        for name, image, photometric in (("gray", gray, "minisblack"), ("RGB", rgb, "rgb")):
            for order in "<>":
                content = _write(
                    convert(image, dtype),
                    photometric=photometric,
                    compression=compression,
                    byteorder=order,
                )
                shown = image if image.ndim == 3 else np.dstack([image] * 3)
                yield TiffFile(f"{compression} {dtype} {name} {order}", content, shown)
    for codec in ("jpeg", "webp", "jpeg2000", "jpegxl", "lerc"):
        content = _write(rgb, photometric="rgb", compression=codec)
        yield TiffFile(f"{codec} RGB", content, rgb)
