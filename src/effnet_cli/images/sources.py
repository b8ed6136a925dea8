"""Only regular files are opened, and only what is an image by its content."""

import errno
import importlib.util
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from effnet_cli.images.sniff import HEAD_BYTES, HEIC, TGA_FOOTER, Content, is_text, sniff
from effnet_cli.system.errors import ImageError

ImageSource = Path | str | bytes | Image.Image  # an image that is decoded already

HEIC_LIBRARY, HEIC_INSTALL = "pi_heif", "pip install 'effnet-cli[heic]'"
CONVERT = "Convert it to JPEG or PNG."
REPLACE = "Give the image itself."


@contextmanager
def opened(source: Path | str | bytes) -> Iterator[BinaryIO]:
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
        raise _path_error(error, source) from error
    with os.fdopen(descriptor, "rb") as file:
        _check_is_regular(os.fstat(descriptor))  # it may have been replaced since
        yield file


def _path_error(error: OSError | ValueError, source: Path | str) -> ImageError:
    if isinstance(error, ValueError):  # a NUL byte in the name
        return ImageError("missing", "No file can have this name.", "Check the path.")
    if error.errno == errno.ENOENT and os.path.islink(source):
        target = os.readlink(source)
        return ImageError("missing", f"This link leads nowhere, to {target!r}.", "Check the link.")
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return ImageError("missing", "There is no such file.", "Check the path.")
        case errno.ENAMETOOLONG:
            return ImageError("missing", "No file can have a name this long.", "Check the path.")
        case errno.ELOOP:
            return ImageError("missing", "This link leads back to itself.", "Check the link.")
    return ImageError(
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
    raise ImageError(
        "not_a_file", f"This is {kind}, not an image file.", "Give the path of an image file."
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


def identified(file: BinaryIO, name: str) -> Content:
    """What the file is, by its content; refuses all that effnet does not open."""
    try:
        head = file.read(HEAD_BYTES)
        if not head:
            raise ImageError("empty", "The file is empty (0 bytes).", "Fetch it again.")
        file.seek(0, os.SEEK_END)
        file.seek(-min(len(TGA_FOOTER), file.tell()), os.SEEK_END)
        tail = file.read()
        file.seek(0)
    except OSError as error:
        raise ImageError(
            "unreadable", f"The file cannot be read: {error.strerror}.", "Check the disk."
        ) from error
    content = sniff(head, name, tail)
    if content is None and is_text(head):
        raise ImageError("not_an_image", "This is a text file, not an image.", REPLACE)
    if content is None:
        raise ImageError("not_an_image", "This is not an image in any format known here.", CONVERT)
    if content.format == HEIC and importlib.util.find_spec(HEIC_LIBRARY) is None:
        hint = f"Install it: {HEIC_INSTALL}; or convert the image to JPEG or PNG."
        message = f"This is {content.description}, for which the library pi-heif is missing."
        raise ImageError("unsupported_format", message, hint)
    if content.format is None:
        kind = "unsupported_format" if content.is_image else "not_an_image"
        what = "" if content.is_image else ", not an image"
        raise ImageError(
            kind,
            f"This is {content.description}{what}.",
            CONVERT if content.is_image else REPLACE,
        )
    return content
