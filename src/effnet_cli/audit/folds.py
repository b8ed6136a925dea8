"""Classify each image by a classifier that was trained on the other folds, so not on the image."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from effnet_cli.audit.measure import Floats, Indexes, Looks
from effnet_cli.datasets.checks import CheckedFiles
from effnet_cli.datasets.groups import NO_GROUP
from effnet_cli.datasets.split import assign_folds
from effnet_cli.options import AuditOptions
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import Reporter

Probabilities = npt.NDArray[np.float64]

# Distinct images, near copies counting as one: with fewer, a class is mostly unknown to the
# classifier of a fold, and each of its labels would look wrong.
MIN_CLASS_IMAGES = 5
# Of standardised features. Between 1/60 and 1/600, this found most planted label errors in images
# of ten classes (benchmarks/audit.py).
REGULARISATION = 1 / 200
MAX_STEPS = 100  # of L-BFGS
TREES, MIN_LEAF = 100, 3


@dataclass(frozen=True, slots=True)
class FoldedImages:
    """The images that can be classified: those of classes with enough of them.

    `rows` [N] are their indexes in the looks, `classes` [C] indexes of the dataset's classes, and
    `labels` [N] indexes of `classes`. `folds` [N] keeps near copies together. `skipped` are the
    classes that have images, but too few.
    """

    rows: Indexes
    classes: Indexes
    labels: Indexes
    folds: Indexes
    num_folds: int
    skipped: Indexes

    def predict(
        self, new_model: Callable[[], Any], inputs: Floats, *, what: str, reporter: Reporter
    ) -> Probabilities:
        """Return the probabilities [N,C] of models that are trained on `inputs` [N,D]."""
        result = np.zeros((len(self.rows), len(self.classes)))
        for fold in range(self.num_folds):
            reporter.progress(what, fold, self.num_folds, unit="steps")
            is_held = self.folds == fold
            if is_held.any():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about the limit of the steps
                    model = new_model().fit(inputs[~is_held], self.labels[~is_held])
                columns = model.classes_
                result[np.ix_(is_held, columns)] = model.predict_proba(inputs[is_held])
        reporter.progress(what, self.num_folds, self.num_folds, unit="steps")
        return result

    def accuracies(self, probabilities: Probabilities) -> Probabilities:
        """Return the share of the images of each class [C] that are recognised."""
        is_right = probabilities.argmax(axis=1) == self.labels
        right = np.bincount(self.labels[is_right], minlength=len(self.classes))
        shares: Probabilities = right / np.bincount(self.labels, minlength=len(self.classes))
        return shares


def fold_images(data: CheckedFiles, looks: Looks, options: AuditOptions) -> FoldedImages | None:
    """Assign folds; `None` if fewer than two classes have enough images."""
    labels = data.listing.labels[looks.files].astype(np.intp)
    groups = data.join_given_groups(data.group_near_duplicates())[data.contents[looks.files]]
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    pairs = np.unique(np.stack([group, labels]), axis=1)  # the classes of each group
    counts = np.bincount(pairs[1], minlength=len(data.listing.classes))
    classes = np.flatnonzero(counts >= MIN_CLASS_IMAGES)
    if len(classes) < 2:
        return None
    one_of_each = labels[first].astype(np.int32)
    none = np.full(len(first), NO_GROUP, dtype=np.int32)
    folds = assign_folds(one_of_each, none, options.folds, seed=options.seed)[group]
    rows = np.flatnonzero(np.isin(labels, classes))
    return FoldedImages(
        rows=rows,
        classes=classes,
        labels=np.searchsorted(classes, labels[rows]),
        folds=folds[rows],
        num_folds=options.folds,
        skipped=np.flatnonzero((counts > 0) & (counts < MIN_CLASS_IMAGES)),
    )


def new_linear_head() -> Any:
    """Return a linear classifier of standardised features."""
    linear = import_module("sklearn.linear_model")  # importing takes a second
    return linear.LogisticRegression(C=REGULARISATION, max_iter=MAX_STEPS)


def new_forest() -> Any:
    """Return a random forest, in which all classes weigh the same."""
    return import_module("sklearn.ensemble").RandomForestClassifier(
        TREES,
        min_samples_leaf=MIN_LEAF,
        class_weight="balanced",
        random_state=0,
        n_jobs=usable_cores(),
    )


def standardise(values: Floats) -> Floats:
    """Return the columns of `values` [N,D] with mean 0 and standard deviation 1."""
    spread = values.std(axis=0)
    result: Floats = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return result
