"""What a finished model says about images of another kind than those it was trained on."""

from pathlib import Path

import pytest

from effnet_cli.engines.base import Engine
from effnet_cli.export.run import export
from effnet_cli.export.targets import TARGETS
from effnet_cli.finetune.final_model import MIN_KNOWN_IMAGES
from effnet_cli.finetune.inference import Inference
from effnet_cli.options import (
    ExportOptions,
    ExportTask,
    ModelOptions,
    PredictOptions,
    TargetName,
)
from effnet_cli.predict.classifier import Classifier
from helpers import SAMPLES
from training import HEAD_ONLY, FinishedRun, make_classes, make_task, quick_head, resume, train

IMAGES_PER_CLASS = 12

pytestmark = pytest.mark.usefixtures("one_core", "caches")


@pytest.fixture(scope="module")
def data(session_folder: Path) -> Path:
    """Soft blobs of three colours."""
    root = session_folder / "blobs"
    make_classes(root / "train", images=IMAGES_PER_CLASS)
    make_classes(root / "val", images=IMAGES_PER_CLASS, first_seed=50)
    make_classes(root / "new", images=IMAGES_PER_CLASS, first_seed=90)
    return root


@pytest.fixture(scope="module")
def run(data: Path, session_folder: Path, one_core: None) -> FinishedRun:
    """A classifier of the blobs, on the features of real weights."""
    base = ModelOptions(variant="lite0")
    with quick_head():
        return train(make_task(data, base, session_folder / "blobs run", HEAD_ONLY))


def label(model: Path, folder: Path) -> list[str]:
    """Return the labels of the images in a folder, with --unknown-below auto."""
    classifier = Classifier(model, options=PredictOptions(1, unknown_below="auto"))
    return [result.predictions[0].label for result in classifier.predict(str(folder))]


def test_images_like_the_training_images_are_known(data: Path, run: FinishedRun) -> None:
    familiarity = run.card.familiarity
    assert familiarity is not None
    assert familiarity.directions == 3 * IMAGES_PER_CLASS // 4
    assert label(run.folder, data / "val").count("unknown") <= 0.2 * 3 * IMAGES_PER_CLASS
    assert label(run.folder, data / "new").count("unknown") <= 0.2 * 3 * IMAGES_PER_CLASS


def test_photos_are_unknown_to_a_model_of_blobs(run: FinishedRun) -> None:
    labels = label(run.folder, SAMPLES)
    assert len(labels) > 3
    assert set(labels) == {"unknown"}


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_exported_files_know_the_same_images(
    target: TargetName, data: Path, run: FinishedRun, tmp_path: Path
) -> None:
    task = ExportTask(
        ModelOptions(model=run.folder),
        options=ExportOptions(target, include_preprocessing=True, include_features=True),
        output=tmp_path / ("exported" + TARGETS[target].ending),
    )
    path = export(task).path
    assert path is not None
    for folder in (data / "new", SAMPLES):
        assert label(path, folder) == label(run.folder, folder)


def test_files_without_features_do_not_claim_to_know(run: FinishedRun, tmp_path: Path) -> None:
    task = ExportTask(
        ModelOptions(model=run.folder),
        options=ExportOptions("onnx"),
        output=tmp_path / "exported.onnx",
    )
    path = export(task).path
    assert path is not None
    assert Classifier(path).card.familiarity is None


def test_familiarity_needs_enough_validation_images(
    small: ModelOptions, tmp_path: Path, quick: None
) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=4)
    make_classes(root / "val", images=MIN_KNOWN_IMAGES // 3, first_seed=50)
    assert train(make_task(root, small, tmp_path / "run", HEAD_ONLY)).card.familiarity is None


def test_it_is_added_once(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Engine:
        raise AssertionError("the features were computed again")

    monkeypatch.setattr(Inference, "load_engine", refuse)
    before = run.model
    resume(run.folder)
    assert run.model == before
