"""`--final all` trains a second model on all images."""

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from effnet_cli.finetune import final_model, run
from effnet_cli.finetune.all_images import LastEpochTrainer, train_on_all
from effnet_cli.finetune.phases import FullPhase
from effnet_cli.finetune.records import AllImagesResult
from effnet_cli.finetune.run_dir import TrainingState
from effnet_cli.finetune.setup import TrainingSetup
from effnet_cli.finetune.signals import TrainingStopped
from effnet_cli.models import checkpoint
from effnet_cli.options import FinetuneOptions, ModelOptions
from effnet_cli.predict.classifier import Classifier
from helpers import RecordingReporter
from training import (
    CommandResult,
    FinishedRun,
    make_classes,
    make_task,
    quick_head,
    read_tree,
    resume,
    train,
)

Effnet = Callable[..., CommandResult]
FINAL = FinetuneOptions(epochs=2, hidden=0, augment="none", lr=1e-3, final="all")
HEAD_FINAL = FinetuneOptions(head_only=True, hidden=0, augment="none", final="all")

pytestmark = pytest.mark.usefixtures("one_core", "caches", "quick")


@pytest.fixture(scope="module")
def data(session_folder: Path) -> Path:
    root = session_folder / "all images"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=4, first_seed=50)
    return root


@pytest.fixture(scope="module")
def expected(data: Path, small: ModelOptions, session_folder: Path, one_core: None) -> FinishedRun:
    """An uninterrupted run with a second training."""
    with quick_head():
        return train(make_task(data, small, session_folder / "all images run", FINAL))


def read_model(ran: FinishedRun) -> bytes:
    return (ran.folder / "all" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("options", [FINAL, HEAD_FINAL])
def test_second_model_has_seen_all_images(
    options: FinetuneOptions,
    data: Path,
    small: ModelOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(final_model, "MIN_KNOWN_IMAGES", 5)
    seen: list[int] = []
    load = FullPhase.load_batches

    def record(phase: FullPhase, *arguments: int) -> object:
        seen.append(phase.num_images)
        return load(phase, *arguments)

    monkeypatch.setattr(FullPhase, "load_batches", record)
    before: list[bytes] = []

    def train_again(setup: TrainingSetup, first: TrainingState) -> AllImagesResult:
        before.append(setup.run_dir.model.read_bytes())
        return train_on_all(setup, first)

    monkeypatch.setattr(run, "train_on_all", train_again)
    reporter = RecordingReporter()
    ran = train(make_task(data, small, tmp_path / "run", options), reporter)
    assert before == [ran.model], "the first model stays as it is"
    assert ran.all_images is not None
    folder = ran.folder / "all"
    assert ran.all_images.model == folder / "model.safetensors"
    assert ran.all_images.images == 30
    assert ran.all_images.test is None
    card, tensors = checkpoint.read_arrays(folder / "model.safetensors")
    assert (card.dataset["train"], card.dataset["val"]) == (30, 0)
    assert card.metrics == ran.card.metrics
    assert (card.temperature, card.unknown_below) == (ran.card.temperature, ran.card.unknown_below)
    assert card.familiarity is not None
    assert ran.card.familiarity is not None
    assert card.familiarity.unknown_below == ran.card.familiarity.unknown_below
    assert any(not np.array_equal(tensors[name], ran.tensors[name]) for name in tensors)
    if options is FINAL and ran.end.phase == "full":
        assert seen == [18] * 2 + [30] * ran.end.epoch
    with (folder / "split.csv").open(encoding="utf-8", newline="") as file:
        assert {row["split"] for row in csv.DictReader(file)} == {"train"}
    assert sorted(read_tree(folder)) == ["model.safetensors", "split.csv"]
    assert any("30 images" in note for note in reporter.notes)
    labels = [one.predictions[0].label for one in Classifier(folder).predict(str(data / "val"))]
    assert len(labels) == 12


@pytest.mark.parametrize("stopped_after", [1, 6])
def test_interrupted_second_training_ends_with_the_same_bytes(
    stopped_after: int,
    data: Path,
    small: ModelOptions,
    expected: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[int] = []
    save = LastEpochTrainer._save_or_stop

    def stop(trainer: LastEpochTrainer, *arguments: object) -> None:
        steps.append(1)
        if len(steps) == stopped_after:
            trainer._stop.number = signal.SIGINT
        save(trainer, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(LastEpochTrainer, "_save_or_stop", stop)
        with pytest.raises(TrainingStopped) as stopped:
            train(make_task(data, small, tmp_path / "run", FINAL))
    assert str(tmp_path / "run") in str(stopped.value)
    assert str(tmp_path / "run" / "all") not in str(stopped.value)
    resumed = resume(tmp_path / "run")
    assert resumed.model == expected.model
    assert read_model(resumed) == read_model(expected)
    before = read_tree(resumed.folder)
    assert read_tree(resume(tmp_path / "run").folder) == before


def test_evaluate_knows_that_all_images_were_trained_on(
    data: Path, tmp_path: Path, effnet: Effnet
) -> None:
    words = ("--head-only", "--final", "all", "--no-report", "--format", "jsonl")
    done = effnet("finetune", data, *words, "--output", tmp_path / "run")
    assert done.status == 0, done.stderr
    assert f"--model {tmp_path / 'run' / 'all'}" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["row"] == "trained_on_all"
    done = effnet("evaluate", data, "--model", tmp_path / "run" / "all")
    assert done.status == 2
    assert "was trained on all images" in done.stderr
    done = effnet("finetune", data, "--final", "all", "--minutes", "1")
    assert done.status == 2
    assert "trains a second time" in done.stderr
