"""Exports on real images: what is written answers as the network does, or is not kept."""

import importlib.util
import json
import os
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
from effnet_cli.export import onnx_edits
from effnet_cli.export.files import written
from effnet_cli.export.run import ExportResult, export
from effnet_cli.export.samples import VIEWS, choose_images, samples
from effnet_cli.export.source import ExportSource
from effnet_cli.export.targets import TARGETS
from effnet_cli.finetune.run_dir import to_arrays
from effnet_cli.images.finder import Finder
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build, checkpoint
from effnet_cli.models.card import ModelCard
from effnet_cli.models.export_file import json_path
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import (
    EngineOptions,
    ExportOptions,
    ExportTask,
    FinetuneOptions,
    ImageOptions,
    ModelOptions,
    PredictOptions,
    TargetName,
)
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.records import ImageResult
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.reporter import SILENT
from helpers import SAMPLES, RecordingReporter, lively, recipe
from training import Done, task_of, train

pytestmark = pytest.mark.usefixtures("one_core")

# aotinductor has a file of its own: its compiler takes half a minute.
RUN_HERE = [n for n, row in TARGETS.items() if row.elsewhere is None and n != "aotinductor"]
GRAPHS = ["onnx", "openvino", "litert"]  # written from one graph, in a second
SMALL_PX = 64
CAT_DOG = ModelCard("lite0", ("cat", "dog"), find_variant("lite0").preprocessing)

Ship = Callable[[TargetName], ExportResult]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, caches: None) -> Ship:
    """The default network with its real weights, exported once for each target."""
    made: dict[TargetName, ExportResult] = {}

    def ship(target: TargetName) -> ExportResult:
        if target not in made:
            folder = tmp_path_factory.mktemp(target)
            made[target] = export(ExportTask(options=ExportOptions(target), output=folder))
        return made[target]

    return ship


@pytest.fixture(scope="module")
def families(session_folder: Path, caches: None) -> Callable[[str], ModelOptions]:
    """Networks of 64 px with ten classes, whose statistics are those of real images."""

    def make(name: str) -> ModelOptions:
        folder = session_folder / f"family-{name}"
        if not folder.exists():
            row = find_variant(name.removesuffix("-hidden"))
            preprocessing = replace(row.preprocessing, resize_px=SMALL_PX, crop_px=SMALL_PX)
            classes = tuple("αβγδεζηθικ")
            network = build.build(row, len(classes))
            if name.endswith("-hidden"):
                build.set_head(network, len(classes), hidden=32)
            card = ModelCard(row.name, classes, preprocessing, temperature=1.7)
            looked = samples().looked_at(card, ImageOptions(), SILENT, "")
            crops = np.concatenate([one.crop for one in looked])
            lively(network, pixels=torch.from_numpy(normalise(crops, preprocessing)))
            checkpoint.write(folder / "model.safetensors", card, to_arrays(network.state_dict()))
        return ModelOptions(model=folder)

    return make


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Fifty images: parts and mirror images of the samples."""
    folder = tmp_path_factory.mktemp("fifty")
    loader = ImageLoader(find_variant("lite0").preprocessing)
    opened = [loader.open(path) for path in samples().paths]
    for number in range(50):
        image = VIEWS[number // len(opened)].apply(opened[number % len(opened)])
        image.save(folder / f"{number:02}.png", compress_level=1)
    return sorted(folder.iterdir())


def answers(name: str | ModelOptions, paths: list[Path], top_k: int = 3) -> list[ImageResult]:
    classifier = Classifier(name, options=PredictOptions(top_k))
    return list(classifier.predict(Finder([str(path) for path in paths])))


def assert_same(given: list[ImageResult], wanted: list[ImageResult], tolerance: float) -> None:
    assert [row.path for row in given] == [row.path for row in wanted]
    for one, other in zip(given, wanted, strict=True):
        assert one.status == other.status
        assert one.error == other.error
        for a, b in zip(one.predictions, other.predictions, strict=True):
            assert (a.label, a.index) == (b.label, b.index)
            assert abs(a.probability - b.probability) <= tolerance


# --- the default network, every target ------------------------------------------------------------


@pytest.mark.parametrize("target", RUN_HERE)
def test_real_network_answers_as_torch(target: TargetName, shipped: Ship) -> None:
    exported = shipped(target)
    reference, form = exported.forms
    assert (reference.name, form.name) == ("torch fp32", f"{target} fp32")
    assert exported.objection is None
    assert exported.images == 32
    assert exported.confident > 5
    assert form.agreement == form.confident_agreement == 1.0
    assert form.max_difference is not None
    assert 0 < form.max_difference <= 1e-4
    assert form.mean_difference is not None
    assert 0 < form.mean_difference < form.max_difference
    assert reference.agreement is None
    assert exported.path is not None
    assert 18e6 < form.size_bytes < 22e6
    assert form.median_ms > 0


@pytest.mark.parametrize("target", RUN_HERE)
def test_predict_takes_it_with_the_same_rows(
    target: TargetName, shipped: Ship, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((SAMPLES / "cat.jpg").read_bytes()[:9000])
    paths = [SAMPLES / "cat.jpg", cut, SAMPLES / "shuttle.png", SAMPLES / "rocket.jpg"]
    given = answers(ModelOptions(model=shipped(target).path), paths)
    assert_same(given, answers("lite0", paths), 1e-4)
    assert given[1].error is not None


@pytest.mark.parametrize("target", [*RUN_HERE, "coreml"])
def test_json_beside_it_says_all_that_a_program_needs(target: TargetName, shipped: Ship) -> None:
    path = shipped(target).path
    assert path is not None
    about = json.loads((path.parent / f"{path.name}.json").read_text())
    assert (len(about["classes"]), about["classes"][285]) == (1000, "Egyptian cat")
    assert about["preprocessing"]["crop_px"] == 224
    assert about["temperature"] == 1.0
    assert about["variant"] == "lite0"
    assert about["export"]["target"] == target
    assert len(about["export"]["source_sha256"]) == 64
    assert about["output"]["values"] == "logits"
    is_last = target == "litert"
    assert about["input"]["shape"][1:] == ([224, 224, 3] if is_last else [3, 224, 224])
    assert about["check"]["holds"] == (target != "coreml")
    assert about["check"]["images"] == (0 if target == "coreml" else 32)
    names = {file.name for file in path.parent.iterdir()}
    assert names == {path.name, f"{path.name}.json", *about["files"]}


def embedded(target: str, path: Path) -> str:
    """The card in a file, read by the format's own means."""
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
def test_file_itself_carries_the_card(target: TargetName, shipped: Ship) -> None:
    path = shipped(target).path
    assert path is not None
    card = ModelCard.from_json(embedded(target, path))
    about = json.loads((path.parent / f"{path.name}.json").read_text())
    assert list(card.classes) == about["classes"]
    assert card.export == about["export"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", RUN_HERE)
def test_recipe_gets_the_answers_of_predict(
    target: TargetName,
    shipped: Ship,
    fifty: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = recipe(target)
    assert "effnet_cli" not in code
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 30
    monkeypatch.setattr(sys, "argv", ["classify.py", str(shipped(target).path), *map(str, fifty)])
    exec(compile(code, f"{target}.md", "exec"), {})
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    for (name, label, probability), wanted in zip(rows, answers("lite0", fifty, 1), strict=True):
        (best,) = wanted.predictions
        assert (name, label) == (wanted.path, best.label)
        assert abs(float(probability) - best.probability) <= 1e-4


@pytest.mark.filterwarnings("ignore")
def test_core_ml_recipe_asks_what_the_package_takes(
    shipped: Ship,
    fifty: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """ONNX Runtime plays Apple's runtime, behind the names and shapes of the real package."""
    import coremltools
    import onnxruntime

    package = shipped("coreml").path
    described = coremltools.models.MLModel(str(package), skip_model_load=True).get_spec()
    (given,), (result,) = described.description.input, described.description.output
    session = onnxruntime.InferenceSession(str(shipped("onnx").path))

    class Runtime:
        def __init__(self, path: str) -> None:
            assert path == str(package)

        def predict(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert list(values[given.name].shape) == list(given.type.multiArrayType.shape)
            return {result.name: session.run(None, {"pixels": values[given.name]})[0]}

    monkeypatch.setattr(coremltools.models, "MLModel", Runtime)
    monkeypatch.setattr(sys, "argv", ["classify.py", str(package), *map(str, fifty[:3])])
    exec(compile(recipe("coreml"), "coreml.md", "exec"), {})
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("\t")[1] for row in rows] == [
        row.predictions[0].label for row in answers("lite0", fifty[:3])
    ]


# --- families, precisions, forms ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target"),
    [(name, target) for name in ("b0", "lite1-hidden") for target in GRAPHS]
    + [("v2_s", "onnx"), ("v2_s", "litert"), ("b0", "executorch")],
)
def test_families_answer_as_torch(
    name: str,
    target: TargetName,
    families: Callable[[str], ModelOptions],
    tmp_path: Path,
) -> None:
    task = ExportTask(families(name), ExportOptions(target), tmp_path)
    exported = export(task)
    assert exported.objection is None
    assert exported.confident > 0
    assert exported.forms[1].agreement == 1.0


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
def test_forms_answer_as_torch(
    options: ExportOptions, families: Callable[[str], ModelOptions], tmp_path: Path
) -> None:
    source = families("b0")
    exported = export(ExportTask(source, options, tmp_path))
    assert exported.objection is None
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
    given = answers(ModelOptions(model=path), paths, 1)  # with the temperature
    assert_same(given, answers(source, paths, 1), tolerance)
    if options.precision != "fp32":
        assert [form.name.split()[1] for form in exported.forms] == [
            "fp32",
            "fp32",
            options.precision,
        ]
        assert exported.forms[1].agreement == 1.0
        assert exported.forms[2].size_bytes < 0.62 * exported.forms[1].size_bytes


def test_core_ml_says_that_it_was_not_run(
    families: Callable[[str], ModelOptions], tmp_path: Path, effnet: Callable[..., Done]
) -> None:
    folder = families("b0").model
    path = tmp_path / "family-b0-fp16.mlpackage"
    path.mkdir()
    (path / "old").touch()
    json_path(path).write_text('{"export": {}}')  # an earlier one, whose place the package takes
    done = effnet(
        "export", "--to", "coreml", "--model", folder, "-o", tmp_path, "-p", "fp16",
        "--include-preprocessing",
    )  # fmt: skip
    assert done.status == 0
    assert "was not run: Core ML runs on Apple's devices only" in done.stderr
    assert (path / "Manifest.json").is_file()
    assert not (path / "old").exists()
    assert {file.name for file in tmp_path.iterdir()} == {path.name, json_path(path).name}
    again = effnet("predict", SAMPLES / "cat.jpg", "--model", path)
    assert again.status == 2
    assert "Apple's devices only" in again.stderr
    with pytest.raises(UsageError, match="one image at a time"):
        options = ExportOptions("coreml", batch=2, include_preprocessing=True)
        export(ExportTask(families("b0"), options, tmp_path))


class Gate(nn.Module):
    """A mean over 36,100 values of each channel, as b4's first gate has it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.SiLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(16, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.stem(pixels)), 1))


@pytest.mark.parametrize("target", ["onnx", "openvino", "litert", "executorch"])
def test_means_over_large_maps_keep_their_digits(target: TargetName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Gate().eval()
    row = find_variant("b4")
    options = ExportOptions(target, batch=1)
    about = asdict(options) | {"source_sha256": "0" * 64, "effnet": "0"}
    card = ModelCard("b4", ("a", "b", "c"), row.preprocessing, export=about)
    source = ExportSource(Model(row, card), card, options, network)
    path = written(source, TARGETS[target], tmp_path / f"gate{TARGETS[target].suffix}")
    found = resolve_model(ModelOptions(model=path))
    run = plan_engine(EngineOptions("cpu"), found.file_kind).load(found)
    crops = np.random.default_rng(0).integers(
        165, 168, (1, 380, 380, 3), dtype=np.uint8
    )  # alike: errors do not cancel
    pixels = torch.from_numpy(normalise(crops, card.preprocessing))
    with torch.inference_mode():
        wanted = network.double()(pixels.double()).numpy()
    error = np.abs(run(crops) - wanted).max() / np.abs(wanted).max()
    assert error < 1e-6  # added up value by value: 15 times that


# --- int8 -----------------------------------------------------------------------------------------


def labelled(folder: Path, images: list[Path]) -> Path:
    """Images in folders that are called as the default network answers."""
    for row in answers("lite0", images, 1):
        path = folder / row.predictions[0].label / Path(row.path).name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(row.path, path)
    return folder


@pytest.mark.parametrize("target", GRAPHS)
def test_int8_keeps_the_answers(target: TargetName, fifty: list[Path], tmp_path: Path) -> None:
    images = labelled(tmp_path / "images", fifty[:32])
    exported = export(
        ExportTask(
            options=ExportOptions(target, quantize="int8"),
            output=tmp_path,
            calibrate=images,
            max_drop=15.0,  # most of these parts of images have no clear class
        )
    )
    reference, plain, form = exported.forms
    assert (plain.name, form.name) == (f"{target} fp32", f"{target} int8")
    assert exported.objection is None
    assert exported.images == 32
    assert form.confident_agreement is not None
    assert form.confident_agreement >= 0.95
    assert reference.top1 == plain.top1 == 1.0
    assert form.top1 == form.agreement
    assert form.size_bytes <= 0.3 * plain.size_bytes
    given = answers(ModelOptions(model=exported.path), [SAMPLES / "coffee.jpg"])
    assert given[0].predictions[0].label == "espresso"


def test_int8_that_loses_too_much_is_refused(
    fifty: list[Path], tmp_path: Path, effnet: Callable[..., Done]
) -> None:
    images = labelled(tmp_path / "labelled", fifty[:16])
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(3):
        shutil.copy(SAMPLES / "cat.jpg", flat / f"{number}.jpg")
    out = tmp_path / "out"
    words = (
        "export",
        "--to",
        "onnx",
        "--quantize",
        "int8",
        "--calibrate",
        flat,
        "--check",
        images,
    )
    done = effnet(*words, "--max-drop", "0", "-o", out / "a.onnx", "-f", "json")
    row = json.loads(done.stdout)
    lost = 100 * (row["forms"][0]["top1"] - row["forms"][2]["top1"])
    assert lost > 0, "calibrated on one image, int8 is to lose some answers"
    assert done.status == 3
    assert f"lowers top-1 by {lost:.2f} points" in done.stderr
    assert "No file was kept" in done.stderr
    assert list(out.iterdir()) == []


# --- what does not answer as it should ------------------------------------------------------------


def wrong_mean(graph: onnx.ModelProto) -> None:
    (mean,) = [t for t in graph.graph.initializer if t.name == "preprocess.mean"]
    shifted = numpy_helper.to_array(mean) + np.float32(0.05)
    mean.CopyFrom(numpy_helper.from_array(shifted, mean.name))


def permuted_classes(graph: onnx.ModelProto) -> None:
    (head,) = [node for node in graph.graph.node if node.op_type == "Gemm"]
    for tensor in graph.graph.initializer:
        if tensor.name in head.input[1:]:
            rolled = np.roll(numpy_helper.to_array(tensor), 1, axis=0)
            tensor.CopyFrom(numpy_helper.from_array(rolled, tensor.name))


def shuffled_channels(graph: onnx.ModelProto) -> None:
    stem = next(node for node in graph.graph.node if node.op_type == "Conv").input[1]
    (tensor,) = [t for t in graph.graph.initializer if t.name == stem]
    swapped = numpy_helper.to_array(tensor)[:, ::-1].copy()
    tensor.CopyFrom(numpy_helper.from_array(swapped, stem))


def not_a_number(graph: onnx.ModelProto) -> None:
    bias = next(node for node in graph.graph.node if node.op_type == "Gemm").input[2]
    (tensor,) = [t for t in graph.graph.initializer if t.name == bias]
    values = numpy_helper.to_array(tensor).copy()
    values[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, bias))


@pytest.mark.parametrize("damage", [wrong_mean, permuted_classes, shuffled_channels, not_a_number])
def test_broken_export_is_caught(
    damage: Callable[[onnx.ModelProto], None],
    families: Callable[[str], ModelOptions],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    effnet: Callable[..., Done],
) -> None:
    right = ExportSource.graph

    def broken(self: ExportSource) -> onnx.ModelProto:
        graph = right(self)
        damage(graph)
        return graph

    monkeypatch.setattr(ExportSource, "graph", broken)
    out = tmp_path / "out"
    words = (
        "export", "--to", "onnx", "--model", families("b0").model, "--include-preprocessing",
        "-o", out / "b0.onnx",
    )  # fmt: skip
    done = effnet(*words)
    assert done.status == 3
    assert "It does not hold: " in done.stderr
    assert "--force keeps it" in done.stderr
    assert b"onnx fp32" in done.stdout
    assert list(out.iterdir()) == []
    forced = effnet(*words, "--force")
    assert forced.status == 3
    about = json.loads((out / "b0.onnx.json").read_text())
    assert about["check"]["holds"] is False
    assert about["check"]["objection"]


# --- wishes and files -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_missing_library_is_said_with_the_line_that_installs_it(
    target: TargetName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EffnetError, match="is not installed") as caught:
        export(ExportTask(options=ExportOptions(target)))
    assert TARGETS[target].install in caught.value.hint
    assert TARGETS[target].library in caught.value.message


def test_missing_target_is_told_with_the_choice(effnet: Callable[..., Done]) -> None:
    for words in (("export",), ("export", "--to", "onxx")):
        done = effnet(*words)
        assert done.status == 2
        first, second = done.stderr.strip().splitlines()
        assert "--to" in first
        assert "coreml" in first
        assert "Value error" not in first
        assert second == "See `effnet export -h`."


def test_missing_compiler_is_said(
    monkeypatch: pytest.MonkeyPatch, families: Callable[[str], ModelOptions], tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EffnetError, match="no-such-compiler"):
        export(ExportTask(families("b0"), ExportOptions("aotinductor"), tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (ExportTask(options=ExportOptions("onnx", "bf16")), "onnx is not written in bf16"),
        (ExportTask(options=ExportOptions("coreml", quantize="int8")), "not written in int8"),
        (ExportTask(options=ExportOptions(quantize="int8")), "needs images"),
        (
            ExportTask(options=ExportOptions("onnx", "fp16", "int8"), calibrate=SAMPLES),
            "exclude each other",
        ),
        (ExportTask(calibrate=SAMPLES), "is for int8"),
        (ExportTask(max_drop=3), "--max-drop 3 is for int8"),
        (ExportTask(check=Path("no-such-folder")), "'no-such-folder' is no folder"),
        (ExportTask(output=Path("x.tflite")), "does not end in .onnx"),
        (ExportTask(ModelOptions("b9")), "'b9'"),
    ],
)
def test_impossible_wishes_are_refused(task: ExportTask, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        export(task)
    assert words in caught.value.message
    assert caught.value.hint


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no image"):
        export(ExportTask(check=tmp_path, output=tmp_path / "x.onnx"))
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match="can be opened"):
        export(ExportTask(check=tmp_path, output=tmp_path / "x.onnx"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg"]


def test_images_that_cannot_be_opened_are_told(
    families: Callable[[str], ModelOptions], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(SAMPLES / "cat.jpg", folder)
    (folder / "cut.jpg").write_bytes((SAMPLES / "cat.jpg").read_bytes()[:9000])
    heard = RecordingReporter()
    task = ExportTask(families("b0"), output=tmp_path / "b0.onnx", check=folder)
    assert export(task, heard).images == 32
    assert heard.text.count("cut.jpg' is left out: ") == 1


def test_only_an_export_is_ever_replaced(
    families: Callable[[str], ModelOptions], tmp_path: Path
) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"precious")
    task = ExportTask(families("b0"), output=path)
    with pytest.raises(UsageError, match="is there already"):
        export(task)
    assert path.read_bytes() == b"precious"
    path.unlink()
    for name in ("mine.onnx.json", "mine.bin"):
        (tmp_path / name).write_bytes(b"precious")
        goal = replace(
            task,
            output=tmp_path / ("mine.xml" if name == "mine.bin" else "mine.onnx"),
            options=ExportOptions("openvino" if name == "mine.bin" else "onnx"),
        )
        with pytest.raises(UsageError, match=f"{name}' is there already"):
            export(goal)
        assert (tmp_path / name).read_bytes() == b"precious"
        (tmp_path / name).unlink()
    export(task)
    first = path.read_bytes()
    export(task)
    assert path.read_bytes() == first
    assert {file.name for file in tmp_path.iterdir()} == {"mine.onnx", "mine.onnx.json"}


@pytest.mark.parametrize("stem", ["a" * 260, "a" * 248])  # the file's name, or its JSON's
def test_too_long_a_name_is_told(stem: str, tmp_path: Path, effnet: Callable[..., Done]) -> None:
    done = effnet("export", "--to", "onnx", "-o", tmp_path / f"{stem}.onnx")
    assert done.status == 1
    assert "Cannot write " in done.stderr
    assert ": File name too long." in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_batch_beyond_memory_is_told(
    target: TargetName,
    families: Callable[[str], ModelOptions],
    tmp_path: Path,
    effnet: Callable[..., Done],
) -> None:
    words = ("export", "--to", target, "--model", families("b0").model, "-o", tmp_path)
    done = effnet(*words, "--batch", "999999999")
    assert done.status == 1
    assert "--batch 999999999 cannot be run here" in done.stderr
    assert "Use a smaller --batch, or leave it out." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing(
    families: Callable[[str], ModelOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    task = ExportTask(families("b0"), output=tmp_path / "b0.onnx")
    families("b0")
    with monkeypatch.context() as patch, pytest.raises(EffnetError, match="No space left"):
        patch.setattr(Path, "write_bytes", full)
        export(task)
    assert list(tmp_path.iterdir()) == []


def test_default_names_tell_the_form(
    families: Callable[[str], ModelOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "cache"))
    heard = RecordingReporter()
    export(ExportTask(families("b0"), ExportOptions("onnx", "fp16")), heard)
    assert (tmp_path / "family-b0-fp16.onnx").is_file()
    assert "Writing b0 for onnx, fp16" in heard.text
    assert ("Comparing", 32, 32) in heard.steps


def test_exported_network_is_not_exported_or_trained_again(
    shipped: Ship, effnet: Callable[..., Done], tmp_path: Path
) -> None:
    path = shipped("onnx").path
    done = effnet("export", "--to", "openvino", "--model", path, "-o", tmp_path)
    assert done.status == 2
    assert "has no weights" in done.stderr


# --- images -------------------------------------------------------------------------------------


def images_in(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES / "cat.jpg", path)
    return folder


def test_dataset_is_calibrated_on_train_and_compared_on_val(tmp_path: Path) -> None:
    names = ["train/cat/1.jpg", "train/dog/2.jpg", "valid/dog/3.jpg", "valid/cat/4.jpg"]
    root = images_in(tmp_path, names)
    learning, checking = choose_images(root, None, CAT_DOG)
    assert learning is not None
    assert [os.path.relpath(p, root) for p in learning.paths] == names[:2]
    assert {os.path.relpath(p, root) for p in checking.paths} == set(names[2:])
    assert learning.labels == (0, 1)
    assert checking.labels == (0, 1)  # cat/4.jpg comes first


@pytest.mark.usefixtures("quick")
def test_dataset_that_training_divided_is_divided_as_it_was(
    colours: Path, small: ModelOptions, tmp_path: Path, effnet: Callable[..., Done]
) -> None:
    ran = train(task_of(colours, small, tmp_path / "run", FinetuneOptions(head_only=True)))
    learning, checking = choose_images(colours, None, ran.card)
    assert learning is not None
    assert (len(learning.paths), len(checking.paths)) == (18, 6)
    assert not set(learning.paths) & set(checking.paths)
    assert choose_images(None, colours, ran.card)[1] == checking
    for images in (learning, checking):
        assert images.labels is not None
        folders = [Path(path).parent.name for path in images.paths]
        assert [ran.card.classes[label] for label in images.labels] == folders
    words = ("export", "--to", "onnx", "--model", ran.folder, "--quantize", "int8", "--force")
    done = effnet(*words, "--calibrate", colours, "-o", tmp_path)
    assert f"looks at the training images of {colours}" in done.stderr
    assert f"looks at the images of {colours} that its training had set aside" in done.stderr


def test_same_images_for_both_are_told(tmp_path: Path) -> None:
    _, checking = choose_images(images_in(tmp_path, ["cat/1.jpg", "dog/1.jpg"]), None, CAT_DOG)
    assert checking.name == f"{tmp_path}, the same images"


def test_classes_without_splits_are_compared_on_what_is_left(tmp_path: Path) -> None:
    root = images_in(tmp_path, [f"cat/{n:03}.jpg" for n in range(140)])
    learning, checking = choose_images(root, None, CAT_DOG)
    assert learning is not None
    assert (len(learning.paths), len(checking.paths)) == (128, 12)
    assert not set(learning.paths) & set(checking.paths)
    assert choose_images(root, None, CAT_DOG)[0] == learning


def test_few_images_are_looked_at_from_many_sides(tmp_path: Path) -> None:
    root = images_in(tmp_path, ["a/1.jpg"])
    _, checking = choose_images(None, root, CAT_DOG)
    assert checking.labels is None
    card = imagenet_card("lite0", find_variant("lite0").preprocessing)
    heard = RecordingReporter()
    looked = list(checking.looked_at(card, ImageOptions(), heard, "Comparing"))
    assert len({one.crop.tobytes() for one in looked}) == len(looked) == 32
    whole = ImageLoader(card.preprocessing).load(checking.paths[0])
    assert np.array_equal(looked[0].crop, whole)


def test_half_precision_has_no_infinity() -> None:
    graph = onnx.helper.make_model(
        onnx.helper.make_graph(
            [], "g", [], [], [numpy_helper.from_array(np.array([1e6, -1e9, 1.0], np.float32), "w")]
        )
    )
    onnx_edits.in_half(graph)
    values = onnx_edits.initializers(graph)["w"]
    assert values.tolist() == [65504.0, -65504.0, 1.0]
