"""Weights with timm's tensor names: right or refused, never silently wrong."""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from effnet_cli.models import build, timm_config, variants
from effnet_cli.models.imagenet import class_names, wordnet_ids
from effnet_cli.models.variants import VARIANTS, Variant, find_variant
from effnet_cli.models.weights import Model, expected_path, resolve_model
from effnet_cli.options import ModelOptions
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import sha256
from helpers import lively

pytestmark = pytest.mark.usefixtures("one_thread")

TIMM = [row for row in VARIANTS.values() if row.source.repo is not None]
LABELS = ["ant", "bee", "wasp"]
CONFIG_FIELDS = (
    "architecture", "num_classes", "pretrained_cfg", "model_args", "global_pool", "label_names",
    "labels", "label_descriptions", "effnet", "input_size", "crop_pct", "crop_mode",
    "interpolation", "mean", "std", "tag",
)  # fmt: skip
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(
            st.sampled_from(["bn_eps", "pad_type", "in_chans", "0", "temperature", "metrics"]),
            values,
        )
    ),
    max_leaves=5,
)
Save = Callable[..., Path]


def assert_same_logits(model: Model, theirs: nn.Module) -> None:
    """Compare at an even size, where wrong padding shows."""
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs.eval()(pixels)
        assert expected.std() > 1e-3
        assert torch.equal(build.load_module(model)(pixels), expected)


def make(name: str, num_classes: int = 1000, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=num_classes, **arguments)
    lively(module)
    return module


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """`timm_file("efficientnet_b0")` saves the tensors of a timm model, and nothing beside them."""

    def save(name: str, num_classes: int = 1000) -> Path:
        path = tmp_path_factory.mktemp(name) / f"{name}.safetensors"
        save_file(make(name, num_classes).state_dict(), path)
        return path

    return save


@pytest.fixture
def saved(tmp_path: Path) -> Save:
    """`saved("efficientnet_b0", label_names=...)` is a folder that timm's `save_for_hf` wrote."""

    def save(
        name: str, num_classes: int = 3, args: dict[str, Any] | None = None, **config: Any
    ) -> Path:
        module = make(name, num_classes, **(args or {}))
        folder = tmp_path / "saved"
        save_for_hf(module, str(folder), model_config=config, safe_serialization="both")
        return folder

    return save


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    pretrained = content["pretrained_cfg"] | changes.pop("pretrained_cfg", {})
    path.write_text(json.dumps({**content, "pretrained_cfg": pretrained, **changes}))


# --- files without a config ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timm_name", "bare", "exact"),
    [
        ("efficientnet_b0", "b0", "b0.ra"),
        ("tf_efficientnet_b0", "b0", "b0.ns"),
        ("efficientnet_lite0", "lite0", "lite0.ra"),
        ("tf_efficientnet_lite0", None, "lite0.tf"),
        ("tf_efficientnetv2_b0", None, "v2_b0.tf"),
        ("efficientnet_es", None, "es.ra"),
        ("tf_efficientnet_es", None, "tf_efficientnet_es.in1k"),
    ],
)
def test_timm_file_needs_an_exact_variant(
    timm_name: str, bare: str | None, exact: str, timm_file: Save
) -> None:
    path = timm_file(timm_name)
    with pytest.raises(UsageError) as caught:
        build.load_module(resolve_model(ModelOptions(bare, weights=path)))
    row = find_variant(exact)
    assert repr(str(path)) in caught.value.message
    if row.architecture is find_variant(bare or "lite0").architecture:
        for one in variants.timm_variants(row.architecture):
            assert one.name in caught.value.hint
        assert "--variant" in caught.value.hint
    model = resolve_model(ModelOptions(exact, weights=path))
    assert model.card.preprocessing == row.preprocessing
    assert_same_logits(model, make(timm_name))


def test_timm_name_without_a_tag_does_not_name_weights(timm_file: Save) -> None:
    path = timm_file("tf_efficientnet_b0")
    with pytest.raises(UsageError, match="'tf_efficientnet_b0' does not say") as caught:
        resolve_model(ModelOptions("tf_efficientnet_b0", weights=path))
    assert "b0.ap" in caught.value.hint
    assert resolve_model(ModelOptions("tf_efficientnet_b0_ns", weights=path)).variant.name == (
        "b0.ns"
    )


def test_only_timms_ambiguous_names_do_not_name_weights() -> None:
    for row in VARIANTS.values():
        assert variants.names_weights(row.name)
    for row in TIMM:
        model = row.weight_set.partition(".")[0]
        sets = [one for one in TIMM if one.weight_set.partition(".")[0] == model]
        assert variants.names_weights(row.weight_set)
        assert variants.names_weights(model) == (len(sets) == 1)


@pytest.mark.parametrize("name", ["b0", "b0.ns", "lite0.ra"])
def test_torchvision_file_is_what_the_user_says(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = build.build(find_variant(name), 1000)
    lively(module)
    save_file(module.state_dict(), tmp_path / "mine.safetensors")
    model = resolve_model(ModelOptions(name, weights=tmp_path / "mine.safetensors"))
    assert_same_logits(model, module)


def test_the_lite_packages_are_padded_as_in_tensorflow(tmp_path: Path) -> None:
    published = expected_path(find_variant("lite0"))
    assert published is not None
    tensors = torch.load(published, weights_only=True)
    tensors["_fc.bias"] += 1  # no longer the published file
    path = tmp_path / "w.pth"
    torch.save(tensors, path)
    assert build.load_module(resolve_model(ModelOptions(weights=path)))
    with pytest.raises(UsageError, match="port of TensorFlow") as caught:
        build.load_module(resolve_model(ModelOptions("lite0.ra", weights=path)))
    assert "--variant lite0.tf" in caught.value.hint


def port_names(row: Variant) -> dict[str, torch.Tensor]:
    """Return the tensors of a variant under the names of the PyTorch port."""
    module = build.build(row, 1000)
    prefixes = {here: there for there, here in build._prefixes(module, build.PYTORCH_PORT)}
    return {
        f"{prefixes[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor
        for name, tensor in module.state_dict().items()
    }


def test_the_ports_b_models_are_padded_as_in_tensorflow_too(tmp_path: Path) -> None:
    path = tmp_path / "efficientnet-b0.pth"
    torch.save(port_names(find_variant("b0")), path)
    with pytest.raises(UsageError) as caught:
        build.load_module(resolve_model(ModelOptions("b0", weights=path)))
    assert "--variant b0.ns (or b0.aa, b0.ap, b0.tf)" in caught.value.hint
    assert build.load_module(resolve_model(ModelOptions("b0.aa", weights=path)))


def test_published_weights_are_recognized(timm_file: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = timm_file("tf_efficientnet_b0")
    ap = find_variant("b0.ap")
    pinned = replace(ap, source=replace(ap.source, sha256=sha256(path)))
    monkeypatch.setitem(VARIANTS, "b0.ap", pinned)
    for name in ("b0", "b0.ns", "tf_efficientnet_b0", None):
        with pytest.raises(UsageError, match=r"published weights of b0\.ap") as caught:
            resolve_model(ModelOptions(name, weights=path))
        assert caught.value.hint == "Use --variant b0.ap."
    assert resolve_model(ModelOptions("b0.ap", weights=path)).variant is pinned


@pytest.mark.parametrize(
    ("timm_name", "num_classes"),
    [("efficientnet_b1_pruned", 1000), ("efficientnet_b0_gn", 1000), ("tf_efficientnetv2_b0", 9)],
)
def test_other_models_are_refused(timm_name: str, num_classes: int, timm_file: Save) -> None:
    path = timm_file(timm_name, num_classes)
    for name in ("b0.ra", "b1.ft", "v2_b0.tf"):
        with pytest.raises(UsageError):
            build.load_module(resolve_model(ModelOptions(name, weights=path)))


# --- files with a config ------------------------------------------------------------------------


@pytest.mark.parametrize("file_name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("timm_name", "expected"),
    [
        ("efficientnet_b0.ra4_e3600_r224_in1k", "b0.ra4"),
        ("tf_efficientnet_lite0", "lite0.tf"),
        ("tf_efficientnetv2_b0", "v2_b0.tf"),
        ("efficientnet_es", "es.ra"),
    ],
)
def test_config_is_enough(timm_name: str, expected: str, file_name: str, saved: Save) -> None:
    folder = saved(timm_name, label_names=LABELS)
    for name in (None, expected):
        model = resolve_model(ModelOptions(name, weights=folder / file_name))
        assert model.variant.name == expected
        assert model.card.variant == expected
        assert model.card.classes == tuple(LABELS)
        assert model.card.preprocessing == find_variant(expected).preprocessing
    assert_same_logits(model, make(timm_name, 3))


@pytest.mark.parametrize("name", ["b0", "b0.ns", "b0.aa", "lite0", "b1.ns", "efficientnet_b0"])
def test_contradicting_variant_is_refused(name: str, saved: Save) -> None:
    folder = saved("tf_efficientnet_b0.ap_in1k", label_names=LABELS)
    with pytest.raises(UsageError) as caught:
        resolve_model(ModelOptions(name, weights=folder / "model.safetensors"))
    assert repr(name) in caught.value.message
    assert "'tf_efficientnet_b0.ap_in1k'" in caught.value.message
    for same in ("b0.ap", "tf_efficientnet_b0", "hf-hub:timm/tf_efficientnet_b0.ap_in1k"):
        model = resolve_model(ModelOptions(same, weights=folder / "model.safetensors"))
        assert model.variant.name == "b0.ap"


def test_own_padding_and_epsilon_are_read(saved: Save) -> None:
    arguments = {"bn_eps": 1e-3, "pad_type": "same", "drop_rate": 0.3}
    folder = saved("efficientnet_b0", args=arguments, label_names=LABELS)
    model = resolve_model(ModelOptions(weights=folder / "model.safetensors"))
    assert (model.variant.has_same_padding, model.variant.eps) == (True, 1e-3)
    assert_same_logits(model, make("efficientnet_b0", 3, **arguments))


def test_preprocessing_of_a_config_is_read(saved: Save) -> None:
    folder = saved("efficientnet_b0", label_names=LABELS)
    changes = {
        "input_size": [3, 96, 96],
        "test_input_size": [3, 128, 128],
        "crop_pct": 0.5,
        "test_crop_pct": 0.9,
        "crop_mode": "squash",
        "interpolation": "bilinear",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }
    edit_config(folder, pretrained_cfg=changes)
    given = resolve_model(ModelOptions(weights=folder / "model.safetensors")).card.preprocessing
    assert (given.resize_px, given.crop_px, given.is_squashed) == (142, 128, True)
    assert (given.interpolation, given.mean) == ("bilinear", (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "resnet50"}, "no EfficientNet of timm"),
        ({"architecture": "efficientnet_b1_pruned"}, "channels were removed"),
        ({"architecture": "efficientnet_b9"}, "no 'efficientnet_b9'"),
        ({"architecture": "efficientnet_b6"}, "symmetric padding and epsilon 1e-05"),
        ({"model_args": {"act_layer": "relu"}}, "'act_layer'"),
        ({"model_args": {"in_chans": 1}}, "in_chans"),
        ({"model_args": {"pad_type": "valid"}}, "pad_type"),
        ({"model_args": {"bn_eps": 0.5}}, "epsilon 0.5"),
        ({"model_args": 3}, "its model_args is 3, not a JSON object"),
        ({"model_args": []}, "its model_args is [], not a JSON object"),
        ({"model_args": {"pad_type": []}}, "its pad_type is []"),
        ({"architecture": "../x"}, "'../x' is not available"),
        ({"global_pool": "max"}, "global_pool"),
        ({"label_names": LABELS[:2]}, "2 names, not 3"),
        ({"label_names": {"0": "a", "1": "b"}}, "2 names, not 3"),
        ({"label_names": {"0": "a", "1": "b", "3": "c"}}, "not a list of names"),
        ({"label_names": "abc"}, 'its label_names are "abc", not a list of names'),
        ({"label_names": [1, 2, 3]}, "its label_names are [1, 2, 3], not a list of names"),
        ({"label_names": 3}, "its label_names are 3, not a list of names"),
        ({"label_names": ["\ud800x", "b", "c"]}, "'\\ud800x' contains an unpaired surrogate"),
        ({"label_descriptions": [1]}, "its label_descriptions is [1]"),
        ({"label_names": None}, "no label_names for its 3 classes"),
        ({"num_classes": "3"}, "num_classes"),
        ({"num_classes": True}, "num_classes is true"),
        ({"effnet": {"temperature": -1}}, "temperature"),
        ({"effnet": []}, "its effnet is [], not a JSON object"),
        ({"effnet": None}, "its effnet is null, not a JSON object"),
        ({"pretrained_cfg": {"input_size": [3, 0, 0]}}, "its input_size is [3, 0, 0]"),
        ({"pretrained_cfg": {"input_size": [3, 10**9, 10**9]}}, "its input_size is [3, 1000"),
        ({"pretrained_cfg": {"input_size": [3, "a", "a"]}}, 'its input_size is [3, "a", "a"]'),
        ({"pretrained_cfg": {"input_size": [3, 96, 64]}}, "square"),
        ({"pretrained_cfg": {"crop_mode": "border"}}, "crop_mode"),
        ({"pretrained_cfg": {"interpolation": "lanczos"}}, "interpolation"),
        ({"pretrained_cfg": {"crop_pct": -1}}, "its crop_pct is -1"),
        ({"pretrained_cfg": {"crop_pct": 0}}, "its crop_pct is 0"),
        ({"pretrained_cfg": {"crop_pct": 1e-320}}, "its crop_pct is 1e-320"),
        ({"pretrained_cfg": {"crop_pct": 10**400}}, "its crop_pct is 1000"),
        ({"pretrained_cfg": {"crop_pct": math.nan}}, "its crop_pct is NaN"),
        ({"pretrained_cfg": {"crop_pct": "0.875"}}, 'its crop_pct is "0.875"'),
        ({"pretrained_cfg": {"mean": [10**400, 0, 0]}}, "its mean is (1000"),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, "std"),
    ],
    ids=str,
)
def test_unsuitable_config_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "architecture": "efficientnet_b0",
        "num_classes": 3,
        "label_names": LABELS,
        "pretrained_cfg": {"tag": "ra_in1k", **changes.pop("pretrained_cfg", {})},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, **changes}))
    with pytest.raises(UsageError) as caught:
        timm_config.read_config(path)
    assert reason in caught.value.message
    assert repr(str(path)) in caught.value.message


NOT_TIMMS = [b"[]", b"null", b'{"architectures": ["ViT"]}', b'{"architecture": 3}']
DAMAGED = {
    "cut": b'{"architecture": "tf_effi',
    "empty": b"",
    "UTF-16": '{"architecture": "tf_efficientnet_b0"}'.encode("utf-16"),
    "deep": b"[" * 200_000,
    "long integer": b'{"num_classes": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("content", NOT_TIMMS)
def test_other_config_says_nothing(content: bytes, timm_file: Save) -> None:
    path = timm_file("tf_efficientnet_b0")
    config = path.with_name("config.json")
    config.write_bytes(content)
    assert timm_config.read_config(config) is None
    assert not resolve_model(ModelOptions("b0.ap", weights=path)).is_described
    with pytest.raises(UsageError, match=r"config\.json' is missing or not timm's"):
        resolve_model(ModelOptions(model=path))


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_config_is_refused(content: bytes, timm_file: Save) -> None:
    path = timm_file("tf_efficientnet_b0")
    path.with_name("config.json").write_bytes(content)
    for options in (ModelOptions("b0.ap", weights=path), ModelOptions(model=path)):
        with pytest.raises(UsageError, match=r"config\.json' is damaged: it cannot be parsed"):
            resolve_model(options)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_is_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    name = data.draw(st.sampled_from(CONFIG_FIELDS))
    config = {
        "architecture": "efficientnet_b0",
        "num_classes": 1000,
        "pretrained_cfg": {},
        **{name: data.draw(ANY_JSON)},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"pretrained_cfg": config, **config}))
    with suppress(UsageError):
        timm_config.read_config(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, class_names()[:2]),
        ({"label_names": list(wordnet_ids())}, class_names()[:2]),
        ({"num_classes": 2, "label_names": ["x", "y"]}, ("x", "y")),
        ({"num_classes": 2, "label_names": {"1": "y", "0": "x"}}, ("x", "y")),
        ({"num_classes": 2, "labels": ["x", "y"]}, ("x", "y")),
        (
            {
                "num_classes": 2,
                "label_names": ["n00000001", "n00000002"],
                "label_descriptions": {"n00000001": "one", "n00000002": "two"},
            },
            ("one", "two"),
        ),
    ],
    ids=["ImageNet", "WordNet", "list", "object", "old", "descriptions"],
)
def test_classes_of_a_config(
    config: dict[str, Any], expected: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    content = {"architecture": "efficientnet_b0", "num_classes": 1000, "pretrained_cfg": {}}
    path.write_text(json.dumps({**content, **config}))
    read = timm_config.read_config(path)
    assert read is not None
    assert read.card.classes[:2] == expected


def test_configs_of_timm_describe_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for row in TIMM:
        cfg = timm.get_pretrained_cfg(row.weight_set).to_dict()
        content = {"architecture": cfg["architecture"], "num_classes": 1000, "pretrained_cfg": cfg}
        path.write_text(json.dumps(content))
        read = timm_config.read_config(path)
        assert read is not None
        assert (read.variant, read.name) == (row, row.weight_set)
        assert read.card.preprocessing == row.preprocessing, row.name


def test_config_of_other_weights_is_refused(saved: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved("efficientnet_b0", 1000)
    path = folder / "model.safetensors"
    ap = find_variant("b0.ap")
    pinned = replace(ap, source=replace(ap.source, sha256=sha256(path)))
    monkeypatch.setitem(VARIANTS, "b0.ap", pinned)
    with pytest.raises(UsageError, match=r"published weights of b0\.ap, but"):
        resolve_model(ModelOptions(weights=path))


def test_digest_depends_on_the_config(saved: Save) -> None:
    """Compiled models are found by it."""
    folder = saved("efficientnet_b0", label_names=LABELS)
    options = ModelOptions(weights=folder / "model.safetensors")
    before = resolve_model(options)
    edit_config(folder, pretrained_cfg={"input_size": [3, 96, 96]})
    after = resolve_model(options)
    digest = sha256(folder / "model.safetensors")
    assert len({before.sha256, after.sha256, digest}) == 3
