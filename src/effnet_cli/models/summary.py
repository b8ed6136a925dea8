"""Summarise a variant stage by stage.

Costs are counted on torch's meta device, whose tensors have shapes but no values: no weights are
needed, and the largest variant takes a second.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from effnet_cli.models import build
from effnet_cli.models.architectures import ARCHITECTURES, Architecture
from effnet_cli.models.variants import Variant, find_variant

FLOAT_BYTES = 4
IMAGENET_CLASSES = 1000  # the published figures are for this many
# arXiv 1905.11946, section 3.3: one unit of phi multiplies depth, width and resolution by these.
ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15


@dataclass(frozen=True, slots=True)
class ComputeCost:
    """The cost of one image.

    `activation_bytes` is the size of the float32 values that convolutions and linear layers read
    and write.
    """

    parameters: int
    multiply_adds: int
    activation_bytes: int

    @property
    def weight_bytes(self) -> int:
        return FLOAT_BYTES * self.parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks of one kind, of which only the first may reduce the resolution.

    `expansion` is the factor of an MBConv's inner channels. `squeeze` is the number of channels
    inside the first block's squeeze-and-excitation, `None` if it has none. `input_px` is the side
    of the input; `channels` is the number of output channels.
    """

    operator: str
    kernel_px: int
    stride: int
    expansion: int | None
    squeeze: int | None
    activation: str | None
    input_px: int
    channels: int
    layers: int
    parameters: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class Factor:
    """One of the three coefficients of compound scaling: `coefficient` = `base` ^ `phi`."""

    dimension: str
    coefficient: float
    base: float
    phi: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How scaling changes a stage.

    Channels are multiplied by width and rounded to a multiple of 8; layers by depth, rounded up.
    """

    base_channels: int
    channels: int
    base_layers: int
    layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """The stages of a variant and their cost.

    `growth` has one entry per stage. `growth` and `factors` are empty for a variant that was not
    made by compound scaling.
    """

    variant: str
    resolution_px: int
    cost: ComputeCost
    stages: tuple[Stage, ...]
    base: str | None
    factors: tuple[Factor, ...]
    growth: tuple[Growth, ...]


class _Layer(NamedTuple):
    """A convolution or linear layer that was run."""

    module: Any
    input_px: int
    multiply_adds: int
    activation_bytes: int


def summarize(name: str) -> ModelSummary:
    """Summarise the variant called `name`; `UsageError` if it is unknown."""
    variant = find_variant(name)
    module, layers = _count_variant(variant)
    base, stages = variant.architecture.base, _stages(module, layers)
    return ModelSummary(
        variant=variant.name,
        resolution_px=variant.preprocessing.crop_px,
        cost=_cost(module, layers),
        stages=stages,
        base=base,
        factors=tuple(_factors(variant.architecture)),
        growth=tuple(_growth(replace(variant, architecture=ARCHITECTURES[base]), stages))
        if base
        else (),
    )


def compute_cost(build_module: Callable[[], nn.Module], crop_px: int) -> ComputeCost:
    """Return the cost of one image of `crop_px` for a model, which is built without values."""
    return _cost(*_count(build_module, crop_px))


def _cost(module: nn.Module, layers: list[_Layer]) -> ComputeCost:
    return ComputeCost(
        parameters=_parameters(module),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
    )


def _count_variant(variant: Variant) -> tuple[nn.Module, list[_Layer]]:
    make = partial(build.build, variant, IMAGENET_CLASSES)
    return _count(make, variant.preprocessing.crop_px)


def _count(build_module: Callable[[], nn.Module], crop_px: int) -> tuple[nn.Module, list[_Layer]]:
    """Run one image through the model; return the module and its layers in execution order.

    torch's FlopCounterMode counts the same multiply-adds but takes twice as long, and records
    neither input sizes nor bytes.
    """
    layers: list[_Layer] = []

    def count(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        multiply_adds = output.numel() * layer.weight[0].numel()
        moved = FLOAT_BYTES * (inputs[0].numel() + output.numel())
        layers.append(_Layer(layer, inputs[0].shape[-1], multiply_adds, activation_bytes=moved))

    with torch.device("meta"), torch.inference_mode():
        module = build_module().eval()
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        module(torch.empty(1, 3, crop_px, crop_px))
    return module, layers


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _stages(module: nn.Module, layers: list[_Layer]) -> tuple[Stage, ...]:
    stages = (*module.get_submodule("features").children(), module.get_submodule("classifier"))
    return tuple(_stage(stage, layers) for stage in stages)


def _stage(stage: nn.Module, layers: list[_Layer]) -> Stage:
    blocks = list(stage.children())
    is_plain = not hasattr(blocks[0], "block")
    first = set((stage if is_plain else blocks[0]).modules())
    squeeze: Any = next((m for m in first if type(m).__name__ == "SqueezeExcitation"), None)
    main = first - set(squeeze.modules() if squeeze else ())
    inputs_px = [layer.input_px for layer in layers if layer.module in main]
    convs = [layer.module for layer in layers if layer.module in main]
    names = {type(m).__name__ for m in first}
    own = set(stage.modules())
    is_linear = isinstance(convs[-1], nn.Linear)
    return Stage(
        operator="linear" if is_linear else "Conv" if is_plain else type(blocks[0]).__name__,
        kernel_px=1 if is_linear else max(conv.kernel_size[0] for conv in convs),
        stride=1 if is_linear else math.prod(conv.stride[0] for conv in convs),
        expansion=None if is_plain else _expansion(convs),
        squeeze=squeeze and squeeze.fc1.out_channels,
        activation=next((name for name in ("SiLU", "ReLU6", "ReLU") if name in names), None),
        input_px=1 if is_linear else inputs_px[0],
        channels=convs[-1].out_features if is_linear else convs[-1].out_channels,
        layers=1 if is_plain else len(blocks),
        parameters=_parameters(stage),
        multiply_adds=sum(layer.multiply_adds for layer in layers if layer.module in own),
    )


def _expansion(convs: list[Any]) -> int:
    """Return the ratio of a block's inner channels to its input channels."""
    factor: float = max(conv.out_channels for conv in convs[:-1] or convs) / convs[0].in_channels
    return round(factor)


def _growth(base: Variant, stages: tuple[Stage, ...]) -> Iterator[Growth]:
    for before, after in zip(_stages(*_count_variant(base)), stages, strict=True):
        yield Growth(
            base_channels=before.channels,
            channels=after.channels,
            base_layers=before.layers,
            layers=after.layers,
        )


def _factors(architecture: Architecture) -> Iterator[Factor]:
    if architecture.base is None or isinstance(architecture.depth, tuple):
        return
    resolution = architecture.paper_px / ARCHITECTURES[architecture.base].paper_px
    for dimension, coefficient, base in (
        ("depth", architecture.depth, ALPHA),
        ("width", architecture.width, BETA),
        ("resolution", resolution, GAMMA),
    ):
        phi = math.log(coefficient) / math.log(base)
        yield Factor(dimension, coefficient, base=base, phi=phi)
