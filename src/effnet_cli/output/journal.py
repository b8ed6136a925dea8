"""Record the rows of a run in a file beside its output, as they are computed, so that a killed run
can be resumed without repeating or losing a row.
"""

import glob
import itertools
import json
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from effnet_cli.images.finder import ImageInput, Url
from effnet_cli.output.text import json_text
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import cannot_write, is_file, process_lock
from effnet_cli.system.reporter import SILENT, Reporter
from effnet_cli.system.text import pluralize

JOURNAL_SUFFIX = ".part"
JOURNAL_KEY, JOURNAL_VERSION = "effnet_rows", 2
JOURNAL_START = f'{{"{JOURNAL_KEY}"'.encode()  # the first bytes of every journal
STAMP_KEY = "stamp"  # in each row: size and modification time (ns) of its file, null for others
Stamp = list[int] | None
Row = Mapping[str, Any]  # a JSON object with the `path` of its input


class Journal:
    """JSON lines: first the settings, then one row per input, in order.

    The settings are those of `open_journal`, by their names for the user, such as `--top-k`.
    Each row is one write and counts only if its line is complete; a line cut off by a kill is
    dropped.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self._path = path
        self._settings = {JOURNAL_KEY: JOURNAL_VERSION, **settings}
        self.earlier = self._load_earlier() if path.exists() else 0  # rows of the interrupted run
        self._file: BinaryIO = path.open("ab", buffering=0)
        self.count = self.earlier
        self._stamps: deque[Stamp] = deque()  # of the inputs that have no row yet

    def _load_earlier(self) -> int:
        """Truncate the file to its complete rows, and count them."""
        end = earlier = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file):
                content = _parse_line(line)
                if content is None:
                    break
                if number == 0:
                    self._check_settings(content)
                end += len(line)
                earlier = number
        os.truncate(self._path, end)
        return earlier

    def _check_settings(self, earlier: Mapping[str, Any]) -> None:
        for name, value in json.loads(json_text(self._settings)).items():
            if earlier.get(name) != value:
                label = "format" if name == JOURNAL_KEY else name
                then = _describe_setting(label, earlier.get(name))
                raise UsageError(
                    f"The rows in {str(self._path)!r} were computed {then}, not "
                    f"{_describe_setting(label, value)}.",
                    "Resume with the same options, or delete that file to start over.",
                )

    @property
    def _moves(self) -> bool:
        return bool(self._settings.get("--move"))

    @property
    def files(self) -> tuple[Path, Path]:
        """The files that exist only during the run: the journal and its lock."""
        return self._path, Path(f"{self._path}.lock")

    def skip_earlier(self, inputs: Iterable[ImageInput]) -> Iterator[ImageInput]:
        """Yield the inputs without a row; raise `UsageError` if the rows do not match the first
        inputs, or if a file has changed since.

        Files that the interrupted run moved are missing now, so their rows need no input.
        """
        inputs, moved_from = iter(inputs), set[Path]()
        found = next(inputs, None)
        for number, row in enumerate(self.rows(self.earlier), start=1):
            path, stamp = row["path"], row[STAMP_KEY]
            is_moved = self._moves and not is_file(Path(path))
            while found and found.name != path and _is_emptied(found, moved_from):
                found = next(inputs, None)
            if found and found.name == path:
                if not is_moved and _stamp(found) != stamp:
                    raise self._mismatch(f"{path!r} has changed since its row was computed.")
                found = next(inputs, None)
            elif is_moved:
                moved_from.update(Path(path).parents)
            else:
                now = repr(found.name) if found else "missing"
                raise self._mismatch(
                    f"Row {number:,} in {str(self._path)!r} is {path!r}, but input {number:,} is "
                    f"{now}."
                )
        for one in itertools.chain([found] if found else (), inputs):
            if not _is_emptied(one, moved_from):
                self._stamps.append(_stamp(one))
                yield one

    def _mismatch(self, message: str) -> UsageError:
        hint = f"Resume with the same inputs, or delete {str(self._path)!r} to start over."
        return UsageError(message, hint)

    def append(self, row: Row) -> None:
        """Write the row of the next input; raise `EffnetError` if it cannot be written."""
        if self.count == 0 and not self._path.stat().st_size:
            self._write(self._settings)
        self._write({STAMP_KEY: self._stamps.popleft(), **row})
        self.count += 1

    def _write(self, content: Mapping[str, object]) -> None:
        line = (json_text(content) + "\n").encode()
        start = self._path.stat().st_size
        try:
            while line:  # a nearly full disk may take only a part
                line = line[self._file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                os.truncate(self._path, start)
            raise cannot_write(self._path, error) from error

    def rows(self, count: int | None = None) -> Iterator[Row]:
        """Read back the first `count` rows, by default all of them."""
        number = self.count if count is None else count
        if number:
            with self._path.open("rb") as file:
                next(file)
                for _ in range(number):
                    yield json.loads(next(file))

    def close(self) -> None:
        """Stop writing; the rows can still be read."""
        self._file.close()


def journal_path(output: Path) -> Path:
    """Return the path of the journal of a run that writes `output`."""
    return output.with_name(output.name + JOURNAL_SUFFIX)


@contextmanager
def open_journal(
    output: Path,
    settings: Mapping[str, object],
    *,
    is_resumed: bool = False,
    reporter: Reporter = SILENT,
) -> Iterator[Journal]:
    """Open the journal of a run that will write `output`; it is deleted when the block succeeds.

    `settings` is everything that the rows depend on besides the inputs. `is_resumed` continues from
    the rows of an interrupted run, if there are any. `reporter` receives a note if rows are kept.

    Raises:
        UsageError: there are rows and `is_resumed` is not set, or they were computed with other
            settings, or another process is writing them.
        EffnetError: the folder cannot be written.
    """
    path = journal_path(output)
    message = f"Another process is writing {str(output)!r}."
    with process_lock(
        path, busy=UsageError(message, "Wait for it to finish, or use another file.")
    ) as lock_file:
        try:
            if path.is_symlink() or path.exists():
                _check_origin(path)
                if not is_resumed:
                    raise UsageError(
                        f"{str(path)!r} has the rows of an interrupted run.",
                        "Add --resume to continue it, or delete that file to start over.",
                    )
            yield from _keep_unfinished(path, settings, reporter)
        finally:
            lock_file.unlink(missing_ok=True)


def _check_origin(path: Path) -> None:
    """Raise `UsageError` if the file at the journal's path is not one."""
    is_journal = False
    if path.is_file() and not path.is_symlink():
        try:
            with path.open("rb") as file:
                is_journal = JOURNAL_START.startswith(file.read(len(JOURNAL_START)))
        except OSError as error:
            raise cannot_write(path, error) from error
    if not is_journal:
        raise UsageError(
            f"{str(path)!r} was not created by effnet.", "Move it, or use another output file."
        )


def _keep_unfinished(
    path: Path, settings: Mapping[str, object], reporter: Reporter
) -> Iterator[Journal]:
    try:
        journal = Journal(path, settings)
    except OSError as error:
        raise cannot_write(path, error) from error
    is_complete = False
    try:
        yield journal
        is_complete = True
    finally:
        journal.close()
        if is_complete or not journal.count:
            path.unlink(missing_ok=True)
        elif journal.count > journal.earlier:
            rows = pluralize(journal.count, "row")
            reporter.note(f"Kept {rows} in {str(path)!r}; run the same command with --resume.")


def _describe_setting(name: str, value: object) -> str:
    if value is None or value is False:
        return f"without {name}"
    return f"with {name}" if value is True else f"with {name} {value!r}"


def _stamp(found: ImageInput) -> Stamp:
    """Return the size and the modification time of a file; `None` for other inputs."""
    if isinstance(found.source, str) and not isinstance(found.source, Url):
        with suppress(OSError, ValueError):  # a path with NUL
            status = Path(found.source).stat()
            return [status.st_size, status.st_mtime_ns]
    return None


def _is_emptied(found: ImageInput, moved_from: Collection[Path]) -> bool:
    """Return whether this is a folder or a pattern that names no image any more, because they have
    been moved from these folders.
    """
    parts = itertools.takewhile(lambda part: not glob.has_magic(part), Path(found.name).parts)
    return found.source is None and Path(*parts) in moved_from


def _parse_line(line: bytes) -> Mapping[str, Any] | None:
    """Return the JSON object of a line, or `None` if the line is incomplete or invalid."""
    with suppress(ValueError):
        content = json.loads(line) if line.endswith(b"\n") else None
        return content if isinstance(content, dict) else None
    return None
