"""Check that a Photoshop document contains what it shows: its composite image."""

from typing import BinaryIO

from effnet_cli.images.sources import CONVERT
from effnet_cli.system.errors import ImageError

# Adobe's file format specification: the header's colour mode, and the resource "version info"
MODE_OFFSET, MULTICHANNEL = 24, 7
VERSION_INFO, HAS_COMPOSITE_OFFSET = 1057, 4


def check(file: BinaryIO, resources: list[tuple[int, bytes, bytes]]) -> None:
    """Refuse a document without a composite, or whose channels are not colours.

    Photoshop can save documents without "maximum compatibility": then the composite is blank.
    """
    position = file.tell()
    file.seek(MODE_OFFSET)
    mode = int.from_bytes(file.read(2))
    file.seek(position)
    version = next((data for number, _, data in resources if number == VERSION_INFO), b"")
    if mode == MULTICHANNEL:
        reason = "multichannel mode"
    elif version[HAS_COMPOSITE_OFFSET : HAS_COMPOSITE_OFFSET + 1] == b"\0":
        reason = "saved without a composite image"
    else:
        return
    message = f"This is a Photoshop document with an unsupported encoding ({reason})."
    raise ImageError("unsupported_format", message, CONVERT)
