"""`finetune` with pretrained weights, end to end."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effnet_cli.datasets.records import DatasetError
from effnet_cli.datasets.scan import scan
from effnet_cli.engines.base import Engine, ModelOutputs
from effnet_cli.engines.registry import EnginePlan, plan_engine
from effnet_cli.finetune import head_phase
from effnet_cli.finetune.run import finetune
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import checkpoint
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import DatasetOptions, EngineOptions, FinetuneOptions, ModelOptions
from effnet_cli.predict.classifier import Classifier
from helpers import RecordingReporter, Run
from training import (
    CANNOT_LEARN,
    HEAD_EPOCHS,
    HEAD_ONLY,
    ONE_EPOCH,
    CommandResult,
    FinishedRun,
    drop_times,
    make_classes,
    make_task,
    read_rows,
    read_state,
    read_tree,
    resume,
    sha256,
    train,
)

pytestmark = pytest.mark.usefixtures("one_core", "caches")

UNUSUAL_NAMES = ("[red]", "=cmd()", "new\nline", "a,b", "\udcff\udcfe", "🐈 <b>", "-x '\"")
RUN_AND_LIST_MODULES = (
    "import sys; from effnet_cli.cli.main import run; status = run(); "
    "sys.stderr.write('\\nMODULES ' + ' '.join(sys.modules)); sys.exit(status)"
)


@pytest.fixture(scope="module")
def default_run(
    colours: Path, session_folder: Path, one_core: None, caches: None
) -> tuple[Path, "subprocess.CompletedProcess[bytes]"]:
    """`effnet finetune DATASET --epochs 1` in an empty folder, with output to pipes."""
    here = session_folder / "default run"
    here.mkdir()
    before = read_tree(colours)
    done = subprocess.run(
        [sys.executable, "-m", "effnet_cli", "finetune", colours, "-n", "1", "-f", "jsonl"],
        capture_output=True,
        cwd=here,
        timeout=100,
        check=False,
    )
    assert read_tree(colours) == before
    return here, done


def test_default_run_writes_its_epochs_to_stdout(
    default_run: tuple[Path, "subprocess.CompletedProcess[bytes]"],
) -> None:
    here, done = default_run
    assert done.returncode == 0, done.stderr.decode()
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [(row["row"], row["phase"], row["epoch"]) for row in rows[:-1]]
    head = [("epoch", "head", number) for number in range(1, head_phase.HEAD_EPOCHS + 1)]
    assert kinds == [*head, ("epoch", "full", 1)]
    assert rows[-1]["row"] == "trained"
    assert rows[-1]["model"] == "runs/colours-lite0/model.safetensors"
    assert rows[-1]["test"] is None
    assert rows[-1]["val"]["images"] == 6
    assert {path.name for path in (here / "runs" / "colours-lite0").iterdir()} - {".lock"} == {
        "model.safetensors",
        "state.safetensors",
        "metrics.jsonl",
        "options.json",
        "report.html",
        "split.csv",
    }


def test_default_run_keeps_its_best_epoch(
    default_run: tuple[Path, "subprocess.CompletedProcess[bytes]"],
) -> None:
    here, done = default_run
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    epochs, end = rows[:-1], rows[-1]
    best = max(epochs, key=lambda row: (row["top1"], -row["val_loss"]))
    assert (end["phase"], end["epoch"]) == (best["phase"], best["epoch"])
    assert [row for row in epochs if row["is_best"]][-1] == best
    assert end["val"]["top1"] == best["top1"] == 1.0  # the colours are easy to distinguish
    assert end["val"]["loss"] == best["val_loss"]
    folder = here / "runs" / "colours-lite0"
    assert read_rows(folder) == [{k: v for k, v in row.items() if k != "row"} for row in epochs]


def test_model_file_of_the_default_run_describes_its_training(
    default_run: tuple[Path, "subprocess.CompletedProcess[bytes]"], colours: Path
) -> None:
    here, done = default_run
    end = json.loads(done.stdout.splitlines()[-1])
    folder = here / "runs" / "colours-lite0"
    card, tensors = checkpoint.read_arrays(folder / "model.safetensors")
    base = resolve_model(ModelOptions())
    assert card.variant == "lite0"
    assert card.classes == ("blue", "green", "red")
    assert card.preprocessing == replace(base.card.preprocessing, resize_px=224)
    assert card.preprocessing.crop_px == 224
    assert card.options == {
        **asdict(FinetuneOptions(epochs=1)),
        "base_sha256": base.sha256,
        "views": "crops down to 50% of the area, mirror images, brightness ±30%, colours ±30%",
    }
    dataset = scan(colours).require_dataset()
    assert card.dataset == {
        "fingerprint": dataset.fingerprint,
        "run": dataset.fingerprint[:16],
        "seed": 0,
        "val_fraction": 0.2,
        "train": 18,
        "val": 6,
        "test": None,
    }
    assert card.metrics == {
        "phase": end["phase"],
        "epoch": end["epoch"],
        "metrics": {**end["val"]},
        "view_trials": [],  # too few images to choose by
    }
    assert tensors["classifier.4.weight"].shape == (3, 512)
    options = json.loads((folder / "options.json").read_text())
    assert options["root"] == str(colours)
    assert options["options"]["epochs"] == 1


def test_default_run_writes_a_report(
    default_run: tuple[Path, "subprocess.CompletedProcess[bytes]"],
) -> None:
    here, _ = default_run
    page = (here / "runs" / "colours-lite0" / "report.html").read_text(encoding="utf-8")
    assert "classifies 100.0% of 6 images correctly" in page
    assert "The classifier head alone, before the full model was trained" in page
    assert page.count("<svg") == 5  # training, reliability, and the curves of three classes
    assert "effnet evaluate FOLDER --model runs/colours-lite0" in page
    assert "weight decay" in page
    choices = dict(re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", page))
    values = [choices[name] for name in ("balance", "batch size", "patience")]
    assert values == ["no", "auto", "no limit"]
    assert choices["views"].startswith("crops down to 50% of the area, mirror images")


def test_default_run_suggests_commands_that_work(
    default_run: tuple[Path, "subprocess.CompletedProcess[bytes]"], run: Run, colours: Path
) -> None:
    here, done = default_run
    page, *_, one, two, three = done.stderr.decode().splitlines()[-5:]
    assert page == "Saved the report to runs/colours-lite0/report.html"
    for line, command in (
        (one, "predict IMAGE"), (two, "evaluate FOLDER"), (three, "export --to onnx")
    ):  # fmt: skip
        assert line == f"  effnet {command} --model runs/colours-lite0"
    assert "\r" not in done.stderr.decode()  # no progress bars without a terminal
    for model in ("runs/colours-lite0", "runs/colours-lite0/model.safetensors"):
        done = run("predict", colours / "red" / "0.jpg", "--model", model, "-f", "json", cwd=here)
        (row,) = json.loads(done.stdout)
        assert row["predictions"][0]["label"] == "red"
        assert len(row["predictions"]) == 3


@pytest.mark.usefixtures("quick")
def test_formats_contain_the_same_rows(
    colours: Path, small: ModelOptions, tmp_path: Path, effnet: Callable[..., CommandResult]
) -> None:
    found = {}
    for format_ in ("table", "json", "csv"):
        done = effnet(
            *("finetune", colours, "--model", small.model, "--head-only", "--hidden", "0"),
            *("--augment", "none", "-o", tmp_path / format_, "-f", format_, "--quiet"),
        )
        assert done.status == 0
        assert done.stderr == ""
        found[format_] = done.stdout.decode()
    array = json.loads(found["json"])
    assert [row["row"] for row in array] == ["epoch"] * HEAD_EPOCHS + ["trained"]
    assert drop_times(array[:-1]) == [
        {"row": "epoch", **r} for r in drop_times(read_rows(tmp_path / "json"))
    ]
    lines = list(csv.DictReader(io.StringIO(found["csv"])))
    assert [float(line["top1"]) for line in lines] == [row["top1"] for row in array[:-1]]
    table = found["table"].splitlines()
    assert (
        len([line for line in table if re.match(rf"  head +\d/{HEAD_EPOCHS} ", line)])
        == HEAD_EPOCHS
    )
    assert any(line.startswith("validation: top-1") for line in table)
    assert "\x1b" not in found["table"]


@pytest.fixture(scope="module")
def unusual_names_run(
    small: ModelOptions, session_folder: Path, one_core: None
) -> tuple[Path, FinishedRun]:
    """A run on classes with unusual names."""
    root = session_folder / "unusual"
    make_classes(root, UNUSUAL_NAMES, images=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_phase, "MAX_VIEWS_PER_IMAGE", 1)
        return root, train(make_task(root, small, session_folder / "unusual run", HEAD_ONLY))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_every_engine_predicts_the_new_classes(
    unusual_names_run: tuple[Path, FinishedRun], engine: Any
) -> None:
    root, ran = unusual_names_run
    classifier = Classifier(ModelOptions(model=ran.folder), EngineOptions(engine=engine))
    assert set(classifier.card.classes) == set(UNUSUAL_NAMES)
    val = scan(root).require_dataset().val
    predictions = [classifier(val.paths[i]).predictions[0] for i in range(len(val.labels))]
    assert {one.label for one in predictions} <= set(UNUSUAL_NAMES)
    right = np.mean([a.index == label for a, label in zip(predictions, val.labels, strict=True)])
    assert right == pytest.approx(ran.end.val.top1)


def test_unusual_names_are_kept(
    unusual_names_run: tuple[Path, FinishedRun], effnet: Callable[..., CommandResult]
) -> None:
    root, ran = unusual_names_run
    for model in (ran.folder, ran.folder / "model.safetensors"):
        done = effnet(
            *("predict", root / "[red]", "--model", model, "-f", "jsonl", "-k", "7", "--quiet")
        )
        assert done.status == 0
        for line in done.stdout.splitlines():
            labels = {row["label"] for row in json.loads(line)["predictions"]}
            assert labels == set(UNUSUAL_NAMES)
    table = effnet("predict", root / "[red]", "--model", ran.folder).stdout.decode()
    assert "new\nline" not in table


def test_validation_and_predict_compute_identical_bits(
    colours: Path, small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    recorded: list[tuple[bytes, bytes]] = []
    load = EnginePlan.load

    def load_recorded(plan: EnginePlan, *arguments: Any) -> Engine:
        engine = load(plan, *arguments)

        def run(crops: np.ndarray) -> ModelOutputs:
            outputs = engine(crops)
            pairs = zip(crops, outputs.scores, strict=True)
            recorded.extend((crop.tobytes(), logits.tobytes()) for crop, logits in pairs)
            return outputs

        return run  # type: ignore[return-value]

    monkeypatch.setattr(EnginePlan, "load", load_recorded)
    monkeypatch.setattr(
        head_phase, "HEAD_LR", CANNOT_LEARN
    )  # so that the full model becomes the best
    options = replace(ONE_EPOCH, augment="none", epochs=2, lr=1e-3)
    *epochs, _end = finetune(make_task(colours, small, tmp_path / "run", options))
    best = [epoch for epoch in epochs if epoch.is_best][-1]  # type: ignore[union-attr]
    validated = recorded[-6:] if best == epochs[-1] else recorded[-12:-6]  # in the best epoch
    card = checkpoint.read_card(tmp_path / "run" / "model.safetensors")
    loader = ImageLoader(card.preprocessing)
    val = scan(colours).require_dataset().val
    crops = [loader.load(val.paths[i])[0] for i in range(len(val.labels))]
    assert [crop.tobytes() for crop in crops] == [crop for crop, _ in validated]
    assert card.metrics["phase"] == "full"
    model = resolve_model(ModelOptions(model=tmp_path / "run"))
    engine = load(plan_engine(EngineOptions()), model)
    for crop, (_, logits) in zip(crops, validated, strict=True):
        assert engine(crop[None]).scores[0].tobytes() == logits


def test_result_depends_on_the_seed_but_not_on_workers(
    colours: Path, small: ModelOptions, tmp_path: Path, quick: None
) -> None:
    def train_and_hash(name: str, seed: int, workers: int) -> str:
        options = replace(ONE_EPOCH, seed=seed, augment="strong")
        task = make_task(
            colours, small, tmp_path / name, options, workers=workers, dataset=DatasetOptions()
        )
        ran = train(task)
        rows[name] = drop_times(ran.rows)
        return sha256(ran.model) + sha256(
            read_state(ran.folder)[1]["trained.features.0.0.weight"].tobytes()
        )

    rows: dict[str, Any] = {}
    first = train_and_hash("a", 0, 1)
    assert train_and_hash("b", 0, 3) == first
    assert rows["b"] == rows["a"]
    assert train_and_hash("c", 1, 1) != first
    assert rows["c"] != rows["a"]


def test_seed_determines_the_split(
    colours: Path, tmp_path: Path, effnet: Callable[..., CommandResult]
) -> None:
    def val_paths(seed: int) -> set[str]:
        val = scan(colours, seed=seed).require_dataset().val
        return {str(val.paths[i]) for i in range(len(val.labels))}

    assert val_paths(0) == val_paths(0) != val_paths(1)


def test_images_that_break_after_the_scan_are_skipped(
    small: ModelOptions, tmp_path: Path, quick: None
) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=2, first_seed=50)
    deleted = [root / "train" / "red" / "0.jpg", root / "val" / "green" / "50.jpg"]
    broken = [root / "train" / "blue" / "1.png", root / "val" / "green" / "51.png"]

    def damage_images(note: str) -> None:
        if note.startswith("Starting from"):
            for path in deleted:
                path.unlink()
            for path in broken:
                path.write_bytes(path.read_bytes()[:-300])

    reporter = RecordingReporter(hook=damage_images)
    ran = train(make_task(root, small, tmp_path / "run", ONE_EPOCH), reporter)
    for path in deleted + broken:
        assert reporter.text.count(f"Skipped {path}:") == 1
    val = ran.end.val
    assert (val.images, val.failed) == (6, 2)
    recalls = {row.name: row.recall for row in val.classes}
    assert recalls["green"] == 0.0
    assert val.top1 <= 4 / 6
    (row,) = ran.filter_epochs("full")
    assert row.loss < 20


def test_broken_validation_images_count_as_wrong(
    small: ModelOptions, tmp_path: Path, quick: None
) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=3, first_seed=50)
    (root / "val" / "red" / "51.png").write_bytes(b"")
    before = read_tree(root)
    with pytest.raises(DatasetError, match="cannot be opened"):
        train(make_task(root, small, tmp_path / "refused", HEAD_ONLY))
    assert not (tmp_path / "refused").exists()
    allowed = DatasetOptions(allow_bad=True)
    ran = train(make_task(root, small, tmp_path / "run", HEAD_ONLY, dataset=allowed))
    assert (ran.end.val.images, ran.end.val.failed) == (9, 1)
    assert ran.end.val.top1 <= 8 / 9
    assert read_tree(root) == before


def test_test_split_is_evaluated_once_at_the_end(
    small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=2, first_seed=50)
    make_classes(root / "test", images=3, first_seed=90)
    opened: list[str] = []
    open_image = ImageLoader.open

    def open_recorded(loader: ImageLoader, path: Any) -> Any:
        opened.append(str(path))
        return open_image(loader, path)

    def opened_test_images() -> list[str]:
        return [path for path in opened if "/test/" in path.replace(os.sep, "/")]

    reporter = RecordingReporter(
        hook=lambda note: opened.clear() if note.startswith("Starting") else None
    )
    monkeypatch.setattr(ImageLoader, "open", open_recorded)
    records = finetune(make_task(root, small, tmp_path / "run", ONE_EPOCH), reporter)
    for record in records:
        if hasattr(record, "model"):
            break
        assert opened
        assert not opened_test_images()
    assert len(opened_test_images()) == len(set(opened_test_images())) == 9
    assert record.test.images == 9  # type: ignore[union-attr]
    assert record.val.images == 6  # type: ignore[union-attr]
    assert checkpoint.read_card(record.model).dataset["test"] == 9  # type: ignore[union-attr]
    classifier = Classifier(ModelOptions(model=tmp_path / "run"))
    right = [
        classifier(p).predictions[0].label == Path(p).parent.name for p in opened_test_images()
    ]
    assert record.test.top1 == pytest.approx(np.mean(right))  # type: ignore[union-attr]


def test_check_imports_no_torch_and_writes_no_files(colours: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    make_classes(bad, ["only"])
    for root, status in ((colours, 0), (bad, 2)):
        before = read_tree(root)
        done = subprocess.run(
            [sys.executable, "-c", RUN_AND_LIST_MODULES, "finetune", root, "--check", "-f", "json"],
            capture_output=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        assert done.returncode == status
        content = json.loads(done.stdout)
        assert content["ok"] == (status == 0)
        modules = set(done.stderr.decode().rpartition("MODULES ")[2].split())
        assert "effnet_cli.datasets" in modules
        assert not modules & {"torch", "torchvision", "onnx", "onnxruntime", "rich"}
        assert read_tree(root) == before
    kinds = {finding["kind"] for finding in content["findings"]}
    assert "one_class" in kinds
    assert not (tmp_path / "runs").exists()


@pytest.mark.cuda
def test_cuda_trains_in_bf16(colours: Path, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    options = FinetuneOptions(epochs=1)
    ran = train(make_task(colours, ModelOptions(), tmp_path / "run", options), reporter)
    assert "Training the full model on cuda in bf16" in reporter.text
    assert ran.end.val.top1 == 1.0
    assert np.isfinite([epoch.loss for epoch in ran.epochs]).all()


@pytest.mark.cuda
def test_cuda_resumes_in_fp16_with_its_loss_scale(colours: Path, tmp_path: Path) -> None:
    options = FinetuneOptions(epochs=2, precision="fp16", lr=1e-5)
    folder = tmp_path / "run"
    records = finetune(make_task(colours, ModelOptions(), folder, options))
    next(record for record in records if getattr(record, "phase", "") == "full")
    records.close()  # type: ignore[attr-defined]
    header, tensors = read_state(folder)
    assert header["scaler"]["scale"] > 1
    assert any(name.startswith("optimizer.") for name in tensors)
    ran = resume(folder)
    assert [epoch.epoch for epoch in ran.epochs] == [2]
    assert ran.end.val.top1 == 1.0
