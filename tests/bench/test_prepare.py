"""Preparing models for a benchmark."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from effnet_cli.bench import prepare
from effnet_cli.engines.registry import EnginePlan
from effnet_cli.models import build
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import expected_path
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.reporter import SILENT
from published_weights import OTHER, Mirror, put

pytestmark = pytest.mark.usefixtures("one_core")


def test_torchvision_graph_equals_torch(tmp_path: Path, one_thread: None) -> None:
    model = prepare.prepare_torchvision("resnet18", tmp_path)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model.build()(pixels).numpy()
    outputs = onnxruntime.InferenceSession(str(model.graph)).run(None, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(outputs[0], expected, atol=1e-4 * np.abs(expected).max())


def test_torchvision_model_with_other_operators_runs_on_torch_only(tmp_path: Path) -> None:
    model = prepare.prepare_torchvision("densenet121", tmp_path)
    assert model.graph is None
    with pytest.raises(EffnetError, match="cannot export to ONNX"):
        model.resolve("onnxruntime")
    assert isinstance(build.load_module(model.resolve("torch")), torch.nn.Module)


def test_matrix_product_has_the_same_shape_on_every_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(prepare.PRODUCT_PX, "cpu", 2)
    model = prepare.prepare_product("cpu", tmp_path)
    crops = np.random.default_rng(0).integers(0, 256, (16, *model.shape), dtype=np.uint8)
    shapes = []
    for engine in ("onnxruntime", "torch"):
        loaded = EnginePlan(engine, "cpu", "fp32").load(model.resolve(engine))  # type: ignore[arg-type]
        shapes.append(loaded(crops).scores.shape)
    assert shapes == [(16, 12), (16, 12)]


def test_damaged_weights_are_not_downloaded(
    tmp_path: Path, own_folders: None, mirror: Mirror
) -> None:
    server, b0 = mirror(), find_variant("b0")
    path = expected_path(b0)
    assert path is not None
    put(OTHER, path)
    model = prepare.prepare_variant("b0", tmp_path, SILENT)
    assert model.options is None  # seeded weights
    assert server.requests == []
