"""Building modules, and loading weights from every kind of file."""

import argparse
import ast
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from effnet_cli.models import build, checkpoint
from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import expected_path
from effnet_cli.system.errors import UsageError
from helpers import lively

pytestmark = pytest.mark.usefixtures("one_thread")

SRC = Path(checkpoint.__file__).parents[1]
LITE0 = find_variant("lite0")
CLASSES = 7

# torch warns about invalid files; the command hides these warnings
ignore_torch_warnings = pytest.mark.filterwarnings("ignore::UserWarning")

Tensors = dict[str, Tensor]
Load = Callable[[Path], nn.Module]


@pytest.fixture(scope="session")
def tensors() -> Tensors:
    """The tensors of a lite0 with 7 classes, seeded."""
    torch.manual_seed(0)
    return build.build(LITE0, CLASSES).state_dict()


def load(path: Path) -> nn.Module:
    return build.load(LITE0, CLASSES, path)


def save_torch(content: object, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def save_as_safetensors(tensors: Tensors, path: Path) -> Path:
    save_file(tensors, path)
    return path


def save_as_model_file(tensors: Tensors, path: Path) -> Path:
    card = ModelCard("lite0", tuple("abcdefg"), LITE0.preprocessing)
    checkpoint.write(path, card, {name: tensor.numpy() for name, tensor in tensors.items()})
    return path


def assert_has_weights(module: nn.Module, tensors: Tensors) -> None:
    """Check that `module` is in evaluation mode and has the weights `tensors`."""
    actual = module.state_dict()
    assert not module.training
    for name, tensor in tensors.items():
        if not name.endswith("num_batches_tracked"):
            assert actual[name].dtype == torch.float32
            assert torch.equal(actual[name], tensor.float()), name
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    "save",
    [
        lambda tensors, folder: save_torch(tensors, folder / "w.pth"),
        lambda tensors, folder: save_torch(
            tensors, folder / "w.pth", _use_new_zipfile_serialization=False
        ),
        lambda tensors, folder: save_torch(tensors, folder / "w.safetensors"),
        lambda tensors, folder: save_as_safetensors(tensors, folder / "w.safetensors"),
        lambda tensors, folder: save_as_safetensors(tensors, folder / "w.pth"),
        lambda tensors, folder: save_as_model_file(tensors, folder / "w.safetensors"),
        lambda tensors, folder: save_torch({"state_dict": tensors, "epoch": 3}, folder / "w.pth"),
        lambda tensors, folder: save_torch({"model": tensors}, folder / "w.pth"),
        lambda tensors, folder: save_torch(
            {"state_dict": tensors, "args": argparse.Namespace(lr=0.1)}, folder / "w.pth"
        ),
        lambda tensors, folder: save_torch(
            {f"module.{name}": tensor for name, tensor in tensors.items()}, folder / "w.pth"
        ),
        lambda tensors, folder: save_as_safetensors(
            {f"module.{name}": tensor for name, tensor in tensors.items()}, folder / "w.safetensors"
        ),
        lambda tensors, folder: save_torch(
            {
                name: tensor
                for name, tensor in tensors.items()
                if not name.endswith("num_batches_tracked")
            },
            folder / "w.pth",
        ),
    ],
    ids=["zip", "legacy", "zip called safetensors", "safetensors", "safetensors called pth",
         "model file", "state_dict", "model", "timm's arguments", "module.",
         "module. in safetensors", "no counters"],
)  # fmt: skip
def test_weights_load_from_every_format(
    save: Callable[[Tensors, Path], Path], tensors: Tensors, tmp_path: Path
) -> None:
    assert_has_weights(load(save(tensors, tmp_path)), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_other_precisions_become_float32(
    dtype: torch.dtype, tensors: Tensors, tmp_path: Path
) -> None:
    converted = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    assert_has_weights(load(save_as_safetensors(converted, tmp_path / "w.safetensors")), converted)


@pytest.mark.parametrize("name", ["b0", "lite2", "v2_s"])
def test_torchvision_names_need_no_translation(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = build.build(find_variant(name), CLASSES).state_dict()
    module = build.load(find_variant(name), CLASSES, save_torch(tensors, tmp_path / "w.pth"))
    assert_has_weights(module, tensors)


def assert_same_logits(module: nn.Module, other: nn.Module, size: int = 96) -> None:
    """Compare in float64, as untrained modules amplify the rounding of float32."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, size, size, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        actual, expected = module.double()(pixels), other.double()(pixels)
    assert expected.std() > 0.5  # otherwise any module would pass
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "timm_name", "eps"),
    [
        ("b0.ra", "efficientnet_b0", 1e-5),
        ("lite0.tf", "tf_efficientnet_lite0", 1e-3),
        ("lite1.tf", "tf_efficientnet_lite1", 1e-3),
        ("v2_s.tf", "tf_efficientnetv2_s", 1e-3),
    ],
)
def test_timm_files_give_timm_logits(name: str, timm_name: str, eps: float, tmp_path: Path) -> None:
    import timm

    timm_model = timm.create_model(timm_name, num_classes=CLASSES)
    for layer in timm_model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.eps == eps
    lively(timm_model)
    for path in (
        save_torch({"state_dict": timm_model.state_dict()}, tmp_path / "w.pth"),
        save_as_safetensors(timm_model.state_dict(), tmp_path / "w.safetensors"),
    ):
        assert_same_logits(build.load(find_variant(name), CLASSES, path), timm_model)


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_packaged_weights_give_timm_logits(name: str) -> None:
    path = expected_path(find_variant(name))
    assert path is not None
    import timm

    timm_model = timm.create_model(f"tf_efficientnet_{name}").eval()
    packaged = torch.load(path, weights_only=True)
    # other names, but the same order
    timm_model.load_state_dict(
        dict(zip(timm_model.state_dict(), packaged.values(), strict=True)), strict=True
    )
    assert_same_logits(build.load(find_variant(name), 1000, path), timm_model)


class Touch:
    """Creates a file when unpickled, as malicious code could."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.marker), "w")


PICKLES: dict[str, Callable[[object, Path], object]] = {
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
    "pickle protocol 0": lambda content, path: path.write_bytes(pickle.dumps(content, 0)),
    "torch zip": lambda content, path: torch.save(content, path),
    "torch legacy": lambda content, path: torch.save(
        content, path, _use_new_zipfile_serialization=False
    ),
}


@ignore_torch_warnings
@pytest.mark.parametrize("save", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".bin", ""])
def test_code_in_a_pickle_is_refused_and_does_not_run(
    save: Callable[[object, Path], object], suffix: str, tensors: Tensors, tmp_path: Path
) -> None:
    path, marker = tmp_path / f"weights{suffix}", tmp_path / "it ran"
    for content in (Touch(marker), {**tensors, "epoch": Touch(marker)}):
        save(content, path)
        with pytest.raises(UsageError, match="Refusing to load") as caught:
            load(path)
        assert repr(str(path)) in caught.value.message
        assert not marker.exists()


def test_malicious_pickle_runs_code_when_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Touch(marker))).close()
    assert marker.exists()


def test_pickled_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Refusing to load") as caught:
        load(save_torch(build.build(LITE0, CLASSES), tmp_path / "w.pth"))
    assert "state_dict" in caught.value.hint


@ignore_torch_warnings
def test_torchscript_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    path = save_torch({"x": torch.zeros(3)}, tmp_path / "w.pt")
    with zipfile.ZipFile(path, "a") as archive:  # torch recognises TorchScript by this entry
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/constants.pkl", b"")
    with pytest.raises(UsageError) as caught:
        load(path)
    assert repr(str(path)) in caught.value.message
    assert "weights_only" not in str(caught.value)


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key != name}


def change_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: change(tensors[name].clone())}


def set_first(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return change


BIAS, STEM, MEAN = "classifier.1.bias", "features.0.0.weight", "features.0.1.running_mean"

DIFFERENCES: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (lambda tensors: without(tensors, BIAS), f"{BIAS} is missing"),
    "missing first": (lambda tensors: without(without(tensors, BIAS), STEM), f"{STEM} is missing"),
    "extra": (lambda tensors: {**tensors, "ema.x": torch.zeros(2)}, "unexpected tensor ema.x"),
    "shape": (change_tensor(BIAS, lambda bias: bias[:-1]), f"{BIAS} has shape [6], expected [7]"),
    "dimensions": (change_tensor(BIAS, lambda bias: bias[None]), f"{BIAS} has shape [1, 7]"),
    "NaN": (change_tensor(STEM, set_first(float("nan"))), f"{STEM} contains NaN"),
    "infinite": (change_tensor(MEAN, set_first(-float("inf"))), f"{MEAN} contains NaN or inf"),
    "infinite in float32": (change_tensor(BIAS, lambda bias: bias.double() + 1e300), BIAS),
    "int64": (change_tensor(BIAS, Tensor.long), BIAS),
    "int64 statistics": (change_tensor(MEAN, Tensor.long), MEAN),
    "bool": (change_tensor(BIAS, Tensor.bool), BIAS),
    "complex": (change_tensor(BIAS, lambda bias: bias.to(torch.complex64)), BIAS),
    "sparse": (change_tensor(BIAS, Tensor.to_sparse), BIAS),
    "no data": (change_tensor(BIAS, lambda bias: bias.to("meta")), BIAS),
    "no tensors": (lambda tensors: {}, "is missing"),
}


@ignore_torch_warnings
@pytest.mark.parametrize(("change", "difference"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_wrong_tensors_are_refused_with_the_first_difference(
    change: Callable[[Tensors], Tensors], difference: str, tensors: Tensors, tmp_path: Path
) -> None:
    path = save_torch(change(tensors), tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        load(path)
    assert f"{str(path)!r} does not contain lite0 weights: " in caught.value.message
    assert difference in caught.value.message
    assert "--variant" in caught.value.hint


def test_missing_tensor_of_a_timm_file_is_named(tmp_path: Path) -> None:
    import timm

    tensors = timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES).state_dict()
    with pytest.raises(UsageError, match="is missing"):
        load(save_torch(without(tensors, "blocks.2.1.conv_pwl.weight"), tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["lite1", "b0", "v2_s"])
def test_weights_of_another_variant_are_refused(
    name: str, tensors: Tensors, tmp_path: Path
) -> None:
    path = save_torch(tensors, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=f"does not contain {name} weights: "):
        build.load(find_variant(name), CLASSES, path)


def test_weights_of_another_number_of_classes_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    path = save_torch(tensors, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="weights for 7 classes, .* 1,000 classes"):
        build.load(LITE0, 1000, path)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text", None, 3.5], ids=repr)
def test_torch_file_of_something_else_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="instead of named tensors"):
        load(save_torch(content, tmp_path / "w.pth"))


OTHER_FILES = {
    "empty": b"",
    "text": b"not weights\n",
    "random": random.Random(0).randbytes(10_000),
    "image": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "deep pickle": b"\x80\x02" + b"(" * 100_000 + b".",
    "looks like safetensors": b"\xff" * 8 + b"{" + b" " * 100,
    "header only": (2).to_bytes(8, "little") + b"{}",
}


@ignore_torch_warnings
@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_are_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert repr(str(path)) in caught.value.message
    assert "\n" not in caught.value.message


def test_other_zip_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UsageError):
        load(path)


@pytest.fixture
def load_linear(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load weights into a tiny module."""
    monkeypatch.setattr(build, "build", lambda variant, num_classes: nn.Linear(3, num_classes))
    return lambda path: build.load(LITE0, 2, path)


FORMATS: dict[str, Callable[[Tensors, Path], Path]] = {
    "zip": save_torch,
    "legacy": lambda tensors, path: save_torch(tensors, path, _use_new_zipfile_serialization=False),
    "safetensors": save_as_safetensors,
}


@ignore_torch_warnings
@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_every_truncated_file_is_refused(
    save: Callable[[Tensors, Path], Path], load_linear: Load, tmp_path: Path
) -> None:
    path = save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    content = path.read_bytes()
    assert load_linear(path).in_features == 3
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(UsageError):
            load_linear(path)


@ignore_torch_warnings
@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_damaged_file_is_loaded_or_refused(
    save: Callable[[Tensors, Path], Path], load_linear: Load, tmp_path: Path
) -> None:
    path = save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    content, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 4])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load_linear(path)
        except UsageError:
            refused += 1
    assert refused > 100


@ignore_torch_warnings
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from([b"", b"\x80\x02", b"\x80\x04\x95", b"PK\x03\x04"]))
def test_any_bytes_are_refused(
    load_linear: Load, tmp_path: Path, content: bytes, start: bytes
) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(start + content)
    with pytest.raises(UsageError):
        load_linear(path)


def with_head(hidden: int, name: str = "lite0") -> nn.Module:
    torch.manual_seed(1)
    module = build.build(find_variant(name), 1000)
    build.set_head(module, CLASSES, hidden)
    return module.eval()


@pytest.mark.parametrize("name", ["lite0", "b0", "v2_s"])
@pytest.mark.parametrize("hidden", [0, 16])
def test_new_classifier_has_the_requested_layers(name: str, hidden: int) -> None:
    module = build.build(find_variant(name), 1000)
    dropout = module.get_submodule("classifier.0")
    features = module.get_submodule("classifier.1").in_features
    head = build.set_head(module, CLASSES, hidden)
    assert module.get_submodule("classifier") is head
    assert module.get_submodule("classifier.0") is dropout
    shapes = [tuple(p.shape) for p in head.parameters() if p.ndim > 1]
    assert shapes == ([(hidden, features), (CLASSES, hidden)] if hidden else [(CLASSES, features)])
    assert module.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, CLASSES)


def test_classifier_can_be_replaced_again() -> None:
    module = with_head(16)
    build.set_head(module, 2)
    assert set(module.get_submodule("classifier").state_dict()) == {"1.weight", "1.bias"}
    assert module(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_hidden_layer_is_not_linear(tmp_path: Path) -> None:
    """With a ReLU in between, the logits of a sum are not the sum of the logits."""
    head = with_head(16).get_submodule("classifier")
    features = torch.randn(4, 1280, generator=torch.Generator().manual_seed(0)) * 5
    with torch.inference_mode():
        assert not torch.allclose(head(features) + head(-features), 2 * head(features * 0))


@pytest.mark.parametrize("name", ["lite0", "b0"])
@pytest.mark.parametrize("save", [save_torch, save_as_safetensors], ids=["torch", "safetensors"])
def test_hidden_layer_is_recognized_by_its_tensors(
    name: str, save: Callable[[Tensors, Path], Path], tmp_path: Path
) -> None:
    module = with_head(16, name)
    loaded = build.load(find_variant(name), CLASSES, save(module.state_dict(), tmp_path / "w.bin"))
    assert_has_weights(loaded, module.state_dict())
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(loaded(pixels), module(pixels))


HIDDEN, HEAD = "classifier.1.weight", "classifier.4.weight"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (change_tensor(HIDDEN, lambda w: w[:, :-1]), f"{HIDDEN} has shape [16, 1279]"),
        (change_tensor(HIDDEN, lambda w: w[0]), f"{HIDDEN} has shape [1280], expected [7, 1280]"),
        (
            change_tensor(HIDDEN, lambda w: w[:0]),
            f"{HIDDEN} has shape [0, 1280], expected [7, 1280]",
        ),
        (
            change_tensor(HIDDEN, lambda w: w[:15]),
            "classifier.1.bias has shape [16], expected [15]",
        ),
        (change_tensor(HEAD, lambda w: w[:, :15]), f"{HEAD} has shape [7, 15], expected [7, 16]"),
        (change_tensor(HEAD, lambda w: w[:6]), f"{HEAD} has shape [6, 16], expected [7, 16]"),
        (change_tensor(HEAD, lambda w: w * float("nan")), f"{HEAD} contains NaN"),
        (lambda t: without(t, "classifier.4.bias"), "classifier.4.bias is missing"),
        (lambda t: without(t, "classifier.1.bias"), "classifier.1.bias is missing"),
        (lambda t: without(without(t, HEAD), "classifier.4.bias"), "has weights for 16 classes"),
        (lambda t: without(t, HIDDEN), f"{HIDDEN} is missing"),
        (
            lambda t: {**t, "classifier.7.weight": torch.zeros(1)},
            "unexpected tensor classifier.7.weight",
        ),
    ],
)
def test_wrong_classifier_is_refused_with_the_first_difference(
    change: Callable[[Tensors], Tensors], difference: str, tmp_path: Path
) -> None:
    path = save_torch(change(with_head(16).state_dict()), tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        load(path)
    assert difference in caught.value.message


def test_every_torch_load_is_weights_only() -> None:
    calls = [
        node
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert calls
    for call in calls:
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert arguments.get("weights_only") == "True", ast.unparse(call)


def test_nothing_else_unpickles() -> None:
    unpicklers = {"pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load",
                  "torch.hub.load", "torch.hub.load_state_dict_from_url",
                  "load_state_dict_from_url", "joblib.load", "model_zoo.load_url",
                  "torch.export.load"}  # fmt: skip
    found = [
        f"{path.name}: {ast.unparse(node)}"
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in unpicklers
    ]
    aliases = [
        f"{path.name}: {ast.unparse(node)}"
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module == "pickle" or {alias.name for alias in node.names} & {"load", "hub"})
        and (node.module or "").partition(".")[0] in ("torch", "pickle")
    ]
    # loads files that the user names, and refuses those with pickles; and a file just written
    assert sorted(found + aliases) == [
        "torch_engine.py: torch.export.load(model.path)",
        "torch_export.py: torch.export.load(path)",
    ]
