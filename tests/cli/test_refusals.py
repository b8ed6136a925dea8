"""A refused command changes nothing: no file is written, replaced, moved or touched."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import SAMPLES
from training import CommandResult

Effnet = Callable[..., CommandResult]

LONG = "n" * 300  # no file system takes it; as good as a folder that may not be read
REFUSED = (
    "predict cat.jpg -o run/split.csv",
    "predict cat.jpg -o run/options.json",
    "predict cat.jpg -f jsonl -o run/metrics.jsonl",
    "predict cat.jpg --html run/report.html",
    "predict cat.jpg -f csv -o run/.lock",
    "evaluate data --html run/report.html",
    f"predict {LONG}",
    f"predict cat.jpg -m {LONG}",
    f"predict cat.jpg -o {LONG}",
    f"predict cat.jpg --html {LONG}",
    f"predict cat.jpg --copy-to {LONG}",
    f"predict cat.jpg --explain {LONG}",
    f"predict cat.jpg --weights {LONG}",
    f"evaluate {LONG}",
    f"evaluate data --compare {LONG}/{LONG}",
    "evaluate data --compare runs/nope",
    f"finetune {LONG}",
    f"finetune data -o {LONG}",
    f"finetune --resume {LONG}",
    "finetune data --check -f csv",
    "finetune data --hidden 1000000000",
    f"export --to onnx -o {LONG}.onnx",
    f"export --to onnx -o a.onnx --check {LONG}",
    f"export --to onnx -o a.onnx --calibrate {LONG} --quantize int8",
    f"bench --model {LONG}",
    f"bench --compare {LONG}",
    "predict cat.jpg -m /dev/null",
    "predict",
    "predict cat.jpg ''",
    "predict cat.jpg --copy-to ''",
    "predict cat.jpg --explain ''",
    "predict cat.jpg -f csv -o ''",
    "predict cat.jpg --html ''",
    "predict cat.jpg -m ''",
    "finetune ''",
    "finetune data -o ''",
    "export --to onnx -o ''",
    "bench -m ''",
    "predict cat.jpg -o cat.jpg",
    "predict cat.jpg -o out.xyz",
    "predict cat.jpg @missing --copy-to sorted --move",
    "predict cat.jpg @data --copy-to sorted --move",
    "predict cat.jpg @cat.jpg --copy-to sorted --move",
    "predict cat.jpg @utf16.txt --copy-to sorted --move",
    "predict cat.jpg @ --copy-to sorted --move",
    "predict cat.jpg --html page.html --variant b99",
    "predict cat.jpg --copy-to cat.jpg",
    "predict data --copy-to data/sorted",
    "predict data --explain data",
    "predict data --explain data/overlays",
    "predict cat.jpg --move-to sorted --model cat.jpg",
    "predict cat.jpg --weights model.txt",
    "predict cat.jpg --explain overlays --engine tpu",
    "predict cat.jpg --top-k 0 -o out.csv",
    "evaluate cat.jpg --html page.html",
    "evaluate data --model missing -o out.json",
    "evaluate data --html data",
    "finetune",
    "finetune cat.jpg -o run",
    "finetune one -o run",
    "finetune data -o data",
    "finetune data -o run --epochs 0",
    "finetune data -o run --model cat.jpg",
    "finetune data -o run --freeze 99",
    "finetune data --resume data",
    "finetune --resume missing",
    "finetune data -o run --from-scratch --head-only",
    "export --to onnx -o model.txt",
    "export --to onnx -o cat.jpg",
    "export --to tpu -o a.tpu",
    "export --to onnx --quantize int8 -o a.onnx",
    "export --to onnx --precision int8 -o a.onnx",
    "export --to onnx --calibrate missing --quantize int8 -o a.onnx",
    "bench --variant b99 -o out.csv",
    "bench --compare cat.jpg --variant lite0",
    "bench --seconds 0",
    "bench --tolerance 0.1",
    "finetune data -o run --head-only --epochs 3",
    "finetune data -o new --head-only --minutes 1",
    "finetune data -m zzz.onnx",
    "export --to onnx -m zzz.onnx",
    "export --to onnx --max-drop 1",
    "weights pull b99",
    "variants b99",
    "nonsense",
)


def snapshot(root: Path) -> dict[str, tuple[bytes | str, int]]:
    """Return content and time of each file, and the name of each folder."""
    found: dict[str, tuple[bytes | str, int]] = {}
    for path in sorted(root.rglob("*")):
        is_file = path.is_file()
        content = path.read_bytes() if is_file else "folder"
        found[str(path)] = content, path.stat().st_mtime_ns if is_file else 0
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refusals")
    shutil.copy(SAMPLES / "cat.jpg", root)
    (root / "model.txt").write_text("not a model")
    (root / "utf16.txt").write_text("cat.jpg", "utf-16")
    for label in ("a", "b"):
        (root / "data" / label).mkdir(parents=True)
        for name in ("cat.jpg", "coffee.jpg", "flower.jpg"):
            shutil.copy(SAMPLES / name, root / "data" / label / f"{label}{name}")
    (root / "run").mkdir()
    for name in ("options.json", "metrics.jsonl", "split.csv", "report.html", ".lock"):
        (root / "run" / name).write_text("{}")
    (root / "one" / "a").mkdir(parents=True)
    shutil.copy(SAMPLES / "cat.jpg", root / "one" / "a")
    return root


@pytest.mark.parametrize("command", REFUSED)
def test_nothing_changes(
    command: str, folder: Path, effnet: Effnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = snapshot(folder)
    done = effnet(*(word.replace("''", "") for word in command.split()))
    assert done.status != 0, done.stdout
    assert "Traceback" not in done.stderr
    assert snapshot(folder) == before
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("bench --tolerance 0.1", "--tolerance requires --compare. Add --compare OLD.json."),
        (
            "finetune data -o new --head-only --minutes 1",
            "--minutes cannot be combined with --head-only, which does not train the full model. "
            "Omit --minutes.",
        ),
        ("finetune data -m zzz.onnx", "No such file: 'zzz.onnx'. Check the path."),
        ("export --to onnx -m zzz.onnx", "No such file: 'zzz.onnx'. Check the path."),
        ("export --to onnx --max-drop 1", "--max-drop only applies to int8. Add --quantize int8."),
        ("finetune data -o data", "--output 'data' already exists. Use a new folder."),
        (
            "finetune data -o run",
            "--output 'run' already exists. Use a new folder, or continue that run with "
            "--resume run",
        ),
        (
            "finetune --resume run",
            "'run/options.json' does not have the options of a run: it is damaged. Restore it, or "
            "start a new run without --resume.",
        ),
    ],
)
def test_the_real_fault_is_named(
    command: str, message: str, folder: Path, effnet: Effnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = effnet(*command.split())
    assert " ".join(done.stderr.split()).endswith(f"Error: {message}")
