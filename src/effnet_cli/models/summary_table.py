"""What a variant consists of, as text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from effnet_cli.models.variants import find_variant

if TYPE_CHECKING:  # its own imports need torch
    from effnet_cli.models.summary import ModelSummary, Stage


def headline(anatomy: "ModelSummary") -> Iterator[str]:
    """Name, size and published accuracy."""
    row, work = find_variant(anatomy.variant), anatomy.work
    yield (
        f"{row.name}: {anatomy.resolution_px} px, {work.parameters:,} parameters, "
        f"{work.multiply_adds / 1e9:.3f} G multiply-adds, "
        f"{sum(stage.layers for stage in anatomy.stages)} layers in "
        f"{len(anatomy.stages)} stages, {row.top1:.1f} % top-1"
    )


def table(anatomy: "ModelSummary") -> tuple[list[str], list[list[object]]]:
    """Columns and rows: a stage each; where it is scaled, what it has in the smallest network."""
    columns = ["stage", "operator", "kernel", "squeeze", "activation", "input px", "stride"]
    columns += ["channels", "layers", "parameters", "M multiply-adds"]
    rows = []
    for number, stage in enumerate(anatomy.stages, 1):
        channels, layers = str(stage.channels), str(stage.layers)
        if anatomy.growth:
            grown = anatomy.growth[number - 1]
            channels = _grown(grown.base_channels, grown.channels)
            layers = _grown(grown.base_layers, grown.layers)
        kernel = "" if stage.operator == "linear" else f"{stage.kernel_px}x{stage.kernel_px}"
        squeeze = None if stage.squeeze is None else str(stage.squeeze)
        rows.append(
            [number, _operator(stage), kernel, squeeze, stage.activation, stage.input_px]
            + [stage.stride, channels, layers, stage.parameters]
            + [f"{stage.multiply_adds / 1e6:,.1f}"]
        )
    return columns, rows


def scaling(anatomy: "ModelSummary") -> Iterator[str]:
    """How compound scaling makes it."""
    if not anatomy.factors:
        yield "Not made by compound scaling: found by a search of its own (arXiv 2104.00298)."
        return
    row = find_variant(anatomy.variant)
    if row.name == anatomy.base:
        yield (
            "The smallest one, from which the others are scaled: depth by 1.2^phi, width by "
            "1.1^phi, resolution by 1.15^phi (arXiv 1905.11946)."
        )
        return
    yield f"Scaled from {anatomy.base}:"
    for factor in anatomy.factors:
        yield (
            f"  {factor.dimension:<11}x {factor.coefficient:<6.4g}"
            f"= {factor.base:g}^phi with phi {factor.phi:.2f}"
        )
    yield "Channels are rounded to multiples of 8 (never more than 10 % down), layers up."
    if row.paper_px != anatomy.resolution_px:
        yield (
            f"The paper's resolution is {row.paper_px} px; these weights were evaluated at "
            f"{anatomy.resolution_px} px."
        )


def _grown(base: int, here: int) -> str:
    return str(here) if base == here else f"{base} -> {here}"


def _operator(stage: "Stage") -> str:
    return stage.operator if stage.expansion is None else f"{stage.operator}{stage.expansion}"
