"""Blocks in a terminal, in a pipe and in a file."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from effnet_cli.output import terminal
from effnet_cli.output.tables import Bar, Block, Line, Styled, Table

MODEL = Path.home() / ("deep" * 10) / "model.safetensors"
BLOCKS: list[Block] = [
    "plain \x1b[31m",
    Line((Styled("1", "green"), " line")),
    Table(("name", "size"), [("a", 1_000), ("b", None)], title="Sizes"),
    Table(("file",), [(MODEL,)]),
]


def show_in(monkeypatch: pytest.MonkeyPatch, width: int | None, encoding: str = "utf-8") -> None:
    """Make stdout a terminal of this width, or a pipe."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, force_terminal=width is not None, width=width or 80)
    monkeypatch.setattr(terminal, "_stdout", lambda: console)


def test_pipe_and_file_get_plain_complete_text(monkeypatch: pytest.MonkeyPatch) -> None:
    show_in(monkeypatch, None)
    piped = "".join(terminal.render(BLOCKS))
    assert piped.startswith("plain \\x1b[31m\n1 line\n\nSizes\n")
    assert "\x1b" not in piped and str(MODEL) in piped
    rows = [line.split() for line in piped.splitlines()]
    assert ["a", "1,000"] in rows and ["b", "-"] in rows
    show_in(monkeypatch, 40)  # a file is not a terminal, whatever stdout is
    assert "".join(terminal.render(BLOCKS, is_file=True)) == piped


def test_terminal_gets_colors_and_short_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    show_in(monkeypatch, 80)
    text = "".join(terminal.render(BLOCKS))
    assert "\x1b[32m1\x1b[0m line" in text
    assert "~/deep…/model.safetensors" in text and str(MODEL) not in text


@pytest.mark.parametrize(("width", "encoding", "mark"), [(80, "utf-8", "█"), (80, "ascii", "#")])
def test_bars_depend_on_width_and_encoding(
    width: int, encoding: str, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(("", "share"), [(Bar(0.5, ""), "50%"), (Bar(1.0, ""), "100%")], is_wrapped=True)
    show_in(monkeypatch, width, encoding)
    assert "".join(terminal.render([table])).count(mark) == 10 + 20
    show_in(monkeypatch, terminal.BARS_FROM_WIDTH - 1, encoding)
    narrow = "".join(terminal.render([table]))
    assert mark not in narrow and "100%" in narrow


def test_long_cells_fold_only_in_wrapped_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    show_in(monkeypatch, 40)
    rows = [("x" * 60, "1.0")]
    assert "x" * 60 in "".join(terminal.render([Table(("name", "n"), rows)]))
    folded = "".join(terminal.render([Table(("name", "n"), rows, is_wrapped=True)]))
    assert "x" * 60 not in folded and folded.count("x") == 60 and "1.0" in folded
