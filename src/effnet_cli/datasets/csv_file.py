"""Datasets as a CSV file with the columns path, label and optionally split."""

import csv
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effnet_cli.datasets.findings import error, note
from effnet_cli.datasets.listing import LabelledFile, LayoutError, Source
from effnet_cli.datasets.split import SPLIT_BY_NAME, SPLITS, TRAIN
from effnet_cli.images.sniff import HEAD_BYTES, sniff
from effnet_cli.options import DatasetOptions

DELIMITERS = ",;\t"
HEADER_HINT = "The first line must be path,label or path,label,split."
# Names keep bytes that are not valid UTF-8.
CSV_TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}


def decode_path(cell: str) -> str:
    """Return the path in a cell read with `CSV_TEXT`, for the operating system."""
    return os.fsdecode(cell.encode(errors="surrogateescape"))


def encode_path(path: str) -> str:
    """Return the cell of a path, which keeps the operating system's bytes."""
    return os.fsencode(path).decode(errors="surrogateescape")


@dataclass(slots=True, kw_only=True)
class CsvSource(Source):
    """A dataset in a CSV file. `rows` has (label, path) by split, relative to `folder`."""

    counted = (
        (error, "unknown_split", "row", "with an unknown split.", "Use train, val or test."),
        (error, "empty_label", "row", "without a label.", "Add the name of the class."),
        (error, "empty_path", "row", "without a path.", "Add the path of the image."),
        (note, "listed_twice", "row", "skipped: the file is already listed.", ""),
    )
    folder: Path
    rows: dict[int, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, cells: dict[str, str], line: str) -> None:
        """Add a row, or count what is wrong with it."""
        path, label = cells.get("path", ""), cells.get("label", "")
        name = cells.get("split", "") if self.has_splits else SPLITS[TRAIN]
        split = SPLIT_BY_NAME.get(name.strip().lower())
        if split is None:
            self.counters["unknown_split"].add(f"{line} ({name!r})")
        if not label:
            self.counters["empty_label"].add(line)
        if not path:
            self.counters["empty_path"].add(line)
        if split is not None and label and path:
            path = decode_path(path)
            self.rows.setdefault(split, []).append((label, path))
            self.splits.add(split)

    def read(self, split: int) -> tuple[list[str], list[LabelledFile]]:
        files: dict[tuple[str, str], LabelledFile] = {}
        for label, name in sorted(self.rows.get(split, [])):
            path = str(self.folder / name)
            identity = (label, _resolve(path))
            if identity in files:
                self.counters["listed_twice"].add(path)
            else:
                files[identity] = LabelledFile(path, label)
        return sorted({label for label, _ in files}), list(files.values())


def _resolve(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL byte in the name
        return path


def open_csv(file: Path, options: DatasetOptions | None) -> CsvSource:
    """Read the rows of a CSV file."""
    name = repr(str(file))
    if options is not None and options.val is not None:
        message = f"--val {str(options.val)!r} requires a folder, but {name} is a CSV file."
        hint = "Mark the validation rows with val in a column named split."
        raise LayoutError("val_of_csv", message, hint)
    _check_is_text(file)
    try:
        with file.open(**CSV_TEXT) as lines:
            header = lines.readline()
            lines.seek(0)
            delimiter = max(DELIMITERS, key=header.count)
            return _parse(csv.reader(lines, delimiter=delimiter, strict=True), file)
    except csv.Error as fault:
        message = f"{name} is not a valid CSV file: {fault}."
        raise LayoutError("bad_csv", message, "Export it again.") from fault
    except OSError as fault:
        message = f"Cannot read {name}: {fault.strerror}."
        raise LayoutError("unreadable", message, "Check its permissions.") from fault


def _check_is_text(file: Path) -> None:
    hint = "Use a folder or a CSV file in UTF-8."
    if not file.is_file():  # reading a pipe or a device may never end
        message = f"{str(file)!r} is neither a folder nor a file."
        raise LayoutError("not_a_file", message, hint)
    with file.open("rb") as start:
        head = start.read(HEAD_BYTES)
    content = sniff(head, str(file))
    if content is not None or b"\0" in head:
        what = content.description if content else "binary or UTF-16 data"
        raise LayoutError("not_csv", f"{str(file)!r} is {what}, not a CSV file.", hint)


def _parse(reader: Any, file: Path) -> CsvSource:
    header = [name.strip().casefold() for name in next(reader, [])]
    if not any(header):
        raise LayoutError("empty", f"{str(file)!r} is empty.", HEADER_HINT)
    missing = [name for name in ("path", "label") if name not in header]
    if missing:
        message = (
            f"{str(file)!r} is missing the column{'s' * (len(missing) > 1)} {', '.join(missing)}."
        )
        raise LayoutError("missing_column", message, HEADER_HINT)
    has_splits = "split" in header
    layout = f"a CSV file{' with a split column' * has_splits}"
    source = CsvSource(layout=layout, has_splits=has_splits, splits=set(), folder=file.parent)
    for cells in reader:
        if cells:
            source.add(dict(zip(header, cells, strict=False)), f"line {reader.line_num}")
    if not source.rows and not source.counters:
        raise LayoutError("empty", f"{str(file)!r} has no rows.", "Add a line for each image.")
    return source
