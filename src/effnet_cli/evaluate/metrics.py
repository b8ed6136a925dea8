"""The metrics of an evaluation: their table, and how they are computed from arrays.

A new metric needs a field in `Evaluation`, a line in `run` that computes it, and a row in
`METRICS`.

`compute_metrics` avoids scikit-learn: it runs in every training, where the import would take a
second at the start, and classes without images must stay undefined.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.engines.base import Scores, ScoresAre
from effnet_cli.evaluate.records import (
    CalibrationBin,
    ClassMetrics,
    Evaluation,
    Interval,
    LabelEvaluation,
    Metrics,
)

Labels = npt.NDArray[np.integer]
Probabilities = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

CONFIDENCE, GROUP_RESAMPLES = 0.95, 2000
CONFIDENCE_Z = 1.959964  # 95 % of a normal distribution is within this many standard deviations
CALIBRATION_BINS = 15  # Guo et al. 2017, arXiv 1706.04599
FITTED_TEMPERATURES = 0.05, 20.0  # lowest and highest
TEMPERATURE_STEPS = 40  # of the golden-section search; each narrows the range to 0.62 of its width
TEMPERATURE_PRIOR = 0.5  # standard deviation of the log temperature
GOLDEN = (math.sqrt(5) - 1) / 2
MIN_THRESHOLD_PREDICTIONS = 50
AUTO_PRECISION = 0.95  # of validation predictions at or above the threshold of --unknown-below auto


@dataclass(frozen=True, slots=True)
class Metric:
    """The field `name` of `Evaluation`; `format` is a format specification.

    `can_limit` says whether --fail-under accepts it: it must be a share (0..1) where higher is
    better. `needs` says what data it requires; without that, it is `None`.
    """

    name: str
    label: str
    format: str
    can_limit: bool = False
    needs: str = ""


METRICS = (
    Metric("top1", "Top-1 accuracy", ".1%", can_limit=True),
    Metric("top5", "Top-5 accuracy", ".1%", can_limit=True),
    Metric("balanced_accuracy", "Balanced accuracy", ".1%", can_limit=True),
    Metric("macro_f1", "Macro F1", ".3f", can_limit=True),
    Metric("auroc", "AUROC", ".3f", can_limit=True, needs="two classes, both with images"),
    Metric("loss", "Log loss", ".3f"),
    Metric("ece", "Expected calibration error", ".1%"),
)
# Of models that give an image several labels.
LABEL_METRICS = (
    Metric("mean_average_precision", "Mean average precision", ".1%", can_limit=True),
    Metric("macro_f1", "Macro F1", ".3f", can_limit=True),
    Metric("micro_f1", "Micro F1", ".3f", can_limit=True),
    Metric("micro_precision", "Micro precision", ".1%", can_limit=True),
    Metric("micro_recall", "Micro recall", ".1%", can_limit=True),
    Metric("exact", "All labels right", ".1%", can_limit=True),
    Metric("loss", "Log loss of a label", ".3f"),
)
LIMITS = {metric.name: metric for metric in (*LABEL_METRICS, *METRICS) if metric.can_limit}


def check_limits(
    evaluation: Evaluation | LabelEvaluation, limits: Mapping[str, float]
) -> Iterator[str]:
    """Yield a message for each limit that is not met: `top1 is 0.8000, below 0.9`."""
    for name, limit in limits.items():
        value = getattr(evaluation, name, None)
        if not hasattr(evaluation, name):
            yield f"{name} is not a figure of this kind of model"
        elif value is None:
            yield f"{name} requires {LIMITS[name].needs}"
        elif value < limit:
            yield f"{name} is {value:.4f}, below {limit:g}"


def compute_metrics(
    scores: Scores,
    labels: Labels,
    failed: Labels,
    *,
    names: Sequence[str],
    scores_are: ScoresAre = "logits",
) -> Metrics:
    """Compute the metrics of `scores` [N,C] for `labels` [N].

    `failed` [F] holds the labels of images without scores; N + F must be positive.
    """
    num_classes, total = len(names), len(labels) + len(failed)
    predictions = scores.argmax(axis=1)
    right = np.bincount(labels[predictions == labels], minlength=num_classes)
    images = np.bincount(np.concatenate([labels, failed]), minlength=num_classes)
    predicted = np.bincount(predictions, minlength=num_classes)
    classes = tuple(
        ClassMetrics(
            name=name,
            images=n,
            recall=hits / n if n else None,
            precision=hits / guesses if guesses else None,
            f1=2 * hits / (n + guesses) if n else None,
        )
        for name, n, hits, guesses in zip(
            names, images.tolist(), right.tolist(), predicted.tolist(), strict=True
        )
    )
    return Metrics(
        images=total,
        failed=len(failed),
        loss=float(_losses(scores, labels, scores_are).mean()) if len(labels) else 0.0,
        top1=float(right.sum() / total),
        balanced_accuracy=_mean([row.recall for row in classes]),
        macro_f1=_mean([row.f1 for row in classes]),
        classes=classes,
    )


def mean_loss(logits: Scores, labels: Labels) -> float:
    """Return the mean cross-entropy of `logits` [N,C] for `labels` [N]."""
    return float(_losses(logits, labels, "logits").mean())


def _losses(
    scores: npt.NDArray[np.floating], labels: Labels, scores_are: ScoresAre
) -> npt.NDArray[np.float64]:
    """Return the cross-entropy of each row [N]; scikit-learn's would be clipped at 36."""
    values, own = np.asarray(scores, np.float64), (np.arange(len(labels)), labels)
    if scores_are == "probabilities":  # those too small for float32 are 0
        return -np.log(np.maximum(values[own], np.finfo(np.float32).tiny))
    shifted = values - values.max(axis=1, keepdims=True)
    losses: npt.NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1)) - shifted[own]
    return losses


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


# --- intervals and calibration ------------------------------------------------------------------


def share_interval(right: int, total: int) -> Interval:
    """Return the 95 % interval of the share `right / total` (Wilson 1927)."""
    z, share = CONFIDENCE_Z, right / total
    centre = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    scale = 1 + z**2 / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def group_interval(values: npt.NDArray[np.float64], groups: Labels) -> Interval:
    """Return the 95 % interval of the mean of `values` [N], bootstrapped over `groups` [N]: images
    of one patient say less than as many of different ones. An image without a group (-1) is one.
    """
    own = np.where(groups < 0, groups.max(initial=0) + 1 + np.arange(len(groups)), groups)
    numbers = np.unique(own, return_inverse=True)[1]
    sizes, sums = np.bincount(numbers), np.bincount(numbers, weights=values)
    generator, count = np.random.default_rng(0), len(sizes)
    drawn = (generator.integers(count, size=count) for _ in range(GROUP_RESAMPLES))
    means = [sums[chosen].sum() / sizes[chosen].sum() for chosen in drawn]
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def flags_interval(flags: Flags, groups: Labels) -> Interval:
    """Return the 95 % interval of the share of true `flags` [N] of images in `groups` [N]."""
    if (groups < 0).all():
        return share_interval(int(flags.sum()), len(flags))
    return group_interval(flags.astype(np.float64), groups)


def paired_difference(one: Flags, other: Flags, groups: Labels) -> tuple[float, Interval]:
    """Return the accuracy of `one` minus that of `other` on the same images [N], and the 95 %
    interval of this difference (normal approximation for matched pairs, or over `groups` [N]).
    """
    gains = one.astype(np.float64) - other.astype(np.float64)
    if (groups >= 0).any():
        return float(gains.mean()), group_interval(gains, groups)
    difference, half = float(gains.mean()), CONFIDENCE_Z * float(gains.std() / len(gains) ** 0.5)
    return difference, (difference - half, difference + half)


def is_among_top(scores: Scores, labels: Labels, k: int) -> Flags:
    """Return whether the label of each row of `scores` [N,C] is among its `k` highest scores.

    Equal scores rank in class order, as in `predict`; scikit-learn ranks them differently.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    is_before = np.arange(scores.shape[1]) < labels[:, None]
    better = (scores > own) | ((scores == own) & is_before)
    result: Flags = better.sum(axis=1) < k
    return result


def calibrate(confidences: Probabilities, right: Flags) -> tuple[float, tuple[CalibrationBin, ...]]:
    """Return the expected calibration error and its equal-width bins.

    The error is the mean gap between confidence and accuracy over the bins, weighted by images.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    places = np.clip(np.digitize(confidences, edges[1:-1], right=True), 0, CALIBRATION_BINS - 1)
    bins, error = [], 0.0
    for place, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
        inside = places == place
        count, confidence, accuracy = int(inside.sum()), None, None
        if count:
            confidence, accuracy = float(confidences[inside].mean()), float(right[inside].mean())
            error += count / len(right) * abs(confidence - accuracy)
        bins.append(CalibrationBin(low, high, count, confidence=confidence, accuracy=accuracy))
    return error, tuple(bins)


def fit_temperature(logits: Scores, labels: Labels) -> float:
    """Find the temperature with the lowest cross-entropy (Guo et al. 2017, arXiv 1706.04599) by
    golden-section search.

    A prior (normal on the logarithm, mean 0) dominates when there are few images. Without it, a
    handful of correct predictions would make every later prediction certain.
    """
    scaled = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        entropy = float(_losses(scaled / math.exp(log_temperature), labels, "logits").sum())
        return entropy + 0.5 * (log_temperature / TEMPERATURE_PRIOR) ** 2

    low, high = map(math.log, FITTED_TEMPERATURES)
    for _ in range(TEMPERATURE_STEPS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def fit_unknown_threshold(confidences: Probabilities, right: Flags) -> float | None:
    """Find the lowest threshold of the top probability at which at least `AUTO_PRECISION` of the
    predictions at or above it are right; `None` if there is none.

    At least `MIN_THRESHOLD_PREDICTIONS` must be at or above it: of a few lucky ones, all are right
    even if the labels are random.
    """
    order = np.argsort(-confidences, kind="stable")
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    descending = confidences[order]
    is_last = np.append(descending[1:] != descending[:-1], True)  # of equal confidences
    is_enough = np.arange(1, len(order) + 1) >= MIN_THRESHOLD_PREDICTIONS
    passing = np.flatnonzero((precision >= AUTO_PRECISION) & is_last & is_enough)
    return float(descending[passing[-1]]) if len(passing) else None
