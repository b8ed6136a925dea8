"""How good answers are: the one place where accuracy, recall, precision, F1 and calibration are
counted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class: its images, and its recall, precision and F1 (0..1).

    `None` where there is nothing to divide by: no images (recall, F1), no such answer
    (precision).
    """

    name: str
    images: int
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Answers against labels; shares are 0..1.

    `loss` is the mean cross-entropy (natural logarithm) of the images that could be opened.
    `top1` counts those that could not (`failed`) as wrong. `balanced_accuracy` is the mean of the
    recalls and `macro_f1` that of the F1 scores, over the classes that have images.
    """

    images: int
    failed: int
    loss: float
    top1: float
    balanced_accuracy: float
    macro_f1: float
    classes: tuple[ClassMetrics, ...]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Metrics":
        """What `dataclasses.asdict` made of some metrics."""
        classes = tuple(ClassMetrics(**row) for row in content["classes"])
        return cls(**{**content, "classes": classes})


def compute_metrics(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    failed: npt.NDArray[np.int32],
    names: Sequence[str],
) -> Metrics:
    """The metrics of `logits` [N,C] for `labels` [N]; `failed` [F] are the labels of images that
    have no answer. There is at least one image.
    """
    num_classes = len(names)
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(axis=1, keepdims=True, initial=-np.inf) if scaled.size else 0
    log_sums = np.log(np.exp(scaled).sum(axis=1))
    losses = log_sums - scaled[np.arange(len(labels)), labels]
    answers = logits.argmax(axis=1) if len(logits) else np.empty(0, dtype=np.intp)
    right = np.bincount(labels[answers == labels], minlength=num_classes)
    images = np.bincount(np.concatenate([labels, failed]), minlength=num_classes)
    answered = np.bincount(answers, minlength=num_classes)
    classes = tuple(
        _class_metrics(name, int(n), int(r), int(a))
        for name, n, r, a in zip(names, images, right, answered, strict=True)
    )
    total = len(labels) + len(failed)
    return Metrics(
        images=total,
        failed=len(failed),
        loss=float(losses.mean()) if len(losses) else 0.0,
        top1=float(right.sum() / total),
        balanced_accuracy=_mean([c.recall for c in classes]),
        macro_f1=_mean([c.f1 for c in classes]),
        classes=classes,
    )


def _class_metrics(name: str, images: int, right: int, answered: int) -> ClassMetrics:
    return ClassMetrics(
        name,
        images,
        recall=right / images if images else None,
        precision=right / answered if answered else None,
        f1=2 * right / (images + answered) if images else None,
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


# --- certainty ----------------------------------------------------------------------------------

CONFIDENCE_Z = 1.959964  # standard deviations that hold 95 % of a normal distribution
CALIBRATION_BINS = 15  # Guo et al. 2017, arXiv 1706.04599


@dataclass(frozen=True, slots=True)
class Bin:
    """Images whose top probability lies from `low` to `high`: how many, its mean there, and the
    share of right answers; `None` where there are no images.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


def share_interval(right: int, total: int) -> tuple[float, float]:
    """Where the true share is with 95 % confidence, by `right` of `total` (Wilson 1927)."""
    z, share = CONFIDENCE_Z, right / total
    centre = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    low, high = (centre - half) / (1 + z**2 / total), (centre + half) / (1 + z**2 / total)
    return max(0.0, low), min(1.0, high)


def paired_difference(
    one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]
) -> tuple[float, tuple[float, float]]:
    """The share of right answers of `one` less that of `other` on the same images [N], and its
    95 % interval (normal approximation for matched pairs).
    """
    gains = one.astype(np.float64) - other.astype(np.float64)
    difference, half = float(gains.mean()), CONFIDENCE_Z * float(gains.std() / len(gains) ** 0.5)
    return difference, (difference - half, difference + half)


def is_among_top(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.intp], k: int
) -> npt.NDArray[np.bool_]:
    """Whether the label of each row of `logits` [N,C] is among its `k` best; of equal ones the
    first is the better, as in `predict`.
    """
    mine = logits[np.arange(len(labels)), labels][:, None]
    is_before = np.arange(logits.shape[1]) < labels[:, None]
    better = (logits > mine) | ((logits == mine) & is_before)
    result: npt.NDArray[np.bool_] = better.sum(axis=1) < k
    return result


def calibration(
    confidences: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> tuple[float, tuple[Bin, ...]]:
    """The expected calibration error, 0..1, and the bins of equal width that it is the mean of:
    how far confidence and accuracy lie apart, weighted by images.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    places = np.clip(np.digitize(confidences, edges[1:-1], right=True), 0, CALIBRATION_BINS - 1)
    bins, error = [], 0.0
    for place in range(CALIBRATION_BINS):
        inside = places == place
        count = int(inside.sum())
        confidence = float(confidences[inside].mean()) if count else None
        accuracy = float(right[inside].mean()) if count else None
        if confidence is not None and accuracy is not None:
            error += count / len(right) * abs(confidence - accuracy)
        bins.append(Bin(float(edges[place]), float(edges[place + 1]), count, confidence, accuracy))
    return error, tuple(bins)


def area_under_roc(scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    """The chance that a positive image has a higher score than a negative one, equal scores
    counting half (Mann and Whitney 1947); there is at least one of each.
    """
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    above = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def confusion(
    labels: npt.NDArray[np.intp], answers: npt.NDArray[np.intp], num_classes: int
) -> npt.NDArray[np.intp]:
    """How often class `i` was answered with `j`, [C,C]."""
    places = labels * num_classes + answers
    counts = np.bincount(places, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


# --- temperature --------------------------------------------------------------------------------

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
TEMPERATURE_STEPS = 40  # of a golden-section search; each narrows it to 0.62
TEMPERATURE_PRIOR = 0.5  # standard deviation of its logarithm
GOLDEN = (math.sqrt(5) - 1) / 2
AUTO_PRECISION = 0.95  # that answers above the threshold had on validation


def fit_temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> float:
    """The temperature with the least cross-entropy (Guo et al. 2017, arXiv 1706.04599).

    A prior (normal on the logarithm, about 1) decides where images are few: a handful that are
    all right would else make every later answer certain. It is searched for by golden section.
    """
    scaled, rows = logits.astype(np.float64), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        values = scaled / math.exp(log_temperature)
        values -= values.max(axis=1, keepdims=True)
        entropy = float((np.log(np.exp(values).sum(axis=1)) - values[rows, labels]).sum())
        return entropy + 0.5 * (log_temperature / TEMPERATURE_PRIOR) ** 2

    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(TEMPERATURE_STEPS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def fit_unknown_threshold(
    confidences: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> float | None:
    """The least top probability from which on `AUTO_PRECISION` of the answers are right; `None` if
    there is none.
    """
    order = np.argsort(-confidences, kind="stable")
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # equal confidences stand or fall together
    sorted_confidences = confidences[order]
    is_last = np.append(sorted_confidences[1:] != sorted_confidences[:-1], True)
    held = np.flatnonzero((precision >= AUTO_PRECISION) & is_last)
    return float(sorted_confidences[held[-1]]) if len(held) else None
