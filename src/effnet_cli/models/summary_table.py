"""Format a variant's summary as text and as a table that fits in 80 columns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from effnet_cli.models.listing import Cells
from effnet_cli.models.variants import find_variant

if TYPE_CHECKING:  # imports torch
    from effnet_cli.models.summary import ModelSummary, Stage


def headline(summary: "ModelSummary") -> Iterator[str]:
    """Yield the variant's name, size and published accuracy."""
    cost, stages = summary.cost, summary.stages
    yield (
        f"{summary.variant}: {summary.resolution_px} px, {cost.parameters:,} parameters, "
        f"{cost.multiply_adds / 1e9:.3f} G MACs, {find_variant(summary.variant).top1:.1f} % top-1"
    )
    layers = sum(stage.layers for stage in stages)
    yield (
        f"{layers} layers in {len(stages)} stages, {stages[0].activation}; "
        "MAC = multiply-add, SE = squeeze-and-excitation"
    )


def stages_table(summary: "ModelSummary") -> Cells:
    """Return one row per stage. `16 -> 24`: 16 in the smallest variant, scaled to 24."""
    columns = ["#", "operator", "px", "channels", "layers", "SE", "K params", "M MACs"]
    rows: list[list[object]] = []
    for number, stage in enumerate(summary.stages, 1):
        channels, layers = str(stage.channels), str(stage.layers)
        if summary.growth:
            growth = summary.growth[number - 1]
            channels = _change(growth.base_channels, growth.channels)
            layers = _change(growth.base_layers, growth.layers)
        cost = (round(stage.parameters / 1e3), round(stage.multiply_adds / 1e6))
        operator = _operator(stage)
        rows.append([number, operator, stage.input_px, channels, layers, stage.squeeze, *cost])
    return columns, rows


def scaling_lines(summary: "ModelSummary") -> Iterator[str]:
    """Yield lines that explain how compound scaling produces the variant."""
    if not summary.factors:
        yield "Not made by compound scaling: found by architecture search (arXiv 2104.00298)."
        return
    variant = find_variant(summary.variant)
    if variant.name == summary.base:
        yield "The smallest of its family, from which the others are scaled (arXiv 1905.11946):"
        yield "depth by 1.2^phi, width by 1.1^phi, resolution by 1.15^phi."
        return
    yield f"Scaled from {summary.base}:"
    for factor in summary.factors:
        yield (
            f"  {factor.dimension:<11}x {factor.coefficient:<6.4g}"
            f"= {factor.base:g}^phi with phi {factor.phi:.2f}"
        )
    yield "Channels are rounded to multiples of 8 (never more than 10 % down), layers up."
    if variant.architecture.paper_px != summary.resolution_px:
        yield (
            f"The paper's resolution is {variant.architecture.paper_px} px; these weights were "
            f"evaluated at {summary.resolution_px} px."
        )


def _change(before: int, after: int) -> str:
    return str(after) if before == after else f"{before} -> {after}"


def _operator(stage: "Stage") -> str:
    """Return e.g. `MBConv6 5x5 /2`: block type with expansion factor, kernel size, stride."""
    if stage.operator == "linear":
        return "linear"
    stride = "" if stage.stride == 1 else f" /{stage.stride}"
    expansion = "" if stage.expansion is None else stage.expansion
    return f"{stage.operator}{expansion} {stage.kernel_px}x{stage.kernel_px}{stride}"
