"""ROC and precision-recall curves of each class against all others."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from effnet_cli.evaluate.metrics import Flags, Probabilities
from effnet_cli.evaluate.predictions import Predictions
from effnet_cli.evaluate.records import ClassRanking

MAX_CURVE_CLASSES = 40  # with more classes, only the areas under the curves are kept
# The curves are thinned: no point that is left out is farther than this from the line that is
# drawn instead, a pixel of a chart that is 500 px wide.
CURVE_TOLERANCE = 0.002
CURVE_DIGITS = 4

Points = npt.NDArray[np.float64]  # [N,2]


def rank_classes(predictions: Predictions) -> Iterator[ClassRanking]:
    """Yield the ranking of each class of the model, in their order."""
    p = predictions
    present = np.unique(p.labels)
    has_curves = len(present) <= MAX_CURVE_CLASSES
    for index, name in enumerate(p.classes):
        if index not in present or len(present) < 2:
            yield ClassRanking(name)
        else:
            own = p.probabilities[:, index]
            yield rank_class(name, p.labels == index, own, has_curves=has_curves)


def rank_class(
    name: str, is_positive: Flags, probabilities: Probabilities, *, has_curves: bool = True
) -> ClassRanking:
    """Measure how well `probabilities` [N] rank the positive images, of which there are some, above
    the others, of which there are some, too.
    """
    library: Any = import_module("sklearn.metrics")  # importing takes a second
    auroc = float(library.roc_auc_score(is_positive, probabilities))
    average = float(library.average_precision_score(is_positive, probabilities))
    if not has_curves:
        return ClassRanking(name, auroc, average_precision=average)
    wrong, right, _ = library.roc_curve(is_positive, probabilities)
    precision, recall, _ = library.precision_recall_curve(
        is_positive, probabilities, drop_intermediate=True
    )
    # the average precision is the area under steps: each precision holds down to the next recall
    steps = np.column_stack([np.repeat(recall, 2)[1:], np.repeat(precision, 2)[:-1]])[::-1]
    return ClassRanking(
        name,
        auroc,
        average_precision=average,
        roc=_as_pairs(thin(np.column_stack([wrong, right]))),
        precision_recall=_as_pairs(thin(steps)),
    )


def _as_pairs(points: Points) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in np.round(points, CURVE_DIGITS).tolist())


def thin(points: Points, tolerance: float = CURVE_TOLERANCE) -> Points:
    """Leave out points [N,2] that are within `tolerance` of the line between two that are kept
    (Douglas and Peucker 1973).
    """
    is_kept = np.zeros(len(points), dtype=np.bool_)
    is_kept[[0, -1]] = True
    spans = [(0, len(points) - 1)]
    while spans:
        start, end = spans.pop()
        if end - start < 2:
            continue
        distances = _distances(points[start + 1 : end], points[start], points[end])
        middle = start + 1 + int(distances.argmax())
        if distances.max() > tolerance:
            is_kept[middle] = True
            spans += [(start, middle), (middle, end)]
    kept: Points = points[is_kept]
    return kept


def _distances(points: Points, start: Points, end: Points) -> npt.NDArray[np.float64]:
    """Return the distance of each of `points` [N,2] from the line between two others."""
    line = end - start
    length_squared = max(float(line @ line), np.finfo(np.float64).tiny)
    along = np.clip((points - start) @ line / length_squared, 0, 1)
    distances: npt.NDArray[np.float64] = np.hypot(*(points - start - along[:, None] * line).T)
    return distances
