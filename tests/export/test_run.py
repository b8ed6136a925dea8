"""Exports, compared with their model on real images."""

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from effnet_cli.engines.normalise import normalise
from effnet_cli.engines.registry import plan_engine
from effnet_cli.export.files import write_target
from effnet_cli.export.run import export
from effnet_cli.export.source import ExportSource
from effnet_cli.export.targets import TARGETS
from effnet_cli.models.card import ModelCard
from effnet_cli.models.export_file import json_path
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import (
    EngineOptions,
    ExportOptions,
    ExportTask,
    ModelOptions,
    Precision,
    TargetName,
)
from effnet_cli.predict.records import ImageResult
from effnet_cli.system.errors import EffnetError, UsageError
from exporting import ExportDefault, SmallModel, assert_same, predict
from helpers import SAMPLES, RecordingReporter, read_recipe
from training import CommandResult

pytestmark = pytest.mark.usefixtures("one_core")

Effnet = Callable[..., CommandResult]

# aotinductor is tested in test_torch_export.py, as it compiles for half a minute.
COMPARED = [n for n, row in TARGETS.items() if row.not_compared is None and row.has_graph]
COMPARED.remove("aotinductor")
GRAPH_TARGETS = ["onnx", "openvino", "litert"]  # written from one ONNX graph, within a second


# --- the default model, every target -------------------------------------------------------------


@pytest.mark.parametrize("target", COMPARED)
def test_default_model_agrees_with_torch(target: TargetName, export_default: ExportDefault) -> None:
    exported = export_default(target)
    reference, form = exported.comparison.forms
    assert (reference.name, form.name) == ("torch fp32", f"{target} fp32")
    assert exported.comparison.rejection is None
    assert exported.comparison.images == 32
    assert exported.comparison.confident > 5
    assert form.agreement == form.confident_agreement == 1.0
    assert form.max_difference is not None
    assert 0 < form.max_difference <= 1e-4
    assert form.mean_difference is not None
    assert 0 < form.mean_difference < form.max_difference
    assert reference.agreement is None
    assert exported.path is not None
    assert 18e6 < form.size_bytes < 22e6
    assert form.median_ms > 0


@pytest.mark.parametrize("target", COMPARED)
def test_predict_gives_the_same_rows(
    target: TargetName, export_default: ExportDefault, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((SAMPLES / "cat.jpg").read_bytes()[:9000])
    paths = [SAMPLES / "cat.jpg", cut, SAMPLES / "shuttle.png", SAMPLES / "rocket.jpg"]
    actual = predict(ModelOptions(model=export_default(target).path), paths)
    assert_same(actual, predict("lite0", paths), 1e-4)
    assert actual[1].error is not None


@pytest.mark.parametrize("target", [*COMPARED, "coreml"])
def test_json_describes_the_file(target: TargetName, export_default: ExportDefault) -> None:
    path = export_default(target).path
    assert path is not None
    about = json.loads((path.parent / f"{path.name}.json").read_text())
    assert (len(about["classes"]), about["classes"][285]) == (1000, "Egyptian cat")
    assert about["preprocessing"]["crop_px"] == 224
    assert about["temperature"] == 1.0
    assert about["variant"] == "lite0"
    assert about["export"]["target"] == target
    assert len(about["export"]["source_sha256"]) == 64
    assert about["output"]["values"] == "logits"
    is_channels_last = target == "litert"
    assert about["input"]["shape"][1:] == ([224, 224, 3] if is_channels_last else [3, 224, 224])
    assert about["check"]["passed"] == (target != "coreml")
    assert about["check"]["images"] == (0 if target == "coreml" else 32)
    names = {file.name for file in path.parent.iterdir()}
    assert names == {path.name, f"{path.name}.json", *about["files"]}


def read_embedded_card(target: str, path: Path) -> str:
    """Read the card in a file with the tools of its format."""
    if target == "onnx":
        return {p.key: p.value for p in onnx.load(path).metadata_props}["effnet"]
    if target == "openvino":
        import openvino

        graph = openvino.Core().read_model(str(path))
        return str(graph.get_rt_info(["effnet"]).value)
    if target == "coreml":
        import coremltools

        package = coremltools.models.MLModel(str(path), skip_model_load=True)
        return str(package.user_defined_metadata["effnet"])
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(("effnet.json", "extra/effnet"))]
        return archive.read(name).decode()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["onnx", "openvino", "torch-export", "litert", "coreml"])
def test_file_contains_the_card(target: TargetName, export_default: ExportDefault) -> None:
    path = export_default(target).path
    assert path is not None
    card = ModelCard.from_json(read_embedded_card(target, path))
    about = json.loads((path.parent / f"{path.name}.json").read_text())
    assert list(card.classes) == about["classes"]
    assert card.export == about["export"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", COMPARED)
def test_recipe_predicts_as_effnet(
    target: TargetName,
    export_default: ExportDefault,
    fifty_images: list[Path],
    fifty_predictions: list[ImageResult],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = read_recipe(target)
    assert "effnet_cli" not in code
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 30
    path = str(export_default(target).path)
    monkeypatch.setattr(sys, "argv", ["classify.py", path, *map(str, fifty_images)])
    exec(compile(code, f"{target}.md", "exec"), {})
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    for (name, label, probability), expected in zip(rows, fifty_predictions, strict=True):
        (best,) = expected.predictions
        assert (name, label) == (expected.path, best.label)
        assert abs(float(probability) - best.probability) <= 1e-4


@pytest.mark.filterwarnings("ignore")
def test_core_ml_recipe_matches_the_package(
    export_default: ExportDefault,
    fifty_images: list[Path],
    fifty_predictions: list[ImageResult],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """ONNX Runtime stands in for Apple's runtime, with the package's names and shapes."""
    import coremltools
    import onnxruntime

    package = export_default("coreml").path
    spec = coremltools.models.MLModel(str(package), skip_model_load=True).get_spec()
    (model_input,), (model_output,) = spec.description.input, spec.description.output
    session = onnxruntime.InferenceSession(str(export_default("onnx").path))

    class FakeRuntime:
        def __init__(self, path: str) -> None:
            assert path == str(package)

        def predict(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert list(values[model_input.name].shape) == list(
                model_input.type.multiArrayType.shape
            )
            return {model_output.name: session.run(None, {"pixels": values[model_input.name]})[0]}

    monkeypatch.setattr(coremltools.models, "MLModel", FakeRuntime)
    monkeypatch.setattr(sys, "argv", ["classify.py", str(package), *map(str, fifty_images[:3])])
    exec(compile(read_recipe("coreml"), "coreml.md", "exec"), {})
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("\t")[1] for row in rows] == [
        row.predictions[0].label for row in fifty_predictions[:3]
    ]


# --- architectures, precisions, options -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target"),
    [(name, target) for name in ("b0", "lite1-hidden") for target in GRAPH_TARGETS]
    + [("v2_s", "onnx"), ("v2_s", "litert")],
)
def test_architectures_agree_with_torch(
    name: str,
    target: TargetName,
    small_model: SmallModel,
    tmp_path: Path,
) -> None:
    task = ExportTask(small_model(name), ExportOptions(target), tmp_path)
    exported = export(task)
    assert exported.comparison.rejection is None
    assert exported.comparison.confident > 0
    assert exported.comparison.forms[1].agreement == 1.0


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions("onnx", "fp16", batch=3, include_preprocessing=True),
        ExportOptions("openvino", "fp16", include_preprocessing=True),
        ExportOptions("openvino", batch=3),
        ExportOptions("litert", "fp16", batch=3),
        ExportOptions("litert", include_preprocessing=True),
        ExportOptions("torch-export", "bf16", batch=3, include_preprocessing=True),
    ],
    ids=lambda o: f"{o.target}-{o.precision}-{o.batch}-{o.include_preprocessing}",
)
def test_options_agree_with_torch(
    options: ExportOptions, small_model: SmallModel, tmp_path: Path
) -> None:
    source = small_model("b0")
    exported = export(ExportTask(source, options, tmp_path))
    assert exported.comparison.rejection is None
    path = exported.path
    assert path is not None
    about = json.loads((tmp_path / f"{path.name}.json").read_text())
    size = (
        [64, 64, 3] if options.include_preprocessing or options.target == "litert" else [3, 64, 64]
    )
    assert about["input"]["shape"] == [options.batch or "batch", *size]
    assert (about["input"]["dtype"] == "uint8") == options.include_preprocessing
    tolerance = {"fp32": 1e-4, "fp16": 0.03, "bf16": 0.15}[options.precision]
    paths = sorted(SAMPLES.glob("*.jpg"))
    actual = predict(ModelOptions(model=path), paths, 1)  # the temperature applies
    assert_same(actual, predict(source, paths, 1), tolerance)
    if options.precision != "fp32":
        forms = exported.comparison.forms
        names = [form.name.split()[1] for form in forms]
        assert names == ["fp32", "fp32", options.precision]
        assert forms[1].agreement == 1.0
        assert forms[2].size_bytes < 0.62 * forms[1].size_bytes


def test_core_ml_is_not_compared(small_model: SmallModel, tmp_path: Path, effnet: Effnet) -> None:
    folder = small_model("lite0").model
    path = tmp_path / "small-lite0-fp16.mlpackage"
    path.mkdir()
    (path / "old").touch()
    json_path(path).write_text('{"export": {}}')  # an earlier export, which is replaced
    done = effnet(
        "export", "--to", "coreml", "--model", folder, "-o", tmp_path, "-p", "fp16",
        "--include-preprocessing",
    )  # fmt: skip
    assert done.status == 0
    assert "not compared with torch: Core ML runs only on Apple devices" in done.stderr
    assert (path / "Manifest.json").is_file()
    assert not (path / "old").exists()
    assert {file.name for file in tmp_path.iterdir()} == {path.name, json_path(path).name}
    again = effnet("predict", SAMPLES / "cat.jpg", "--model", path)
    assert again.status == 2
    assert "only on Apple devices" in again.stderr
    with pytest.raises(UsageError, match="one image at a time"):
        options = ExportOptions("coreml", batch=2, include_preprocessing=True)
        export(ExportTask(small_model("lite0"), options, tmp_path))


class GatedModel(nn.Module):
    """A model with a squeeze-excitation gate over 36,100 values, as in the first block of b4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.SiLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(nn.Conv2d(16, 4, 1), nn.SiLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid())
        self.classifier = nn.Linear(16, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        values = self.stem(pixels)
        values = values * self.gate(self.avgpool(values))
        return self.classifier(torch.flatten(self.avgpool(values), 1))


@pytest.mark.parametrize("target", ["onnx", "openvino", "litert", "executorch"])
def test_means_over_large_maps_are_precise(target: TargetName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = GatedModel().eval()
    row = find_variant("b4")
    options = ExportOptions(target, batch=1)
    about = asdict(options) | {"source_sha256": "0" * 64, "effnet": "0"}
    card = ModelCard("b4", ("a", "b", "c"), row.preprocessing, export=about)
    source = ExportSource(Model(row, card), card, options, module)
    path = tmp_path / f"gate{TARGETS[target].suffix}"
    write_target(source, path)
    model = resolve_model(ModelOptions(model=path))
    run = plan_engine(EngineOptions("cpu"), model.file_kind).load(model)
    crops = np.random.default_rng(0).integers(
        165, 168, (1, 380, 380, 3), dtype=np.uint8
    )  # similar values, so that rounding errors do not cancel
    pixels = torch.from_numpy(normalise(crops, card.preprocessing))
    with torch.inference_mode():
        expected = module.double()(pixels.double()).numpy()
    error = np.abs(run(crops).scores - expected).max() / np.abs(expected).max()
    assert error < 1e-6  # sequential summation: 15 times that


# --- rejected exports -----------------------------------------------------------------------------


def shift_mean(graph: onnx.ModelProto) -> None:
    (mean,) = [t for t in graph.graph.initializer if t.name == "preprocess.mean"]
    shifted = numpy_helper.to_array(mean) + np.float32(0.05)
    mean.CopyFrom(numpy_helper.from_array(shifted, mean.name))


def permute_classes(graph: onnx.ModelProto) -> None:
    (head,) = [node for node in graph.graph.node if node.op_type == "Gemm"]
    for tensor in graph.graph.initializer:
        if tensor.name in head.input[1:]:
            rolled = np.roll(numpy_helper.to_array(tensor), 1, axis=0)
            tensor.CopyFrom(numpy_helper.from_array(rolled, tensor.name))


def swap_channels(graph: onnx.ModelProto) -> None:
    stem = next(node for node in graph.graph.node if node.op_type == "Conv").input[1]
    (tensor,) = [t for t in graph.graph.initializer if t.name == stem]
    swapped = numpy_helper.to_array(tensor)[:, ::-1].copy()
    tensor.CopyFrom(numpy_helper.from_array(swapped, stem))


def insert_nan(graph: onnx.ModelProto) -> None:
    bias = next(node for node in graph.graph.node if node.op_type == "Gemm").input[2]
    (tensor,) = [t for t in graph.graph.initializer if t.name == bias]
    values = numpy_helper.to_array(tensor).copy()
    values[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, bias))


@pytest.mark.parametrize("damage", [shift_mean, permute_classes, swap_channels, insert_nan])
def test_broken_export_is_rejected(
    damage: Callable[[onnx.ModelProto], None],
    small_model: SmallModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    effnet: Effnet,
) -> None:
    build = ExportSource.graph

    def build_broken(self: ExportSource, precision: Precision) -> onnx.ModelProto:
        graph = build(self, precision)
        damage(graph)
        return graph

    monkeypatch.setattr(ExportSource, "graph", build_broken)
    out = tmp_path / "out"
    command = (
        "export", "--to", "onnx", "--model", small_model("lite0").model, "--include-preprocessing",
        "-o", out / "lite0.onnx",
    )  # fmt: skip
    done = effnet(*command)
    assert done.status == 3
    assert "Export rejected: " in done.stderr
    assert "Use --force to keep it" in done.stderr
    assert b"onnx fp32" in done.stdout
    assert list(out.iterdir()) == []
    forced = effnet(*command, "--force")
    assert forced.status == 3
    about = json.loads((out / "lite0.onnx.json").read_text())
    assert about["check"]["passed"] is False
    assert about["check"]["rejection"]


# --- files ----------------------------------------------------------------------------------------


def test_unreadable_images_are_skipped(small_model: SmallModel, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(SAMPLES / "cat.jpg", folder)
    (folder / "cut.jpg").write_bytes((SAMPLES / "cat.jpg").read_bytes()[:9000])
    reporter = RecordingReporter()
    task = ExportTask(small_model("lite0"), output=tmp_path / "lite0.onnx", check=folder)
    assert export(task, reporter).comparison.images == 32
    assert reporter.text.count("Skipping ") == reporter.text.count("cut.jpg': ") == 1


def test_only_exports_are_replaced(small_model: SmallModel, tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"precious")
    task = ExportTask(small_model("lite0"), output=path)
    with pytest.raises(UsageError, match="already exists"):
        export(task)
    assert path.read_bytes() == b"precious"
    path.unlink()
    for name in ("mine.onnx.json", "mine.bin"):
        (tmp_path / name).write_bytes(b"precious")
        conflicting = replace(
            task,
            output=tmp_path / ("mine.xml" if name == "mine.bin" else "mine.onnx"),
            options=ExportOptions("openvino" if name == "mine.bin" else "onnx"),
        )
        with pytest.raises(UsageError, match=f"{name}' already exists"):
            export(conflicting)
        assert (tmp_path / name).read_bytes() == b"precious"
        (tmp_path / name).unlink()
    export(task)
    first = path.read_bytes()
    export(task)
    assert path.read_bytes() == first
    assert {file.name for file in tmp_path.iterdir()} == {"mine.onnx", "mine.onnx.json"}


@pytest.mark.parametrize("stem", ["a" * 260, "a" * 248])  # too long itself, or with .json
def test_too_long_name_is_an_error(stem: str, tmp_path: Path, effnet: Effnet) -> None:
    done = effnet("export", "--to", "onnx", "-o", tmp_path / f"{stem}.onnx")
    assert done.status == 1
    assert "Cannot write " in done.stderr
    assert ": File name too long." in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_batch_that_exceeds_memory_is_an_error(
    target: TargetName,
    small_model: SmallModel,
    tmp_path: Path,
    effnet: Effnet,
) -> None:
    command = ("export", "--to", target, "--model", small_model("lite0").model, "-o", tmp_path)
    done = effnet(*command, "--batch", "999999999")
    assert done.status == 1
    assert "failed to run with --batch 999999999" in done.stderr
    assert "Use a smaller --batch, or omit it." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_no_file(
    small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    task = ExportTask(small_model("lite0"), output=tmp_path / "lite0.onnx")
    small_model("lite0")
    with monkeypatch.context() as patch, pytest.raises(EffnetError, match="No space left"):
        patch.setattr(Path, "write_bytes", fail)
        export(task)
    assert list(tmp_path.iterdir()) == []


def test_default_name_includes_the_precision(
    small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "cache"))
    reporter = RecordingReporter()
    export(ExportTask(small_model("lite0"), ExportOptions("onnx", "fp16")), reporter)
    assert (tmp_path / "small-lite0-fp16.onnx").is_file()
    assert "Exporting lite0 to onnx, fp16" in reporter.text
    assert ("Comparing", 32, 32) in reporter.steps


def test_exported_model_cannot_be_exported(
    export_default: ExportDefault, effnet: Effnet, tmp_path: Path
) -> None:
    path = export_default("onnx").path
    done = effnet("export", "--to", "openvino", "--model", path, "-o", tmp_path)
    assert done.status == 2
    assert "weights cannot be loaded" in done.stderr
