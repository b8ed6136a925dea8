"""The closing summary of a run."""

import time
from collections import Counter
from collections.abc import Iterable

from effnet_cli.images.finder import Finder
from effnet_cli.system.text import pluralize

FREQUENT_CLASSES = 3


class RunSummary:
    """Counts results; the first `earlier` of them come from an interrupted run."""

    def __init__(self, earlier: int = 0) -> None:
        self.earlier, self.succeeded = earlier, 0
        self.failed: Counter[str] = Counter()  # by the kind of error
        self._classes: Counter[str] = Counter()
        self._started = time.perf_counter()

    def add(self, error_kind: str | None, labels: Iterable[str] = ()) -> None:
        """Count an image that failed, or one with these labels."""
        if error_kind is not None:
            self.failed[error_kind] += 1
        else:
            self.succeeded += 1
            self._classes.update(labels)

    def describe(self, finder: Finder) -> str:
        """Return one line: images, rate, failures by kind, frequent classes and skipped files."""
        seconds = time.perf_counter() - self._started
        total = self.succeeded + self.failed.total()
        rate = f" ({self.succeeded / seconds:.1f} images/s)" if self.succeeded else ""
        if self.earlier:
            rate = f", {self.earlier:,} of them from the interrupted run"
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.failed.most_common())
        frequent = self._classes.most_common(FREQUENT_CLASSES)
        classes = ", ".join(f"{label} {number}" for label, number in frequent)
        files = pluralize(finder.not_images, "non-image file")
        links = pluralize(finder.duplicate_links, "duplicate link")
        parts = [
            f"{pluralize(total, 'image')} in {seconds:.1f} s{rate}",
            f"{self.failed.total()} failed: {kinds}" if kinds else "",
            f"most frequent: {classes}" if classes and self.succeeded > FREQUENT_CLASSES else "",
            f"skipped {files}" if finder.not_images else "",
            f"skipped {links}" if finder.duplicate_links else "",
        ]
        return "; ".join(filter(None, parts))
