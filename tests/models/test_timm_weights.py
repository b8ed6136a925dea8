"""timm's weights from the hub to predictions: the same as timm's, with every engine and command."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from effnet_cli.models.listing import select_weights
from effnet_cli.models.variants import find_variant
from helpers import SAMPLES
from hub_server import HubServer
from training import CommandResult, make_classes

Effnet = Callable[..., CommandResult]

VARIANT = find_variant("b0.ns")
CAT = SAMPLES / "cat.jpg"
ENGINES = ("onnxruntime", "openvino", "torch")


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """timm's model with random weights and the BatchNorm statistics of real images."""
    torch.manual_seed(0)
    module = timm.create_model("tf_efficientnet_b0").train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.inference_mode():
        module(torch.cat([transform()(Image.open(path)) for path in SAMPLES.glob("*.jpg")]))
        nn.init.normal_(module.classifier.weight, std=0.1)
    return module.eval()


def transform() -> Callable[[Image.Image], torch.Tensor]:
    config = timm.get_pretrained_cfg(VARIANT.weight_set).to_dict()
    steps = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    return lambda image: steps(image.convert("RGB"))[None]


@pytest.fixture
def hub(theirs: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that has the weights, and empty caches."""
    for name in ("EFFNET_CACHE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("EFFNET_MIRROR", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with HubServer(save(theirs.state_dict(), {"format": "pt"})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def expected(theirs: nn.Module, path: Path) -> np.ndarray:
    with torch.inference_mode():
        return theirs(transform()(Image.open(path))).softmax(-1)[0].numpy()


def test_predictions_are_timms(hub: HubServer, theirs: nn.Module, effnet: Effnet) -> None:
    wanted = expected(theirs, CAT)
    for engine in ENGINES:
        done = effnet(
            *("predict", CAT, "--variant", "tf_efficientnet_b0_ns", "--engine", engine),
            *("--format", "json", "--top-k", "1000", "--exact-decode"),
        )
        assert done.status == 0, done.stderr
        (row,) = json.loads(done.stdout)
        found = np.zeros(1000)
        for prediction in row["predictions"]:
            found[prediction["index"]] = prediction["probability"]
        assert np.abs(found - wanted).max() < 1e-5
    assert len(hub.cdn.requests) == 1  # all but the first found the file


def test_weights_are_listed_pulled_and_verified(hub: HubServer, effnet: Effnet) -> None:
    def states() -> dict[str, str]:
        rows = json.loads(effnet("weights", "list", "b0", "--format", "json").stdout)
        return {row["variant"]: row["weights"] for row in rows}

    assert list(states()) == [row.name for row in select_weights(["b0"])]
    assert set(states().values()) == {"missing"}
    done = effnet("weights", "pull", "b0.ns")
    assert done.status == 0, done.stderr
    assert {name for name, state in states().items() if state == "available"} == {"b0.ns"}
    path = Path(effnet("weights", "path", "b0.ns").stdout.decode().strip())
    assert effnet("weights", "verify", "b0.ns").stdout.startswith(b"b0.ns: intact")
    (shown,) = [
        row
        for row in json.loads(effnet("variants", "--format", "json").stdout)
        if row["variant"] == "b0.ns"
    ]
    assert shown["weights"] == "available"
    path.write_bytes(path.read_bytes()[:-1])
    damaged = effnet("weights", "verify", "b0.ns")
    assert damaged.status == 1
    assert damaged.stdout.startswith(b"b0.ns: damaged")
    assert effnet("predict", CAT, "--variant", "b0.ns", "--offline").status == 1
    assert effnet("predict", CAT, "--variant", "b0.ns").status == 0  # downloads them again


@pytest.mark.slow
def test_fine_tuned_model_keeps_padding_and_eps(
    hub: HubServer, effnet: Effnet, tmp_path: Path
) -> None:
    make_classes(tmp_path / "data", ("red", "green"), images=6)
    run = tmp_path / "run"
    done = effnet(
        *("finetune", tmp_path / "data", "--variant", "b0.ns", "--epochs", "1"),
        *("--batch-size", "4", "-o", run, "--no-report"),
    )
    assert done.status == 0, done.stderr
    evaluated = effnet("evaluate", tmp_path / "data", "--model", run)
    assert evaluated.status == 0, evaluated.stderr
    for target, suffix in (("onnx", "onnx"), ("openvino", "xml"), ("litert", "tflite")):
        file = tmp_path / f"model.{suffix}"
        exported = effnet("export", "--to", target, "--model", run, "-o", file)
        assert exported.status == 0, exported.stderr
        assert effnet("predict", CAT, "--model", file).status == 0


def test_unreachable_hub_is_one_sentence(
    effnet: Effnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = effnet("predict", CAT, "--variant", "b3.ns")
    assert done.status == 1
    *_, message, hint = done.stderr.splitlines()
    assert message.startswith("Error: Cannot download http://127.0.0.1:9/timm/tf_efficientnet_b3")
    assert hint == "Try again later, or use --variant b3.ns --weights FILE."
