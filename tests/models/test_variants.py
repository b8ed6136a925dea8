"""The registry's numbers, compared with torchvision, built modules and the papers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import get_weight

from effnet_cli.models import build
from effnet_cli.models.efficientnet import MBConv
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import VARIANTS, Variant, find_variant
from effnet_cli.system.errors import UsageError

TORCHVISION = [row for row in VARIANTS.values() if row.source.package is None]
LITE = [row for row in VARIANTS.values() if row.source.package is not None]


def by_name(row: Variant) -> str:
    return row.name


def test_registry_has_every_variant_in_order() -> None:
    lite, v1, v2 = ["lite0", "lite1", "lite2"], [f"b{n}" for n in range(8)], ["s", "m", "l"]
    assert list(VARIANTS) == [*lite, *v1, *(f"v2_{size}" for size in v2)]


@pytest.mark.parametrize("row", TORCHVISION, ids=by_name)
def test_row_matches_torchvision(row: Variant) -> None:
    weights = get_weight(row.weight_set)
    transforms, figures = weights.transforms(), weights.meta["_metrics"]["ImageNet-1K"]
    assert weights == type(weights).DEFAULT
    assert row.preprocessing.resize_px == transforms.resize_size[0]
    assert row.preprocessing.crop_px == transforms.crop_size[0]
    assert row.preprocessing.interpolation == transforms.interpolation.value
    assert row.preprocessing.mean == tuple(transforms.mean)
    assert row.preprocessing.std == tuple(transforms.std)
    assert row.architecture.parameters == weights.meta["num_params"]
    assert row.giga_multiply_adds == weights.meta["_ops"]
    assert row.source.size_mb == weights.meta["_file_size"]
    assert (row.top1, row.top5) == (figures["acc@1"], figures["acc@5"])
    assert weights.url.endswith(row.source.file_name)
    assert row.source.file_name.endswith(f"-{row.source.sha256}.pth")


@pytest.mark.parametrize(
    ("name", "crop_px", "parameters", "mega_multiply_adds", "top1"),
    [
        ("lite0", 224, 4_652_008, 407, 75.1),
        ("lite1", 240, 5_416_680, 631, 76.7),
        ("lite2", 260, 6_092_072, 899, 77.6),
    ],
)
def test_lite_rows_match_the_published_figures(
    name: str, crop_px: int, parameters: int, mega_multiply_adds: int, top1: float
) -> None:
    row = find_variant(name)
    assert row.preprocessing.crop_px == crop_px
    assert row.preprocessing.crop_px / row.preprocessing.resize_px == crop_px / (crop_px + 32)
    assert (row.architecture.parameters, row.top1) == (parameters, top1)
    assert round(row.giga_multiply_adds * 1000) == mega_multiply_adds


@pytest.mark.parametrize("row", LITE, ids=by_name)
def test_lite_has_the_published_multiply_adds(row: Variant) -> None:
    """Counted as the authors do; `test_summary.py` checks the other variants."""
    with torch.device("meta"):
        module = build.build(row, 1000).eval()
        crop_px = row.preprocessing.crop_px
        multiply_adds = count_multiply_adds(module, torch.empty(1, 3, crop_px, crop_px))
    assert multiply_adds / 1e9 == pytest.approx(row.giga_multiply_adds, rel=0.01)


def count_multiply_adds(module: nn.Module, pixels: torch.Tensor) -> int:
    """Count the multiply-adds of a forward pass as EfficientNet-Lite's authors do: convolutions and
    linear layers, BatchNorm (two per value), activations and residual sums.
    """
    counts: list[int] = []

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            counts.append(output.numel() * layer.weight[0].numel())
        elif isinstance(layer, nn.BatchNorm2d):
            counts.append(2 * output.numel())
        elif isinstance(layer, nn.ReLU6 | MBConv):
            counts.append(output.numel() if getattr(layer, "has_residual", True) else 0)

    for layer in module.modules():
        layer.register_forward_hook(count)
    module(pixels)
    return sum(counts)


@pytest.mark.parametrize("row", VARIANTS.values(), ids=by_name)
def test_built_module_has_the_requested_classes(row: Variant) -> None:
    with torch.device("meta"):
        logits = build.build(row, 7).eval()(torch.empty(2, 3, 64, 64))
    assert logits.shape == (2, 7)


def test_class_names_are_torchvisions() -> None:
    row = find_variant("b0")
    card = imagenet_card(row)
    assert list(card.classes) == get_weight(row.weight_set).meta["categories"]


@pytest.mark.parametrize("name", ["b0", "B0", "efficientnet_b0", "EfficientNet-B0"])
def test_names_are_found_in_every_spelling(name: str) -> None:
    assert find_variant(name).name == "b0"


@pytest.mark.parametrize(
    ("name", "suggestion"), [("b9", "b"), ("v2s", "v2_s"), ("lite", "lite"), ("v2_xl", "v2_l")]
)
def test_mistyped_name_gets_a_suggestion(name: str, suggestion: str) -> None:
    with pytest.raises(UsageError, match="Did you mean") as caught:
        find_variant(name)
    assert repr(name) in caught.value.message
    assert suggestion in caught.value.hint


@given(st.text(max_size=20))
def test_any_other_name_is_refused(name: str) -> None:
    try:
        assert find_variant(name).name in VARIANTS
    except UsageError as error:
        assert repr(name) in error.message
        assert error.hint
