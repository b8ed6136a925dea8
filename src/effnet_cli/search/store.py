"""The files of an index: an SQLite database, and the vectors in one flat file.

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
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from effnet_cli.embed.records import Vectors, VectorSource
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import cannot_write, process_lock

DATABASE, FIRST_VECTORS = "index.sqlite", "vectors-0.f32"
ROWS_AT_ONCE = 1024
FORMAT = 1  # of both files; an index of another format is made anew
VECTOR_DTYPE = np.dtype("<f4")
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE contents (row INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, thumbnail BLOB);
CREATE TABLE labels (
    class INTEGER NOT NULL, probability REAL NOT NULL, row INTEGER NOT NULL, rank INTEGER NOT NULL,
    PRIMARY KEY (class, probability DESC, row)
) WITHOUT ROWID;
CREATE TABLE images (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, row INTEGER, error_kind TEXT, error TEXT
) WITHOUT ROWID;
CREATE TABLE holes (row INTEGER PRIMARY KEY);
CREATE INDEX images_by_row ON images (row);
CREATE INDEX labels_by_row ON labels (row);
CREATE INDEX images_by_size ON images (size);
"""
Rows = npt.NDArray[np.intp]


class Stamp(NamedTuple):
    """Size and modification time of a file: while they stay, it is not opened."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Condition:
    """Which images are meant: those below `folder`, modified from `since` to the end of `until`,
    whose most probable class is `label`.
    """

    folder: Path | None = None
    since: date | None = None
    until: date | None = None
    label: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether all images are meant."""
        return self == Condition()

    def to_sql(self) -> tuple[str, list[object]]:
        """Return a condition on the table `images`, and its values."""
        parts, values = ["row IS NOT NULL"], list[object]()
        if self.folder is not None:
            top = os.path.join(os.fsencode(os.path.abspath(self.folder)), b"")
            parts.append("path > ? AND path < ?")
            values += [top, top[:-1] + bytes([top[-1] + 1])]
        if self.since is not None:
            parts.append("mtime_ns >= ?")
            values.append(_to_ns(self.since))
        if self.until is not None:
            parts.append("mtime_ns < ?")
            values.append(_to_ns(self.until + timedelta(days=1)))
        if self.label is not None:
            parts.append("row IN (SELECT row FROM labels WHERE class = ? AND rank = 0)")
            values.append(self.label)
        return " AND ".join(parts), values


def _to_ns(day: date) -> int:
    """Return the local start of a day, in nanoseconds since 1970."""
    return int(datetime.combine(day, time.min).timestamp()) * 10**9


class Entry(NamedTuple):
    """What the index knows of an image; `row` is `None` if it cannot be read."""

    stamp: Stamp
    row: int | None


@dataclass(frozen=True, slots=True)
class NewContent:
    """An image to add: its digest, vector [D], most probable classes and a JPEG."""

    sha256: str
    vector: Vectors
    labels: Sequence[tuple[int, float]]
    thumbnail: bytes


class Store:
    """An open index. Change it only inside `open_for_update`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._database = _connect(folder)
        self._meta = self._read_meta()
        self.source = VectorSource(**self._meta["source"])
        self.model: Mapping[str, Any] = self._meta["model"]
        self.classes: Sequence[str] = self._meta["classes"]
        self.dim: int = self._meta["dim"]
        self._vectors = folder / self._meta["vectors"]

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # --- read ------------------------------------------------------------------------------------

    @property
    def num_rows(self) -> int:
        """The number of rows in the file of vectors, holes included."""
        return int(self._value("SELECT value FROM meta WHERE name = 'rows'"))

    def count(self) -> tuple[int, int]:
        """Return the number of images, and of those that cannot be read."""
        total, good = self._database.execute("SELECT count(*), count(row) FROM images").fetchone()
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
            found: Vectors = np.memmap(self._vectors, VECTOR_DTYPE, "r", shape=(rows, self.dim))
        except (OSError, ValueError) as error:
            raise _damaged(self.folder, f"{self._vectors.name} is incomplete") from error
        return found

    def holes(self) -> Rows:
        """Return the rows that no image has any more."""
        found = self._database.execute("SELECT row FROM holes ORDER BY row")
        return np.fromiter((row for (row,) in found), np.intp)

    def entries(self) -> dict[bytes, Entry]:
        """Return what is known of every image, by its path as bytes."""
        found = self._database.execute("SELECT path, size, mtime_ns, row FROM images")
        return {path: Entry(Stamp(size, mtime), row) for path, size, mtime, row in found}

    def find_row(self, sha256: str) -> int | None:
        """Return the row of the vector of this content, if there is one."""
        found = self._database.execute("SELECT row FROM contents WHERE sha256 = ?", (sha256,))
        return next((row for (row,) in found), None)

    def has_size(self, size: int) -> bool:
        """Return whether an image has this size, so that another one may be a copy of it."""
        query = "SELECT EXISTS (SELECT 1 FROM images WHERE size = ? AND row IS NOT NULL)"
        return bool(self._value(query, size))

    def paths(self, row: int, condition: Condition = Condition()) -> list[str]:
        """Return the images that have the vector of this row, in name order."""
        text, values = condition.to_sql()
        query = f"SELECT path FROM images WHERE row = ? AND {text} ORDER BY path"  # noqa: S608
        found = self._database.execute(query, [row, *values])
        return [os.fsdecode(path) for (path,) in found]

    def label(self, row: int) -> str:
        """Return the most probable class of the images of a row."""
        query = "SELECT class FROM labels WHERE row = ? AND rank = 0"
        return next((self.classes[c] for (c,) in self._database.execute(query, (row,))), "")

    def thumbnail(self, row: int) -> bytes:
        """Return the JPEG of the images of a row."""
        return bytes(self._value("SELECT thumbnail FROM contents WHERE row = ?", row) or b"")

    def find_thumbnail(self, path: str) -> bytes:
        """Return the JPEG of an image; empty if it is not in the index."""
        row = self._row_of(os.fsencode(path))
        return b"" if row is None else self.thumbnail(row)

    def select(self, condition: Condition) -> Rows:
        """Return the rows of the images that meet a condition."""
        text, values = condition.to_sql()
        found = self._database.execute(f"SELECT DISTINCT row FROM images WHERE {text}", values)  # noqa: S608
        return np.fromiter((row for (row,) in found), np.intp)

    def rows_of_class(self, index: int) -> Iterator[tuple[int, float]]:
        """Yield the rows of images that may be of a class, with its probability."""
        query = "SELECT row, probability FROM labels WHERE class = ?"
        yield from self._database.execute(query, (index,))

    # --- write -----------------------------------------------------------------------------------

    def add(self, contents: Sequence[NewContent]) -> list[int]:
        """Append contents; return their rows. They count from the next `commit`."""
        start = self.num_rows
        with self._vectors.open("r+b") as file:
            file.seek(start * self.dim * VECTOR_DTYPE.itemsize)
            for one in contents:
                file.write(one.vector.astype(VECTOR_DTYPE).tobytes())
            file.flush()
            os.fsync(file.fileno())
        rows = list(range(start, start + len(contents)))
        self._database.executemany(
            "INSERT INTO contents VALUES (?, ?, ?)",
            [(row, one.sha256, one.thumbnail) for row, one in zip(rows, contents, strict=True)],
        )
        self._database.executemany(
            "INSERT INTO labels VALUES (?, ?, ?, ?)",
            [
                (index, probability, row, rank)
                for row, one in zip(rows, contents, strict=True)
                for rank, (index, probability) in enumerate(one.labels)
            ],
        )
        self._set_meta("rows", start + len(contents))
        return rows

    def cut_off(self) -> None:
        """Remove what an interrupted update left: vectors that do not count, and other files.

        Raises:
            EffnetError: vectors that count are missing.
        """
        size = self.num_rows * self.dim * VECTOR_DTYPE.itemsize
        try:
            for path in self.folder.glob("vectors-*.f32"):
                if path != self._vectors:
                    path.unlink()
            actual = self._vectors.stat().st_size
            if actual > size:
                os.truncate(self._vectors, size)
        except OSError as error:
            raise cannot_write(self._vectors, error) from error
        if actual < size:
            raise _damaged(self.folder, f"{self._vectors.name} is incomplete")

    def put(self, path: str, stamp: Stamp, row: int) -> None:
        """Set the vector of an image."""
        self._put(path, stamp, row, None, None)

    def put_error(self, path: str, stamp: Stamp, kind: str, message: str) -> None:
        """Note that an image cannot be read, so that it is not tried again."""
        self._put(path, stamp, None, kind, message)

    def _put(self, path: str, stamp: Stamp, *cells: object) -> None:
        key = os.fsencode(path)
        before = self._row_of(key)
        self._database.execute(
            "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)", (key, *stamp, *cells)
        )
        self._release(before)

    def remove(self, path: bytes) -> None:
        """Remove an image."""
        before = self._row_of(path)
        self._database.execute("DELETE FROM images WHERE path = ?", (path,))
        self._release(before)

    def commit(self) -> None:
        """Make all changes count.

        Raises:
            EffnetError: the disk is full, or the folder cannot be written.
        """
        try:
            self._database.commit()
        except sqlite3.OperationalError as error:
            raise _cannot_save(self.folder, error) from error

    def compact(self) -> int:
        """Remove the holes from the file of vectors; return how many there were.

        The new file counts once the database names it.
        """
        holes, vectors = self.holes(), self.vectors()
        kept = np.setdiff1d(np.arange(len(vectors)), holes)
        if not len(holes):
            return 0
        name = f"vectors-{int(self._vectors.stem.split('-')[1]) + 1}.f32"
        try:
            with (self.folder / name).open("wb") as file:
                for start in range(0, len(kept), ROWS_AT_ONCE):
                    file.write(vectors[kept[start : start + ROWS_AT_ONCE]].tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.folder / name, error) from error
        self._renumber(kept, name)
        return len(holes)

    def _renumber(self, kept: Rows, name: str) -> None:
        """Give the rows in `kept` the numbers from 0 in all tables."""
        execute = self._database.execute
        execute("CREATE TEMP TABLE moved (old INTEGER PRIMARY KEY, new INTEGER)")
        moved = ((int(old), new) for new, old in enumerate(kept))
        self._database.executemany("INSERT INTO moved VALUES (?, ?)", moved)
        for table in ("images", "labels", "contents"):
            # by way of negative numbers, as two rows may never have the same one
            execute(
                f"UPDATE {table} SET row = -1 - (SELECT new FROM moved WHERE old = row)"  # noqa: S608
                " WHERE row IS NOT NULL"
            )
            execute(f"UPDATE {table} SET row = -1 - row WHERE row IS NOT NULL")  # noqa: S608
        execute("DELETE FROM holes")
        execute("DROP TABLE moved")
        self._set_meta("vectors", name)
        self._set_meta("rows", len(kept))
        self.commit()
        self._vectors.unlink()
        self._vectors = self.folder / name

    def _row_of(self, path: bytes) -> int | None:
        found = self._database.execute("SELECT row FROM images WHERE path = ?", (path,)).fetchone()
        return found[0] if found else None

    def _release(self, row: int | None) -> None:
        """Make a hole of a row that no image has any more."""
        if row is None or self._value("SELECT EXISTS (SELECT 1 FROM images WHERE row = ?)", row):
            return
        for statement in (
            "DELETE FROM contents WHERE row = ?",
            "DELETE FROM labels WHERE row = ?",
            "INSERT INTO holes VALUES (?)",
        ):
            self._database.execute(statement, (row,))

    def _set_meta(self, name: str, value: object) -> None:
        statement = "UPDATE meta SET value = ? WHERE name = ?"
        self._database.execute(statement, (json.dumps(value), name))

    def _value(self, query: str, *values: object) -> Any:
        found = self._database.execute(query, values).fetchone()
        return found[0] if found else None

    def _read_meta(self) -> dict[str, Any]:
        try:
            found = dict(self._database.execute("SELECT name, value FROM meta"))
            meta = {name: json.loads(value) for name, value in found.items()}
        except (sqlite3.DatabaseError, ValueError) as error:
            raise _damaged(self.folder, f"{DATABASE} cannot be read") from error
        if meta.get("format") != FORMAT:
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


@contextmanager
def open_for_update(
    folder: Path, source: VectorSource, meta: Mapping[str, object]
) -> Iterator[Store]:
    """Open an index to change it, and create it if there is none: `meta` has the other fields.

    Raises:
        UsageError: it has vectors of another source, or another process is changing it.
        EffnetError: it is damaged, or the folder cannot be written.
    """
    message = f"Another process is changing the index {str(folder)!r}."
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    busy = UsageError(message, "Wait for it to finish.")
    with process_lock(folder / "index", busy=busy):
        if not exists(folder):
            _create(folder, {"source": asdict(source), **meta})
        with open_for_reading(folder) as store:
            check_source(store, source)
            store.cut_off()
            yield store


def check_source(store: Store, source: VectorSource) -> None:
    """Raise `UsageError` if an index has vectors of another source."""
    differences = source.differences(store.source)
    if differences:
        raise UsageError(
            f"The index {str(store.folder)!r} was made with {store.source.model}: "
            f"{', '.join(differences)}.",
            "Use the same model and options, or another --index.",
        )


def _create(folder: Path, meta: Mapping[str, object]) -> None:
    """Create an empty index; it exists once the database has its name."""
    part = folder / f"{DATABASE}.part"
    part.unlink(missing_ok=True)
    try:
        (folder / FIRST_VECTORS).write_bytes(b"")
        database = sqlite3.connect(part)
        with database:
            database.executescript(SCHEMA)
            rows = {"format": FORMAT, "rows": 0, "vectors": FIRST_VECTORS, **meta}
            database.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in rows.items()],
            )
        database.close()
        part.replace(folder / DATABASE)
    except OSError as error:
        raise cannot_write(folder, error) from error
    except sqlite3.OperationalError as error:
        raise _cannot_save(folder, error) from error


def _connect(folder: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(folder / DATABASE, timeout=60)
    except sqlite3.OperationalError as error:
        raise _damaged(folder, f"{DATABASE} cannot be opened") from error


def _damaged(folder: Path, what: str) -> EffnetError:
    message = f"The index {str(folder)!r} is damaged: {what}."
    return EffnetError(message, "Delete the folder, and index the images again.")


def _cannot_save(folder: Path, error: sqlite3.Error) -> EffnetError:
    message = f"Cannot write the index {str(folder)!r}: {error}."
    return EffnetError(message, "Free some space, and run the same command again.")
