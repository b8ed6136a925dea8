"""The registry's numbers, compared with torchvision, built modules and the papers."""

import math
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.models import _registry
from torch import nn
from torchvision.models import get_model, get_weight

from effnet_cli.models import build
from effnet_cli.models.efficientnet import MBConv
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.timm_weights import EXCLUDED, TIMM_ROWS
from effnet_cli.models.variants import PUBLISHED, VARIANTS, Variant, find_variant
from effnet_cli.system.errors import UsageError

TORCHVISION = [row for row in PUBLISHED if row.source.package is None]
TIMM = [row for row in VARIANTS.values() if row.source.repo is not None]


ROWS = {row.architecture.name: row for row in VARIANTS.values()}.values()


def by_name(row: Variant) -> str:
    return row.name


def test_registry_has_every_variant_in_order() -> None:
    lite, v1, v2 = ["lite0", "lite1", "lite2"], [f"b{n}" for n in range(8)], ["s", "m", "l"]
    published = [*lite, *v1, *(f"v2_{size}" for size in v2)]
    assert list(VARIANTS) == [*published, *(row[0] for row in TIMM_ROWS)]
    assert len(VARIANTS) == 87


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
    ("name", "crop_px", "parameters", "top1"),
    [
        ("lite0", 224, 4_652_008, 75.1),
        ("lite1", 240, 5_416_680, 76.7),
        ("lite2", 260, 6_092_072, 77.6),
    ],
)
def test_lite_rows_match_the_published_figures(
    name: str, crop_px: int, parameters: int, top1: float
) -> None:
    row = find_variant(name)
    assert row.preprocessing.crop_px == crop_px
    assert row.preprocessing.crop_px / row.preprocessing.resize_px == crop_px / (crop_px + 32)
    assert (row.architecture.parameters, row.top1) == (parameters, top1)
    assert row.giga_multiply_adds == find_variant(f"{name}.tf").giga_multiply_adds


@pytest.mark.parametrize(
    ("name", "mega_multiply_adds"), [("lite0", 407), ("lite1", 631), ("lite2", 899)]
)
def test_lite_has_the_published_multiply_adds(name: str, mega_multiply_adds: int) -> None:
    """Counted as the authors do; `test_summary.py` checks the figures of the rows."""
    row = find_variant(name)
    with torch.device("meta"):
        module = build.build(row, 1000).eval()
        crop_px = row.preprocessing.crop_px
        multiply_adds = count_multiply_adds(module, torch.empty(1, 3, crop_px, crop_px))
    assert multiply_adds / 1e6 == pytest.approx(mega_multiply_adds, rel=0.01)


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


@pytest.mark.parametrize("row", TIMM, ids=by_name)
def test_row_matches_timm(row: Variant) -> None:
    config = timm.get_pretrained_cfg(row.weight_set)
    images, size = row.preprocessing, config.test_input_size or config.input_size
    crop = config.test_crop_pct or config.crop_pct
    assert (config.architecture, config.tag) == tuple(row.weight_set.split("."))
    assert images.crop_px == size[-1]
    assert images.resize_px == math.floor(size[-1] / crop)
    assert images.interpolation == config.interpolation
    assert images.is_squashed == (config.crop_mode == "squash")
    assert (images.mean, images.std) == (config.mean, config.std)
    assert row.train_px == config.input_size[-1]
    assert row.license.lower() == config.license
    assert row.source.repo == f"timm/{row.weight_set}"
    assert 0 < row.source.size_mb == pytest.approx(row.architecture.parameters / 2**18, rel=0.05)


@pytest.mark.parametrize("row", TIMM, ids=by_name)
def test_timms_names_are_found(row: Variant) -> None:
    full = row.weight_set
    for name in (full, f"hf-hub:timm/{full}", f"hf_hub:timm/{full}", f"hf://timm/{full}"):
        assert find_variant(name) is row
        assert find_variant(name.upper()) is row
    default = timm.get_pretrained_cfg(full.partition(".")[0])
    if default.tag == full.partition(".")[2] and full.startswith(("tf_", "efficientnetv2")):
        assert find_variant(default.architecture) is row


def test_every_timm_name_is_a_variant_or_has_a_reason() -> None:
    names = [name for name in timm.list_models(pretrained=True) if "efficientnet" in name]
    names = [name for name in names if not name.startswith("test_")]
    assert len(names) == 88
    found = 0
    for name in names:
        try:
            found += find_variant(name).weight_set == name
        except UsageError as error:
            assert any(reason in error.message for reason in EXCLUDED.values())
    assert found == 73


def test_names_that_timm_has_given_up_are_found() -> None:
    old = {
        name: new
        for name, new in _registry._deprecated_models.items()
        if "efficientnet" in name and not new.endswith(".in21k")
    }
    assert len(old) > 20
    for name, new in old.items():
        assert find_variant(name).weight_set.startswith(new)


PADDED = {(row.architecture.name, row.has_same_padding): row for row in TIMM}.values()


@pytest.mark.parametrize(
    "row", [row for row in PADDED if row.architecture.parameters < 9e6], ids=by_name
)
def test_models_are_timms(row: Variant, tmp_path: Path) -> None:
    """At an even size, where wrong padding shows; `benchmarks/timm_models.py` has them all."""
    torch.manual_seed(0)
    theirs = timm.create_model(row.weight_set.partition(".")[0], num_classes=7)
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
    with torch.inference_mode():
        theirs.train()(torch.randn(2, 3, 64, 64))
        save_file(theirs.state_dict(), tmp_path / "model.safetensors")
        ours = build.load(row, 7, tmp_path / "model.safetensors").double()
        pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        assert torch.equal(ours(pixels), theirs.double().eval()(pixels))


@pytest.mark.parametrize("name", ["b0", "v2_s"])
def test_models_are_torchvisions(name: str) -> None:
    """In every bit: initial weights, predictions, and training with its random numbers."""
    torch.manual_seed(0)
    theirs = get_model(f"efficientnet_{name}")
    torch.manual_seed(0)
    ours = build.build(find_variant(name), 1000)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(ours.state_dict()[key], state[key]) for key in state)
    pixels = torch.randn(2, 3, 64, 64)
    for is_training in (False, True):
        logits = []
        for module in (theirs, ours):
            torch.manual_seed(1)
            logits.append(module.train(is_training)(pixels))
        assert torch.equal(*logits)


@pytest.mark.parametrize("row", ROWS, ids=by_name)
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
    ("name", "suggestion"), [("b9", "b"), ("v2s", "v2_s"), ("lite", "lite"), ("b7.nss", "b7.ns")]
)
def test_mistyped_name_gets_a_suggestion(name: str, suggestion: str) -> None:
    with pytest.raises(UsageError, match="Did you mean") as caught:
        find_variant(name)
    assert repr(name) in caught.value.message
    assert suggestion in caught.value.hint


@pytest.mark.parametrize(
    ("name", "suggestions"),
    [("b0.in21k", {"b0.ns", "b0.tf"}), ("v2_xl", {"v2_xl.in21k"}), ("l2", {"l2.ns", "l2.ns475"})],
)
def test_weights_of_the_same_architecture_are_suggested(name: str, suggestions: set[str]) -> None:
    with pytest.raises(UsageError, match=f"Unknown variant '{name}'") as caught:
        find_variant(name)
    assert set(caught.value.hint.removeprefix("Did you mean ").rstrip("?").split(" or ")) == (
        suggestions
    )


@given(st.text(max_size=20))
def test_any_other_name_is_refused(name: str) -> None:
    try:
        assert find_variant(name).name in VARIANTS
    except UsageError as error:
        assert repr(name) in error.message
        assert error.hint
