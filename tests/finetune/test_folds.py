"""Cross-validation of the classifier head."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from effnet_cli.datasets import label_errors
from effnet_cli.finetune import head_phase
from effnet_cli.finetune.folds import read_folds
from effnet_cli.finetune.head_phase import HeadPhase
from effnet_cli.options import FinetuneOptions, ModelOptions
from helpers import RecordingReporter
from training import CommandResult, make_classes, make_task, train

Effnet = Callable[..., CommandResult]
FOLDED = FinetuneOptions(head_only=True, hidden=0, augment="light", folds=3)

pytestmark = pytest.mark.usefixtures("one_core", "caches")


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "folds.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_wrong_label_is_found_among_training_images(
    small: ModelOptions, tmp_path: Path, quick: None
) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=12)
    make_classes(root / "val", images=4, first_seed=50)
    wrong = root / "train" / "red" / "wrong.png"
    shutil.copy(root / "train" / "green" / "1.png", wrong)
    (root / "train" / "green" / "1.png").unlink()
    reporter = RecordingReporter()
    ran = train(make_task(root, ModelOptions(variant="lite0"), tmp_path / "run", FOLDED), reporter)
    rows = read_rows(ran.folder)
    assert sorted(row["path"] for row in rows) == sorted(str(p) for p in root.glob("*/*/*"))
    assert all(row["label"] == Path(row["path"]).parent.name for row in rows)
    saved = read_folds(ran.folder)
    assert saved is not None
    assert saved.total == len(rows) == 48
    assert saved.right == sum(row["label"] == row["prediction"] for row in rows) > 24
    assert str(wrong) in [error.path for error in saved.label_errors]
    assert len(saved.label_errors) <= 8
    assert any("Cross-validation" in note and "48 images" in note for note in reporter.notes)


def test_heads_never_see_the_images_that_they_classify(
    small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    root = tmp_path / "data"
    make_classes(root, images=9)
    seen: list[np.ndarray] = []
    asked: list[np.ndarray] = []
    predict, trained = HeadPhase.predict, HeadPhase.train

    def record(phase: HeadPhase) -> None:
        seen.append(phase._features.train.numpy())
        trained(phase)

    def ask(phase: HeadPhase, features: object) -> np.ndarray:
        asked.append(features.numpy())  # type: ignore[attr-defined]
        return predict(phase, features)  # type: ignore[arg-type]

    monkeypatch.setattr(HeadPhase, "train", record)
    monkeypatch.setattr(HeadPhase, "predict", ask)
    monkeypatch.setattr(head_phase, "MAX_VIEWS_PER_IMAGE", 2)
    train(make_task(root, small, tmp_path / "run", FOLDED))
    assert len(seen) == 3
    assert sum(map(len, asked[:3])) == 27
    for values, questions in zip(seen, asked[:3], strict=True):
        known = {row.tobytes() for row in values}
        assert not known & {row.tobytes() for row in questions}
        # a training image that is held out takes its views with it
        assert len(values) == 3 * len(known) / 3


def test_without_cleanlab_no_label_is_called_right(
    small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(label_errors, "LABEL_ERROR_LIBRARY", "no_such_library")
    make_classes(tmp_path / "data", images=5)
    reporter = RecordingReporter()
    train(make_task(tmp_path / "data", small, tmp_path / "run", FOLDED), reporter)
    assert any("install cleanlab" in note for note in reporter.notes)
    assert not any("may be wrong" in note for note in reporter.notes)


def test_report_shows_the_label_errors_of_the_folds(
    effnet: Effnet, tmp_path: Path, quick: None
) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=8)
    make_classes(root / "val", images=4, first_seed=50)
    shutil.move(root / "train" / "green" / "1.png", root / "train" / "red" / "wrong.png")
    done = effnet("finetune", root, "--head-only", "--folds", "3", "-o", tmp_path / "run")
    assert done.status == 0, done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert "wrong.png" in page
    assert "Cross-validation of the classifier head on all 36 images" in page
    assert effnet("finetune", root, "--folds", "1").status == 2
