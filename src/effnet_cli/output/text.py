"""Make text safe for terminals, JSON and CSV, without heavy imports, so that pipes start fast."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str) -> str:
    """Escape control characters (also bidirectional ones) and invalid bytes in `text`."""
    return "".join(c if c.isprintable() or c == "\u200d" else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_text(value: object, indent: int | None = None) -> str:
    """Encode as JSON that is always valid UTF-8; invalid bytes in names are escaped and survive a
    round trip.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, indent=indent)
    return text


def json_lines(rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Yield one JSON object per line."""
    for row in rows:
        yield json_text(row) + "\n"


def json_array(rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Yield one JSON array with a row per line."""
    separator = "[\n"
    for row in rows:
        yield separator + json_text(row)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def csv_line(cells: Iterable[object]) -> str:
    """Return a CSV line without formulas: a spreadsheet must not run a file name as a formula."""
    buffer = io.StringIO()
    safe = [f"'{c}" if isinstance(c, str) and c.startswith(FORMULA_STARTS) else c for c in cells]
    # the writer only quotes the line ends in its line terminator, and a name may contain \r or \n
    csv.writer(buffer, lineterminator="\r\n").writerow(safe)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def escape_csv(pieces: Iterable[str]) -> Iterator[str]:
    """Escape control characters in CSV for a terminal."""
    for piece in pieces:
        body = piece.rstrip("\n")
        yield printable(body) + piece[len(body) :]


def escape_json(pieces: Iterable[str]) -> Iterator[str]:
    """Escape control characters in JSON for a terminal; its value stays the same."""
    for piece in pieces:
        yield "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in piece)
