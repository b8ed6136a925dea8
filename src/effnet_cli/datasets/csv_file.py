"""A CSV file with the columns path, label and perhaps split -> labelled files."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effnet_cli.datasets.listing import SPLIT_BY_NAME, FileList, LayoutError, unknown_classes
from effnet_cli.datasets.paths import Paths
from effnet_cli.datasets.records import SPLITS, TEST, TRAIN, VAL, Finding, Tally
from effnet_cli.images.sniff import HEAD_BYTES, sniff
from effnet_cli.options import DatasetOptions
from effnet_cli.system.text import pluralize

if TYPE_CHECKING:
    import _csv

DELIMITERS = ",;\t"
HEADER = "Start the file with the line path,label or path,label,split."


@dataclass(frozen=True, slots=True, order=True)
class _Row:
    label: str
    split: int
    path: bytes


@dataclass(slots=True)
class Table:
    """The rows of a CSV file, and what is wrong with the others."""

    rows: list[_Row] = field(default_factory=list)
    has_split: bool = False
    bad_splits: Tally = field(default_factory=Tally)
    empty_labels: Tally = field(default_factory=Tally)
    empty_paths: Tally = field(default_factory=Tally)


def listed_table(file: Path, options: DatasetOptions) -> FileList:
    """The labelled files of a CSV file; paths are relative to its folder.

    Raises:
        Refused: it is no such file.
    """
    if options.val is not None:
        raise LayoutError(
            "val_of_csv",
            f"--val {str(options.val)!r} names a folder, but {str(file)!r} is a CSV file.",
            "Mark the validation rows with val in a column called split.",
        )
    return table_listing(file, read_table(file))


def table_listing(file: Path, table: Table) -> FileList:
    """The labelled files of a table that was read.

    Raises:
        Refused: it has no rows.
    """
    findings = list(_row_errors(table))
    kept, twice = _each_file_once(sorted(table.rows), file.parent)
    findings += twice.finding(
        "note", "listed_twice", f"{pluralize(twice.count, 'row')} of files that are listed already."
    )
    if not kept and not findings:
        raise LayoutError("empty", f"{str(file)!r} has no rows.", "Add a line for each image.")
    return _listing(file, table, kept, findings)


def _listing(file: Path, table: Table, rows: list[_Row], findings: list[Finding]) -> FileList:
    has_val = any(row.split == VAL for row in rows)
    classes = sorted({row.label for row in rows if row.split == TRAIN})
    indexes = {label: index for index, label in enumerate(classes)}
    for split in (VAL, TEST):
        unknown = sorted({row.label for row in rows if row.split == split} - set(classes))
        if unknown:
            findings.append(unknown_classes(split, unknown, f"{file}, split {SPLITS[split]}"))
    rows = [row for row in rows if row.label in indexes]
    words = "a CSV file with a column split" if table.has_split else "a CSV file"
    return FileList(
        words if has_val else f"{words}, validation split off by effnet",
        classes,
        Paths(str(file.parent / os.fsdecode(row.path)) for row in rows),
        Paths(os.path.relpath(file.parent / os.fsdecode(row.path), file.parent) for row in rows),
        np.array([indexes[row.label] for row in rows], dtype=np.int32),
        np.array([row.split for row in rows], dtype=np.int8),
        not has_val,
        findings,
    )


def _each_file_once(rows: list[_Row], folder: Path) -> tuple[list[_Row], Tally]:
    """The rows without those that give a file the same place again, by another link or path."""
    seen: set[_Row] = set()
    kept, twice = [], Tally()
    for row in rows:
        path = folder / os.fsdecode(row.path)
        real = replace(row, path=os.fsencode(_real(path)))
        if real in seen:
            twice.add(str(path))
        else:
            seen.add(real)
            kept.append(row)
    return kept, twice


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL byte in the name
        return str(path)


def _row_errors(table: Table) -> Iterator[Finding]:
    usual = "train, val or test"
    for tally, kind, what, hint in (
        (table.bad_splits, "unknown_split", "an unknown split", f"Write {usual}."),
        (table.empty_labels, "empty_label", "no label", "Write the name of the class."),
        (table.empty_paths, "empty_path", "no path", "Write the path of the image."),
    ):
        lines = ", ".join(tally.examples)
        more = f" and {tally.count - len(tally.examples):,} more" if tally.count > 5 else ""
        message = f"{pluralize(tally.count, 'row')} with {what}: {lines}{more}."
        yield from (
            Finding(found.level, kind, message, hint, tally.count)
            for found in tally.finding("error", kind, message, hint)
        )


# --- reading -----------------------------------------------------------------------------------


def read_table(file: Path) -> Table:
    """The rows of a CSV file.

    Raises:
        Refused: it is no such file.
    """
    _check_is_text(file)
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            header = lines.readline()
            lines.seek(0)
            delimiter = max(DELIMITERS, key=header.count)
            return _parsed(csv.reader(lines, delimiter=delimiter, strict=True), file)
    except csv.Error as error:
        raise LayoutError(
            "bad_csv", f"{str(file)!r} is not a readable CSV file: {error}.", "Write it anew."
        ) from error
    except OSError as error:
        raise LayoutError(
            "unreadable",
            f"{str(file)!r} cannot be read: {error.strerror}.",
            "Check its permissions.",
        ) from error


def _check_is_text(file: Path) -> None:
    if not file.is_file():  # a pipe would never end, a device never start
        raise LayoutError(
            "not_a_file",
            f"{str(file)!r} is neither a folder nor a file.",
            "Give a folder or a CSV.",
        )
    with file.open("rb") as start:
        head = start.read(HEAD_BYTES)
    content = sniff(head, str(file))
    if content is not None or b"\0" in head:
        what = content.description if content else "not text in UTF-8"
        raise LayoutError(
            "not_csv", f"{str(file)!r} is {what}, not a CSV file.", "Give a folder or a CSV file."
        )


def _parsed(reader: "_csv.Reader", file: Path) -> Table:
    header = [name.strip().casefold() for name in next(reader, [])]
    if not any(header):
        raise LayoutError("empty", f"{str(file)!r} is empty.", HEADER)
    missing = [name for name in ("path", "label") if name not in header]
    if missing:
        raise LayoutError(
            "missing_column",
            f"Line 1 of {str(file)!r} has no column {' and no column '.join(missing)}.",
            HEADER,
        )
    table = Table(has_split="split" in header)
    for cells in reader:
        if cells:
            row = dict(zip(header, cells, strict=False))
            _add(table, row, f"line {reader.line_num}")
    return table


def _add(table: Table, row: dict[str, str], line: str) -> None:
    path, label = row.get("path", ""), row.get("label", "")
    split_name = row.get("split", "") if table.has_split else SPLITS[TRAIN]
    split = SPLIT_BY_NAME.get(split_name.strip().lower())
    if split is None:
        table.bad_splits.add(f"{line} ({split_name!r})")
    if not label:
        table.empty_labels.add(line)
    if not path:
        table.empty_paths.add(line)
    if split is not None and label and path:
        table.rows.append(_Row(label, split, path.encode(errors="surrogateescape")))
