"""Helpers of the export tests: predictions and labelled folders."""

import shutil
from collections.abc import Callable
from pathlib import Path

from effnet_cli.export.records import ExportResult
from effnet_cli.images.finder import Finder
from effnet_cli.options import ModelOptions, PredictOptions, TargetName
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.records import ImageResult
from helpers import SAMPLES

ExportDefault = Callable[[TargetName], ExportResult]
SmallModel = Callable[[str], ModelOptions]


def predict(name: str | ModelOptions, paths: list[Path], top_k: int = 3) -> list[ImageResult]:
    classifier = Classifier(name, options=PredictOptions(top_k))
    return list(classifier.predict(Finder([str(path) for path in paths])))


def assert_same(actual: list[ImageResult], expected: list[ImageResult], tolerance: float) -> None:
    assert [row.path for row in actual] == [row.path for row in expected]
    for one, other in zip(actual, expected, strict=True):
        assert one.status == other.status
        assert one.error == other.error
        for a, b in zip(one.predictions, other.predictions, strict=True):
            assert (a.label, a.index) == (b.label, b.index)
            assert abs(a.probability - b.probability) <= tolerance


def sort_by_class(rows: list[ImageResult], folder: Path) -> Path:
    """Copy images into folders named after their predictions."""
    for row in rows:
        path = folder / row.predictions[0].label / Path(row.path).name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(row.path, path)
    return folder


def copy_sample(folder: Path, names: list[str]) -> Path:
    """Copy one image to several paths in a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES / "cat.jpg", path)
    return folder
