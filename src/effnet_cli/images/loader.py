"""A picture's bytes -> the network's input: one loader for every command, NumPy and Pillow only."""

import errno
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from effnet_cli.errors import PictureError
from effnet_cli.images.bare import bare
from effnet_cli.images.find import Url
from effnet_cli.images.geometry import place, resize_and_crop
from effnet_cli.images.sniff import HEAD_BYTES, TGA_FOOTER, Content, is_text, sniff
from effnet_cli.images.views import VIEWS
from effnet_cli.options import PictureOptions
from effnet_cli.variants import Preprocessing

# Transparent parts show this colour behind them (red, green, blue).
BACKGROUND = (255, 255, 255)
# A JPEG is decoded at the smallest scale that keeps this many times the pixels (per side) that the
# resize needs: at 2 the picture differs by 0.4 of 255 on average from the full decode, at 1 by 1.4.
DCT_OVERSAMPLING = 2
# A JPEG may be gone over once for each of its scans. Cameras and libraries write about ten;
# a small file with thousands of empty ones would keep the decoder for hours.
MAX_FULL_SCANS = 32  # over a picture of the largest permitted size; smaller ones may have more
NO_SEGMENTS = (*range(0xC0), *range(0xD0, 0xD9), 0xFF)  # JPEG's markers without a length
# Of one text or colour profile in a PNG, unpacked. Printers' profiles have 3 MB; Pillow allows 1.
MAX_TEXT_BYTES = 16 << 20
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
TIFF_TILE_WIDTH, TIFF_TILE_HEIGHT = 322, 323
WHITE_IS_ZERO, UNSIGNED = 0, 1
# What Pillow says of files that are whole, but of a kind that it does not decode.
UNSUPPORTED = ("unknown pixel mode", "unsupported", "cannot handle", "compression is not")
# Reasons that are about Pillow's own objects and values, and tell a person nothing.
PYTHONS_WORDS = r"b['\"]|\(\)|object at|driver"
BLOCK_BYTES = 1 << 20

Source = Path | str | bytes


@dataclass(frozen=True, slots=True)
class PictureLoader:
    """Opens pictures and makes the network's input of them.

    With the options' defaults, `load(source)` equals torchvision's `weights.transforms()` on the
    same decoded picture, to the last bit. Safe to use from several threads.
    """

    preprocessing: Preprocessing
    options: PictureOptions = PictureOptions()

    def __post_init__(self) -> None:
        # Pillow's limit is global to the process; it also guards what our look at the header cannot
        # see (frames that are larger than their file says). Its warning, given up to twice the
        # limit, counts as the error it is.
        # It is never lowered, for loaders with a higher limit: `_decoded` keeps this one's own.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, self.options.max_pixels)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, MAX_TEXT_BYTES)

    def load(self, source: Source) -> npt.NDArray[np.float32]:
        """The network's input for one picture: float32 [3,crop_px,crop_px].

        Args:
            source: a path, or the bytes of a picture file.

        Raises:
            PictureError: the picture cannot be answered; `kind` says why.
        """
        return self.normalise(self.fit(self.open(source)))

    def squares(self, source: Source) -> npt.NDArray[np.uint8]:
        """What the network sees of one picture, a square for each view: uint8
        [V,crop_px,crop_px,3].

        Raises:
            PictureError: as `load`.
        """
        image = self.open(source)
        if self.options.views == 1:
            return self.fit(image)[None]
        return np.stack([self.fit(view.of(image)) for view in VIEWS[: self.options.views]])

    def open(self, source: Source) -> Image.Image:
        """The picture as RGB: first frame, upright by its EXIF orientation, transparency over
        white, 8 bits a channel.

        Raises:
            PictureError: as `load`.
        """
        if isinstance(source, Url):
            return self.open(self._fetched(source))
        with _opened(source) as file:
            content = _identified(file, "" if isinstance(source, bytes) else str(source))
            with _translated(content):
                return self._decoded(file, content)

    def _fetched(self, url: Url) -> bytes:
        if self.options.offline:
            raise PictureError(
                "unreadable", "With --offline no address is asked.", "Leave out --offline."
            )
        from effnet_cli.images.remote import fetched  # 40 ms that few need

        return fetched(url, self.options.timeout_s)

    def _decoded(self, file: BinaryIO, content: Content) -> Image.Image:
        with _identified_by_pillow(file, content) as image:
            self._check_size("picture", image.width, image.height)
            if image.format == "TIFF":
                # the decoder makes room for a whole tile, however small the picture is
                tags = image.getexif()
                width, height = (
                    _first(tags.get(tag)) for tag in (TIFF_TILE_WIDTH, TIFF_TILE_HEIGHT)
                )
                self._check_size("picture's tile", width or 0, height or 0)
            if _has_many_scans(image, file):
                self._check_scans(file, image.width * image.height)
            if not self.options.exact_decode and image.format in ("JPEG", "MPO"):
                needed = place(image.width, image.height, self.preprocessing, self.options.fit)
                image.draft(
                    None, (DCT_OVERSAMPLING * needed.width, DCT_OVERSAMPLING * needed.height)
                )
            _widen_clear_colour(image)
            image.load()
            _turn_upright(image)
            return _flattened(image)

    def _check_size(self, what: str, width: int, height: int) -> None:
        pixels = width * height
        if pixels > self.options.max_pixels:
            raise PictureError(
                "too_large",
                f"This {what} has {pixels:,} pixels ({width} x {height}), "
                f"more than the limit of {self.options.max_pixels:,}.",
                "Raise the limit with --max-pixels if you trust it.",
            )

    def _check_scans(self, file: BinaryIO, pixels: int) -> None:
        scans = _count(file, b"\xff\xda")
        if scans * pixels > MAX_FULL_SCANS * self.options.max_pixels:
            raise PictureError(
                "too_large",
                f"This JPEG picture goes over its {pixels:,} pixels {scans:,} times.",
                "Raise the limit with --max-pixels if you trust it.",
            )

    def fit(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The square that the network sees of an RGB picture: uint8 [crop_px,crop_px,3]."""
        crop_px = self.preprocessing.crop_px
        placement = place(image.width, image.height, self.preprocessing, self.options.fit)
        part = resize_and_crop(image, placement, crop_px, self.preprocessing.interpolation)
        if part.size == (crop_px, crop_px):
            return np.asarray(part)
        neutral = tuple(round(255 * mean) for mean in self.preprocessing.mean)
        square = Image.new("RGB", (crop_px, crop_px), neutral)
        square.paste(part, (-placement.left, -placement.top))
        return np.asarray(square)

    def normalise(self, square: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [H,W,3] -> float32 [3,H,W]: scaled to 0..1, then (value - mean) / std.

        Each step rounds to float32 as torchvision's does, so that no bit differs.
        """
        values = np.true_divide(
            np.ascontiguousarray(square.transpose(2, 0, 1)), np.float32(255), dtype=np.float32
        )
        values -= np.array(self.preprocessing.mean, dtype=np.float32)[:, None, None]
        values /= np.array(self.preprocessing.std, dtype=np.float32)[:, None, None]
        return values


# --- opening -----------------------------------------------------------------------------------


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    """A readable, seekable file of the source; only regular files are opened, so that nothing can
    hang.
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        _check_is_regular(os.stat(source))
        descriptor = os.open(
            source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except (OSError, ValueError) as error:
        raise _path_error(error) from error
    with os.fdopen(descriptor, "rb") as file:
        _check_is_regular(os.fstat(descriptor))  # it may have been replaced since
        yield file


def _path_error(error: OSError | ValueError) -> PictureError:
    if isinstance(error, ValueError):  # a NUL byte in the name
        return PictureError("missing", "No file can have this name.", "Check the path.")
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return PictureError("missing", "There is no such file.", "Check the path.")
        case errno.ENAMETOOLONG:
            return PictureError("missing", "No file can have a name this long.", "Check the path.")
        case errno.ELOOP:
            return PictureError("missing", "This link leads back to itself.", "Check the link.")
    return PictureError(
        "unreadable", f"The file cannot be opened: {error.strerror}.", "Check its permissions."
    )


def _check_is_regular(status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode) and status.st_dev not in _kernel_devices():
        return
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFREG: "a file of the kernel",
    }
    kind = kinds.get(stat.S_IFMT(status.st_mode), "not a regular file")
    raise PictureError(
        "not_a_file", f"This is {kind}, not a picture file.", "Give the path of a picture file."
    )


@cache
def _kernel_devices() -> frozenset[int]:
    """The file systems whose files are questions to the kernel; reading some of them never ends."""
    devices = set()
    for folder in ("/proc", "/sys"):
        try:
            devices.add(os.stat(folder).st_dev)
        except OSError:  # no such file system here
            continue
    root = os.stat("/").st_dev if os.name == "posix" else None
    return frozenset(devices - {root})


def _identified(file: BinaryIO, name: str) -> Content:
    """What the file is, by its content; refuses all that effnet does not open."""
    try:
        head = file.read(HEAD_BYTES)
        if not head:
            raise PictureError("empty", "The file is empty (0 bytes).", "Fetch it again.")
        file.seek(0, os.SEEK_END)
        file.seek(-min(len(TGA_FOOTER), file.tell()), os.SEEK_END)
        tail = file.read()
        file.seek(0)
    except OSError as error:
        raise PictureError(
            "unreadable", f"The file cannot be read: {error.strerror}.", "Check the disk."
        ) from error
    content = sniff(head, name, tail)
    if content is None and is_text(head):
        raise PictureError("not_an_image", "This is a text file, not a picture.", REPLACE)
    if content is None:
        raise PictureError(
            "not_an_image", "This is not a picture in any format known here.", CONVERT
        )
    if content.format is None:
        kind = "unsupported_format" if content.is_picture else "not_an_image"
        what = "" if content.is_picture else ", not a picture"
        raise PictureError(
            kind,
            f"This is {content.description}{what}.",
            CONVERT if content.is_picture else REPLACE,
        )
    return content


def _identified_by_pillow(file: BinaryIO, content: Content) -> ImageFile.ImageFile:
    format = str(content.format)
    if format == "TIFF":
        _know_doubles()
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


def _reason(file: BinaryIO, format: str) -> Exception | None:
    """Why Pillow does not know a file: it keeps that to itself, but the format's reader tells."""
    file.seek(0)
    try:
        Image.OPEN[format][0](file, "")
    except Exception as error:
        return error
    return None


def _has_many_scans(image: Image.Image, file: BinaryIO) -> bool:
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


def _count(file: BinaryIO, mark: bytes) -> int:
    """How often two bytes occur in a file, whose position stays as it is."""
    position = file.tell()
    file.seek(0)
    count, before = 0, b""
    while block := file.read(BLOCK_BYTES):
        count += (before + block).count(mark)
        before = block[-1:]
    file.seek(position)
    return count


CONVERT = "Convert it to JPEG or PNG."
REPLACE = "Give the picture itself."


@contextmanager
def _translated(content: Content) -> Iterator[None]:
    """Pillow's many exceptions for hostile and damaged files as one of ours.

    Mutated files raise OSError, ValueError, SyntaxError, NotImplementedError, struct.error and
    more; whatever comes out of the decoder is this file's fault, and stops no other file.
    """
    try:
        yield
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise PictureError(
            "too_large",
            f"This is {content.description} with more pixels than the limit allows.",
            "Raise the limit with --max-pixels if you trust it.",
        ) from error
    except OSError as error:
        # EINVAL: a damaged file sent the decoder to a place before its start
        if error.errno not in (None, errno.EINVAL):
            raise PictureError(
                "unreadable", f"The file cannot be read: {error.strerror}.", "Check the disk."
            ) from error
        raise _damaged(content, error) from error
    except Exception as error:
        if _is_text_limit(error):
            raise PictureError(
                "too_large",
                f"This is {content.description} with more text or colour profile than is unpacked.",
                CONVERT,
            ) from error
        raise _damaged(content, error) from error


def _damaged(content: Content, error: Exception) -> PictureError:
    is_worded = isinstance(error, OSError | ValueError | SyntaxError | NotImplementedError)
    reason = str(error).rstrip(".") if is_worded else ""
    is_wrapped = any(isinstance(value, Exception) for value in error.args)
    if not reason or is_wrapped or re.search(PYTHONS_WORDS, reason):
        reason = "unknown layout"
    if reason.lower().startswith(UNSUPPORTED):
        return PictureError(
            "unsupported_format",
            f"This is {content.description} of a rare kind ({reason}).",
            CONVERT,
        )
    return PictureError(
        "truncated",
        f"This is {content.description} that is cut off or damaged ({reason}).",
        "Fetch it again.",
    )


# --- to upright RGB ----------------------------------------------------------------------------


def _turn_upright(image: Image.Image) -> None:
    # a broken EXIF block says nothing about the picture, and Pillow raises anything for it
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _widen_clear_colour(image: ImageFile.ImageFile) -> None:
    """The colour of a PNG that is transparent, in the 8 bits to which Pillow brings all others; not
    yet decoded.
    """
    clear = image.info.get("transparency")
    how = image.tile[0].args if image.format == "PNG" and image.tile else None
    if isinstance(clear, int) and how in ("L;2", "L;4"):
        most = 3 if how == "L;2" else 15
        image.info["transparency"] = (clear & most) * 255 // most
    elif isinstance(clear, tuple) and how == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _flattened(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB."""
    if image.mode.startswith(("I", "F")):
        return _scaled_to_8_bits(image).convert("RGB")
    if image.format in ("BMP", "ICO", "TGA") and image.mode == "RGBA" and _is_all_clear(image):
        return image.convert("RGB")  # they have the channel, and often leave it at zero
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _over_background(image)
    if image.mode == "CMYK" and image.format == "JPEG" and _stores_ink(image):
        image = ImageChops.invert(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_background(image: Image.Image) -> Image.Image:
    """A picture that can be seen through, as RGB; some rows after the others, as each of the steps
    takes four bytes a pixel.
    """
    width, height = image.size
    rows = max(1, BLOCK_BYTES // width)
    if height <= rows:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, layer).convert("RGB")
    flat = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        flat.paste(_over_background(band), (0, top))
    return flat


def _is_all_clear(image: Image.Image) -> bool:
    return image.getchannel("A").getextrema() == (0, 0)


def _stores_ink(image: Image.Image) -> bool:
    """Whether a CMYK JPEG stores ink (0 is none) and not its inverse, as Adobe's programs do and
    Pillow assumes.

    Without Adobe's marker a file does not say; then the black plate tells: pictures use little
    black ink.
    """
    if "adobe" in image.info:
        return False
    black = np.asarray(image.getchannel("K"))
    return bool(black.mean() > 127)


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float gray as 8-bit gray: scaled, never clipped.

    Files of 12 and 16 bits use their whole range. For 32-bit and float files the values tell:
    within 0..1, 0..255 and 0..65535 these are the range, anything else is stretched from its
    minimum to its maximum.
    """
    values = np.asarray(image)
    tags = image.getexif() if image.format == "TIFF" else {}
    if values.dtype == np.int32 and _first(tags.get(TIFF_SAMPLE_FORMAT)) == UNSIGNED:
        values = values.view(np.uint32)
    low, high = _extremes(values)
    if image.mode.startswith("I;16"):
        low, high = 0.0, float((1 << (_first(tags.get(TIFF_BITS)) or 16)) - 1)
    elif image.mode == "I" and image.format in ("PNG", "PPM"):
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 65535:
        low, high = 0.0, next(limit for limit in _limits(image) if high <= limit)
    eight_bits = np.zeros(values.shape, np.uint8)
    for rows in _bands(values) if high > low else ():
        band = np.nan_to_num(values[rows].astype(np.float64), nan=low, posinf=high, neginf=low)
        eight_bits[rows] = (band - low) * (255.0 / (high - low)) + 0.5
    if tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
        eight_bits = 255 - eight_bits
    if "transparency" in image.info:
        eight_bits[values == image.info["transparency"]] = 255
    return Image.fromarray(eight_bits)


def _first(value: int | tuple[int, ...] | None) -> int | None:
    return value[0] if isinstance(value, tuple) else value


def _extremes(values: npt.NDArray[np.generic]) -> tuple[float, float]:
    """The least and the greatest finite value; 0 and 0 if there is none."""
    lows, highs = [], []
    for rows in _bands(values):
        band = values[rows].astype(np.float64)
        finite = band[np.isfinite(band)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    return (min(lows), max(highs)) if lows else (0.0, 0.0)


def _bands(values: npt.NDArray[np.generic]) -> Iterator[slice]:
    """Some rows after the others: the copies that arithmetic makes stay small."""
    height = max(1, BLOCK_BYTES // max(1, values.shape[1]))
    return (slice(top, top + height) for top in range(0, len(values), height))


def _limits(image: Image.Image) -> tuple[float, ...]:
    return (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
