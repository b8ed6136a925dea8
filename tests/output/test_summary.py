"""The closing summary."""

from effnet_cli.images.finder import Finder
from effnet_cli.output.summary import RunSummary


def test_summary_counts_everything() -> None:
    tally = RunSummary()
    for _ in range(5):
        tally.add(None, ["cat"])
    for _ in range(2):
        tally.add("truncated")
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
