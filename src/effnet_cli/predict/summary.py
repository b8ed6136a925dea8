"""The closing summary of `effnet predict`."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator

from effnet_cli.images.finder import Finder
from effnet_cli.predict.records import ImageResult
from effnet_cli.system.text import pluralize

FREQUENT_CLASSES = 3  # in the closing summary


class RunSummary:
    """Counts rows as they pass, for the closing summary and the exit status; the first `earlier`
    are those of an interrupted run.
    """

    def __init__(self, earlier: int = 0) -> None:
        self.earlier = earlier
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self._classes: Counter[str] = Counter()
        self._started = time.perf_counter()

    def count(self, predictions: Iterable[ImageResult]) -> Iterator[ImageResult]:
        """The same rows, counted."""
        for prediction in predictions:
            if prediction.error is not None:
                self.failed[prediction.error.kind] += 1
            else:
                self.answered += 1
                self._classes[prediction.predictions[0].label] += 1
            yield prediction

    def summary(self, finder: Finder) -> str:
        """What was done, in words: images, rate, failures by kind, frequent classes, what was
        left out.
        """
        seconds = time.perf_counter() - self._started
        total = self.answered + self.failed.total()
        parts = [f"{pluralize(total, 'image')} in {seconds:.1f} s"]
        if self.earlier:
            parts[0] += f", {self.earlier:,} of them earlier"
        elif self.answered:
            parts[0] += f" ({self.answered / seconds:.1f} images/s)"
        if self.failed:
            kinds = ", ".join(f"{number} {kind}" for kind, number in self.failed.most_common())
            parts.append(f"{self.failed.total()} failed: {kinds}")
        if self.answered > FREQUENT_CLASSES:
            frequent = ", ".join(
                f"{label} {n}" for label, n in self._classes.most_common(FREQUENT_CLASSES)
            )
            parts.append(f"most frequent: {frequent}")
        if finder.not_images:
            parts.append(f"{pluralize(finder.not_images, 'file')} left out for not being an image")
        if finder.duplicate_links:
            links = pluralize(finder.duplicate_links, "link")
            parts.append(f"{links} left out whose image is listed already")
        return "; ".join(parts)
