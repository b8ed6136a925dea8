"""Every engine answers as torch does in fp32; what cannot be done is refused in words."""

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from effnet_cli import engines
from effnet_cli.engines import AUTO, BATCH_SIZE, ENGINES, EnginePlan
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import EngineName, EngineOptions, ModelOptions, Precision
from effnet_cli.system.errors import EffnetError, UsageError
from helpers import save_image

# Those that run a model file; the others run what was exported for them.
NAMES = [name for name, row in ENGINES.items() if "tensors" in row.kinds]
CPU = [
    (name, precision)
    for name, row in ENGINES.items()
    if name in NAMES
    for precision in row.precisions.get("cpu", ())
]


@pytest.fixture(scope="module")
def network() -> Model:
    return resolve_model(ModelOptions(variant="lite0"))


@pytest.fixture(scope="module")
def crops(network: Model, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("images")
    loader = ImageLoader(network.card.preprocessing)
    for seed in range(5):
        save_image(folder / f"{seed}.png", seed, (300, 260))
    return np.concatenate([loader.load(folder / f"{seed}.png") for seed in range(5)])


def probabilities(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def loaded(network: Model, engine: EngineName, precision: Precision = "fp32", callers: int = 1):  # noqa: ANN201
    return engines.plan_engine(EngineOptions("cpu", engine, precision)).load(network, callers)


@pytest.mark.parametrize(("name", "precision"), CPU)
def test_answers_as_torch_in_fp32(
    network: Model, crops: np.ndarray, name: EngineName, precision: Precision
) -> None:
    wanted = probabilities(loaded(network, "torch")(crops))
    plan = engines.plan_engine(EngineOptions("cpu", name, precision))
    try:
        engine = plan.load(network)
    except EffnetError as error:
        assert precision in error.message  # this processor has no such arithmetic
        return
    logits = engine(crops)
    assert (plan.engine, plan.device, engine.precision) == (name, "cpu", precision)
    assert engine.scores_are == "logits"
    assert (logits.shape, logits.dtype) == ((5, 1000), np.float32)
    tolerance = 1e-5 if precision == "fp32" else 0.1
    assert np.abs(probabilities(logits) - wanted).max() < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_batches_answer_as_each_image_alone(
    network: Model, crops: np.ndarray, name: EngineName
) -> None:
    engine = loaded(network, name)
    alone = np.concatenate([engine(crops[i : i + 1]) for i in range(5)])
    together = engine(crops)
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_default_engine_answers_the_same_bits_in_any_batch_and_thread(
    network: Model, crops: np.ndarray
) -> None:
    one, several = loaded(network, "onnxruntime"), loaded(network, "onnxruntime", callers=2)
    alone = np.concatenate([one(crops[i : i + 1]) for i in range(5)])
    assert np.array_equal(several(crops), alone)
    assert np.array_equal(one(crops), alone)


@pytest.mark.parametrize("name", NAMES)
def test_several_threads_may_call_at_once(
    network: Model, crops: np.ndarray, name: EngineName
) -> None:
    engine = loaded(network, name, callers=4)
    alone = [engine(crops[i : i + 1]) for i in range(5)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            answers = list(pool.map(engine, [crops[i : i + 1] for i in range(5)]))
            for given, wanted in zip(answers, alone, strict=True):
                np.testing.assert_allclose(given, wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EngineOptions(device="tpu"), "'tpu'"),
        (EngineOptions(device="cpu:1"), "'cpu:1'"),
        (EngineOptions(device="cuda:one"), "'cuda:one'"),
        (EngineOptions("cpu", "onnxruntime", "fp16"), "onnxruntime does not run fp16 on cpu"),
        (EngineOptions("cpu", "torch", "fp16"), "torch does not run fp16 on cpu"),
        (EngineOptions("cpu", "auto", "int8"), "No engine runs int8 on cpu"),
    ],
)
def test_impossible_wishes_are_refused(options: EngineOptions, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        engines.plan_engine(options)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_missing_gpu_is_said(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.registry, "_has_cuda_device", lambda: False)
    with pytest.raises(EffnetError, match="no CUDA device"):
        engines.plan_engine(EngineOptions(device=device))
    assert engines.plan_engine(EngineOptions(device="auto")).device == "cpu"


def test_missing_library_is_said_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EffnetError, match="not installed") as caught:
        engines.plan_engine(EngineOptions("cpu", "openvino"))
    assert "pip install 'effnet-cli[openvino]'" in caught.value.hint


def test_auto_takes_the_compiled_engine_on_a_cpu_and_torch_on_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines.registry, "_has_cuda_device", lambda: True)
    monkeypatch.setattr(engines.registry, "_torch_is_built_for_cuda", lambda: True)
    assert engines.plan_engine(EngineOptions("cpu")).engine == "onnxruntime"
    assert engines.plan_engine(EngineOptions()).engine == "torch"
    assert engines.plan_engine(EngineOptions()).device == "cuda"


def test_auto_stays_on_the_cpu_where_torch_knows_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.registry, "_has_cuda_device", lambda: True)
    monkeypatch.setattr(engines.registry, "_torch_is_built_for_cuda", lambda: False)
    assert engines.plan_engine(EngineOptions()).device == "cpu"


def test_auto_takes_the_next_engine_when_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.registry, "_is_installed", lambda name: name == "torch")
    assert engines.plan_engine(EngineOptions("cpu")).engine == "torch"


def test_large_networks_run_in_few_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = engines.plan_engine(EngineOptions("cpu"))
    monkeypatch.setattr(engines.registry, "usable_cores", lambda: 12)
    assert plan.max_callers(find_variant("lite0")) == 12
    assert plan.max_callers(find_variant("b4")) == 3
    assert plan.max_callers(find_variant("b7")) == plan.max_callers(find_variant("v2_l")) == 1


def test_library_that_cannot_be_loaded_is_said(
    network: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if its import failed
    monkeypatch.delitem(sys.modules, "effnet_cli.engines.openvino_engine", raising=False)
    with pytest.raises(EffnetError, match="openvino cannot be loaded"):
        EnginePlan("openvino", "cpu", "fp32").load(network)


def test_torchvision_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(build, "import_module", broken)
    with pytest.raises(EffnetError, match="do not work together") as caught:
        build.build(find_variant("b0"), 2)
    assert "pip install" in caught.value.hint


def test_tables_agree() -> None:
    for kind, names in AUTO.items():
        assert set(names) == {name for name, row in ENGINES.items() if kind in row.precisions}
    assert BATCH_SIZE.keys() == AUTO.keys()


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ENGINES["torch"].precisions["cuda"])
def test_cuda_answers_as_the_cpu(network: Model, crops: np.ndarray, precision: Precision) -> None:
    wanted = probabilities(loaded(network, "torch")(crops))
    given = probabilities(
        engines.plan_engine(EngineOptions("cuda", "torch", precision)).load(network)(crops)
    )
    tolerance = 1e-4 if precision == "fp32" else 0.1
    assert np.abs(given - wanted).max() < tolerance
    if precision == "fp32":
        assert (given.argmax(axis=1) == wanted.argmax(axis=1)).all()


def test_weights_of_another_network_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    lite1 = resolve_model(ModelOptions(variant="lite1"))
    with pytest.raises(UsageError, match="does not hold the weights of lite0"):
        loaded(resolve_model(ModelOptions(variant="lite0", weights=lite1.path)), "onnxruntime")
