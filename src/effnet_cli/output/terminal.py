"""Blocks as text for stdout: coloured and fitted to a terminal, plain and whole in a pipe."""

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from effnet_cli.output.tables import Bar, Block, Line, Styled, Table
from effnet_cli.output.text import printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BAR_WIDTH = 20  # characters
BARS_FROM_WIDTH = 72  # columns of the terminal; narrower ones only have room for text
MIN_COLUMN_WIDTH = 8
IMAGE_WIDTH = 28  # columns of a drawn image, which has half as many lines
IMAGE_GAP = 2
MAX_PATH_WIDTH, PATH_START_WIDTH = 44, 6  # characters
WIDE = 10_000  # columns of a "terminal" that never wraps


def render(blocks: Iterable[Block]) -> Iterator[str]:
    """The text of each block as soon as it is known."""
    for block in blocks:
        if isinstance(block, str):
            yield _encodable(printable(block)) + "\n"
        elif isinstance(block, Line):
            yield _print(Text.assemble(*map(_text, block.parts)), WIDE)
        else:
            yield _render_table(block)


def can_draw_images() -> bool:
    """Whether stdout is a terminal with enough colours to draw images."""
    terminal = _terminal()
    has_many = terminal.color_system not in (None, "standard")
    return terminal.is_terminal and has_many and not terminal.no_color


@cache
def _terminal() -> Console:
    """What rich knows about stdout; detected once, not for every line."""
    return Console()


def _render_table(block: Table) -> str:
    title = f"\n{_encodable(printable(block.title))}\n" if block.title else ""
    terminal = _terminal()
    if block.image is None:
        is_folded = block.is_wrapped and terminal.is_terminal
        width = terminal.width if is_folded else WIDE
        return title + _print(_rich_table(block, width), width)
    table = _rich_table(block, terminal.width - IMAGE_WIDTH - IMAGE_GAP)
    page = RichTable.grid(padding=(0, IMAGE_GAP))
    page.add_row(_draw(block.image), table)
    return title + _print(page, terminal.width)


def _rich_table(block: Table, width: int) -> RichTable:
    rows = [list(row) for row in block.rows]
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = []
    for index, name in enumerate(block.columns):
        cells = [row[index] for row in rows if index < len(row)]
        is_bar = any(isinstance(cell, Bar) for cell in cells)
        if is_bar and width < BARS_FROM_WIDTH:
            continue
        shown.append(index)
        is_number = all(map(_is_number, cells))
        text_width = min(MIN_COLUMN_WIDTH, width) if block.is_wrapped and not is_number else None
        table.add_column(
            Text(printable(name)),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_bar or is_number,
            min_width=BAR_WIDTH if is_bar else text_width,
        )
    for row in rows:
        if row:
            table.add_row(*(_text(row[index]) for index in shown if index < len(row)))
        else:
            table.add_section()
    return table


def _is_number(value: object) -> bool:
    """Whether it is a number, or text that begins and ends like one."""
    if isinstance(value, str):
        return value[:1].isdigit() and (value[-1].isdigit() or value.endswith("%"))
    return isinstance(value, int | float | None)


def _text(value: object) -> Text:
    if isinstance(value, Styled):
        return Text(printable(value.text), style=value.style)
    if isinstance(value, Bar):
        return Text(_bar(value.share), style=value.style)
    if isinstance(value, Path):
        return Text(_shorten(value))
    if value is None:
        return Text("-")
    return Text(f"{value:,}" if isinstance(value, int) else printable(str(value)))


def _shorten(path: Path) -> str:
    """A path; a long one is cut before its name in a terminal."""
    text = printable(str(path))
    if not _terminal().is_terminal:
        return text
    home = f"{os.path.expanduser('~')}{os.sep}"  # noqa: PTH111 (never fails)
    text = f"~{os.sep}{text.removeprefix(home)}" if text.startswith(home) else text
    if len(text) <= MAX_PATH_WIDTH:
        return text
    return f"{text[:PATH_START_WIDTH]}…{os.sep}{printable(path.name)}"


def _bar(share: float) -> str:
    """A bar in steps of an eighth of a character, or of "#" where the encoding lacks them."""
    full, eighths = divmod(round(share * BAR_WIDTH * 8), 8)
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        return "#" * full
    return "█" * full + (" ▏▎▍▌▋▊▉"[eighths] if eighths else "")


def _draw(image: "npt.NDArray[np.uint8]") -> Text:
    """Pixels, uint8 [H,W,3], as half blocks: each character shows two, one above the other."""
    step = len(image) / IMAGE_WIDTH
    places = [int((number + 0.5) * step) for number in range(IMAGE_WIDTH)]
    small = image[places][:, places]
    return Text("\n").join(
        Text.assemble(
            *(
                ("▀", f"{_rgb(top)} on {_rgb(bottom)}")
                for top, bottom in zip(above.tolist(), below.tolist(), strict=True)
            )
        )
        for above, below in zip(small[::2], small[1::2], strict=True)
    )


def _rgb(pixel: Sequence[int]) -> str:
    return f"rgb({','.join(map(str, pixel))})"


def _print(content: RenderableType, width: int) -> str:
    """What rich prints, with colours only in a terminal and without trailing spaces."""
    terminal = _terminal()
    buffer = io.StringIO()  # rich must not write to stdout itself: its errors would escape there
    if terminal.is_terminal:
        page = Console(file=buffer, force_terminal=True, width=width)
    else:
        page = Console(file=buffer, width=WIDE, color_system=None)
    page.print(content, highlight=False, markup=False, emoji=False)
    return _encodable("\n".join(line.rstrip() for line in buffer.getvalue().split("\n")))


def _encodable(text: str) -> str:
    """`text` with the characters escaped that the encoding of stdout lacks."""
    encoding = _terminal().encoding
    return text.encode(encoding, "backslashreplace").decode(encoding)
