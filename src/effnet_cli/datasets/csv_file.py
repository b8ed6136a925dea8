"""Tables in CSV files: any usual separator and encoding, with or without a line of names."""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from effnet_cli.datasets.columns import IMAGE_NAMES, LABEL_NAMES, Cell, normalize_name
from effnet_cli.datasets.image_paths import PathResolver
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.table import LabelTable
from effnet_cli.images.finder import is_image_name
from effnet_cli.images.sniff import HEAD_BYTES, sniff

DELIMITERS = ",;\t|"
EXCEL_SEPARATOR = re.compile(r"sep=.?\s*$")  # Excel's own first line
PROBED_ROWS = 50
CSV_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".psv")
ENCODING_BY_BOM = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Names keep bytes that are not valid UTF-8.
CSV_TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}


def open_csv(file: Path) -> LabelTable:
    """Open a CSV file.

    Raises:
        LayoutError: it cannot be read, is empty, or is no CSV file.
    """
    text = CSV_TEXT | _find_encoding(file)
    try:
        with file.open(**text) as lines:
            skipped, first_line = _skip_preamble(lines)
    except (OSError, UnicodeError) as fault:
        raise _cannot_read(file, fault) from fault
    format_ = _find_format(first_line)

    def read(skip: int) -> Iterator[tuple[int, Sequence[Cell]]]:
        try:
            with file.open(**text) as lines:
                reader = csv.reader(islice(lines, skipped, None), **format_)
                for cells in islice(reader, skip, None):
                    if cells:
                        yield skipped + reader.line_num, cells
        except csv.Error as fault:
            message = f"{str(file)!r} is not a valid CSV file: {fault}."
            raise LayoutError("bad_csv", message, "Export it again.") from fault
        except (OSError, UnicodeError) as fault:
            raise _cannot_read(file, fault) from fault

    first = [str(cell).strip() for cell in next(read(0), (0, ()))[1]]
    if not any(first):
        message = f"{str(file)!r} is empty."
        raise LayoutError("empty", message, "Add a line path,label and a line for each image.")
    has_names = not _is_row(first, file.parent)
    columns = first if has_names else [f"column {place}" for place in range(1, len(first) + 1)]
    sizes = {len(cells) for _, cells in islice(read(int(has_names)), PROBED_ROWS)}
    if has_names and sizes == {len(first) + 1} and all(first):
        columns = ["", *columns]  # R does not name the column of the rows' names
    return LabelTable(file, "a CSV file", columns, read=lambda: read(int(has_names)))


def _skip_preamble(lines: Iterable[str]) -> tuple[int, str]:
    """Return how many lines come before the first one with cells, and this line."""
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith("#") and not EXCEL_SEPARATOR.match(line):
            return number, line
    return 0, ""


def _find_format(first_line: str) -> dict[str, Any]:
    delimiter = max(DELIMITERS, key=first_line.count)
    if not first_line.count(delimiter) and is_image_name(first_line.split(" ")[0]):
        delimiter = " "  # lists of other libraries: `cat/1.jpg 0`
    # 'path, "label"' is quoted only if the space is not part of the cell
    has_spaces = not delimiter.isspace() and f"{delimiter} " in first_line
    return {"delimiter": delimiter, "skipinitialspace": has_spaces, "strict": True}


def _is_row(cells: Sequence[str], folder: Path) -> bool:
    """Return whether the first line has an image instead of the names of columns."""
    if any(map(is_image_name, cells)):
        return True
    if {normalize_name(cell) for cell in cells} & {*IMAGE_NAMES, *LABEL_NAMES}:
        return False
    is_numeric = all(re.fullmatch(r"-?[\d.]+", cell) for cell in cells)
    return is_numeric or PathResolver(folder).count_found(filter(None, cells)) > 0


def _find_encoding(file: Path) -> dict[str, str]:
    """Return what differs from UTF-8; refuse what is no text."""
    hint = "Use a folder or a table: CSV, JSON, JSON lines or Parquet."
    if not file.is_file():  # reading a pipe or a device may never end
        message = f"{str(file)!r} is neither a folder nor a file."
        raise LayoutError("not_a_file", message, hint)
    try:
        with file.open("rb") as start:
            head = start.read(HEAD_BYTES)
    except OSError as fault:
        raise _cannot_read(file, fault) from fault
    for mark, name in ENCODING_BY_BOM.items():
        if head.startswith(mark):
            return {"encoding": name, "errors": "strict"}
    content = sniff(head, str(file))
    if content is not None or b"\0" in head:
        what = content.description if content else "binary or UTF-16 data"
        raise LayoutError("not_csv", f"{str(file)!r} is {what}, not a CSV file.", hint)
    return {}


def _cannot_read(file: Path, fault: OSError | UnicodeError) -> LayoutError:
    if isinstance(fault, UnicodeError):
        message = (
            f"{str(file)!r} is not valid {fault.encoding}."
            if isinstance(fault, UnicodeDecodeError)
            else f"{str(file)!r} is not valid text."
        )
        return LayoutError("bad_csv", message, "Save it as UTF-8.")
    message = f"Cannot read {str(file)!r}: {fault.strerror}."
    return LayoutError("unreadable", message, "Check its permissions.")
