"""What the commands share when they speak."""

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from effnet_cli.cli.arguments import ListFormat

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from effnet_cli.rows import Speaker
    from effnet_cli.variants import Variant

CHECK_FAILED_STATUS = 3  # something that was to hold does not


def new_speaker(quiet: bool) -> "Speaker":
    """Bars for a person at a terminal, plain lines for everyone else."""
    if sys.stderr.isatty():
        from effnet_cli.console import Screen

        return Screen(quiet)
    from effnet_cli.rows import Speaker

    return Speaker(quiet)


def print_listing(records: Iterable["DataclassInstance"], format_: ListFormat) -> None:
    from effnet_cli import rows

    listed = [asdict(record) for record in records]
    if format_ == "json":
        rows.write_stdout(rows.json_text(listed, indent=2) + "\n")
        return
    from effnet_cli.console import listing_text

    columns = [name.replace("_", " ") for name in listed[0]]
    rows.write(listing_text(columns, [list(record.values()) for record in listed]), None)


def named(names: list[str]) -> "list[Variant]":
    """The variants that were named; `all` is every one."""
    from effnet_cli.variants import VARIANTS, find

    return list(VARIANTS.values()) if names == ["all"] else [find(name) for name in names]
