"""Datasets as a table of images and labels, in a file of any format."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from effnet_cli.datasets.columns import (
    LABEL_SEPARATORS,
    MISSING_CELLS,
    Cell,
    Columns,
    choose_columns,
)
from effnet_cli.datasets.findings import Counters, Finding, error, note, warning
from effnet_cli.datasets.image_paths import PathResolver
from effnet_cli.datasets.label_sets import SAVED_JOINER, join_labels, split_labels
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.paths import decode_path
from effnet_cli.datasets.rows import DatasetRow, RowSource, collect_rows, describe_rows, merge_rows
from effnet_cli.datasets.split import TRAIN, parse_split
from effnet_cli.options import DatasetOptions, LabelOptions
from effnet_cli.system.text import pluralize, quote_names

SEPARATORS = f"{LABEL_SEPARATORS} "
MISSING_LABELS = MISSING_CELLS | {""}
LIST_OR_OBJECT = re.compile(r"[\[{].*[\]}]$", re.DOTALL)
SAMPLE_ROWS = 1000  # from which columns and paths are recognised


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Rows of named columns, which may be read several times.

    `kind` describes the file, e.g. "a CSV file". `read` yields the number of each row, counted in
    `unit`s, and its cells. `split` is that of all rows, if known.
    """

    file: Path
    kind: str
    columns: Sequence[str]
    read: Callable[[], Iterator[tuple[int, Sequence[Cell]]]]
    unit: str = "line"
    split: int | None = None

    @property
    def folder(self) -> Path:
        """The folder that paths are relative to."""
        return self.file.parent

    @property
    def is_saved_split(self) -> bool:
        """Whether effnet wrote the table, so that its labels are those of a checked dataset."""
        return "sha256" in self.columns

    def sample(self) -> list[Sequence[Cell]]:
        """Return the first rows."""
        return [cells for _, cells in islice(self.read(), SAMPLE_ROWS)]


SEVERAL = "Add --multi-label, or keep one label for each image."


@dataclass(slots=True, kw_only=True)
class TableSource(RowSource):
    """A dataset in tables."""

    counted = (
        *RowSource.counted,
        (error, "unknown_split", "row", "with an unknown split.", "Use train, val or test."),
        (error, "empty_label", "row", "without a label.", "Add the name of the class."),
        (error, "several_labels", "row", "with several labels.", SEVERAL),
        (
            error,
            "unreadable_label",
            "row",
            "with labels that are not read.",
            "Use one with --label-separator.",
        ),
        (error, "bad_text", "row", "with a label that is not valid UTF-8.", "Save it as UTF-8."),
        (error, "empty_path", "row", "without a path.", "Add the path of the image."),
        (error, "ambiguous_path", "path", "of several images.", "Add more of its folders."),
        (error, "extra_cells", "row", "with more cells than columns.", "Quote cells with commas."),
        (note, "spaces", "label", "with spaces around it, which are ignored.", ""),
    )


@dataclass(slots=True)
class _RowReader:
    """Reads the rows of a table, and counts what is wrong with them."""

    table: LabelTable
    columns: Columns
    resolver: PathResolver
    counters: Counters
    is_multi_label: bool

    def read(self) -> Iterator[DatasetRow]:
        """Yield the rows that have a path, a label and a split."""
        for number, cells in self.table.read():
            where = f"{self.table.unit} {number}"
            if any(cells[len(self.table.columns) :]):
                self.counters["extra_cells"].add(f"{where} ({', '.join(map(str, cells))[:100]})")
                continue
            split, label = self._read_split(cells, where), self._read_label(cells, where)
            path = self._read_path(cells, where)
            if path and label is not None and split is not None:
                yield DatasetRow(path, label, split, group=self.columns.read_group(cells))

    def _read_split(self, cells: Sequence[Cell], where: str) -> int | None:
        column, of_table = self.columns.split, self.table.split
        if column is None:
            return TRAIN if of_table is None else of_table
        text = str(self.columns.get(column, cells))
        split = self.columns.parse_split(text)
        if split is None:
            self.counters["unknown_split"].add(f"{where} ({text!r})")
        return split

    def _read_label(self, cells: Sequence[Cell], where: str) -> str | None:
        """Return the label of a row, or its labels as one text."""
        labels = self.columns.read_labels(cells)
        if not (self.table.is_saved_split or all(map(_is_utf8, labels))):
            self.counters["bad_text"].add(f"{where} ({', '.join(labels)[:100]!r})")
            return None
        if self.is_multi_label:
            kept = [label for label in labels if label.strip() not in MISSING_LABELS]
            if any(SAVED_JOINER in label or LIST_OR_OBJECT.match(label) for label in kept):
                self.counters["unreadable_label"].add(f"{where} ({', '.join(kept)[:100]})")
                return None
            return join_labels([label.strip() for label in kept])
        if len(labels) > 1:
            self.counters["several_labels"].add(f"{where} ({', '.join(labels)})")
            return None
        label = labels[0] if labels else ""
        if not self.table.is_saved_split:
            label = label.strip()
            if LIST_OR_OBJECT.match(label):
                self.counters["several_labels"].add(f"{where} ({label[:100]})")
                return None
            if label in MISSING_LABELS:
                self.counters["empty_label"].add(f"{where} ({label!r})" if label else where)
                return None
        if not label:
            self.counters["empty_label"].add(where)
        elif label != labels[0]:
            self.counters["spaces"].add(f"{where} ({labels[0]!r})")
        return label or None

    def _read_path(self, cells: Sequence[Cell], where: str) -> str:
        text = self.columns.get(self.columns.image, cells)
        if not text or isinstance(text, tuple):
            self.counters["empty_path"].add(where)
            return ""
        path = self.resolver.resolve(decode_path(text))
        if path is None:
            self.counters["ambiguous_path"].add(f"{where} ({text!r})")
        return path or ""


def _is_utf8(label: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in label)


def open_tables(tables: Sequence[LabelTable], options: LabelOptions) -> TableSource:
    """Read the rows of tables, which may have a split each.

    Raises:
        LayoutError: a table has no rows, or its columns are not recognised.
    """
    _check_no_val(tables[0], options)
    counters, notes, layouts = Counters(), list[Finding](), list[str]()
    separators: list[str | None] = []
    has_splits = any(table.split is not None for table in tables)

    def read() -> Iterator[DatasetRow]:
        nonlocal has_splits
        for table in tables:
            resolver = PathResolver(table.folder)
            columns = _recognise(table, options, resolver)
            resolver.learn(columns.image_paths(table))
            yield from _RowReader(
                table, columns, resolver, counters=counters, is_multi_label=options.multi_label
            ).read()
            layouts.append(columns.describe(table.kind))
            separators.append(columns.separator if len(columns.labels) == 1 else "")
            notes.extend((*columns.notes, *resolver.notes()))
            has_splits |= columns.split is not None

    rows = collect_rows(read())
    if options.multi_label:
        labels = sorted({name for key in rows.classes for name in split_labels(key)})
        notes += _find_joined_labels(labels) if None in separators else ()
        rows = merge_rows(rows)
    elif not tables[0].is_saved_split:
        notes += [*_find_joined_labels(rows.classes), *_find_splits_as_labels(rows.classes)]
    layout = " and ".join(dict.fromkeys(layouts))
    notes.insert(0, describe_rows(layout, rows))
    return TableSource(
        layout=layout,
        has_splits=has_splits,
        splits=set(np.unique(rows.splits).tolist()),
        notes=notes,
        counters=counters,
        rows=rows,
    )


def _find_joined_labels(classes: Sequence[str]) -> Iterator[Finding]:
    """Yield an error if labels are made of other labels, as in `cat|dog`.

    Names of classes may share words: those with commas must be made of whole labels, and a space
    before or after a whole label is only warned of.
    """
    for separator in SEPARATORS:
        parts = {name: [part.strip() for part in name.split(separator)] for name in classes}
        counts = Counter(part for own in parts.values() for part in set(own))
        known = set(classes) if separator in ", " else {part for part in counts if counts[part] > 1}
        enough = any if separator == " " else all
        several = [
            name
            for name, own in parts.items()
            if len(own) > 1 and enough(part in known for part in own)
        ]
        if several:
            labels = pluralize(len(several), "label is", "labels are")
            message = f"{labels} made of others, joined by {separator!r}: {quote_names(several)}."
            hint = (
                f"Add --multi-label --label-separator {separator!r}, or replace it in names of "
                "single labels."
            )
            make = warning if separator == " " else error
            yield make("several_labels", message, hint, count=len(several))
            return


def _find_splits_as_labels(classes: Sequence[str]) -> Iterator[Finding]:
    if len(classes) > 1 and all(parse_split(name) is not None for name in classes):
        message = f"The labels {quote_names(classes)} are names of splits."
        yield error("splits_as_labels", message, "Name the other column with --label-column NAME.")


def _recognise(table: LabelTable, options: LabelOptions, resolver: PathResolver) -> Columns:
    sample = table.sample()
    if not sample:
        message, hint = f"{str(table.file)!r} has no rows.", "Add a row for each image."
        raise LayoutError("empty", message, hint)
    return choose_columns(table, sample, options, resolver=resolver)


def _check_no_val(table: LabelTable, options: LabelOptions) -> None:
    if isinstance(options, DatasetOptions) and options.val is not None:
        name, kind = str(table.file), table.kind
        message = f"--val {str(options.val)!r} requires a folder, but {name!r} is {kind}."
        hint = "Mark the validation rows with val in a column named split."
        raise LayoutError("val_of_csv", message, hint)
