"""Metrics of models that give an image several labels, equal to scikit-learn's.

They avoid scikit-learn, whose import would take a second at the start of every training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from effnet_cli.evaluate.records import LabelMetrics, LabelRow
from effnet_cli.models.label_scores import LabelScores, sigmoid

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]

# Of the fit of each label's probability, which converges in about ten steps.
NEWTON_STEPS, MAX_HALVINGS, RIDGE, TOLERANCE = 50, 30, 1e-9, 1e-10
MIN_LABEL_SCALE = 1e-3
MIN_POSITIVES = 3  # images with a label (and without it) to fit its probability and threshold
USUAL_THRESHOLD = 0.5


def label_loss(logits: Floats, targets: Flags) -> float:
    """Return the mean binary cross-entropy of logits [N,C] for `targets` [N,C]."""
    values = np.asarray(logits, np.float64)
    return float((np.logaddexp(0, values) - values * targets).mean())


def fit_label_scores(logits: Floats, targets: Flags) -> LabelScores:
    """Fit the probability of each label (Platt 1999), and the threshold with the best F1."""
    pairs = [
        _fit_scale(logits[:, c].astype(np.float64), targets[:, c]) for c in range(targets.shape[1])
    ]
    scales, biases = zip(*pairs, strict=True)
    scores = LabelScores(scales, biases, thresholds=(USUAL_THRESHOLD,) * len(scales))
    probabilities = scores.to_probabilities(logits)
    thresholds = [fit_threshold(probabilities[:, c], targets[:, c]) for c in range(len(scales))]
    return LabelScores(scales, biases, tuple(thresholds))


def _fit_scale(logits: npt.NDArray[np.float64], is_positive: Flags) -> tuple[float, float]:
    """Return the scale and bias of a label: Newton's method with halved steps on the log loss."""
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if min(positives, negatives) < MIN_POSITIVES:
        return 1.0, 0.0
    # Platt's targets: a label without mistakes would have an infinite scale
    wanted = np.where(is_positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    inputs = np.stack([logits, np.ones_like(logits)])
    found = np.array([1.0, 0.0])
    loss = _platt_loss(found @ inputs, wanted)
    for _ in range(NEWTON_STEPS):
        shares = sigmoid(found @ inputs)
        gradient = inputs @ (shares - wanted)
        hessian = (inputs * (shares * (1 - shares))) @ inputs.T + RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        for _ in range(MAX_HALVINGS):
            candidate = found - step
            if _platt_loss(candidate @ inputs, wanted) <= loss:
                break
            step = step / 2
        found, before = candidate, loss
        loss = _platt_loss(found @ inputs, wanted)
        if before - loss <= TOLERANCE * len(logits):
            break
    return max(float(found[0]), MIN_LABEL_SCALE), float(found[1])


def _platt_loss(values: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> float:
    return float((np.logaddexp(0, values) - wanted * values).sum())


def fit_threshold(probabilities: npt.NDArray[np.float64], is_positive: Flags) -> float:
    """Return the threshold with the highest F1, between two images."""
    if min(is_positive.sum(), (~is_positive).sum()) < MIN_POSITIVES:
        return USUAL_THRESHOLD
    ranked, right, last = _rank(probabilities, is_positive)
    f1 = 2 * right / (np.arange(1, len(ranked) + 1) + is_positive.sum())
    best = int(np.argmax(np.where(last, f1, -1)))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def _rank(
    probabilities: npt.NDArray[np.float64], is_positive: Flags
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp], Flags]:
    """Return the probabilities in descending order [N], how many images so far have the label, and
    which are the last of equal ones.
    """
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    return ranked, np.cumsum(is_positive[order]), np.append(ranked[1:] != ranked[:-1], True)


def average_precision(probabilities: npt.NDArray[np.float64], is_positive: Flags) -> float | None:
    """Return the average precision; `None` without images that have the label."""
    if not is_positive.any():
        return None
    _, right, last = _rank(probabilities, is_positive)
    precision = right[last] / (np.flatnonzero(last) + 1)
    recall = right[last] / is_positive.sum()
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def area_under_roc(probabilities: npt.NDArray[np.float64], is_positive: Flags) -> float | None:
    """Return the area under the ROC curve; `None` unless images have and lack the label."""
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    area = ranks[is_positive].sum() - positives * (positives + 1) / 2
    return float(area / (positives * negatives))


def compute_label_metrics(
    probabilities: npt.NDArray[np.float64],
    targets: Flags,
    failed: Flags,
    *,
    names: Sequence[str],
    thresholds: Sequence[float],
) -> LabelMetrics:
    """Compute the metrics of `probabilities` [N,C] for `targets` [N,C].

    `failed` [F,C] are the targets of images without probabilities: none of their labels counts as
    found, and average precision and AUROC leave them out.
    """
    decided = probabilities >= np.array(thresholds)
    rows = []
    for c, name in enumerate(names):
        right = int((decided[:, c] & targets[:, c]).sum())
        have, given = int(targets[:, c].sum() + failed[:, c].sum()), int(decided[:, c].sum())
        rows.append(
            LabelRow(
                name=name,
                images=have,
                predicted=given,
                right=right,
                recall=right / have if have else None,
                precision=right / given if given else None,
                f1=2 * right / (have + given) if have else None,
                average_precision=average_precision(probabilities[:, c], targets[:, c]),
                auroc=area_under_roc(probabilities[:, c], targets[:, c]),
                threshold=float(thresholds[c]),
            )
        )
    total = len(targets) + len(failed)
    found, have, given = (
        sum(getattr(row, n) for row in rows) for n in ("right", "images", "predicted")
    )
    clipped = np.clip(probabilities, 1e-12, 1 - 1e-12)
    losses = -np.where(targets, np.log(clipped), np.log1p(-clipped))
    return LabelMetrics(
        images=total,
        failed=len(failed),
        loss=float(losses.mean()) if losses.size else 0.0,
        mean_average_precision=_mean(row.average_precision for row in rows),
        macro_f1=_mean(row.f1 for row in rows),
        micro_f1=2 * found / (have + given) if have + given else 0.0,
        micro_precision=found / given if given else 0.0,
        micro_recall=found / have if have else 0.0,
        exact=float((decided == targets).all(axis=1).sum() / total),
        labels=tuple(rows),
    )


def _mean(values: Any) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
