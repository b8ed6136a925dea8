"""Exported feature maps, compared with those inside the model."""

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn

from docs_pages import SOURCES
from effnet_cli.export.records import ExportResult
from effnet_cli.export.run import export
from effnet_cli.export.source import ExportSource
from effnet_cli.models import build
from effnet_cli.models.card import ModelCard
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import ExportOptions, ExportTask, TargetName
from effnet_cli.system.errors import UsageError
from exporting import SmallModel
from helpers import SAMPLES
from training import CommandResult

pytestmark = pytest.mark.usefixtures("one_core")

Effnet = Callable[..., CommandResult]
ExportMaps = Callable[[TargetName, str], ExportResult]
Maps = dict[str, np.ndarray]

NAMES, STRIDES = ["c2", "c3", "c4", "c5"], [4, 8, 16, 32]
CHANNELS = [24, 40, 112, 320]  # of lite0 and b0: Table 1 of arXiv 1905.11946
STAGES = [2, 3, 5, 7]  # the last ones with their strides
TARGETS: list[TargetName] = ["onnx", "torch-export"]
SIZES = [(1, 224, 224), (3, 64, 96), (1, 32, 160)]


@pytest.fixture(scope="module")
def export_maps(
    tmp_path_factory: pytest.TempPathFactory, small_model: SmallModel, caches: None
) -> ExportMaps:
    """Export the maps of a small model, once per target."""
    results: dict[tuple[TargetName, str], ExportResult] = {}

    def export_once(target: TargetName, name: str) -> ExportResult:
        if (target, name) not in results:
            folder = tmp_path_factory.mktemp("maps")
            options = ExportOptions(target, feature_maps=True)
            results[target, name] = export(ExportTask(small_model(name), options, folder))
        return results[target, name]

    return export_once


@cache
def open_file(path: Path) -> Any:
    if path.suffix == ".onnx":
        return onnxruntime.InferenceSession(str(path))
    return torch.export.load(path).module()


def run_file(path: Path, pixels: torch.Tensor) -> Maps:
    """Run a file as a program without effnet does."""
    if path.suffix == ".onnx":
        session = open_file(path)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"pixels": pixels.numpy()}), strict=True))
    with torch.inference_mode():
        return {name: one.numpy() for name, one in open_file(path)(pixels).items()}


def load_pixels(batch: int, height: int, width: int) -> torch.Tensor:
    """Return images of the given size, float32 [N,3,H,W] from -1 to 1."""
    paths = sorted(SAMPLES.glob("*.jpg"))[:batch]
    images = [Image.open(path).convert("RGB").resize((width, height)) for path in paths]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1


def run_hooks(module: nn.Module, pixels: torch.Tensor, stages: Sequence[int] = STAGES) -> Maps:
    """Return what hooks on the stages of the whole model see."""
    seen: Maps = {}
    hooks = [
        module.get_submodule(f"features.{stage}").register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output.numpy()})
        )
        for name, stage in zip(NAMES, stages, strict=True)
    ]
    with torch.inference_mode():
        module(pixels)
    for hook in hooks:
        hook.remove()
    return seen


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("onnx", "lite0"),  # "same" padding
        ("onnx", "b0"),  # symmetric padding
        ("torch-export", "lite0"),
        pytest.param("torch-export", "b0", marks=pytest.mark.slow),
    ],
)
def test_maps_are_those_inside_the_model(
    target: TargetName, name: str, export_maps: ExportMaps, small_model: SmallModel
) -> None:
    exported = export_maps(target, name)
    assert exported.path is not None
    module = build.load_module(resolve_model(small_model(name)))
    for batch, height, width in SIZES:
        pixels = load_pixels(batch, height, width)
        actual, expected = run_file(exported.path, pixels), run_hooks(module, pixels)
        assert list(actual) == NAMES
        for one, channels, stride in zip(NAMES, CHANNELS, STRIDES, strict=True):
            shape = (batch, channels, height // stride, width // stride)
            assert actual[one].shape == expected[one].shape == shape
            assert actual[one].dtype == np.float32
            if target == "torch-export":
                assert np.array_equal(actual[one], expected[one])
            error = np.linalg.norm(actual[one] - expected[one]) / np.linalg.norm(expected[one])
            assert error < 1e-4


def test_program_refuses_other_sizes(export_maps: ExportMaps) -> None:
    path = export_maps("torch-export", "lite0").path
    assert path is not None
    with pytest.raises(RuntimeError, match=r"of the form 32\*"):
        run_file(path, torch.zeros(1, 3, 224, 230))


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions("onnx", "fp16", batch=3, feature_maps=True),
        pytest.param(
            ExportOptions("torch-export", "bf16", batch=3, feature_maps=True),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda options: options.precision,
)
def test_options_apply_to_maps(
    options: ExportOptions, small_model: SmallModel, tmp_path: Path
) -> None:
    exported = export(ExportTask(small_model("b0"), options, tmp_path))
    assert exported.comparison.rejection is None
    assert exported.comparison.images == 32
    path = tmp_path / f"small-b0-feature-maps-{options.precision}{exported.path.suffix}"  # type: ignore[union-attr]
    assert exported.path == path
    maps = run_file(path, torch.zeros(3, 3, 64, 32))
    assert {one.dtype for one in maps.values()} == {np.dtype(np.float32)}
    assert json.loads(Path(f"{path}.json").read_text())["input"]["shape"][0] == 3
    assert path.stat().st_size < 0.55 * exported.comparison.forms[0].size_bytes  # type: ignore[operator]
    errors = [one.relative_error for one in exported.comparison.maps]
    assert min(errors) > 1e-4  # type: ignore[type-var, operator]


def test_batch_that_exceeds_memory_is_an_error(
    small_model: SmallModel, tmp_path: Path, effnet: Effnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (
        "export", "--to", "onnx", "--model", small_model("b0").model, "--feature-maps",
        "-o", tmp_path, "--batch",
    )  # fmt: skip
    for batch in ("999999999", "3"):
        done = effnet(*command, batch)
        assert done.status == 1
        assert f"failed to run with --batch {batch}" in done.stderr
        assert list(tmp_path.iterdir()) == []
        # onnxruntime refuses a batch of another size, as it would one that needs too much memory
        monkeypatch.setattr("effnet_cli.export.map_agreement.pad", lambda crops, size: crops)


# --- what the file says --------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_file_and_json_describe_the_maps(target: TargetName, export_maps: ExportMaps) -> None:
    exported = export_maps(target, "lite0")
    path = exported.path
    assert path is not None
    assert path.name == f"small-lite0-feature-maps{path.suffix}"
    rows = [
        {"name": name, "channels": channels, "stride": stride}
        for name, channels, stride in zip(NAMES, CHANNELS, STRIDES, strict=True)
    ]
    about = json.loads(Path(f"{path}.json").read_text())
    assert about["export"]["outputs"] == rows
    assert about["input"]["shape"] == ["batch", 3, "height", "width"]
    assert about["input"]["multiple_of_px"] == 32
    assert about["output"]["values"] == "feature maps"
    assert about["check"]["passed"] is True
    for row, compared in zip(rows, about["check"]["maps"], strict=True):
        assert {**row, **compared} == compared
        assert 0 <= compared["relative_error"] <= 1e-4
        assert compared["cosine"] == pytest.approx(1)
    card = ModelCard.from_json(read_embedded_card(path))
    assert card.export["outputs"] == rows


def read_embedded_card(path: Path) -> str:
    if path.suffix == ".onnx":
        return {one.key: one.value for one in onnx.load(path).metadata_props}["effnet"]
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("extra/effnet")]
        return archive.read(name).decode()


def test_command_shows_the_maps(small_model: SmallModel, tmp_path: Path, effnet: Effnet) -> None:
    done = effnet(
        "export", "--to", "onnx", "--model", small_model("lite0").model, "--feature-maps",
        "-o", tmp_path,
    )  # fmt: skip
    assert done.status == 0
    table = [line.split() for line in done.stdout.decode().splitlines()]
    for row in zip(NAMES, CHANNELS, STRIDES, strict=True):
        assert any(line[:3] == list(map(str, row)) for line in table)
    assert "Compared on 32 views of the sample images." in done.stderr
    assert "multiples of 32" in done.stderr
    assert "effnet predict" not in done.stderr


def read_blocks() -> list[str]:
    """Return the code that reads exported maps, for ONNX and for torch."""
    text = SOURCES["detection"].partition("### Read them")[2]
    onnx_code, torch_code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    preparation = onnx_code.partition("session = ")[0].replace("import onnxruntime\n", "")
    return [onnx_code, preparation + torch_code]


@pytest.mark.parametrize("number", [0, 1])
def test_documented_lines_read_the_maps(
    number: int,
    export_maps: ExportMaps,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = read_blocks()[number]
    assert "effnet_cli" not in code
    path = export_maps(TARGETS[number], "lite0").path
    assert path is not None
    model = open_file(path)  # loading a program takes seconds
    monkeypatch.setattr(torch.export, "load", lambda _: SimpleNamespace(module=lambda: model))
    monkeypatch.setattr(sys, "argv", ["maps.py", str(path), str(SAMPLES / "cat.jpg")])
    exec(compile(code, "detection.md", "exec"), {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    height, width = (int(side) * 4 for side in rows[0][3:])
    assert height % 32 == width % 32 == 0
    assert rows == [
        list(map(str, (name, 1, channels, height // stride, width // stride)))
        for name, channels, stride in zip(NAMES, CHANNELS, STRIDES, strict=True)
    ]


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (ExportOptions("litert"), "litert does not support --feature-maps", "--to onnx or --to"),
        (ExportOptions("openvino"), "openvino does not support", "--to torch-export"),
        (ExportOptions("hub"), "hub does not support --feature-maps", "--to onnx"),
        (ExportOptions("onnx", include_features=True), "--include-features", "Omit --include-f"),
        (
            ExportOptions("onnx", include_preprocessing=True),
            "--include-preprocessing",
            "Omit --include-preprocessing",
        ),
    ],
    ids=lambda value: value.target if isinstance(value, ExportOptions) else None,
)
def test_meaningless_combinations_are_refused(
    options: ExportOptions, message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        export(ExportTask(options=replace(options, feature_maps=True)))
    assert hint in caught.value.hint


def test_int8_is_refused() -> None:
    options = ExportOptions("onnx", quantize="int8", feature_maps=True)
    with pytest.raises(UsageError, match="cannot be combined with --quantize"):
        export(ExportTask(options=options, calibrate=SAMPLES))


@pytest.mark.parametrize("target", TARGETS)
def test_other_commands_refuse_the_file(
    target: TargetName, export_maps: ExportMaps, effnet: Effnet
) -> None:
    path = export_maps(target, "lite0").path
    for arguments in (
        ("predict", SAMPLES / "cat.jpg", "--model", path),
        ("evaluate", SAMPLES, "--model", path),
        ("bench", "--model", path),
    ):
        done = effnet(*arguments)
        assert done.status == 2
        assert "outputs feature maps for a detector, not predictions" in done.stderr
        assert "export it without --feature-maps" in done.stderr


def test_file_without_its_json_is_refused(
    export_maps: ExportMaps, effnet: Effnet, tmp_path: Path
) -> None:
    path = export_maps("onnx", "lite0").path
    assert path is not None
    shutil.copy(path, tmp_path / "a.onnx")
    done = effnet("predict", SAMPLES / "cat.jpg", "--model", tmp_path / "a.onnx")
    assert done.status == 2
    assert "outputs feature maps" in done.stderr


@pytest.mark.parametrize(
    ("value", "is_kept", "reason"),
    [(0.0, False, "differs from torch's by "), (float("nan"), True, "has another shape than")],
)
def test_maps_that_differ_are_rejected(
    value: float,
    is_kept: bool,
    reason: str,
    small_model: SmallModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    effnet: Effnet,
) -> None:
    build_graph = ExportSource.float_graph

    def build_damaged(self: ExportSource) -> onnx.ModelProto:
        graph = build_graph(self)
        tensor = graph.graph.initializer[-1]  # the bias of c5
        values = numpy_helper.to_array(tensor).copy()
        values[0] = value
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return graph

    monkeypatch.setattr(ExportSource, "float_graph", build_damaged)
    path = tmp_path / "out" / "maps.onnx"
    done = effnet(
        "export", "--to", "onnx", "--model", small_model("b0").model, "--feature-maps", "-o", path,
        *(["--force"] if is_kept else []),
    )  # fmt: skip
    assert done.status == 3
    assert f"Export rejected: c5 of onnx fp32 {reason}" in done.stderr
    assert len(list(path.parent.iterdir())) == (2 if is_kept else 0)
    if is_kept:
        check = json.loads(Path(f"{path}.json").read_text())["check"]
        assert check["passed"] is False
        errors = [one["relative_error"] for one in check["maps"]]
        assert errors[3] is None
        assert max(errors[:3]) <= 1e-4
