"""The compiled graph matches torch, is compiled once, and is never used with other weights."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from effnet_cli.engines import compiled, onnx_writer
from effnet_cli.engines.base import Crops, LoadRequest
from effnet_cli.engines.compiled import MAX_PROBABILITY_DIFFERENCE
from effnet_cli.engines.normalise import Pixels
from effnet_cli.engines.onnxruntime_engine import OnnxRuntimeEngine
from effnet_cli.engines.torch_engine import TorchEngine
from effnet_cli.models import build, checkpoint
from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import Model
from effnet_cli.system import files as cache
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import cached_sha256, compiled_dir, sha256
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import SILENT
from helpers import RecordingReporter, lively

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = tuple("abcdefg")
MAX_DIFFERENCE = 1e-4  # in a probability
SIZE = 65  # pixels; "same" padding differs on the sides where sizes are odd


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "cache"))


def lively_variant(name: str, seed: int = 0) -> nn.Module:
    """A module with 7 classes whose logits differ by several units."""
    return lively(build.build(find_variant(name), len(CLASSES)), seed, SIZE)


def seeded_pixels(number: int, size: int = SIZE) -> Pixels:
    return np.random.default_rng(number).standard_normal((number, 3, size, size), np.float32)


def seeded_crops(number: int) -> Crops:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (number, SIZE, SIZE, 3), dtype=np.uint8)


def probabilities_in_torch(module: nn.Module, pixels: Pixels) -> np.ndarray:
    with torch.inference_mode():
        return module(torch.from_numpy(pixels)).softmax(-1).numpy()


def probabilities_in_onnx(content: Path | bytes, pixels: Pixels) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        content if isinstance(content, bytes) else str(content),
        options,
        providers=["CPUExecutionProvider"],
    )
    return probabilities(session.run(None, {session.get_inputs()[0].name: pixels})[0])


def probabilities(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(-1).numpy()


# --- the graph --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [("b0", 65), ("v2_s", 96), ("lite0", 64), ("lite0", 224), ("lite1", 65), ("lite1", 240)],
)
def test_graph_matches_torch(name: str, size: int) -> None:
    module = lively_variant(name)
    content = onnx_writer.build_graph(module, size, {})
    for batch in (1, 3):
        pixels = seeded_pixels(batch, size)
        expected = probabilities_in_torch(module, pixels)
        actual = probabilities_in_onnx(content, pixels)
        assert actual.shape == (batch, len(CLASSES))
        assert expected.max() > 0.3  # otherwise any module would pass
        assert np.abs(actual - expected).max() < MAX_DIFFERENCE


def test_graph_is_valid_and_describes_itself() -> None:
    module = lively_variant("lite0")
    metadata = {"effnet": '{"classes": ["caf\\u00e9"]}', "other": "x"}
    graph = onnx.load_from_string(onnx_writer.build_graph(module, SIZE, metadata))
    onnx.checker.check_model(graph, full_check=True)
    assert {entry.key: entry.value for entry in graph.metadata_props} == metadata
    (graph_input,), (graph_output,) = graph.graph.input, graph.graph.output
    assert sizes(graph_input) == ["batch", 3, SIZE, SIZE]
    assert sizes(graph_output) == ["batch", len(CLASSES)]
    assert (graph_input.name, graph_output.name) == (onnx_writer.INPUT, onnx_writer.OUTPUT)


def sizes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def test_same_module_gives_the_same_bytes() -> None:
    one, two = (onnx_writer.build_graph(lively_variant("lite0"), SIZE, {}) for _ in range(2))
    assert one == two


def test_difference_is_that_of_the_probabilities() -> None:
    module = lively_variant("lite0")
    content = onnx_writer.build_graph(module, SIZE, {})
    assert onnx_writer.max_difference(content, module, SIZE) < MAX_DIFFERENCE
    head = module.get_submodule("classifier.1")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.neg_()
    assert onnx_writer.max_difference(content, module, SIZE) > MAX_PROBABILITY_DIFFERENCE


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, 3), nn.GELU()],
        [nn.BatchNorm2d(3)],
        [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)],
        [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2)],
        [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)],
    ],
    ids=["GELU", "norm first", "norm after ReLU", "average to 2", "norm without statistics"],
)
def test_unknown_operator_is_refused(layers: list[nn.Module]) -> None:
    with pytest.raises(NotImplementedError):
        onnx_writer.build_graph(nn.Sequential(*layers).eval(), 8, {})


# --- compiling and caching --------------------------------------------------------------------


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two model files of lite0 with 7 classes and different weights."""
    folder = tmp_path_factory.mktemp("models")
    preprocessing = replace(find_variant("lite0").preprocessing, crop_px=SIZE, resize_px=SIZE + 32)
    card = ModelCard("lite0", CLASSES, preprocessing, temperature=2.0)
    paths = [folder / f"{seed}.safetensors" for seed in range(2)]
    for seed, path in enumerate(paths):
        tensors = lively_variant("lite0", seed).state_dict()
        checkpoint.write(path, card, {name: value.numpy() for name, value in tensors.items()})
    return paths


def read_model(path: Path) -> Model:
    card = checkpoint.read_card(path)
    return Model(find_variant(card.variant), card, path, sha256=cached_sha256(path))


@pytest.fixture
def model(model_files: list[Path]) -> Model:
    return read_model(model_files[0])


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the size of each graph that is built."""
    sizes: list[int] = []
    original = onnx_writer.build_graph

    def counting(*arguments: object, **options: object) -> bytes:
        content = original(*arguments, **options)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(onnx_writer, "build_graph", counting)
    return sizes


def cached_graphs() -> list[Path]:
    return sorted(compiled_dir().glob("*.onnx")) if compiled_dir().exists() else []


def assert_matches_torch(graph: Path | bytes, model: Model) -> None:
    """Check that the graph and torch give the same predictions for a file."""
    pixels = seeded_pixels(2)
    module = build.load(model.variant, len(model.card.classes), model.path)
    expected = probabilities_in_torch(module, pixels)
    assert np.abs(probabilities_in_onnx(graph, pixels) - expected).max() < MAX_DIFFERENCE


def test_graph_is_compiled_once(model: Model, built: list[int]) -> None:
    reporter = RecordingReporter()
    first = compiled.get_compiled(model, reporter)
    assert isinstance(first, Path)
    assert compiled.get_compiled(model, reporter) == first
    assert len(built) == 1
    assert len(reporter.notes) == 1
    assert "lite0" in reporter.notes[0]
    assert cached_graphs() == [first]
    assert_matches_torch(first, model)


def test_file_name_has_the_digests_of_weights_and_graph(model: Model) -> None:
    path = compiled.get_compiled(model, SILENT)
    assert isinstance(path, Path)
    variant, weights, version, graph_digest = path.stem.split("-")
    assert (variant, version) == ("lite0", compiled.GRAPH_VERSION)
    assert model.sha256.startswith(weights)
    assert sha256(path).startswith(graph_digest)
    assert len(weights) == len(graph_digest) == cache.DIGEST_CHARS


def test_graph_carries_the_card(model: Model) -> None:
    path = compiled.get_compiled(model, SILENT)
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert ModelCard.from_json(properties["effnet"]) == model.card


def test_start_with_a_cached_graph_imports_no_torch(model: Model) -> None:
    compiled.get_compiled(model, SILENT)
    code = f"""
import sys
from pathlib import Path
from effnet_cli.models import weights
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.options import ModelOptions
from effnet_cli.system.reporter import SILENT
path = get_compiled(weights.resolve_model(ModelOptions(model=Path({str(model.path)!r}))), SILENT)
assert isinstance(path, Path), path
print(sorted({{"torch", "torchvision", "onnx"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Compiles with a builder that takes half a second and records that it ran.
COMPILE = """
import os, sys, time, types
from pathlib import Path
from effnet_cli.models import weights
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.options import ModelOptions
from effnet_cli.system.reporter import SILENT

def build_graph(*_, **__):
    with Path({runs!r}).open("a") as file:
        file.write("x")
    time.sleep(0.5)
    return b"graph" * 1000

fakes = {{
    "effnet_cli.models.build": {{"load_module": lambda *_: None}},
    "effnet_cli.engines.onnx_writer": {{
        "build_graph": build_graph, "max_difference": lambda *_: 0.0
    }},
}}
for name, contents in fakes.items():
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(contents)
print(get_compiled(weights.resolve_model(ModelOptions(model=Path({model!r}))), SILENT))
"""


def test_concurrent_processes_compile_once(model: Model, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    code = COMPILE.format(runs=str(runs), model=str(model.path))
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    printed = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert printed == {str(path) for path in cached_graphs()}
    assert len(printed) == 1
    assert runs.read_text() == "x"


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [flip_a_byte, lambda path: os.truncate(path, 1000), lambda path: os.truncate(path, 0),
     Path.unlink],
    ids=["flipped byte", "truncated", "empty", "missing"],
)  # fmt: skip
def test_damaged_graph_is_recompiled(
    damage: Callable[[Path], None], model: Model, built: list[int]
) -> None:
    path = compiled.get_compiled(model, SILENT)
    assert isinstance(path, Path)
    damage(path)
    again = compiled.get_compiled(model, SILENT)
    assert len(built) == 2
    assert again == path
    assert_matches_torch(again, model)


@pytest.mark.linux
def test_graph_that_vanishes_meanwhile_is_recompiled(model: Model, built: list[int]) -> None:
    path = compiled.get_compiled(model, SILENT)
    assert isinstance(path, Path)
    # as if another process removed the file between listing and hashing
    path.unlink()
    path.symlink_to("nowhere")
    again = compiled.get_compiled(model, SILENT)
    assert len(built) == 2
    assert_matches_torch(again, model)


def test_other_weights_get_another_graph(model_files: list[Path], built: list[int]) -> None:
    models = [read_model(path) for path in model_files]
    paths = [compiled.get_compiled(model, SILENT) for model in models]
    assert len(set(paths)) == len(built) == 2
    assert [compiled.get_compiled(model, SILENT) for model in models] == paths
    assert len(built) == 2
    for path, model in zip(paths, models, strict=True):
        assert_matches_torch(path, model)


def test_weights_that_change_in_place_get_another_graph(
    model_files: list[Path], tmp_path: Path, built: list[int]
) -> None:
    path = tmp_path / "model.safetensors"
    scores = []
    for number, source in enumerate(model_files):
        path.write_bytes(source.read_bytes())
        os.utime(path, (number, number))
        graph = compiled.get_compiled(read_model(path), SILENT)
        assert_matches_torch(graph, read_model(path))
        scores.append(probabilities_in_onnx(graph, seeded_pixels(1)))
    assert len(built) == 2
    assert np.abs(scores[0] - scores[1]).max() > MAX_PROBABILITY_DIFFERENCE
    assert len(cached_graphs()) == 1  # the old one is dropped


def test_graph_of_another_version_is_not_used(
    model: Model, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiled.get_compiled(model, SILENT)
    monkeypatch.setattr(compiled, "GRAPH_VERSION", "g0")
    assert compiled.get_compiled(model, SILENT) != first
    assert len(built) == 2


# --- no cache, or a wrong graph ---------------------------------------------------------------


@pytest.mark.linux
@pytest.mark.parametrize("folder", ["{tmp}/a file/cache", "/proc/no-such-folder/cache"])
def test_unwritable_cache_is_reported_and_the_graph_used(
    folder: str, model: Model, built: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("EFFNET_CACHE", folder.format(tmp=tmp_path))
    reporter = RecordingReporter()
    graph = compiled.get_compiled(model, reporter)
    assert isinstance(graph, bytes)
    assert len(built) == 1
    assert any("recompiled on every run" in note for note in reporter.notes)
    assert any(folder.format(tmp=tmp_path) in note for note in reporter.notes)
    assert_matches_torch(graph, model)


def test_full_disk_leaves_no_files_and_the_graph_is_used(
    model: Model, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    reporter = RecordingReporter()
    graph = compiled.get_compiled(model, reporter)
    assert isinstance(graph, bytes)
    assert len(built) == 1  # not compiled twice
    assert any("No space left on device" in note for note in reporter.notes)
    assert not list(compiled_dir().glob("*.onnx*"))
    assert not list(compiled_dir().glob("*.part"))
    assert_matches_torch(graph, model)


@pytest.mark.parametrize("difference", [2 * MAX_PROBABILITY_DIFFERENCE, 1.0, float("nan")], ids=str)
def test_graph_that_differs_from_torch_is_refused(
    difference: float, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_writer, "max_difference", lambda *_: difference)
    with pytest.raises(EffnetError, match="differs from torch") as caught:
        compiled.get_compiled(model, SILENT)
    assert "--engine torch" in caught.value.hint
    assert cached_graphs() == []


def test_graph_that_differs_by_rounding_is_cached(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_writer, "max_difference", lambda *_: MAX_PROBABILITY_DIFFERENCE / 2)
    path = compiled.get_compiled(model, SILENT)
    assert cached_graphs() == [path]


def test_damaged_weights_are_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model.path.read_bytes())
    flip_a_byte(path)
    reporter = RecordingReporter()
    with pytest.raises(UsageError, match="damaged"):
        compiled.get_compiled(read_model(path), reporter)
    assert not any("slow" in note for note in reporter.notes)
    assert cached_graphs() == []


def test_unreadable_weights_are_not_reported_as_an_unwritable_cache(
    model: Model, tmp_path: Path
) -> None:
    reporter = RecordingReporter()
    without_weights = replace(model, path=tmp_path / "missing.safetensors")
    with pytest.raises((UsageError, OSError)):
        compiled.get_compiled(without_weights, reporter)
    assert not any("slow" in note for note in reporter.notes)


# --- the engines ------------------------------------------------------------------------------


def test_engines_agree(model: Model) -> None:
    callers = usable_cores()  # so that each has one thread
    actual = OnnxRuntimeEngine(LoadRequest(model, callers=callers))
    expected = TorchEngine(LoadRequest(model, callers=callers))
    for batch in (1, 3):
        crops = seeded_crops(batch)
        logits = actual(crops).scores
        assert logits.dtype == np.float32
        assert logits.shape == (batch, len(CLASSES))
        difference = probabilities(logits) - probabilities(expected(crops).scores)
        assert np.abs(difference).max() < MAX_DIFFERENCE


def test_engine_works_without_a_cache(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_scores = OnnxRuntimeEngine(LoadRequest(model))(seeded_crops(2)).scores
    (tmp_path / "a file").touch()
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "a file" / "cache"))
    scores = OnnxRuntimeEngine(LoadRequest(model))(seeded_crops(2)).scores
    assert np.array_equal(scores, cached_scores)


def test_partial_files_of_a_killed_process_are_removed(model: Model) -> None:
    folder = compiled_dir()
    folder.mkdir(parents=True)
    partial = folder / f".{compiled._stem(model)}-0123.onnx.abcdef.part"
    other = folder / ".b7-0123.onnx.abcdef.part"
    partial.touch()
    other.touch()  # another process may be writing it, under its own lock
    compiled.get_compiled(model, SILENT)
    assert not partial.exists()
    assert other.exists()
