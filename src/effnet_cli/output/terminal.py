"""Render blocks as text: coloured and fitted in a terminal, plain and complete elsewhere."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from effnet_cli.output.tables import Bar, Block, Line, Styled, Table, is_number
from effnet_cli.output.text import printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BAR_WIDTH = 20  # characters
BARS_FROM_WIDTH = 72  # columns; narrower terminals only have room for text
MIN_COLUMN_WIDTH = 8
IMAGE_WIDTH = 28  # columns of a drawn image, which takes half as many lines
IMAGE_GAP = 2
MAX_PATH_WIDTH, PATH_START_WIDTH = 44, 6  # characters
RULE = "─"
WIDE = 10_000  # columns of a "terminal" that never wraps


def render(blocks: Iterable[Block], *, is_file: bool = False) -> Iterator[str]:
    """Yield the text of each block, for stdout or for a file, as soon as the block is known."""
    renderer = _Renderer(Console(file=io.StringIO()) if is_file else _stdout())
    return map(renderer.render, blocks)


def can_draw_images() -> bool:
    """Return whether stdout is a terminal with enough colours to draw images."""
    stdout = _stdout()
    has_many = stdout.color_system not in (None, "standard")
    return stdout.is_terminal and has_many and not stdout.no_color


@cache
def _stdout() -> Console:
    """Return rich's console for stdout, whose properties are detected once, not for every line."""
    return Console()


@dataclass(frozen=True, slots=True)
class _Renderer:
    """Renders for a console but never writes to it, because rich's errors would not be handled."""

    console: Console

    def render(self, block: Block) -> str:
        """Return the text of one block, with the final newline."""
        if isinstance(block, str):
            return self._encodable(printable(block)) + "\n"
        if isinstance(block, Line):
            return self._print(Text.assemble(*map(self._text, block.parts)), WIDE)
        title = "" if block.title is None else f"\n{self._encodable(printable(block.title))}\n"
        return title + self._table(block)

    def _table(self, block: Table) -> str:
        width = self.console.width
        if block.image is None:
            width = width if block.is_wrapped and self.console.is_terminal else WIDE
            return self._print(self._rich_table(block, width), width)
        page = RichTable.grid(padding=(0, IMAGE_GAP))
        page.add_row(_draw(block.image), self._rich_table(block, width - IMAGE_WIDTH - IMAGE_GAP))
        return self._print(page, width)

    def _rich_table(self, block: Table, width: int) -> RichTable:
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        shown = []
        for index, name in enumerate(block.columns):
            cells = [row[index] for row in block.rows if index < len(row)]
            is_bar = any(isinstance(cell, Bar) for cell in cells)
            if is_bar and width < BARS_FROM_WIDTH:
                continue
            shown.append(index)
            are_numbers = all(map(is_number, cells))
            is_text = block.is_wrapped and not are_numbers
            table.add_column(
                Text(printable(name)),
                justify="right" if are_numbers else "left",
                overflow="fold",
                no_wrap=is_bar or are_numbers,
                min_width=BAR_WIDTH if is_bar else min(MIN_COLUMN_WIDTH, width) * is_text,
            )
        for row in block.rows:
            if row:
                table.add_row(*(self._text(row[index]) for index in shown if index < len(row)))
            else:
                table.add_section()
        return table

    def _text(self, value: object) -> Text:
        if isinstance(value, Styled):
            return Text(printable(value.text), style=value.style)
        if isinstance(value, Bar):
            return Text(self._bar(value.share), style=value.style)
        if isinstance(value, Path):
            return Text(self._shorten(value))
        if value is None:
            return Text("-")
        return Text(f"{value:,}" if isinstance(value, int) else printable(str(value)))

    def _bar(self, share: float) -> str:
        """Return a bar in steps of 1/8 character, or of whole "#" if the encoding lacks those."""
        full, eighths = divmod(round(share * BAR_WIDTH * 8), 8)
        if not self.console.encoding.startswith("utf"):
            return "#" * full
        return "█" * full + (" ▏▎▍▌▋▊▉"[eighths] if eighths else "")

    def _shorten(self, path: Path) -> str:
        """Return a path; in a terminal, the folders of a long one are cut, but not its name."""
        text = printable(str(path))
        if not self.console.is_terminal:
            return text
        home = os.path.expanduser(f"~{os.sep}")  # noqa: PTH111 (never fails)
        text = f"~{os.sep}{text.removeprefix(home)}" if text.startswith(home) else text
        if len(text) <= MAX_PATH_WIDTH:
            return text
        return f"{text[:PATH_START_WIDTH]}…{os.sep}{printable(path.name)}"

    def _print(self, content: RenderableType, width: int) -> str:
        """Return what rich prints, with colours only in a terminal and no trailing spaces."""
        buffer = io.StringIO()
        if self.console.is_terminal:
            page = Console(file=buffer, force_terminal=True, width=width)
        else:
            page = Console(file=buffer, width=WIDE, color_system=None)
        page.print(content, highlight=False, markup=False, emoji=False)
        return self._encodable("\n".join(line.rstrip() for line in buffer.getvalue().split("\n")))

    def _encodable(self, text: str) -> str:
        """Replace rules and escape other characters that the console's encoding lacks."""
        encoding = self.console.encoding
        if not encoding.startswith("utf"):
            text = text.replace(RULE, "-")
        return text.encode(encoding, "backslashreplace").decode(encoding)


def _draw(image: "npt.NDArray[np.uint8]") -> Text:
    """Draw pixels, uint8 [H,W,3], as half blocks: each character shows one pixel above another."""
    step = len(image) / IMAGE_WIDTH
    places = [int((number + 0.5) * step) for number in range(IMAGE_WIDTH)]
    small = image[places][:, places].tolist()
    rows = zip(small[::2], small[1::2], strict=True)
    return Text("\n").join(Text.assemble(*map(_half_blocks, *row)) for row in rows)


def _half_blocks(top: Sequence[int], bottom: Sequence[int]) -> tuple[str, str]:
    above, below = (",".join(map(str, pixel)) for pixel in (top, bottom))
    return "▀", f"rgb({above}) on rgb({below})"
