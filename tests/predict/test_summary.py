"""The closing summary."""

from pathlib import Path

from effnet_cli.images.finder import Finder
from effnet_cli.predict.records import ErrorInfo, ImageResult, Prediction
from effnet_cli.predict.summary import RunSummary


def good(path: str, label: str = "cat", probability: float = 0.75) -> ImageResult:
    return ImageResult(path, (Prediction(1, 3, label, probability), Prediction(2, 0, "dog", 0.125)))


def bad(path: str) -> ImageResult:
    return ImageResult(path, error=ErrorInfo("truncated", "It is cut off."))


def test_summary_counts_everything(tmp_path: Path) -> None:
    tally = RunSummary()
    for result in (*(good(str(n)) for n in range(5)), bad("x"), bad("y")):
        tally.add(result)
    finder = Finder([], not_images=2, duplicate_links=1)
    assert (tally.succeeded, tally.failed.total()) == (5, 2)
    summary = tally.describe(finder)
    for words in (
        "7 images in ",
        "2 failed: 2 truncated",
        "most frequent: cat 5",
        "skipped 2 non-image files",
        "skipped 1 duplicate link",
    ):
        assert words in summary


def test_summary_of_nothing() -> None:
    assert RunSummary().describe(Finder([])).startswith("0 images in ")
