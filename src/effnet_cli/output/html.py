"""The templates and tables of the HTML pages."""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from effnet_cli.output.tables import Table, is_number
from effnet_cli.output.text import printable

MAX_ROWS = 1_000  # of one table
GOOD, BAD = ("stable", "faster"), ("unstable", "slower")

PAGES = Environment(
    loader=PackageLoader("effnet_cli.output"),
    autoescape=True,
    finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def base64_text(content: bytes | None) -> Markup:
    """Encode an image as base64 text, which needs no escaping."""
    return Markup(base64.b64encode(content or b"").decode())  # noqa: S704


def sortable(table: Table) -> dict[str, Any]:
    """Return a table's cells and each row's position when sorted by each column, so that the page
    can sort without a script.
    """
    columns, rows = table.columns, table.rows[:MAX_ROWS]
    places = []
    for column in range(len(columns)):
        keys = [_sort_key(row[column]) for row in rows]
        order = sorted(range(len(rows)), key=keys.__getitem__)
        places.append({row: place for place, row in enumerate(order)})
    cells = [
        ([_format_cell(cell) for cell in row], [place[number] for place in places])
        for number, row in enumerate(rows)
    ]
    return {"columns": columns, "rows": cells}


def _sort_key(cell: object) -> tuple[int, float, str]:
    """Return a key that sorts missing values first, then numbers and percentages, then text."""
    if cell is None:
        return 0, 0.0, ""
    try:
        return 1, float(str(cell).replace(",", "").removesuffix("%")), ""
    except ValueError:
        return 2, 0.0, str(cell)


def grid(table: Table) -> Markup:
    """Return the table as HTML, with text left-aligned and numbers right-aligned."""
    columns, rows = table.columns, table.rows
    texts = [not all(is_number(row[i]) for row in rows) for i in range(len(columns))]
    cells = [[(_format_cell(c), _css_class(c, texts[i])) for i, c in enumerate(r)] for r in rows]
    page = PAGES.get_template("grid.html")
    return Markup(page.render(columns=list(zip(columns, texts, strict=True)), rows=cells))  # noqa: S704


def _format_cell(cell: object) -> str:
    if cell is None:
        return "–"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _css_class(cell: object, is_text: bool) -> str:
    names = ["text"] if is_text else []
    if isinstance(cell, str) and cell.startswith((*GOOD, *BAD)):
        names.append("good" if cell.startswith(GOOD) else "bad")
    return " ".join(names)
