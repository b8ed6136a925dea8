"""Format a variant's summary as text and as a table that fits in 80 columns."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from effnet_cli.models.listing import Cells
from effnet_cli.models.variants import find_variant
from effnet_cli.options import TrainedOn

if TYPE_CHECKING:  # imports torch
    from effnet_cli.models.summary import ModelSummary, Stage

DATASETS: Mapping[TrainedOn, str] = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k, then 1k",
    "in21k": "ImageNet-21k, then 1k",
    "jft": "ImageNet-1k and unlabelled images of JFT-300M",
}


def headline(summary: "ModelSummary") -> Iterator[str]:
    """Yield the variant's name, size and published accuracy."""
    cost, stages, row = summary.cost, summary.stages, find_variant(summary.variant)
    yield (
        f"{summary.variant}: {summary.resolution_px} px, {cost.parameters:,} parameters, "
        f"{cost.multiply_adds / 1e9:.3f} G MACs, {row.top1:.1f} % top-1"
    )
    resolution = "" if row.train_px is None else f" at {row.train_px} px"
    yield f"{row.weight_set}, trained on {DATASETS[row.trained_on]}{resolution}; {row.license}"
    if row.robustness is not None:
        real, v2, a, r, sketch = row.robustness
        yield f"Top-1 on ReaL {real:.1f}, V2 {v2:.1f}, A {a:.1f}, R {r:.1f}, Sketch {sketch:.1f} %"
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
    if variant.architecture.name == summary.base:
        yield "The smallest of its family, from which the others are scaled (arXiv 1905.11946):"
        yield "depth by 1.2^phi, width by 1.1^phi, resolution by 1.15^phi."
        return
    yield f"Scaled from {summary.base}:"
    for factor in summary.factors:
        yield (
            f"  {factor.dimension:<11}x {factor.coefficient:<6.4g}"
            f"= {factor.base:g}^phi with phi {factor.phi:.2f}"
        )
    limit = 1 - variant.architecture.family.min_rounded
    limited = f" (never more than {limit:.0%} down)" if limit < 1 else ""
    yield f"Channels are rounded to multiples of 8{limited}, layers up."
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
