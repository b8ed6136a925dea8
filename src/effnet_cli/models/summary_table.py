"""The summary of a variant, and the registry, as text and tables that fit 80 columns."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from effnet_cli.models.listing import VariantListing, WeightsListing
from effnet_cli.models.variants import find_variant

if TYPE_CHECKING:  # imports torch
    from effnet_cli.models.summary import ModelSummary, Stage

Cells = tuple[list[str], list[list[object]]]  # column names and rows


def variants_table(listings: Iterable[VariantListing]) -> Cells:
    """A row for each variant."""
    columns = ["variant", "px", "params", "multiply-adds", "top-1", "top-5", "size", "weights"]
    rows: list[list[object]] = [
        [
            one.variant,
            one.resolution_px,
            f"{one.parameters / 1e6:.1f} M",
            f"{one.giga_multiply_adds:.2f} G",
            f"{one.top1:.1f} %",
            None if one.top5 is None else f"{one.top5:.1f} %",
            f"{one.size_mb:.0f} MB",
            one.weights,
        ]
        for one in listings
    ]
    return columns, rows


def weights_table(listings: Iterable[WeightsListing]) -> Cells:
    """A row for each variant; the last column is the path."""
    columns = ["variant", "weights", "size", "path"]
    return columns, [
        [one.variant, one.weights, f"{one.size_mb:.0f} MB", one.path] for one in listings
    ]


def headline(summary: "ModelSummary") -> str:
    """Name, size and published accuracy."""
    variant, cost = find_variant(summary.variant), summary.cost
    return (
        f"{variant.name}: {summary.resolution_px} px, {cost.parameters:,} parameters, "
        f"{cost.multiply_adds / 1e9:.3f} G multiply-adds, "
        f"{sum(stage.layers for stage in summary.stages)} layers in "
        f"{len(summary.stages)} stages, {variant.top1:.1f} % top-1"
    )


def stages_table(summary: "ModelSummary") -> Cells:
    """A row for each stage; `16 -> 24` is what scaling made of the smallest variant's 16."""
    columns = ["stage", "operator", "px", "channels", "layers", "squeeze", "params", "MACs"]
    rows: list[list[object]] = []
    for number, stage in enumerate(summary.stages, 1):
        channels, layers = str(stage.channels), str(stage.layers)
        if summary.growth:
            growth = summary.growth[number - 1]
            channels = _change(growth.base_channels, growth.channels)
            layers = _change(growth.base_layers, growth.layers)
        cost = [f"{stage.parameters / 1e3:,.0f} K", f"{stage.multiply_adds / 1e6:,.0f} M"]
        operator = _operator(stage)
        rows.append([number, operator, stage.input_px, channels, layers, stage.squeeze, *cost])
    return columns, rows


def scaling_lines(summary: "ModelSummary") -> Iterator[str]:
    """How compound scaling makes the variant."""
    if not summary.factors:
        yield "Not made by compound scaling: found by architecture search (arXiv 2104.00298)."
        return
    variant = find_variant(summary.variant)
    if variant.name == summary.base:
        yield (
            "The smallest of its family, from which the others are scaled: depth by 1.2^phi, "
            "width by 1.1^phi, resolution by 1.15^phi (arXiv 1905.11946)."
        )
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
    """`MBConv6 5x5 /2`: kind with expansion, kernel, stride."""
    if stage.operator == "linear":
        return "linear"
    stride = "" if stage.stride == 1 else f" /{stage.stride}"
    expansion = "" if stage.expansion is None else stage.expansion
    return f"{stage.operator}{expansion} {stage.kernel_px}x{stage.kernel_px}{stride}"
