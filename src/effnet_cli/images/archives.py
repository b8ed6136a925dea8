"""Images inside archives and tables, read in place: `set.zip/cat/1.jpg`, `set.parquet/image/17`.

Nothing is unpacked to the disk, so that no name in an archive can lead out of it.
"""

import os
import tarfile
import threading
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from effnet_cli.images.sources import COPY_AGAIN
from effnet_cli.system.errors import ImageError

MAX_MEMBER_BYTES = 1 << 28  # of one unpacked image; a small archive can claim any size
OPEN_ARCHIVES = 16
UNPACK = "Unpack it, and pass the folder."
INSTALL_PARQUET = "Run pip install 'effnet-cli[parquet]'."


class Archive(Protocol):
    """An open archive, which several threads may read.

    `num_hidden` files cannot be read: links, devices, and all but the last of one name.
    """

    num_hidden: int

    def names(self) -> Iterable[str]:
        """Return the names of its files, in order."""
        ...

    def size_of(self, name: str) -> int | None:
        """Return the unpacked size of a file in bytes; `None` if there is no such file."""
        ...

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        ...


class Member(NamedTuple):
    """A file in an archive."""

    archive: str
    name: str


def find_member(path: str) -> Member | None:
    """Return the archive that a path leads into, and the name in it; `None` if it is in none."""
    top = Path(path)
    while top.parent != top and not os.path.lexists(top):
        top = top.parent
    rest = Path(path).relative_to(top)
    if top.suffix.lower() not in KINDS or rest == Path() or not top.is_file():
        return None
    return Member(str(top), PurePosixPath(rest).as_posix())


def is_file(path: str) -> bool:
    """Return whether a path leads to a file, on the disk or in an archive."""
    if Path(path).is_file():
        return True
    try:
        member = find_member(path)
        return member is not None and open_archive(member.archive).size_of(member.name) is not None
    except (ImageError, ValueError, OSError):
        return False


def read_member(path: str) -> bytes | None:
    """Return the content of a file in an archive; `None` if the path leads into none.

    Raises:
        ImageError: the archive or the file cannot be read.
    """
    member = find_member(path)
    if member is None:
        return None
    archive = open_archive(member.archive)
    size = archive.size_of(member.name)
    if size is None:
        message = f"No such file in {member.archive!r}."
        raise ImageError("missing", message, "Check the path.")
    if size > MAX_MEMBER_BYTES:
        message = f"The file takes {size:,} bytes unpacked, more than {MAX_MEMBER_BYTES:,}."
        raise ImageError("too_large", message, UNPACK)
    return archive.read(member.name)


def open_archive(path: str) -> Archive:
    """Open an archive: once for each process, and again after a change of the file.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        status = Path(path).stat()
        return _open(path, (status.st_mtime_ns, status.st_size), os.getpid())
    except OSError as error:
        message = f"Cannot read the archive {path!r}: {error.strerror or error}."
        raise ImageError("unreadable", message, "Check its permissions.") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError) as error:
        message = f"The archive {path!r} is damaged: {error}."
        raise ImageError("truncated", message, COPY_AGAIN) from error


@lru_cache(OPEN_ARCHIVES)
def _open(path: str, _version: tuple[int, int], _process: int) -> Archive:
    return KINDS[Path(path).suffix.lower()](path)


class _Zip:
    def __init__(self, path: str) -> None:
        self._file = zipfile.ZipFile(path)
        files = [one for one in self._file.infolist() if not one.is_dir()]
        self._sizes = {one.filename: one.file_size for one in files}
        self.num_hidden = len(files) - len(self._sizes)

    def names(self) -> Iterable[str]:
        return self._sizes

    def size_of(self, name: str) -> int | None:
        return self._sizes.get(name)

    def read(self, name: str) -> bytes:
        try:
            with self._file.open(name) as file:
                return file.read(MAX_MEMBER_BYTES)
        except RuntimeError as error:  # encrypted, or packed by a method that Python lacks
            raise ImageError(
                "unreadable", f"The file cannot be unpacked: {error}.", UNPACK
            ) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            message = f"The file in the archive is damaged: {error}."
            raise ImageError("truncated", message, COPY_AGAIN) from error


class _Tar:
    def __init__(self, path: str) -> None:
        self._path = Path(path)
        with tarfile.open(path, "r:") as file:
            members = file.getmembers()
        self._places = {
            one.name.removeprefix("./"): (one.offset_data, one.size)
            for one in members
            if one.isreg() and not one.issparse()
        }
        for one in members:
            if one.islnk() and one.linkname.removeprefix("./") in self._places:
                target = self._places[one.linkname.removeprefix("./")]
                self._places[one.name.removeprefix("./")] = target
        self.num_hidden = sum(not one.isdir() for one in members) - len(self._places)

    def names(self) -> Iterable[str]:
        return self._places

    def size_of(self, name: str) -> int | None:
        return self._places[name][1] if name in self._places else None

    def read(self, name: str) -> bytes:
        offset, size = self._places[name]
        with self._path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise ImageError("truncated", "The archive ends inside the file.", COPY_AGAIN)
        return content


class _Parquet:
    """The images of a table: `<column>/<row>`. The last group of rows that was read is kept."""

    def __init__(self, path: str) -> None:
        try:
            library: Any = import_module("pyarrow.parquet")
        except ImportError as error:
            message = f"{path!r} is a Parquet table, which needs the package pyarrow."
            raise ImageError("unsupported_format", message, INSTALL_PARQUET) from error
        self._file, self.num_hidden = library.ParquetFile(path), 0
        groups = range(self._file.num_row_groups)
        sizes = (self._file.metadata.row_group(group).num_rows for group in groups)
        self._starts = [0, *accumulate(sizes)]
        self._lock = threading.Lock()
        self._kept: tuple[int, str, Any] = (-1, "", None)

    def names(self) -> Iterable[str]:
        return ()  # the table lists them

    def size_of(self, name: str) -> int | None:
        column, _, row = name.rpartition("/")
        is_row = row.isdecimal() and int(row) < self._starts[-1]
        return 0 if is_row and column in self._file.schema_arrow.names else None

    def read(self, name: str) -> bytes:
        column, _, text = name.rpartition("/")
        row = int(text)
        group = bisect_right(self._starts, row) - 1
        with self._lock:  # the reader of a file is not safe in several threads
            if self._kept[:2] != (group, column):
                values = self._file.read_row_group(group, columns=[column]).column(0)
                self._kept = group, column, values
            value = self._kept[2][row - self._starts[group]].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ImageError("empty", "The cell holds no image.", "Check the table.")
        return content


KINDS: dict[str, Callable[[str], Archive]] = {".zip": _Zip, ".tar": _Tar, ".parquet": _Parquet}
