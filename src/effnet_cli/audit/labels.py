"""Labels that are likely wrong, classes that look alike, and borders that give the class away."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from effnet_cli.audit.copies import locate
from effnet_cli.audit.folds import (
    FoldedImages,
    Probabilities,
    fold_images,
    new_forest,
    new_linear_head,
    standardise,
)
from effnet_cli.audit.measure import Indexes, Looks
from effnet_cli.audit.records import BorderCheck, Problem, SimilarClasses
from effnet_cli.datasets.checks import CheckedFiles
from effnet_cli.datasets.label_errors import find_label_errors
from effnet_cli.options import AuditOptions
from effnet_cli.system.reporter import Reporter

MIN_CONFIDENCE = 0.5  # of another label, to propose it
MIN_CONFUSED = 0.2  # of the images of each of two classes
MIN_CONFUSED_IMAGES = 3
MIN_BORDER_IMAGES = 100  # fewer images say little about an accuracy
MIN_WHOLE_GAIN = 0.2  # of the whole image over chance; with less, nothing is recognised anyway
SUSPICIOUS_SHARE = 0.5  # of what the whole image adds to chance


@dataclass(frozen=True, slots=True)
class LabelCheck:
    """The images whose labels can be checked, and what was predicted for them.

    `likely_wrong` are indexes of `images`, the lowest probability of the label first.
    """

    images: FoldedImages
    probabilities: Probabilities
    likely_wrong: Indexes
    border: BorderCheck | None

    @property
    def accuracy(self) -> float:
        """The mean over the classes of the share of images that are recognised."""
        return float(self.images.accuracies(self.probabilities).mean())

    def class_accuracies(self) -> dict[int, float]:
        """Return the share of images that are recognised, by the index of their class."""
        shares = self.images.accuracies(self.probabilities)
        return dict(zip(self.images.classes.tolist(), shares.tolist(), strict=True))


def check_labels(
    data: CheckedFiles, looks: Looks, options: AuditOptions, *, reporter: Reporter
) -> LabelCheck | None:
    """Classify the images out of fold; `None` if fewer than two classes have enough images."""
    images = fold_images(data, looks, options)
    if images is None:
        return None
    inputs = standardise(looks.features[images.rows])
    probabilities = images.predict(
        new_linear_head, inputs, what="Checking labels", reporter=reporter
    )
    return LabelCheck(
        images,
        probabilities,
        likely_wrong=_rank_labels(images.labels, probabilities),
        border=_check_borders(looks, images, probabilities, reporter=reporter),
    )


def _rank_labels(labels: Indexes, probabilities: Probabilities) -> Indexes:
    """Return as many images as cleanlab expects to have a wrong label, those whose label has the
    lowest probability; without cleanlab, all that are predicted otherwise.
    """
    found = find_label_errors(labels, probabilities, "low_self_confidence")
    if found is not None:
        return found
    own = probabilities[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(own[wrong], kind="stable")]


def label_problems(data: CheckedFiles, looks: Looks, check: LabelCheck) -> Iterator[Problem]:
    """Yield the likely wrong labels; copies of an image follow it."""
    images, probabilities = check.images, check.probabilities
    for row in check.likely_wrong.tolist():
        label, shares = images.labels[row], probabilities[row]
        own = float(shares[label])
        best = int(np.where(np.arange(len(shares)) == label, -1.0, shares).argmax())
        name = data.listing.classes[images.classes[best]]
        is_clear = shares[best] >= MIN_CONFIDENCE
        reason = f"probability of the label {own:.1%}, of {name!r} {shares[best]:.1%}"
        content = data.contents[looks.files[images.rows[row]]]
        for file in np.flatnonzero(data.contents == content).tolist():
            yield Problem(
                "wrong_label",
                0,
                **locate(data, file),
                action="relabel" if is_clear else "check",
                new_label=name,
                score=1 - own,
                reason=reason,
            )


def similar_classes(data: CheckedFiles, check: LabelCheck) -> Iterator[SimilarClasses]:
    """Yield the pairs of classes that are confused both ways, most similar first."""
    images, probabilities = check.images, check.probabilities
    counts = np.bincount(images.labels, minlength=len(images.classes))
    # [C,C]: how many images of a class have a higher probability for another than for their own
    confused = np.zeros((len(counts), len(counts)), dtype=np.intp)
    for label in range(len(counts)):
        shares = probabilities[images.labels == label]
        confused[label] = (shares > shares[:, [label]]).sum(axis=0)
    shares = confused / counts[:, None]
    enough = (shares >= MIN_CONFUSED) & (confused >= MIN_CONFUSED_IMAGES)
    pairs = np.argwhere(np.triu(enough & enough.T, 1))
    order = np.argsort(-(shares + shares.T)[tuple(pairs.T)], kind="stable")
    for first, second in pairs[order].tolist():
        one, other = data.names(images.classes[[first, second]])
        yield SimilarClasses(
            one,
            other,
            first_as_second=float(shares[first, second]),
            second_as_first=float(shares[second, first]),
        )


def _check_borders(
    looks: Looks, images: FoldedImages, probabilities: Probabilities, *, reporter: Reporter
) -> BorderCheck | None:
    """Classify the images by their borders alone; `None` if there are too few."""
    if len(images.rows) < MIN_BORDER_IMAGES:
        return None
    border = images.predict(
        new_forest, looks.border[images.rows], what="Checking borders", reporter=reporter
    )
    accuracy = float(images.accuracies(border).mean())
    whole, chance = float(images.accuracies(probabilities).mean()), 1 / len(images.classes)
    return BorderCheck(
        accuracy,
        whole_accuracy=whole,
        chance=chance,
        images=len(images.rows),
        is_suspicious=accuracy - chance > SUSPICIOUS_SHARE * max(whole - chance, MIN_WHOLE_GAIN),
    )
