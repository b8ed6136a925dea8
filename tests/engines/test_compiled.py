"""The compiled network: answers as torch does, is made once, and never outlives its weights."""

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
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "cache"))


def lively_variant(name: str, seed: int = 0) -> nn.Module:
    """A network with 7 classes whose logits differ by several."""
    return lively(build.build(find_variant(name), len(CLASSES)), seed, SIZE)


def seeded_pixels(number: int, size: int = SIZE) -> Pixels:
    return np.random.default_rng(number).standard_normal((number, 3, size, size), np.float32)


def seeded_crops(number: int) -> Crops:
    chance = np.random.default_rng(number)
    return chance.integers(0, 256, (number, SIZE, SIZE, 3), dtype=np.uint8)


def probabilities_in_torch(network: nn.Module, pixels: Pixels) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(pixels)).softmax(-1).numpy()


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
def test_graph_answers_as_torch(name: str, size: int) -> None:
    network = lively_variant(name)
    content = onnx_writer.build_graph(network, size, {})
    for batch in (1, 3):
        pixels = seeded_pixels(batch, size)
        wanted = probabilities_in_torch(network, pixels)
        given = probabilities_in_onnx(content, pixels)
        assert given.shape == (batch, len(CLASSES))
        assert wanted.max() > 0.3  # else any network would do
        assert np.abs(given - wanted).max() < MAX_DIFFERENCE


def test_graph_is_valid_and_describes_itself() -> None:
    network = lively_variant("lite0")
    metadata = {"effnet": '{"classes": ["caf\\u00e9"]}', "other": "x"}
    graph = onnx.load_from_string(onnx_writer.build_graph(network, SIZE, metadata))
    onnx.checker.check_model(graph, full_check=True)
    assert {entry.key: entry.value for entry in graph.metadata_props} == metadata
    (given,), (made,) = graph.graph.input, graph.graph.output
    assert sizes(given) == ["batch", 3, SIZE, SIZE]
    assert sizes(made) == ["batch", len(CLASSES)]
    assert (given.name, made.name) == (onnx_writer.INPUT, onnx_writer.OUTPUT)


def sizes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def test_same_network_gives_the_same_bytes() -> None:
    one, two = (onnx_writer.build_graph(lively_variant("lite0"), SIZE, {}) for _ in range(2))
    assert one == two


def test_difference_is_that_of_the_probabilities() -> None:
    network = lively_variant("lite0")
    content = onnx_writer.build_graph(network, SIZE, {})
    assert onnx_writer.max_difference(content, network, SIZE) < MAX_DIFFERENCE
    head = network.get_submodule("classifier.1")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.neg_()
    assert onnx_writer.max_difference(content, network, SIZE) > MAX_PROBABILITY_DIFFERENCE


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
def test_operator_that_is_not_known_is_refused(layers: list[nn.Module]) -> None:
    with pytest.raises(NotImplementedError):
        onnx_writer.build_graph(nn.Sequential(*layers).eval(), 8, {})


# --- making and keeping it --------------------------------------------------------------------


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


def network_in(path: Path) -> Model:
    card = checkpoint.read_card(path)
    return Model(find_variant(card.variant), card, path, sha256=cached_sha256(path))


@pytest.fixture
def network(model_files: list[Path]) -> Model:
    return network_in(model_files[0])


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the graphs that were written."""
    sizes: list[int] = []
    written = onnx_writer.build_graph

    def counting(*arguments: object) -> bytes:
        made = written(*arguments)
        sizes.append(len(made))
        return made

    monkeypatch.setattr(onnx_writer, "build_graph", counting)
    return sizes


def kept() -> list[Path]:
    return sorted(compiled_dir().glob("*.onnx")) if compiled_dir().exists() else []


def assert_answers(made: Path | bytes, network: Model) -> None:
    """What was made answers as torch does with the same file."""
    pixels = seeded_pixels(2)
    module = build.load(network.variant, len(network.card.classes), network.path)
    wanted = probabilities_in_torch(module, pixels)
    assert np.abs(probabilities_in_onnx(made, pixels) - wanted).max() < MAX_DIFFERENCE


def test_artefact_is_made_once(network: Model, built: list[int]) -> None:
    heard = RecordingReporter()
    first = compiled.get_compiled(network, heard)
    assert isinstance(first, Path)
    assert compiled.get_compiled(network, heard) == first
    assert len(built) == 1
    assert len(heard.notes) == 1
    assert "lite0" in heard.notes[0]
    assert kept() == [first]
    assert_answers(first, network)


def test_artefact_names_its_weights_and_itself(network: Model) -> None:
    path = compiled.get_compiled(network, SILENT)
    assert isinstance(path, Path)
    variant, weights, version, own = path.stem.split("-")
    assert (variant, version) == ("lite0", compiled.GRAPH_VERSION)
    assert network.sha256.startswith(weights)
    assert sha256(path).startswith(own)
    assert len(weights) == len(own) == cache.DIGEST_CHARS


def test_artefact_carries_the_card(network: Model) -> None:
    path = compiled.get_compiled(network, SILENT)
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert ModelCard.from_json(properties["effnet"]) == network.card


def test_start_from_an_artefact_imports_no_torch(network: Model) -> None:
    compiled.get_compiled(network, SILENT)
    code = f"""
import sys
from pathlib import Path
from effnet_cli.models import weights
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.options import ModelOptions
from effnet_cli.system.reporter import SILENT
path = get_compiled(weights.resolve_model(ModelOptions(model=Path({str(network.path)!r}))), SILENT)
assert isinstance(path, Path), path
print(sorted({{"torch", "torchvision", "onnx"}} & set(sys.modules)))
"""
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert end.stdout == "[]\n"


# Makes an artefact with a builder that takes half a second and writes down that it ran.
MAKE = """
import os, sys, time, types
from pathlib import Path
from effnet_cli.models import weights
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.options import ModelOptions
from effnet_cli.system.reporter import SILENT

def written(*_):
    with Path({runs!r}).open("a") as file:
        file.write("x")
    time.sleep(0.5)
    return b"graph" * 1000

fakes = {{
    "effnet_cli.models.build": {{"load_module": lambda *_: None}},
    "effnet_cli.engines.onnx_writer": {{"build_graph": written, "max_difference": lambda *_: 0.0}},
}}
for name, contents in fakes.items():
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(contents)
print(get_compiled(weights.resolve_model(ModelOptions(model=Path({model!r}))), SILENT))
"""


def test_several_processes_make_one_artefact(network: Model, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    code = MAKE.format(runs=str(runs), model=str(network.path))
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    said = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert said == {str(path) for path in kept()}
    assert len(said) == 1
    assert runs.read_text() == "x"


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [flip_a_byte, lambda path: os.truncate(path, 1000), lambda path: os.truncate(path, 0),
     Path.unlink],
    ids=["flipped byte", "truncated", "empty", "gone"],
)  # fmt: skip
def test_damaged_artefact_is_made_again(
    damage: Callable[[Path], None], network: Model, built: list[int]
) -> None:
    path = compiled.get_compiled(network, SILENT)
    assert isinstance(path, Path)
    damage(path)
    again = compiled.get_compiled(network, SILENT)
    assert len(built) == 2
    assert again == path
    assert_answers(again, network)


def test_artefact_that_vanishes_meanwhile_is_made_again(network: Model, built: list[int]) -> None:
    path = compiled.get_compiled(network, SILENT)
    assert isinstance(path, Path)
    # as another process leaves it that drops the file between the look and the digest
    path.unlink()
    path.symlink_to("nowhere")
    again = compiled.get_compiled(network, SILENT)
    assert len(built) == 2
    assert_answers(again, network)


def test_other_weights_get_another_artefact(model_files: list[Path], built: list[int]) -> None:
    networks = [network_in(path) for path in model_files]
    paths = [compiled.get_compiled(network, SILENT) for network in networks]
    assert len(set(paths)) == len(built) == 2
    assert [compiled.get_compiled(network, SILENT) for network in networks] == paths
    assert len(built) == 2
    for path, network in zip(paths, networks, strict=True):
        assert_answers(path, network)


def test_weights_that_change_in_place_get_another_artefact(
    model_files: list[Path], tmp_path: Path, built: list[int]
) -> None:
    path = tmp_path / "model.safetensors"
    answers = []
    for number, source in enumerate(model_files):
        path.write_bytes(source.read_bytes())
        os.utime(path, (number, number))
        made = compiled.get_compiled(network_in(path), SILENT)
        assert_answers(made, network_in(path))
        answers.append(probabilities_in_onnx(made, seeded_pixels(1)))
    assert len(built) == 2
    assert np.abs(answers[0] - answers[1]).max() > MAX_PROBABILITY_DIFFERENCE
    assert len(kept()) == 1  # the old one is dropped


def test_artefact_of_another_graph_version_is_not_used(
    network: Model, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiled.get_compiled(network, SILENT)
    monkeypatch.setattr(compiled, "GRAPH_VERSION", "g0")
    assert compiled.get_compiled(network, SILENT) != first
    assert len(built) == 2


# --- when it cannot be kept, or is wrong ------------------------------------------------------


@pytest.mark.parametrize("folder", ["{tmp}/a file/cache", "/proc/no-such-folder/cache"])
def test_where_nothing_can_be_kept_it_answers_and_says_so(
    folder: str, network: Model, built: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("EFFNET_CACHE", folder.format(tmp=tmp_path))
    heard = RecordingReporter()
    made = compiled.get_compiled(network, heard)
    assert isinstance(made, bytes)
    assert len(built) == 1
    assert any("recompiled on every run" in note for note in heard.notes)
    assert any(folder.format(tmp=tmp_path) in note for note in heard.notes)
    assert_answers(made, network)


def test_full_disk_keeps_nothing_and_answers(
    network: Model, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    heard = RecordingReporter()
    made = compiled.get_compiled(network, heard)
    assert isinstance(made, bytes)
    assert len(built) == 1  # not made twice
    assert any("No space left on device" in note for note in heard.notes)
    assert not list(compiled_dir().glob("*.onnx*"))
    assert not list(compiled_dir().glob("*.part"))
    assert_answers(made, network)


@pytest.mark.parametrize("difference", [2 * MAX_PROBABILITY_DIFFERENCE, 1.0, float("nan")], ids=str)
def test_artefact_that_answers_differently_is_refused(
    difference: float, network: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_writer, "max_difference", lambda *_: difference)
    with pytest.raises(EffnetError, match="differs from torch") as caught:
        compiled.get_compiled(network, SILENT)
    assert "--engine torch" in caught.value.hint
    assert kept() == []


def test_artefact_that_differs_by_rounding_is_kept(
    network: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_writer, "max_difference", lambda *_: MAX_PROBABILITY_DIFFERENCE / 2)
    path = compiled.get_compiled(network, SILENT)
    assert kept() == [path]


def test_weights_that_are_damaged_are_refused(network: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(network.path.read_bytes())
    flip_a_byte(path)
    heard = RecordingReporter()
    with pytest.raises(UsageError, match="damaged"):
        compiled.get_compiled(network_in(path), heard)
    assert not any("slow" in note for note in heard.notes)
    assert kept() == []


def test_weights_that_cannot_be_read_are_not_taken_for_a_cache_that_cannot(
    network: Model, tmp_path: Path
) -> None:
    heard = RecordingReporter()
    gone = replace(network, path=tmp_path / "gone.safetensors")
    with pytest.raises((UsageError, OSError)):
        compiled.get_compiled(gone, heard)
    assert not any("slow" in note for note in heard.notes)


# --- the engines ------------------------------------------------------------------------------


def test_engines_answer_alike(network: Model) -> None:
    callers = usable_cores()  # so that each has one thread
    given = OnnxRuntimeEngine(LoadRequest(network, callers=callers))
    wanted = TorchEngine(LoadRequest(network, callers=callers))
    for batch in (1, 3):
        crops = seeded_crops(batch)
        logits = given(crops)
        assert logits.dtype == np.float32
        assert logits.shape == (batch, len(CLASSES))
        difference = probabilities(logits) - probabilities(wanted(crops))
        assert np.abs(difference).max() < MAX_DIFFERENCE


def test_engine_answers_where_nothing_can_be_kept(
    network: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_answers = OnnxRuntimeEngine(LoadRequest(network))(seeded_crops(2))
    (tmp_path / "a file").touch()
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "a file" / "cache"))
    answers = OnnxRuntimeEngine(LoadRequest(network))(seeded_crops(2))
    assert np.array_equal(answers, kept_answers)


def test_what_a_killed_start_left_is_removed(network: Model) -> None:
    folder = compiled_dir()
    folder.mkdir(parents=True)
    left = folder / f".{compiled._stem(network)}-0123.onnx.abcdef.part"
    others = folder / ".b7-0123.onnx.abcdef.part"
    left.touch()
    others.touch()  # perhaps being written at this moment, under a lock of its own
    compiled.get_compiled(network, SILENT)
    assert not left.exists()
    assert others.exists()
