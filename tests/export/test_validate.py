"""Invalid export tasks."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_cli.export.run import export
from effnet_cli.export.targets import TARGETS
from effnet_cli.options import ExportOptions, ExportTask, ModelOptions, TargetName
from effnet_cli.system.errors import EffnetError, UsageError
from exporting import SmallModel
from helpers import SAMPLES
from training import CommandResult

pytestmark = pytest.mark.usefixtures("one_core")

Effnet = Callable[..., CommandResult]


@pytest.mark.parametrize("target", TARGETS)
def test_missing_library_is_named(target: TargetName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EffnetError, match="is not installed") as caught:
        export(ExportTask(options=ExportOptions(target)))
    assert TARGETS[target].install in caught.value.hint
    assert TARGETS[target].library in caught.value.message


def test_missing_target_shows_the_choices(effnet: Effnet) -> None:
    for arguments, problem, hint in (
        (("export",), "'--to'", "See `effnet export -h`."),
        (("export", "--to", "onxx"), "Unknown target 'onxx'.", "Use onnx, openvino, "),
    ):
        done = effnet(*arguments)
        assert done.status == 2
        first, second = done.stderr.strip().splitlines()
        assert problem in first
        assert "coreml" in first + second
        assert "Value error" not in first
        assert second.startswith(hint)


def test_missing_compiler_is_named(
    monkeypatch: pytest.MonkeyPatch, small_model: SmallModel, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EffnetError, match="no-such-compiler"):
        export(ExportTask(small_model("lite0"), ExportOptions("aotinductor"), tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            ExportTask(options=ExportOptions("onnx", "bf16")),
            "onnx does not support --precision bf16",
        ),
        (
            ExportTask(options=ExportOptions("coreml", quantize="int8")),
            "does not support --quantize int8",
        ),
        (ExportTask(options=ExportOptions(quantize="int8")), "requires images"),
        (
            ExportTask(options=ExportOptions("onnx", "fp16", "int8"), calibrate=SAMPLES),
            "cannot be combined",
        ),
        (ExportTask(calibrate=SAMPLES), "--calibrate only applies to int8"),
        (ExportTask(max_drop=3), "--max-drop only applies to int8"),
        (ExportTask(check=Path("no-such-folder")), "'no-such-folder'"),
        (ExportTask(output=Path("x.tflite")), "does not end in .onnx"),
        (ExportTask(ModelOptions("b9")), "'b9'"),
    ],
)
def test_invalid_tasks_are_refused(task: ExportTask, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        export(task)
    assert message in caught.value.message
    assert caught.value.hint


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No images found"):
        export(ExportTask(check=tmp_path, output=tmp_path / "x.onnx"))
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match="can be opened"):
        export(ExportTask(check=tmp_path, output=tmp_path / "x.onnx"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg"]
