"""Every engine matches torch in fp32; unsupported combinations are refused."""

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from effnet_cli.engines import registry
from effnet_cli.engines.registry import BATCH_SIZE, ENGINES, EnginePlan, list_engines, plan_engine
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import EngineName, EngineOptions, ModelOptions, Precision
from effnet_cli.system.errors import EffnetError, UsageError
from forked import run_forked
from helpers import save_image

# Engines that run model files; the others run only exported files.
NAMES = [name for name, row in ENGINES.items() if "tensors" in row.kinds]
CPU = [
    (name, precision)
    for name, row in ENGINES.items()
    if name in NAMES
    for precision in row.precisions.get("cpu", ())
]


@pytest.fixture(scope="module")
def model() -> Model:
    return resolve_model(ModelOptions(variant="lite0"))


@pytest.fixture(scope="module")
def crops(model: Model, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("images")
    loader = ImageLoader(model.card.preprocessing)
    for seed in range(5):
        save_image(folder / f"{seed}.png", seed, (300, 260))
    return np.concatenate([loader.load(folder / f"{seed}.png") for seed in range(5)])


def probabilities(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def load_engine(model: Model, engine: EngineName, precision: Precision = "fp32", callers: int = 1):  # noqa: ANN201
    return plan_engine(EngineOptions("cpu", engine, precision)).load(model, callers)


@pytest.mark.parametrize(("name", "precision"), CPU)
def test_predictions_match_torch_fp32(
    model: Model, crops: np.ndarray, name: EngineName, precision: Precision
) -> None:
    expected = probabilities(load_engine(model, "torch")(crops).scores)
    plan = plan_engine(EngineOptions("cpu", name, precision))
    try:
        engine = plan.load(model)
    except EffnetError as error:
        assert precision in error.message  # this processor does not support it
        return
    logits = engine(crops).scores
    assert (plan.engine, plan.device, engine.precision) == (name, "cpu", precision)
    assert engine.scores_are == "logits"
    assert (logits.shape, logits.dtype) == ((5, 1000), np.float32)
    tolerance = 1e-5 if precision == "fp32" else 0.1
    assert np.abs(probabilities(logits) - expected).max() < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_batches_match_single_images(model: Model, crops: np.ndarray, name: EngineName) -> None:
    engine = load_engine(model, name)
    alone = np.concatenate([engine(crops[i : i + 1]).scores for i in range(5)])
    together = engine(crops).scores
    np.testing.assert_allclose(together, alone, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_features_match_torch(model: Model, crops: np.ndarray, name: EngineName) -> None:
    expected = load_engine(model, "torch")(crops).features
    features = load_engine(model, name)(crops).features
    assert features is not None
    assert (features.shape, features.dtype) == ((5, 1280), np.float32)
    np.testing.assert_allclose(features, expected, atol=2e-5 * np.abs(expected).max())


def test_default_engine_gives_the_same_bits_in_any_batch_and_thread(
    model: Model, crops: np.ndarray
) -> None:
    one, several = load_engine(model, "onnxruntime"), load_engine(model, "onnxruntime", callers=2)
    alone = np.concatenate([one(crops[i : i + 1]).scores for i in range(5)])
    assert np.array_equal(several(crops).scores, alone)
    assert np.array_equal(one(crops).scores, alone)


@pytest.mark.parametrize("name", NAMES)
def test_engine_can_be_called_from_several_threads(
    model: Model, crops: np.ndarray, name: EngineName
) -> None:
    engine = load_engine(model, name, callers=4)
    alone = [engine(crops[i : i + 1]).scores for i in range(5)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            results = list(pool.map(engine, [crops[i : i + 1] for i in range(5)]))
            for actual, expected in zip(results, alone, strict=True):
                np.testing.assert_allclose(actual.scores, expected, atol=2e-5)


@pytest.mark.linux
@pytest.mark.parametrize("name", NAMES)
def test_signals_are_handled_after_engines_are_freed(name: EngineName) -> None:
    code = """
import gc, signal, sys
from effnet_cli.engines.registry import plan_engine
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import EngineOptions, ModelOptions
signal.signal(signal.SIGINT, lambda *_: print("handled"))
model = resolve_model(ModelOptions())
plan = plan_engine(EngineOptions(engine=sys.argv[1]))
engines = [plan.load(model), plan.load(model)]
while engines:
    del engines[0]
    gc.collect()
signal.raise_signal(signal.SIGINT)
"""
    done = run_forked(code, [name])
    assert (done.status, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EngineOptions(device="tpu"), "Unknown device 'tpu'."),
        (EngineOptions(device="cpu:1"), "'cpu:1'"),
        (EngineOptions(device="cuda:one"), "'cuda:one'"),
        (
            EngineOptions("cpu", "onnxruntime", "fp16"),
            "onnxruntime does not support model files in fp16 on cpu",
        ),
        (
            EngineOptions("cpu", "torch", "fp16"),
            "torch does not support model files in fp16 on cpu",
        ),
    ],
)
def test_unsupported_combinations_are_refused(options: EngineOptions, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_engine(options)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_missing_gpu_is_reported(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_has_cuda_device", lambda: False)
    with pytest.raises(EffnetError, match="No CUDA device"):
        plan_engine(EngineOptions(device=device))
    assert plan_engine(EngineOptions(device="auto")).device == "cpu"


def test_missing_library_is_reported_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EffnetError, match="not installed") as caught:
        plan_engine(EngineOptions("cpu", "openvino"))
    assert "pip install 'effnet-cli[openvino]'" in caught.value.hint


def test_auto_chooses_onnxruntime_on_cpu_and_torch_on_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_has_cuda_device", lambda: True)
    monkeypatch.setattr(registry, "_is_torch_built_for_cuda", lambda: True)
    assert plan_engine(EngineOptions("cpu")).engine == "onnxruntime"
    assert plan_engine(EngineOptions()).engine == "torch"
    assert plan_engine(EngineOptions()).device == "cuda"


def test_auto_stays_on_the_cpu_if_torch_is_built_without_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_has_cuda_device", lambda: True)
    monkeypatch.setattr(registry, "_is_torch_built_for_cuda", lambda: False)
    assert plan_engine(EngineOptions()).device == "cpu"


def test_auto_chooses_the_next_engine_if_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_is_installed", lambda name: name == "torch")
    assert plan_engine(EngineOptions("cpu")).engine == "torch"


def test_large_models_run_in_few_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_engine(EngineOptions("cpu"))
    monkeypatch.setattr(registry, "usable_cores", lambda: 12)
    assert plan.max_callers(find_variant("lite0")) == 12
    assert plan.max_callers(find_variant("b4")) == 3
    assert plan.max_callers(find_variant("b7")) == plan.max_callers(find_variant("v2_l")) == 1


def test_library_that_cannot_be_loaded_is_reported(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if its import failed
    monkeypatch.delitem(sys.modules, "effnet_cli.engines.openvino_engine", raising=False)
    with pytest.raises(EffnetError, match="openvino could not be imported"):
        EnginePlan("openvino", "cpu", "fp32").load(model)


def test_mismatched_torchvision_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_import(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(build, "import_module", fail_import)
    with pytest.raises(EffnetError, match="are incompatible") as caught:
        build.import_torchvision("torchvision.models")
    assert "pip install" in caught.value.hint


def test_tables_agree() -> None:
    kinds = {kind for row in ENGINES.values() for kind in row.kinds}
    for device_type in BATCH_SIZE:
        names = {name for kind in kinds for name in list_engines(device_type, kind)}
        assert names == {n for n, row in ENGINES.items() if device_type in row.precisions}
    assert BATCH_SIZE.keys() == {on for row in ENGINES.values() for on in row.precisions}
    assert ENGINES.keys() == set(get_args(EngineName))
    assert all("cpu" in row.precisions for row in ENGINES.values())  # as a hint claims


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ENGINES["torch"].precisions["cuda"])
def test_cuda_matches_the_cpu(model: Model, crops: np.ndarray, precision: Precision) -> None:
    expected = probabilities(load_engine(model, "torch")(crops).scores)
    actual = probabilities(
        plan_engine(EngineOptions("cuda", "torch", precision)).load(model)(crops)
    )
    tolerance = 1e-4 if precision == "fp32" else 0.1
    assert np.abs(actual - expected).max() < tolerance
    if precision == "fp32":
        assert (actual.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_weights_of_another_variant_are_refused_before_compiling(tmp_path: Path) -> None:
    lite1 = resolve_model(ModelOptions(variant="lite1"))
    with pytest.raises(UsageError, match="published weights of lite1, not of lite0"):
        load_engine(resolve_model(ModelOptions(variant="lite0", weights=lite1.path)), "onnxruntime")
