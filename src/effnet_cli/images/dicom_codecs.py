"""Decode the compressed pixels of DICOM images with imagecodecs, as a plugin of pydicom.

Damaged files must end in an error. In trials with changed bytes, GDCM ended the process and
pylibjpeg took all memory or raised what is no `Exception`, so these plugins of pydicom are never
used, even if they are installed. For the JPEG family, imagecodecs always raised an error or
returned pixels, as long as the size in the stream was that of the header, which is checked here.
"""

import importlib.util
import struct
import threading
from collections.abc import Callable
from typing import Any

from pydicom import uid
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

from effnet_cli.images.sources import CODECS

PILLOW, RLE = "pillow", "pydicom"  # plugins that pydicom has
# The plugin that decodes each transfer syntax; uncompressed pixels need none.
PLUGINS = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.JPEGBaseline8Bit: PILLOW,
    uid.JPEGExtended12Bit: CODECS,
    uid.JPEGLossless: CODECS,
    uid.JPEGLosslessSV1: CODECS,
    uid.JPEGLSLossless: CODECS,
    uid.JPEGLSNearLossless: CODECS,
    uid.JPEG2000Lossless: CODECS,
    uid.JPEG2000: CODECS,
    uid.HTJ2KLossless: CODECS,
    uid.HTJ2KLosslessRPCL: CODECS,
    uid.HTJ2K: CODECS,
    uid.RLELossless: RLE,
}
# A JPEG frame header (ISO/IEC 10918-1, B.2.2; JPEG-LS has the same): after the marker, 2 bytes of
# length, 1 of precision, then height and width. C4, C8 and CC are other markers.
FRAME_MARKERS = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
JPEG_2000_COLORS = ("YBR_ICT", "YBR_RCT")
END_MARKER, END_BYTES = b"\xff\xd9", 16  # the marker is among the last bytes, before padding
# The SIZ segment (ISO/IEC 15444-1, A.5.1), 8 bytes after its marker: width and height of the grid,
# and the offsets of the image in it
SIZE_START, SIZE_OFFSET = b"\xff\x4f\xff\x51", 8

# pydicom's names for the parts of a plugin
DECODER_DEPENDENCIES = {syntax: (CODECS,) for syntax, name in PLUGINS.items() if name == CODECS}
_lock = threading.Lock()  # pydicom's registry is not thread-safe


def is_available(_: str) -> bool:
    """Return whether the library is installed."""
    return importlib.util.find_spec(CODECS) is not None


def register() -> None:
    """Add this plugin to pydicom's decoders."""
    with _lock:
        for syntax in DECODER_DEPENDENCIES:
            decoder = get_decoder(syntax)
            if CODECS not in decoder.available_plugins and is_available(syntax):
                decoder.add_plugin(CODECS, (__name__, decode_frame.__name__))


def decode_frame(data: bytes, runner: DecodeRunner) -> bytearray:
    """Decode one frame to the bytes that pydicom expects: pixels of 8, 16 or 32 bits, colour by
    pixel.

    Raises:
        ValueError: the frame is cut off, or its size is not that of the header.
        Exception: any of imagecodecs' own.
    """
    import imagecodecs  # an extra

    syntax = runner.transfer_syntax
    decode: Callable[..., Any] = imagecodecs.jpeg8_decode
    read_size, options = _read_jpeg_size, {"colorspace": "unknown", "outcolorspace": "unknown"}
    if syntax in uid.JPEG2000TransferSyntaxes:
        decode, read_size, options = imagecodecs.jpeg2k_decode, _read_jpeg_2000_size, {}
    elif syntax in uid.JPEGLSTransferSyntaxes:
        decode, options = imagecodecs.jpegls_decode, {}
    if read_size(data) != (runner.columns, runner.rows):
        raise ValueError("the size of the frame is not that of the header")
    if END_MARKER not in data[-END_BYTES:]:
        raise ValueError("the frame is cut off")
    values = decode(data, **options)
    runner.set_option("bits_allocated", 8 * values.itemsize)
    runner.set_option("planar_configuration", 0)
    if runner.photometric_interpretation in JPEG_2000_COLORS:
        runner.set_option("photometric_interpretation", "RGB")  # OpenJPEG has converted it
    return bytearray(values.tobytes())


def _read_jpeg_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG or JPEG-LS frame."""
    start = 2
    while data[start] == 0xFF and data[start + 1] not in FRAME_MARKERS:
        start += 2 + int.from_bytes(data[start + 2 : start + 4])
    height, width = struct.unpack_from(">HH", data, start + 5)
    return width, height


def _read_jpeg_2000_size(data: bytes) -> tuple[int, int]:
    start = data.index(SIZE_START) + SIZE_OFFSET
    right, bottom, left, top = struct.unpack_from(">4I", data, start)
    return right - left, bottom - top
