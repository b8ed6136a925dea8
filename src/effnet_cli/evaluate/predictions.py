"""Classify labelled images, and find the predictions that are worth a look."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.label_errors import find_label_errors
from effnet_cli.engines.base import Scores, to_probabilities
from effnet_cli.evaluate.metrics import Flags, Labels, Probabilities
from effnet_cli.evaluate.records import ConfusedPair, FailedImage, LabelledPrediction
from effnet_cli.images.finder import ImageInput
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.reporter import Reporter
from effnet_cli.system.text import pluralize

MAX_CONFUSED_PAIRS = 50
MAX_MISTAKES = 100
MAX_LABEL_ERRORS = 100


@dataclass(frozen=True, slots=True)
class Predictions:
    """A model's predictions for N images, of which M could be opened: those at `places` [M].

    `all_labels` [N], `labels` [M] and `predicted` [M] are indexes into `classes`, or -1 for a class
    that the model lacks. `scores` and `probabilities` are [M,C]. `groups` [N] are numbers of the
    groups of images, -1 for none.
    """

    paths: Sequence[str]
    all_labels: Labels
    classes: tuple[str, ...]
    places: npt.NDArray[np.intp]
    labels: Labels
    predicted: npt.NDArray[np.intp]
    scores: Scores
    probabilities: Probabilities
    errors: Mapping[int, ImageError]
    groups: Labels

    @property
    def failed_labels(self) -> Labels:
        """The labels of the images that could not be opened."""
        return np.delete(self.all_labels, self.places)

    @property
    def is_right(self) -> Flags:
        """Whether each of the N images is predicted as labelled; false if it cannot be opened."""
        result = np.zeros(len(self.all_labels), dtype=np.bool_)
        result[self.places] = self.predicted == self.labels
        return result

    def failures(self) -> Iterator[FailedImage]:
        """Yield the images that could not be opened."""
        for place, error in sorted(self.errors.items()):
            label = self.classes[self.all_labels[place]]
            yield FailedImage(self.paths[place], label, kind=error.kind, message=str(error))

    def confused_pairs(self) -> Iterator[ConfusedPair]:
        """Yield the most frequent mistakes; equally frequent ones in class order."""
        wrong = self.predicted != self.labels
        cells = np.column_stack([self.labels, self.predicted])[wrong].tolist()
        pairs = Counter(sorted(map(tuple, cells))).most_common(MAX_CONFUSED_PAIRS)
        for (label, prediction), images in pairs:
            yield ConfusedPair(self.classes[label], self.classes[prediction], images)

    def mistakes(self) -> Iterator[LabelledPrediction]:
        """Return the wrong predictions, most confident first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        order = np.argsort(-self.probabilities[wrong].max(axis=1), kind="stable")
        return map(self._record, wrong[order[:MAX_MISTAKES]])

    def label_errors(
        self, limit: int | None = MAX_LABEL_ERRORS
    ) -> tuple[LabelledPrediction, ...] | None:
        """Return the images whose label is likely wrong, most likely first, or `None` without
        cleanlab.
        """
        present, own = np.unique(self.labels, return_inverse=True)
        shares = self.probabilities[:, present]
        shares = shares / shares.sum(axis=1, keepdims=True)
        found = find_label_errors(own, shares)
        return None if found is None else tuple(map(self._record, found[:limit]))

    def _record(self, index: int) -> LabelledPrediction:
        label, predicted = self.labels[index], self.predicted[index]
        return LabelledPrediction(
            path=self.paths[int(self.places[index])],
            label=self.classes[label],
            prediction=self.classes[predicted],
            probability=float(self.probabilities[index, predicted]),
            label_probability=float(self.probabilities[index, label]),
        )


def predict_labelled(
    classifier: Classifier,
    paths: Sequence[str],
    labels: Labels,
    *,
    groups: Labels,
    what: str,
    reporter: Reporter,
) -> Predictions:
    """Classify the images at `paths`, which have the `labels` [N] and are in `groups` [N]; raise
    UsageError if none can be opened. `what` names the work in the progress bar.
    """
    rows: list[Scores] = []
    places, errors = score_images(classifier, paths, rows.append, what=what, reporter=reporter)
    scores = np.stack(rows)
    card = classifier.card
    return Predictions(
        paths=paths,
        all_labels=labels,
        classes=card.classes,
        places=places,
        labels=labels[places],
        predicted=scores.argmax(axis=1),
        scores=scores,
        probabilities=to_probabilities(scores, classifier.scores_are, card.temperature),
        errors=errors,
        groups=groups,
    )


def score_images(
    classifier: Classifier,
    paths: Sequence[str],
    take: Callable[[Scores], object],
    *,
    what: str,
    reporter: Reporter,
) -> tuple[npt.NDArray[np.intp], dict[int, ImageError]]:
    """Pass the scores of each image that can be opened to `take`; return the places of these images
    and the errors of the others. Raise UsageError if none can be opened.
    """
    total = len(paths)
    errors: dict[int, ImageError] = {}
    for place, row in enumerate(classifier.scores(ImageInput(p, p) for p in paths)):
        if isinstance(row, ImageError):
            errors[place] = row
        else:
            take(row)
        reporter.progress(what, place + 1, total)
    if len(errors) == total:
        raise UsageError(
            f"No image can be opened ({pluralize(total, 'image')} tried).",
            "Choose different images.",
        )
    return np.delete(np.arange(total), list(errors)), errors
