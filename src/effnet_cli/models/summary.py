"""What a network consists of, stage by stage, counted on the network itself.

It is built on torch's meta device, which has shapes and no values: no weights are needed, and the
largest one takes a second.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models import build
from effnet_cli.models.variants import VARIANTS, Variant, find_variant

FLOAT_BYTES = 4
CLASSES = 1000  # of ImageNet, for which the published figures are
# arXiv 1905.11946, section 3.3: what one unit of phi multiplies depth, width and resolution by.
ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15


@dataclass(frozen=True, slots=True)
class ComputeCost:
    """What one image costs: parameters, multiply-adds of convolutions and linear layers, and the
    values that these read and write, in bytes of float32 (weights not counted).
    """

    parameters: int
    multiply_adds: int
    activation_bytes: int

    @property
    def weight_bytes(self) -> int:
        return FLOAT_BYTES * self.parameters


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: layers of one kind, of which only the first may shrink the image.

    `expansion` is the factor of an MBConv's inner channels; `squeeze` the channels of its
    squeeze-and-excitation in the first layer, `None` without. `input_px` is the side of what comes
    in, `channels` come out.
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
    """One of compound scaling's three coefficients, and the phi that it stands for."""

    dimension: str
    coefficient: float
    base: float
    phi: float


@dataclass(frozen=True, slots=True)
class Growth:
    """What scaling makes of one stage of the smallest network: channels times width, rounded to a
    multiple of 8, and layers times depth, rounded up.
    """

    base_channels: int
    channels: int
    base_layers: int
    layers: int


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A variant as its paper explains it; `growth` has an entry for each stage, and like `factors`
    is empty where nothing was published.
    """

    variant: str
    resolution_px: int
    work: ComputeCost
    stages: tuple[Stage, ...]
    base: str | None
    factors: tuple[Factor, ...]
    growth: tuple[Growth, ...]


def summarize(name: str) -> ModelSummary:
    """The anatomy of the variant called `name`.

    Raises:
        UsageError: there is none.
    """
    variant = find_variant(name)
    stages = tuple(_stages(variant))
    base: str | None = None
    growth: tuple[Growth, ...] = ()
    factors: tuple[Factor, ...] = ()
    if variant.scaling is not None:
        base = variant.scaling.base
        smallest = _stages(VARIANTS[base])
        growth = tuple(_growth(one, other) for one, other in zip(smallest, stages, strict=True))
        factors = tuple(_factors(variant))
    px = variant.preprocessing.crop_px
    return ModelSummary(
        variant.name, px, compute_cost(variant, CLASSES), stages, base, factors, growth
    )


def compute_cost(variant: Variant, num_classes: int) -> ComputeCost:
    """What one image of the variant's size costs."""
    with torch.device("meta"):
        network = build.build(variant, num_classes).eval()
    return count_cost(network, variant.preprocessing)


def count_cost(network: nn.Module, preprocessing: Preprocessing) -> ComputeCost:
    """What one image costs a network on the meta device."""
    layers = _run(network, preprocessing.crop_px)
    parameters = sum(p.numel() for p in network.parameters())
    return ComputeCost(
        parameters,
        sum(layer.multiply_adds for layer in layers),
        sum(layer.moved_bytes for layer in layers),
    )


# --- counting -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layer:
    """A convolution or a linear layer that has run."""

    module: nn.Module
    input_px: int
    multiply_adds: int
    moved_bytes: int


def _run(network: nn.Module, crop_px: int) -> list[_Layer]:
    """Every convolution and linear layer in the order in which one image meets them."""
    layers: list[_Layer] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        weight: Any = module.weight
        moved = FLOAT_BYTES * (given[0].numel() + made.numel())
        layers.append(_Layer(module, given[0].shape[-1], made.numel() * weight[0].numel(), moved))

    handles = [m.register_forward_hook(note) for m in network.modules() if _is_counted(m)]
    with torch.inference_mode():
        network(torch.empty(1, 3, crop_px, crop_px, device="meta"))
    for handle in handles:
        handle.remove()
    return layers


def _is_counted(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


# --- stages -------------------------------------------------------------------------------------


def _stages(variant: Variant) -> Iterator[Stage]:
    with torch.device("meta"):
        network = build.build(variant, CLASSES).eval()
    layers = {id(layer.module): layer for layer in _run(network, variant.preprocessing.crop_px)}
    for stage in network.get_submodule("features").children():
        yield _stage(list(stage.children()), stage, layers)
    classifier = network.get_submodule("classifier")
    yield _stage([classifier], classifier, layers)


def _stage(blocks: list[nn.Module], whole: nn.Module, layers: dict[int, _Layer]) -> Stage:
    is_plain = not hasattr(blocks[0], "block")
    first = whole if is_plain else blocks[0]
    seen = [layers[id(m)] for m in first.modules() if _is_counted(m)]
    mine = [layers[id(m)] for m in whole.modules() if _is_counted(m)]
    squeeze = next((m for m in first.modules() if type(m).__name__ == "SqueezeExcitation"), None)
    inside = set() if squeeze is None else set(map(id, squeeze.modules()))
    convs: list[Any] = [layer.module for layer in seen if id(layer.module) not in inside]
    activations = (type(m).__name__ for m in first.modules())
    is_linear = isinstance(convs[-1], nn.Linear)
    return Stage(
        operator="linear" if is_linear else "Conv" if is_plain else type(first).__name__,
        kernel_px=1 if is_linear else max(conv.kernel_size[0] for conv in convs),
        stride=1 if is_linear else math.prod(conv.stride[0] for conv in convs),
        expansion=None if is_plain else _expansion(convs),
        squeeze=None if squeeze is None else squeeze.get_submodule("fc1").out_channels,  # type: ignore[arg-type]
        activation=next((name for name in activations if name in ("SiLU", "ReLU6")), None),
        input_px=1 if is_linear else seen[0].input_px,
        channels=convs[-1].out_features if is_linear else convs[-1].out_channels,
        layers=1 if is_plain else len(blocks),
        parameters=sum(p.numel() for p in whole.parameters()),
        multiply_adds=sum(layer.multiply_adds for layer in mine),
    )


def _expansion(convs: list[Any]) -> int:
    """Inner channels of a block by those that come in."""
    inner: int = max(conv.out_channels for conv in convs[:-1] or convs)
    outer: int = convs[0].in_channels
    return round(inner / outer)


def _growth(one: Stage, other: Stage) -> Growth:
    return Growth(one.channels, other.channels, one.layers, other.layers)


def _factors(variant: Variant) -> Iterable[Factor]:
    """The three coefficients; a coefficient c of a base b stands for phi = log c / log b."""
    scaling = variant.scaling
    if scaling is None:
        return
    resolution = variant.paper_px / VARIANTS[scaling.base].paper_px
    for dimension, coefficient, base in (
        ("depth", scaling.depth, ALPHA),
        ("width", scaling.width, BETA),
        ("resolution", resolution, GAMMA),
    ):
        yield Factor(dimension, coefficient, base, math.log(coefficient) / math.log(base))
