"""What came of an export as text: a table, JSON, words."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # its own imports need torch
    from effnet_cli.export.agreement import Form
    from effnet_cli.export.run import ExportResult


def as_row(exported: "ExportResult") -> dict[str, Any]:
    """The JSON object."""
    path = None if exported.path is None else str(exported.path)
    was_run = exported.elsewhere is None
    return asdict(exported) | {"path": path, "holds": was_run and exported.objection is None}


def table(exported: "ExportResult") -> tuple[list[str], list[list[object]]]:
    """Columns and rows: each form of the network, the reference first."""
    has_labels = exported.forms[0].top1 is not None
    columns = ["form", "same top-1", "of clear ones", "max |dp|", "mean |dp|"]
    columns += ["top-1"] if has_labels else []
    rows = [_cells(form, has_labels) for form in exported.forms]
    return [*columns, "MB", "ms an image"], rows


def _cells(form: "Form", has_labels: bool) -> list[object]:
    shares = [None if s is None else f"{s:.1%}" for s in (form.agreement, form.confident_agreement)]
    differences = [form.max_difference, form.mean_difference]
    return [
        form.name,
        *shares,
        *(None if d is None else f"{d:.1e}" for d in differences),
        *([f"{form.top1:.2%}"] if has_labels else []),
        f"{form.size_bytes / 1e6:.2f}",
        f"{form.median_ms:.2f}",
    ]


def farewell(exported: "ExportResult") -> Iterator[str]:
    """What was compared, what is wrong, where the file is and what uses it."""
    if exported.forms:
        yield (
            f"Compared on {exported.images:,} looks at {exported.on}; "
            f"{exported.confident:,} of them are clear (top probability from 50 %)"
        )
    if exported.objection is not None:
        yield f"It does not hold: {exported.objection}."
    if exported.path is None:
        yield "No file was kept; --force keeps it."
        return
    file = shlex.quote(str(exported.path))
    if exported.elsewhere is not None:
        yield f"{file} is written, but was not run: {exported.elsewhere}"
    else:
        yield f"{file} is written. Use it: effnet predict IMAGE --model {file}"
