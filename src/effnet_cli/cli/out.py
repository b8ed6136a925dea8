"""What the commands share when they speak."""

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from effnet_cli.cli.options import ListFormat
from effnet_cli.options import Format

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from effnet_cli.models.variants import Variant
    from effnet_cli.output.text import PlainReporter

CHECK_FAILED_STATUS = 3  # something that was to hold does not


def new_reporter(quiet: bool) -> "PlainReporter":
    """Bars for a person at a terminal, plain lines for everyone else."""
    if sys.stderr.isatty():
        from effnet_cli.output.console import TerminalReporter

        return TerminalReporter(quiet)
    from effnet_cli.output.text import PlainReporter

    return PlainReporter(quiet)


def show_data(pieces: Iterable[str], format_: Format) -> None:
    """Rows for a program on stdout; if a person reads them there, nothing in them commands the
    terminal.
    """
    from effnet_cli.output import text as rows

    rows.write(rows.for_terminal(pieces, format_) if sys.stdout.isatty() else pieces, None)


def show_json(value: object) -> None:
    """One JSON value on stdout."""
    from effnet_cli.output.text import json_text

    show_data([json_text(value, indent=2) + "\n"], "json")


def print_listing(records: Iterable["DataclassInstance"], format_: ListFormat) -> None:
    from effnet_cli.output import text as rows

    listed = [asdict(record) for record in records]
    if format_ == "json":
        show_json(listed)
        return
    from effnet_cli.output.console import listing_text

    columns = [name.replace("_", " ") for name in listed[0]]
    rows.write(listing_text(columns, [list(record.values()) for record in listed]), None)


def named(names: list[str]) -> "list[Variant]":
    """The variants that were named; `all` is every one."""
    from effnet_cli.models.variants import VARIANTS, find_variant

    return list(VARIANTS.values()) if names == ["all"] else [find_variant(name) for name in names]
