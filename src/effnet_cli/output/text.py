"""Records as text: JSON, JSON lines, CSV, and words on stderr. Nothing here needs rich, so that a
pipe starts fast.
"""

import csv
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from effnet_cli.images import Finder, is_image_content
from effnet_cli.models import export_file
from effnet_cli.options import Format
from effnet_cli.predict.classifier import ErrorInfo, ImageResult, Prediction
from effnet_cli.system.errors import EffnetError, OutputClosed, UsageError
from effnet_cli.system.files import atomic_write
from effnet_cli.system.reporter import ProgressUnit

STDOUT = "-"
PROBABILITY_DIGITS = 6  # an answer moves by 1e-6 between engines; more digits would be noise
CSV_COLUMNS = ("path", "status", "rank", "index", "label", "probability", "error_kind", "error")
SUFFIX_FORMATS: Mapping[str, Format] = {
    **{".json": "json", ".jsonl": "jsonl", ".csv": "csv"},
    **dict.fromkeys(("", ".txt", ".log"), "table"),
}
FREQUENT_CLASSES = 3  # in the closing summary


# --- text that is safe anywhere ----------------------------------------------------------------


def printable(text: str) -> str:
    """`text` for a terminal: control and bidirectional characters and invalid bytes are shown as
    escapes.
    """
    return "".join(c if c.isprintable() or c == "\u200d" else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        code -= 0xDC00
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def json_text(value: object, indent: int | None = None) -> str:
    """JSON that is always valid UTF-8; names with invalid bytes are escaped, and read back as the
    same bytes.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, indent=indent)
    return text


def _csv_cell(value: object) -> object:
    """A cell that no spreadsheet runs: text that starts like a formula gets an apostrophe before
    it.
    """
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        else value
    )


# --- predictions as text -----------------------------------------------------------------------


def as_row(prediction: ImageResult) -> dict[str, Any]:
    """The JSON object of one row."""
    row: dict[str, Any] = {"path": prediction.path, "status": prediction.status}
    if prediction.error is not None:
        return row | {"error": {"kind": prediction.error.kind, "message": prediction.error.message}}
    answers = [
        {
            "rank": answer.rank,
            "index": answer.index,
            "label": answer.label,
            "probability": round(answer.probability, PROBABILITY_DIGITS),
        }
        for answer in prediction.predictions
    ]
    if prediction.reason is not None:
        row |= {"label": None, "reason": prediction.reason}
    if prediction.filed is not None:
        row["moved_to" if prediction.is_moved else "copied_to"] = prediction.filed
    if prediction.explained is not None:
        row["explained"] = prediction.explained
    return row | {"predictions": answers}


def from_row(row: Mapping[str, Any]) -> ImageResult:
    """The record that `as_row` made a JSON object of; pixels are in none."""
    fault = row.get("error")
    return ImageResult(
        row["path"],
        tuple(Prediction(**answer) for answer in row.get("predictions", ())),
        None if fault is None else ErrorInfo(**fault),
        row.get("reason"),
        explained=row.get("explained"),
        filed=row.get("moved_to", row.get("copied_to")),
        is_moved="moved_to" in row,
    )


def label_text(answer: Prediction) -> str:
    """The class of an answer, for a person: where there is none, that."""
    return "(no answer)" if answer.label is None else answer.label


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One JSON object a line."""
    for row in rows:
        yield json_text(row) + "\n"


def json_array(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One JSON array of the rows, a row a line."""
    separator = "[\n"
    for row in rows:
        yield separator + json_text(row)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def csv_lines(predictions: Iterable[ImageResult]) -> Iterator[str]:
    """CSV with a header, one line for each rank; text that a spreadsheet would run is
    neutralised.
    """
    yield csv_line(CSV_COLUMNS)
    for prediction in predictions:
        row = as_row(prediction)
        if prediction.error is not None:
            error = row["error"]
            yield csv_line(
                (row["path"], row["status"], "", "", "", "", error["kind"], error["message"])
            )
        for answer in row.get("predictions", ()):
            reason = prediction.reason if answer["rank"] == 1 else ""
            yield csv_line((row["path"], row["status"], *answer.values(), "", reason or ""))


def csv_line(cells: Iterable[object]) -> str:
    """One line of CSV in which no spreadsheet finds a formula."""
    buffer = io.StringIO()
    # the writer quotes only those line ends that it uses itself, and a name may hold either
    csv.writer(buffer, lineterminator="\r\n").writerow([_csv_cell(cell) for cell in cells])
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def for_terminal(pieces: Iterable[str], format_: Format) -> Iterator[str]:
    """The same for a person's eyes: what would command a terminal, or turn its text around, is
    escaped; in JSON so that it stays the same JSON.
    """
    for piece in pieces:
        body = piece.rstrip("\n")
        shown = (
            printable(body)
            if format_ == "csv"
            else "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in body)
        )
        yield shown + piece[len(body) :]


ENCODERS: Mapping[Format, Callable[[Iterable[ImageResult]], Iterator[str]]] = {
    "json": lambda predictions: json_array(map(as_row, predictions)),
    "jsonl": lambda predictions: json_lines(map(as_row, predictions)),
    "csv": csv_lines,
}


# --- where text goes ---------------------------------------------------------------------------


def chosen_format(given: Format | None, output: Path | None) -> Format:
    """The format a person named, else the one that the output's name means, else the table.

    Raises:
        UsageError: its name means none.
    """
    if given is not None or output is None:
        return given or "table"
    format_ = SUFFIX_FORMATS.get(output.suffix.lower())
    if format_ is None:
        raise UsageError(
            f"--output {str(output)!r} ends in {output.suffix!r}, which is no format of answers.",
            f"Use {', '.join(filter(None, SUFFIX_FORMATS))}, or say which one with --format.",
        )
    return format_


def write(pieces: Iterable[str], output: Path | None) -> None:
    """Write text, piece by piece, to stdout, or to a file that appears whole or not at all.

    Raises:
        EffnetError: it cannot be written; the message names what.
    """
    if output is None or str(output) == STDOUT:
        for piece in pieces:
            write_stdout(piece)
        return
    check_output(output, "--output")
    with atomic_write(output.resolve()) as part, part.open("wb") as file:
        for piece in pieces:
            file.write(_encoded(piece))


def check_output(output: Path, option: str) -> None:
    """Whether a file may be written where `option` wants one.

    Raises:
        UsageError: there is something that is no ordinary file, an image or a network.
    """
    named = f"{option} {str(output)!r}"
    if output.is_dir():
        raise UsageError(f"{named} is a folder.", "Name a file in it.")
    if output.exists() and not output.is_file():
        raise UsageError(
            f"{named} is no ordinary file.", f"Leave {option} out, or name an ordinary file."
        )
    if output.is_file() and is_image_content(str(output)):
        raise UsageError(f"{named} is an image, which would be lost.", "Name another file.")
    if export_file.is_model_file(output):
        raise UsageError(
            f"{named} belongs to a network, which would be lost.", "Name another file."
        )


def check_not_read(output: Path, read: Iterable[Path]) -> None:
    """No answer is written over what is asked about.

    Raises:
        UsageError: `output` is one of the files that are `read`.
    """
    for path in read:
        if path.is_file() and output.exists() and path.samefile(output):
            raise UsageError(
                f"{str(output)!r} is an input, and would be replaced by its answers.",
                "Name another file to write.",
            )


def write_stdout(text: str) -> None:
    """Write and flush, so that the next program in a pipe has each row when it is known."""
    try:
        sys.stdout.buffer.write(_encoded(text))
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error
    except OSError as error:
        raise EffnetError(
            f"Standard output cannot be written: {error.strerror}.", "Make room, or use --output."
        ) from error


def _encoded(text: str) -> bytes:
    """UTF-8 whatever the locale; invalid bytes of names come out as they were."""
    return text.encode("utf-8", "surrogateescape")


# --- words on stderr ---------------------------------------------------------------------------


class PlainReporter:
    """A `Reporter` that writes plain lines to stderr; says nothing when `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def note(self, text: str) -> None:
        """One line."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """One line about a failure, which no wish for quiet hides."""
        with suppress(OSError):  # nobody hears it, and the answers are what counts
            print(printable(text), file=sys.stderr)  # noqa: T201

    def progress(
        self, what: str, done: int, total: int | None, unit: ProgressUnit = "images"
    ) -> None:
        """Not shown: there is nobody at a terminal."""

    def close(self) -> None:
        """The work is over, or has failed."""

    def track(
        self, predictions: Iterator[ImageResult], count: Callable[[], int | None]
    ) -> Iterator[ImageResult]:
        """`predictions` as they are: there is nobody to show a bar to. `count` would give their
        number.
        """
        return predictions


class RunSummary:
    """Counts rows as they pass, for the closing summary and the exit status; the first `earlier`
    are those of an interrupted run.
    """

    def __init__(self, earlier: int = 0) -> None:
        self.earlier = earlier
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self._classes: Counter[str] = Counter()
        self._started = time.perf_counter()

    def count(self, predictions: Iterable[ImageResult]) -> Iterator[ImageResult]:
        """The same rows, counted."""
        for prediction in predictions:
            if prediction.error is not None:
                self.failed[prediction.error.kind] += 1
            else:
                self.answered += 1
                self._classes[label_text(prediction.predictions[0])] += 1
            yield prediction

    def summary(self, finder: Finder) -> str:
        """What was done, in words: images, rate, failures by kind, frequent classes, what was
        left out.
        """
        seconds = time.perf_counter() - self._started
        total = self.answered + self.failed.total()
        parts = [f"{_counted(total, 'image')} in {seconds:.1f} s"]
        if self.earlier:
            parts[0] += f", {self.earlier:,} of them earlier"
        elif self.answered:
            parts[0] += f" ({self.answered / seconds:.1f} images/s)"
        if self.failed:
            kinds = ", ".join(f"{number} {kind}" for kind, number in self.failed.most_common())
            parts.append(f"{self.failed.total()} failed: {kinds}")
        if self.answered > FREQUENT_CLASSES:
            frequent = ", ".join(
                f"{label} {n}" for label, n in self._classes.most_common(FREQUENT_CLASSES)
            )
            parts.append(f"most frequent: {frequent}")
        if finder.not_images:
            parts.append(f"{_counted(finder.not_images, 'file')} left out for not being an image")
        if finder.linked_twice:
            parts.append(
                f"{_counted(finder.linked_twice, 'link')} left out whose image is listed already"
            )
        return "; ".join(parts)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
