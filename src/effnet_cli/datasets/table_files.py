"""The formats of tables, and the tables that lie beside images."""

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
from effnet_cli.datasets.split import parse_split
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
NOT_TABLES = ("sample_submission", "submission", "readme", "requirements", "license", "data_dict")


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
        and not path.stem.lower().startswith(NOT_TABLES)
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
    folders = [root, *(root / name for name in TABLE_FOLDERS)]
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
    """Return the only table, or one for each split: those with labels in the same column as the
    training images.
    """
    if len(usable) == 1:
        return [usable[0][0]]
    by_split: dict[int, tuple[LabelTable, str]] = {}
    for table, columns in usable:
        split = parse_split(table.file.stem) if table.split is None else table.split
        if split is None or split in by_split:
            names = quote_names([one.file.name for one, _ in usable])
            hint = f"Pass one of them, e.g. {str(usable[0][0].file)!r}."
            raise LayoutError("several_tables", f"Each of {names} could hold the labels.", hint)
        by_split[split] = replace(table, split=split), columns.names[columns.labels[0]]
    wanted = by_split[min(by_split)][1]
    return [table for _, (table, label) in sorted(by_split.items()) if label == wanted]
