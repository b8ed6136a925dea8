"""Open image files: only regular files whose content is an image."""

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

from effnet_cli.images.sniff import (
    DICOM,
    HEAD_BYTES,
    HEIC,
    JPEG_XL,
    TGA_FOOTER,
    Content,
    is_text,
    sniff,
)
from effnet_cli.system.errors import ImageError

ImageSource = Path | str | bytes | Image.Image  # an Image is already decoded

CODECS = "imagecodecs"
INSTALL_HEIC = "Run pip install 'effnet-cli[heic]', or convert the image to JPEG or PNG."
INSTALL_SCIENCE = (
    "Run pip install 'effnet-cli[science]', or convert the image to 8-bit JPEG or PNG."
)
COPY_AGAIN = "Download or copy it again."
INSTALL_DICOM = "Run pip install 'effnet-cli[dicom]', or convert the image to PNG."
CONVERT = "Convert it to JPEG or PNG."
# What the formats of extras need: the module, its package, and how to install it
EXTRAS = {
    HEIC: ("pi_heif", "pi-heif", INSTALL_HEIC),
    JPEG_XL: (CODECS, CODECS, INSTALL_SCIENCE),
    DICOM: ("pydicom", "pydicom", INSTALL_DICOM),
}
CHECK_PATH = "Check the path."
KIND_NAMES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFREG: "a system file",
}


@contextmanager
def open_regular_file(source: Path | str | bytes) -> Iterator[BinaryIO]:
    """Open a readable, seekable file, which may be in an archive. Refuse what else a path may be:
    reading it can hang.

    Raises:
        ImageError: `missing`, `not_a_file` or `unreadable`.
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode) and not os.access(source, os.R_OK | os.X_OK):
            message = "Cannot read the folder: Permission denied."
            raise ImageError("unreadable", message, "Check its permissions.")
        _check_is_regular(status)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(source, flags)
    except (OSError, ValueError) as error:
        content = _read_member(error, source)
        if content is None:
            raise _translate(error, source) from error
        yield io.BytesIO(content)
        return
    with os.fdopen(descriptor, "rb") as file:
        _check_is_regular(os.fstat(descriptor))  # it may have been replaced since
        yield file


def _read_member(error: OSError | ValueError, source: Path | str) -> bytes | None:
    """Return the content of a path that leads into an archive."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return None
    from effnet_cli.images import archives  # noqa: PLC0415

    return archives.read_member(str(source))


def _translate(error: OSError | ValueError, source: Path | str) -> ImageError:
    if isinstance(error, ValueError):
        return ImageError("missing", "The path contains a NUL byte.", CHECK_PATH)
    match error.errno:
        case errno.ENOENT if os.path.islink(source):
            message = f"Broken symlink to {os.readlink(source)!r}."
            return ImageError("missing", message, "Check the link.")
        case errno.ENOENT | errno.ENOTDIR:
            return ImageError("missing", "No such file.", CHECK_PATH)
        case errno.ENAMETOOLONG:
            return ImageError("missing", "The file name is too long.", CHECK_PATH)
        case errno.ELOOP:
            return ImageError("missing", "Symlink loop.", "Check the link.")
    message = f"Cannot open the file: {error.strerror}."
    return ImageError("unreadable", message, "Check its permissions.")


def _check_is_regular(status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode) and status.st_dev not in _kernel_devices():
        return
    kind = KIND_NAMES.get(stat.S_IFMT(status.st_mode), "not a regular file")
    message = f"This is {kind}, not an image file."
    raise ImageError("not_a_file", message, "Pass an image file.")


@cache
def _kernel_devices() -> frozenset[int]:
    """Return the devices of the kernel's file systems, where some files never end."""
    devices = set()
    for folder in ("/proc", "/sys"):
        try:
            devices.add(os.stat(folder).st_dev)
        except OSError:  # no such file system here
            continue
    root = os.stat("/").st_dev if os.name == "posix" else None
    return frozenset(devices - {root})


def identify(file: BinaryIO, name: str) -> Content:
    """Identify a file by its content.

    Raises:
        ImageError: the file is empty, unreadable, or in no format that effnet opens.
    """
    try:
        head = file.read(HEAD_BYTES)
        file.seek(-min(len(TGA_FOOTER), file.seek(0, os.SEEK_END)), os.SEEK_END)
        tail = file.read()
        file.seek(0)
    except OSError as error:
        raise cannot_read(error) from error
    if not head:
        raise ImageError("empty", "The file is empty (0 bytes).", COPY_AGAIN)
    content = sniff(head, name, tail)
    if content is None and not is_text(head):
        raise ImageError("not_an_image", "This is not a recognised image format.", CONVERT)
    if content is None:
        content = Content("a text file", is_image=False)
    if not content.is_image:
        message = f"This is {content.description}, not an image."
        raise ImageError("not_an_image", message, "Pass an image file.")
    if content.format is None:
        message = f"This is {content.description}, an unsupported format."
        raise ImageError("unsupported_format", message, content.hint or CONVERT)
    if content.format in EXTRAS:
        module, package, hint = EXTRAS[content.format]
        if importlib.util.find_spec(module) is None:
            message = f"This is {content.description}, which needs the package {package}."
            raise ImageError("unsupported_format", message, hint)
    return content


def cannot_read(error: OSError) -> ImageError:
    """Return `error` as an `ImageError` that suggests checking the disk."""
    return ImageError("unreadable", f"Cannot read the file: {error.strerror}.", "Check the disk.")
