"""Blocks: text and tables as data, which `terminal.render` turns into lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Styled:
    """Text in a rich style, such as "green" or "bold"."""

    text: str
    style: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A share (0..1) drawn as a bar; narrow terminals omit columns of bars."""

    share: float
    style: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line with styled parts."""

    parts: tuple[str | Styled, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column names.

    Numbers are right-aligned, `None` is shown as "-", a `Path` is shortened in terminals, and an
    empty row separates sections. `is_wrapped` folds long cells to fit the terminal; otherwise the
    table is as wide as its cells. `image`, uint8 [H,W,3], is drawn on the left.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str | None = None
    is_wrapped: bool = False
    image: "npt.NDArray[np.uint8] | None" = None


Block = str | Line | Table  # a string is one line


def is_number(cell: object) -> bool:
    """Return whether a cell is `None`, a number, or text that begins and ends like a number."""
    if isinstance(cell, str):
        return cell[:1].isdigit() and (cell[-1].isdigit() or cell.endswith("%"))
    return isinstance(cell, int | float | None)
