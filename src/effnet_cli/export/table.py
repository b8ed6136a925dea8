"""The result of an export as a table and notes."""

import shlex
from collections.abc import Iterator

from effnet_cli.export.records import (
    EXACT_INT8,
    ComparedForm,
    ComparedMap,
    ExportComparison,
    ExportResult,
)
from effnet_cli.output.tables import Block, Table

# Rounding alone changes the class of a few images: at most this share or number of them.
SAME_AGREEMENT, FEW_DIFFERENT = 0.01, 3


def blocks(result: ExportResult) -> Iterator[Block]:
    """Yield a table of the model's forms, torch first, or nothing if there was no comparison."""
    forms = result.comparison.forms
    if not forms:
        return
    if result.comparison.maps:
        yield from _map_blocks(result.comparison)
        return
    has_labels = forms[0].top1 is not None
    same = "same labels" if result.comparison.is_multi_label else "same top-1"
    columns = ["model", same, "confident", "max |dp|", "top-1", "MB", "ms/image"]
    if not has_labels:
        columns.remove("top-1")
    yield Table(columns, [_cells(form, has_labels) for form in forms])


def _map_blocks(found: ExportComparison) -> Iterator[Block]:
    columns = ["map", "channels", "stride", "cosine", "max relative error"]
    yield Table(columns, [_map_cells(one) for one in found.maps])
    yield Table(
        ["model", "MB", "ms/image"], [[form.name, *_cost_cells(form)] for form in found.forms]
    )


def _map_cells(one: ComparedMap) -> list[object]:
    error = one.relative_error
    return [
        *(one.name, one.channels, one.stride),
        None if one.cosine is None else f"{one.cosine:.6f}",
        None if error is None else f"{error:.1e}",
    ]


def _cells(form: ComparedForm, has_labels: bool) -> list[object]:
    difference = form.max_difference
    return [
        form.name,
        *(None if s is None else f"{s:.1%}" for s in (form.agreement, form.confident_agreement)),
        None if difference is None else f"{difference:.1e}",
        *([f"{form.top1:.2%}"] if has_labels else []),
        *_cost_cells(form),
    ]


def _cost_cells(form: ComparedForm) -> list[object]:
    return [
        None if form.size_bytes is None else f"{form.size_bytes / 1e6:.1f}",
        None if form.median_ms is None else f"{form.median_ms:.1f}",
    ]


def _processor_notes(found: ExportComparison) -> Iterator[str]:
    """Yield a warning if int8 gives other classes here than in exact arithmetic."""
    exact = next((form for form in found.forms if form.name == EXACT_INT8), None)
    if exact is None or exact.agreement is None:
        return
    here = found.forms[-1].agreement or 0.0
    if abs(here - exact.agreement) > max(SAME_AGREEMENT, FEW_DIFFERENT / found.images):
        yield (
            f"int8 agrees with torch on {here:.1%} of the images on this processor, and on "
            f"{exact.agreement:.1%} in exact arithmetic: other processors may give other results. "
            "Compare the file where it will run."
        )


def notes(result: ExportResult) -> Iterator[str]:
    """Yield what was compared, why the file was rejected, where it is and how to use it."""
    found = result.comparison
    if found.maps:
        yield f"Compared on {found.images:,} views of {found.image_set}."
    elif found.forms:
        sure = "top probability of at least 50 %"
        if found.is_multi_label:
            sure = "all labels at least 10 points from their thresholds"
        yield (
            f"Compared on {found.images:,} views of {found.image_set}; torch is confident about "
            f"{found.confident:,} ({sure})."
        )
    yield from _processor_notes(found)
    if found.rejection is not None:
        yield f"Export rejected: {found.rejection}."
    if result.path is None:
        yield "The file was not kept. Use --force to keep it."
        return
    file = shlex.quote(str(result.path))
    if result.not_compared is not None:
        yield f"Wrote {file}, not compared with torch: {result.not_compared}."
    elif found.maps:
        yield f"Wrote {file}. Its input is pixels [N,3,H,W], with H and W multiples of 32."
    else:
        yield f"Wrote {file}. Use it: effnet predict IMAGE --model {file}"
