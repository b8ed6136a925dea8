"""Record the rows of a run in a file beside its output, as they are computed, so that a killed run
can be resumed without repeating or losing a row.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from effnet_cli.images.finder import ImageInput
from effnet_cli.output.text import json_text
from effnet_cli.predict.formats import from_row, to_row
from effnet_cli.predict.records import ResultRow
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import cannot_write, process_lock
from effnet_cli.system.reporter import SILENT, Reporter
from effnet_cli.system.text import pluralize

JOURNAL_SUFFIX = ".part"
JOURNAL_KEY, JOURNAL_VERSION = "effnet_rows", 1
JOURNAL_START = f'{{"{JOURNAL_KEY}"'.encode()  # the first bytes of every journal


class Journal:
    """JSON lines: first the settings, then one row per input, in order.

    Each row is one write and counts only if its line is complete; a line cut off by a kill is
    dropped.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self._path = path
        self._settings = {JOURNAL_KEY: JOURNAL_VERSION, **settings}
        self.earlier = self._load_earlier() if path.exists() else 0  # rows of the interrupted run
        self._file: BinaryIO = path.open("ab", buffering=0)
        self.count = self.earlier

    def _load_earlier(self) -> int:
        """Truncate the file to its complete rows, and count them."""
        end = earlier = 0
        with self._path.open("rb") as file:
            if not JOURNAL_START.startswith(file.peek(len(JOURNAL_START))[: len(JOURNAL_START)]):
                raise UsageError(
                    f"{str(self._path)!r} was not created by effnet.",
                    "Move it, or use another output file.",
                )
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
                label = "format" if name == JOURNAL_KEY else name.replace("_", " ")
                raise UsageError(
                    f"The rows in {str(self._path)!r} were computed with {label} "
                    f"{earlier.get(name)!r}, not {value!r}.",
                    "Resume with the same options, or delete that file to start over.",
                )

    @property
    def files(self) -> tuple[Path, Path]:
        """The files that exist only during the run: the journal and its lock."""
        return self._path, Path(f"{self._path}.lock")

    def skip_earlier(self, inputs: Iterable[ImageInput]) -> Iterator[ImageInput]:
        """Yield the inputs without a row; raise `UsageError` if the rows do not match the first
        inputs.
        """
        inputs = iter(inputs)
        for number, row in enumerate(self.rows(self.earlier), start=1):
            found = next(inputs, None)
            if found is None or found.name != row.result.path:
                now = "missing" if found is None else repr(found.name)
                raise UsageError(
                    f"Row {number:,} in {str(self._path)!r} is {row.result.path!r}, but input "
                    f"{number:,} is {now}.",
                    "Resume with the same inputs, or delete that file to start over.",
                )
        yield from inputs

    def append(self, row: ResultRow) -> None:
        """Write one row; raise `EffnetError` if it cannot be written."""
        if self.count == 0 and not self._path.stat().st_size:
            self._write(self._settings)
        self._write(to_row(row))
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

    def rows(self, count: int | None = None) -> Iterator[ResultRow]:
        """Read back the first `count` rows, by default all of them."""
        count = self.count if count is None else count
        if count:
            with self._path.open("rb") as file:
                next(file)
                for _ in range(count):
                    yield from_row(json.loads(next(file)))

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
            if path.exists() and not is_resumed:
                raise UsageError(
                    f"{str(path)!r} has the rows of an interrupted run.",
                    "Add --resume to continue it, or delete that file to start over.",
                )
            yield from _keep_unfinished(path, settings, reporter)
        finally:
            lock_file.unlink(missing_ok=True)


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


def _parse_line(line: bytes) -> Mapping[str, Any] | None:
    """Return the JSON object of a line, or `None` if the line is incomplete or invalid."""
    with suppress(ValueError):
        content = json.loads(line) if line.endswith(b"\n") else None
        return content if isinstance(content, dict) else None
    return None
