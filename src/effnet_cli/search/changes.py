"""Change the files of an index, so that a kill at any time loses nothing that was committed."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from effnet_cli.embed.records import Vector, VectorSource
from effnet_cli.predict.records import ErrorInfo
from effnet_cli.search.condition import Rows
from effnet_cli.search.store import (
    DATABASE,
    INDEX_FORMAT,
    VECTOR_DTYPE,
    Stamp,
    Store,
    check_source,
    damaged,
    exists,
)
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import cannot_write, process_lock

FIRST_VECTORS = "vectors-0.f32"
COPIED_ROWS = 1024  # at once
INDEX_SCHEMA = """
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


@dataclass(frozen=True, slots=True)
class NewContent:
    """An image to add: its digest, vector [D], most probable classes and a JPEG."""

    sha256: str
    vector: Vector
    labels: Sequence[tuple[int, float]]
    thumbnail: bytes


class ChangedStore(Store):
    """An index that is being changed. Changes count from the next `commit`."""

    def add(self, contents: Sequence[NewContent]) -> list[int]:
        """Append contents; return their rows.

        Raises:
            EffnetError: the disk is full, or the folder cannot be written.
        """
        start = self.num_rows
        try:
            with self.vectors_path.open("r+b") as file:
                file.seek(start * self.dim * VECTOR_DTYPE.itemsize)
                for one in contents:
                    file.write(one.vector.astype(VECTOR_DTYPE).tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.vectors_path, error) from error
        rows = list(range(start, start + len(contents)))
        self.database.executemany(
            "INSERT INTO contents VALUES (?, ?, ?)",
            [(row, one.sha256, one.thumbnail) for row, one in zip(rows, contents, strict=True)],
        )
        self.database.executemany(
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
                if path != self.vectors_path:
                    path.unlink()
            actual = self.vectors_path.stat().st_size
            if actual > size:
                os.truncate(self.vectors_path, size)
        except OSError as error:
            raise cannot_write(self.vectors_path, error) from error
        if actual < size:
            raise damaged(self.folder, f"{self.vectors_path.name} is incomplete")

    def put(self, path: str, stamp: Stamp, row: int | None) -> None:
        """Set the vector of an image."""
        self._put(path, stamp, (row, None, None))

    def put_error(self, path: str, stamp: Stamp, error: ErrorInfo) -> None:
        """Note that an image cannot be read, so that it is not tried again."""
        self._put(path, stamp, (None, error.kind, error.message))

    def _put(self, path: str, stamp: Stamp, cells: tuple[object, ...]) -> None:
        key = os.fsencode(path)
        before = self.row_of(key)
        self.database.execute(
            "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)", (key, *stamp, *cells)
        )
        self._release(before)

    def remove(self, path: bytes) -> None:
        """Remove an image."""
        before = self.row_of(path)
        self.database.execute("DELETE FROM images WHERE path = ?", (path,))
        self._release(before)

    def commit(self) -> None:
        """Make all changes count.

        Raises:
            EffnetError: the disk is full, or the folder cannot be written.
        """
        try:
            self.database.commit()
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
        name = f"vectors-{int(self.vectors_path.stem.split('-')[1]) + 1}.f32"
        try:
            with (self.folder / name).open("wb") as file:
                for start in range(0, len(kept), COPIED_ROWS):
                    file.write(vectors[kept[start : start + COPIED_ROWS]].tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.folder / name, error) from error
        self._renumber(kept, name)
        return len(holes)

    def _renumber(self, kept: Rows, name: str) -> None:
        """Give the rows in `kept` the numbers from 0 in all tables."""
        execute = self.database.execute
        execute("CREATE TEMP TABLE moved (old INTEGER PRIMARY KEY, new INTEGER)")
        moved = ((int(old), new) for new, old in enumerate(kept))
        self.database.executemany("INSERT INTO moved VALUES (?, ?)", moved)
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
        self.vectors_path.unlink()
        self.vectors_path = self.folder / name

    def _release(self, row: int | None) -> None:
        """Make a hole of a row that no image has any more."""
        if row is None or self.value("SELECT EXISTS (SELECT 1 FROM images WHERE row = ?)", row):
            return
        for statement in (
            "DELETE FROM contents WHERE row = ?",
            "DELETE FROM labels WHERE row = ?",
            "INSERT INTO holes VALUES (?)",
        ):
            self.database.execute(statement, (row,))

    def _set_meta(self, name: str, value: object) -> None:
        statement = "UPDATE meta SET value = ? WHERE name = ?"
        self.database.execute(statement, (json.dumps(value), name))


@contextmanager
def open_for_update(
    folder: Path, source: VectorSource, meta: Mapping[str, object]
) -> Iterator[ChangedStore]:
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
        store = ChangedStore(folder)
        try:
            check_source(store, source)
            store.cut_off()
            yield store
        finally:
            store.close()


def _create(folder: Path, meta: Mapping[str, object]) -> None:
    """Create an empty index; it exists once the database has its name."""
    part = folder / f"{DATABASE}.part"
    part.unlink(missing_ok=True)
    try:
        (folder / FIRST_VECTORS).write_bytes(b"")
        database = sqlite3.connect(part)
        with database:
            database.executescript(INDEX_SCHEMA)
            rows = {"format": INDEX_FORMAT, "rows": 0, "vectors": FIRST_VECTORS, **meta}
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


def _cannot_save(folder: Path, error: sqlite3.Error) -> EffnetError:
    message = f"Cannot write the index {str(folder)!r}: {error}."
    return EffnetError(message, "Free some space, and run the same command again.")
