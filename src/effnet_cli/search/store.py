"""Read the files of an index: an SQLite database, and the vectors in one flat file.

Vectors are appended to the file first, and count once the database has their rows: whatever a kill
leaves behind them is cut off by the next update. Each different content has one vector, and an
image is a path with the row of its vector. Rows of removed images are holes, until the index is
compacted.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from effnet_cli.embed.records import Vectors, VectorSource
from effnet_cli.search.condition import Condition, Rows
from effnet_cli.system.errors import EffnetError, UsageError

DATABASE = "index.sqlite"
INDEX_FORMAT = 1  # of both files; an index of another format is made anew
VECTOR_DTYPE = np.dtype("<f4")


class Stamp(NamedTuple):
    """Size and modification time of a file: while they stay, it is not opened."""

    size: int
    mtime_ns: int


class Entry(NamedTuple):
    """What the index knows of an image; `row` is `None` if it cannot be read."""

    stamp: Stamp
    row: int | None


class Store:
    """An open index, which is only read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = _connect(folder)
        self._meta = self._read_meta()
        self.source = VectorSource(**self._meta["source"])
        self.model: Mapping[str, Any] = self._meta["model"]
        self.classes: Sequence[str] = self._meta["classes"]
        self.dim: int = self._meta["dim"]
        self.vectors_path = folder / self._meta["vectors"]

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    @property
    def num_rows(self) -> int:
        """The number of rows in the file of vectors, holes included."""
        return int(self.value("SELECT value FROM meta WHERE name = 'rows'"))

    def count(self) -> tuple[int, int]:
        """Return the number of images, and of those that cannot be read."""
        total, good = self.database.execute("SELECT count(*), count(row) FROM images").fetchone()
        return good, total - good

    def vectors(self) -> Vectors:
        """Return the vectors, float32 [rows,D], which are only read as they are used.

        Raises:
            EffnetError: the file does not have all of them.
        """
        rows = self.num_rows
        if not rows:
            return np.zeros((0, self.dim), np.float32)
        try:
            found: Vectors = np.memmap(self.vectors_path, VECTOR_DTYPE, "r", shape=(rows, self.dim))
        except (OSError, ValueError) as error:
            raise damaged(self.folder, f"{self.vectors_path.name} is incomplete") from error
        return found

    def holes(self) -> Rows:
        """Return the rows that no image has any more."""
        found = self.database.execute("SELECT row FROM holes ORDER BY row")
        return np.fromiter((row for (row,) in found), np.intp)

    def entries(self) -> dict[bytes, Entry]:
        """Return what is known of every image, by its path as bytes."""
        found = self.database.execute("SELECT path, size, mtime_ns, row FROM images")
        return {path: Entry(Stamp(size, mtime), row) for path, size, mtime, row in found}

    def find_row(self, sha256: str) -> int | None:
        """Return the row of the vector of this content, if there is one."""
        found = self.database.execute("SELECT row FROM contents WHERE sha256 = ?", (sha256,))
        return next((row for (row,) in found), None)

    def has_size(self, size: int) -> bool:
        """Return whether an image has this size, so that another one may be a copy of it."""
        query = "SELECT EXISTS (SELECT 1 FROM images WHERE size = ? AND row IS NOT NULL)"
        return bool(self.value(query, size))

    def paths(self, row: int, condition: Condition = Condition()) -> list[str]:
        """Return the images that have the vector of this row, in name order."""
        text, values = condition.to_sql()
        query = f"SELECT path FROM images WHERE row = ? AND {text} ORDER BY path"  # noqa: S608
        found = self.database.execute(query, [row, *values])
        return [os.fsdecode(path) for (path,) in found]

    def label(self, row: int) -> str:
        """Return the most probable class of the images of a row."""
        query = "SELECT class FROM labels WHERE row = ? AND rank = 0"
        return next((self.classes[c] for (c,) in self.database.execute(query, (row,))), "")

    def thumbnail(self, row: int) -> bytes:
        """Return the JPEG of the images of a row."""
        return bytes(self.value("SELECT thumbnail FROM contents WHERE row = ?", row) or b"")

    def find_thumbnail(self, path: str) -> bytes:
        """Return the JPEG of an image; empty if it is not in the index."""
        row = self.row_of(os.fsencode(path))
        return b"" if row is None else self.thumbnail(row)

    def select(self, condition: Condition) -> Rows:
        """Return the rows of the images that meet a condition."""
        text, values = condition.to_sql()
        found = self.database.execute(f"SELECT DISTINCT row FROM images WHERE {text}", values)  # noqa: S608
        return np.fromiter((row for (row,) in found), np.intp)

    def rows_of_class(self, index: int) -> Iterator[tuple[int, float]]:
        """Yield the rows of images that may be of a class, with its probability."""
        query = "SELECT row, probability FROM labels WHERE class = ?"
        yield from self.database.execute(query, (index,))

    def row_of(self, path: bytes) -> int | None:
        """Return the row of an image; `None` if it is not in the index, or cannot be read."""
        found = self.database.execute("SELECT row FROM images WHERE path = ?", (path,)).fetchone()
        return found[0] if found else None

    def value(self, query: str, *values: object) -> Any:
        """Return the first value that an SQL query yields; `None` if it yields nothing."""
        found = self.database.execute(query, values).fetchone()
        return found[0] if found else None

    def _read_meta(self) -> dict[str, Any]:
        try:
            found = dict(self.database.execute("SELECT name, value FROM meta"))
            meta = {name: json.loads(value) for name, value in found.items()}
        except (sqlite3.DatabaseError, ValueError) as error:
            raise damaged(self.folder, f"{DATABASE} cannot be read") from error
        if meta.get("format") != INDEX_FORMAT:
            message = f"The index {str(self.folder)!r} is of another version of effnet."
            raise UsageError(message, "Delete the folder, and index the images again.")
        return meta


def exists(folder: Path) -> bool:
    """Return whether there is an index in a folder."""
    return (folder / DATABASE).is_file()


@contextmanager
def open_for_reading(folder: Path) -> Iterator[Store]:
    """Open an index.

    Raises:
        UsageError: there is none, or it is of another version.
        EffnetError: it is damaged.
    """
    if not exists(folder):
        message = f"There is no index {str(folder)!r}."
        raise UsageError(message, "Make it: effnet search index FOLDER --index NAME")
    store = Store(folder)
    try:
        yield store
    finally:
        store.close()


def check_source(store: Store, source: VectorSource) -> None:
    """Raise `UsageError` if an index has vectors of another source."""
    differences = source.differences(store.source)
    if differences:
        raise UsageError(
            f"The index {str(store.folder)!r} was made with {store.source.model}: "
            f"{', '.join(differences)}.",
            "Use the same model and options, or another --index.",
        )


def _connect(folder: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(folder / DATABASE, timeout=60)
    except sqlite3.OperationalError as error:
        raise damaged(folder, f"{DATABASE} cannot be opened") from error


def damaged(folder: Path, what: str) -> EffnetError:
    """Return the error to raise for an index whose files do not fit together."""
    message = f"The index {str(folder)!r} is damaged: {what}."
    return EffnetError(message, "Delete the folder, and index the images again.")
