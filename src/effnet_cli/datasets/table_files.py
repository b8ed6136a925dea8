"""The formats of tables, and the tables that lie beside images."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from effnet_cli.datasets.columns import Columns, choose_columns
from effnet_cli.datasets.csv_file import CSV_SUFFIXES, open_csv
from effnet_cli.datasets.findings import note
from effnet_cli.datasets.image_paths import TABLE_FOLDERS, PathResolver
from effnet_cli.datasets.json_file import (
    JSON_LINES_SUFFIXES,
    JSON_SUFFIXES,
    open_json,
    open_json_lines,
)
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.other_formats import check_file
from effnet_cli.datasets.parquet_file import PARQUET_SUFFIXES, open_parquet
from effnet_cli.datasets.split import SHARD, TEST, TRAIN, VAL, parse_split
from effnet_cli.datasets.table import LabelTable, TableSource, open_tables
from effnet_cli.images.finder import is_ignored
from effnet_cli.options import LabelOptions
from effnet_cli.system.text import quote_names

# For each format of tables: the suffixes of its files, and how to open one.
TABLE_FORMATS: tuple[tuple[Sequence[str], Callable[[Path], LabelTable]], ...] = (
    (CSV_SUFFIXES, open_csv),
    (JSON_SUFFIXES, open_json),
    (JSON_LINES_SUFFIXES, open_json_lines),
    (PARQUET_SUFFIXES, open_parquet),
)
TABLE_SUFFIXES = {suffix for suffixes, _ in TABLE_FORMATS for suffix in suffixes} - {".txt"}
NOT_TABLES = ("submission", "readme", "requirements", "license", "datadict", "classindices")


def open_table_file(file: Path, options: LabelOptions) -> TableSource:
    """Open a dataset in one file.

    Raises:
        LayoutError: it is in no format that is read.
    """
    return open_tables([open_label_table(file)], options)


def find_tables(folder: Path) -> list[Path]:
    """Return the files in a folder that may hold labels, in the order of their names."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in TABLE_SUFFIXES
        and not is_ignored(path.name)
        and not any(word in re.sub("[^a-z]", "", path.stem.lower()) for word in NOT_TABLES)
        and path.is_file()
    ]


def open_tables_beside(
    root: Path, splits: Mapping[int, Path], options: LabelOptions, *, is_needed: bool
) -> TableSource | None:
    """Open the tables of images that have no class folders; `None` if there are none, or if none
    can be read and it is not needed.

    They are in `root`, in a folder for them, or in the folders of `splits`. Several tables are read
    together if each is that of a split (`train.csv`, `val.csv`, `test/metadata.csv`).

    Raises:
        LayoutError: the only table cannot be read, or several could be meant.
    """
    folders = [root, *(root / name for name in (*TABLE_FOLDERS, "data"))]
    found: list[tuple[Path, int | None]] = []
    found += [(path, None) for folder in folders if folder.is_dir() for path in find_tables(folder)]
    found += [(path, split) for split, one in splits.items() for path in find_tables(one)]
    usable: list[tuple[LabelTable, Columns]] = []
    faults: list[LayoutError] = []
    for path, split in found:
        try:
            table = replace(open_label_table(path), split=split)
            columns = _check_leads_to_images(table, options)
        except LayoutError as fault:
            if parse_split(path.stem) == VAL:  # without it, other images would be held out
                raise
            faults.append(fault)
        else:
            usable.append((table, columns))
    if not usable:
        if faults and is_needed:
            raise faults[0]
        return None
    tables = _choose_tables(usable)
    source = open_tables(tables, options)
    unused = [path.name for path, _ in found if path not in [table.file for table in tables]]
    if unused:
        source.notes.append(note("unused_tables", f"Files not used: {quote_names(unused)}."))
    return source


def is_table(path: Path) -> bool:
    """Return whether a file is named like a table of images."""
    return path.suffix.lower() in TABLE_SUFFIXES


def open_label_table(file: Path) -> LabelTable:
    """Open a file in the format of its suffix; CSV for others.

    Raises:
        LayoutError: it is in no format that is read.
    """
    check_file(file)
    suffix = file.suffix.lower()
    openers = (open_format for suffixes, open_format in TABLE_FORMATS if suffix in suffixes)
    return next(openers, open_csv)(file)


def _check_leads_to_images(table: LabelTable, options: LabelOptions) -> Columns:
    """Return the columns of a table; refuse one that leads to no file."""
    sample, resolver = table.sample(), PathResolver(table.folder)
    columns = choose_columns(table, sample, options, resolver=resolver)
    texts = [str(columns.get(columns.image, cells)) for cells in sample]
    if resolver.count_found(texts):
        return columns
    example = f", such as {texts[0]!r}" if texts else ""
    name = table.columns[columns.image]
    message = f"No image that {str(table.file)!r} lists in {name!r} is found{example}."
    hint = "Put the images beside the table, or name another column with --image-column NAME."
    raise LayoutError("no_images_found", message, hint)


def _choose_tables(usable: Sequence[tuple[LabelTable, Columns]]) -> list[LabelTable]:
    """Return the only table, or those of the splits, of which each may have several.

    A table of test images without the column of labels is left out.

    Raises:
        LayoutError: several tables could be meant, or one has its labels elsewhere.
    """
    splits = [
        parse_split(table.file.stem) if table.split is None else table.split for table, _ in usable
    ]
    if len(usable) == 1:
        table, split = usable[0][0], splits[0]
        return [table if split in (None, TRAIN) else replace(table, split=split)]
    if None in splits or len(set(splits)) == 1 and not _are_shards(usable):
        names = quote_names([one.file.name for one, _ in usable])
        best = usable[splits.index(TRAIN)][0] if TRAIN in splits else usable[0][0]
        hint = f"Pass one of them, e.g. {str(best.file)!r}."
        raise LayoutError("several_tables", f"Each of {names} could hold the labels.", hint)
    labels = [columns.names[columns.labels[0]] for _, columns in usable]
    wanted = labels[min(range(len(usable)), key=lambda place: splits[place] or 0)]
    kept = []
    for (table, _), split, label in zip(usable, splits, labels, strict=True):
        if label == wanted:
            kept.append(replace(table, split=split))
        elif split != TEST:
            message = f"{str(table.file)!r} has no labels in {wanted!r}, but in {label!r}."
            raise LayoutError("other_columns", message, "Give both columns the same name.")
    return sorted(kept, key=lambda table: table.split or 0)


def _are_shards(usable: Sequence[tuple[LabelTable, Columns]]) -> bool:
    return all(SHARD.search(table.file.stem) for table, _ in usable)
