"""How good answers are: the one place where accuracy, recall, precision and F1 are counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class: its pictures, and its recall, precision and F1 (0..1).

    `None` where there is nothing to divide by: no pictures (recall, F1), no such answer
    (precision).
    """

    name: str
    pictures: int
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Answers against labels; shares are 0..1.

    `loss` is the mean cross-entropy (natural logarithm) of the pictures that could be opened.
    `top1` counts those that could not (`failed`) as wrong. `balanced_accuracy` is the mean of the
    recalls and `macro_f1` that of the F1 scores, over the classes that have pictures.
    """

    pictures: int
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


def measured(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    failed: npt.NDArray[np.int32],
    names: Sequence[str],
) -> Metrics:
    """The metrics of `logits` [N,C] for `labels` [N]; `failed` [F] are the labels of pictures that
    have no answer. There is at least one picture.
    """
    num_classes = len(names)
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(axis=1, keepdims=True, initial=-np.inf) if scaled.size else 0
    log_sums = np.log(np.exp(scaled).sum(axis=1))
    losses = log_sums - scaled[np.arange(len(labels)), labels]
    answers = logits.argmax(axis=1) if len(logits) else np.empty(0, dtype=np.intp)
    right = np.bincount(labels[answers == labels], minlength=num_classes)
    pictures = np.bincount(np.concatenate([labels, failed]), minlength=num_classes)
    answered = np.bincount(answers, minlength=num_classes)
    classes = tuple(
        _class_metrics(name, int(n), int(r), int(a))
        for name, n, r, a in zip(names, pictures, right, answered, strict=True)
    )
    total = len(labels) + len(failed)
    return Metrics(
        pictures=total,
        failed=len(failed),
        loss=float(losses.mean()) if len(losses) else 0.0,
        top1=float(right.sum() / total),
        balanced_accuracy=_mean([c.recall for c in classes]),
        macro_f1=_mean([c.f1 for c in classes]),
        classes=classes,
    )


def _class_metrics(name: str, pictures: int, right: int, answered: int) -> ClassMetrics:
    return ClassMetrics(
        name,
        pictures,
        recall=right / pictures if pictures else None,
        precision=right / answered if answered else None,
        f1=2 * right / (pictures + answered) if pictures else None,
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
