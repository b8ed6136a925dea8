"""What the commands share when they speak."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from effnet_cli.cli.options import ListFormat
from effnet_cli.options import Format
from effnet_cli.output.progress import PlainReporter, TerminalReporter
from effnet_cli.output.text import escape_csv, escape_json, json_text

if TYPE_CHECKING:
    from effnet_cli.models.variants import Variant
    from effnet_cli.output.tables import Block

CHECK_FAILED_STATUS = 3  # something that was to hold does not


def new_reporter(quiet: bool) -> PlainReporter:
    """Bars for a person at a terminal, plain lines for everyone else."""
    if sys.stderr.isatty():
        return TerminalReporter(quiet)
    return PlainReporter(quiet)


def show_blocks(blocks: "Iterable[Block]") -> None:
    """Tables and lines on stdout."""
    from effnet_cli.output.terminal import render
    from effnet_cli.output.writers import write

    write(render(blocks), None)


def show_data(pieces: Iterable[str], format_: Format) -> None:
    """Rows for a program on stdout; if a person reads them there, nothing in them commands the
    terminal.
    """
    from effnet_cli.output.writers import write

    if sys.stdout.isatty():
        pieces = (escape_csv if format_ == "csv" else escape_json)(pieces)
    write(pieces, None)


def show_json(value: object) -> None:
    """One JSON value on stdout."""
    show_data([json_text(value, indent=2) + "\n"], "json")


def print_listing(
    rows: list[dict[str, object]],
    table: tuple[list[str], list[list[object]]],
    format_: ListFormat,
) -> None:
    """The rows as JSON, or the columns and cells as a table."""
    from effnet_cli.output.tables import Table

    if format_ == "json":
        show_json(rows)
    else:
        show_blocks([Table(*table)])


def named(names: list[str]) -> "list[Variant]":
    """The variants that were named; `all` is every one."""
    from effnet_cli.models.variants import VARIANTS, find_variant

    return list(VARIANTS.values()) if names == ["all"] else [find_variant(name) for name in names]
