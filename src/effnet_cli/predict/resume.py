"""The rows of a run as they come, in a file beside the final one, so that a killed run can go on
without repeating or losing a row.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from effnet_cli.images.finder import ImageInput
from effnet_cli.output.text import json_text
from effnet_cli.predict.formats import as_row, from_row
from effnet_cli.predict.records import ImageResult
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import cannot_write
from effnet_cli.system.reporter import SILENT, Reporter

SUFFIX = ".part"
FORMAT_KEY, FORMAT_VERSION = "effnet_rows", 1
START = f'{{"{FORMAT_KEY}"'.encode()  # of every such file


class Journal:
    """JSON lines: first what all rows have in common, then one row for each input, in order.

    A row is one write, and counts when its line has an end: what a kill has cut off is dropped.
    """

    def __init__(self, path: Path, common: Mapping[str, object]) -> None:
        self._path = path
        self._common = {FORMAT_KEY: FORMAT_VERSION, **common}
        self.earlier = 0  # rows that were here before
        if path.exists():
            self._take_up()
        self._file: BinaryIO = path.open("ab", buffering=0)
        self.count = self.earlier  # rows that are here

    def _take_up(self) -> None:
        """Keep the whole rows of an earlier run, which must have been one of the same kind."""
        end = 0
        with self._path.open("rb") as file:
            if not START.startswith(file.peek(len(START))[: len(START)]):
                raise UsageError(
                    f"{str(self._path)!r} is no file of effnet's.", "Move it, or name another file."
                )
            for number, line in enumerate(file):
                content = _parsed(line)
                if content is None:
                    break
                if number == 0:
                    self._check(content)
                end += len(line)
                self.earlier = number
        os.truncate(self._path, end)

    def _check(self, theirs: Mapping[str, Any]) -> None:
        mine = json.loads(json_text(self._common))
        for name, value in mine.items():
            if theirs.get(name) != value:
                raise UsageError(
                    f"The rows in {str(self._path)!r} are of {_words(name)} "
                    f"{theirs.get(name)!r}, not {value!r}.",
                    "Go on with the same options, or delete that file to start over.",
                )

    def missing(self, images: Iterable[ImageInput]) -> Iterator[ImageInput]:
        """The inputs that have no row yet.

        Raises:
            UsageError: the rows that are here are not those of the first inputs.
        """
        images = iter(images)
        for number, row in enumerate(self._rows(self.earlier), 1):
            found = next(images, None)
            if found is None or found.name != row.path:
                now = "nothing" if found is None else repr(found.name)
                raise UsageError(
                    f"Row {number:,} in {str(self._path)!r} is of {row.path!r}, and input "
                    f"{number:,} is {now}: these are other inputs.",
                    "Go on with the same inputs, or delete that file to start over.",
                )
        yield from images

    def keep(self, predictions: Iterable[ImageResult]) -> Iterator[ImageResult]:
        """The same rows, each of them written down.

        Raises:
            EffnetError: the file cannot be written.
        """
        for prediction in predictions:
            if self.count == 0 and not self._path.stat().st_size:
                self._write(self._common)
            self._write(as_row(prediction))
            self.count += 1
            yield prediction

    def _write(self, content: Mapping[str, object]) -> None:
        line = (json_text(content) + "\n").encode()
        start = self._path.stat().st_size
        try:
            while line:  # a full disk takes a part
                line = line[self._file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                os.truncate(self._path, start)
            raise cannot_write(self._path, error) from error

    def rows(self) -> Iterator[ImageResult]:
        """All rows, read back."""
        yield from self._rows(self.count)

    def earlier_rows(self) -> Iterator[ImageResult]:
        """Those that were here before."""
        yield from self._rows(self.earlier)

    def _rows(self, count: int) -> Iterator[ImageResult]:
        if count:
            with self._path.open("rb") as file:
                next(file)
                for _ in range(count):
                    yield from_row(json.loads(next(file)))

    def close(self) -> None:
        """No more rows come now."""
        self._file.close()


@contextmanager
def journal(
    output: Path,
    common: Mapping[str, object],
    is_resumed: bool = False,
    reporter: Reporter = SILENT,
) -> Iterator[Journal]:
    """The journal of a run that will write `output`; gone when the block ends well, or without a
    row.

    Args:
        output: the final file.
        common: what the rows depend on besides the inputs; JSON values.
        is_resumed: go on with the rows of an interrupted run, if there are some.
        listener: hears what is kept of a run that is interrupted now.

    Raises:
        UsageError: there are rows of an interrupted run and `is_resumed` is not set; or they are
            of other inputs or options; or another process writes them now.
        EffnetError: the folder cannot be written.
    """
    path = output.with_name(output.name + SUFFIX)
    lock = FileLock(f"{path}.lock", timeout=0)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"Another process writes {str(output)!r} now.", "Wait for it, or name another file."
        ) from error
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield from _held(path, common, is_resumed, reporter)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _held(
    path: Path, common: Mapping[str, object], is_resumed: bool, reporter: Reporter
) -> Iterator[Journal]:
    if path.exists() and not is_resumed:
        raise UsageError(
            f"{str(path)!r} has the rows of a run that was interrupted.",
            "Add --resume to go on with it, or delete that file to start over.",
        )
    try:
        kept = Journal(path, common)
    except OSError as error:
        raise cannot_write(path, error) from error
    is_over = False
    try:
        yield kept
        is_over = True
    finally:
        kept.close()
        if is_over or not kept.count:
            path.unlink(missing_ok=True)
        elif kept.count > kept.earlier:
            rows = "1 row is" if kept.count == 1 else f"{kept.count:,} rows are"
            reporter.note(f"{rows} kept in {str(path)!r}: the same command with --resume goes on.")


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    """The JSON object of a whole line."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _words(name: str) -> str:
    return "format" if name == FORMAT_KEY else name.replace("_", " ")
