"""Operating points: thresholds on the probability of one class, with what they reached."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import get_args

from effnet_cli.options import Fit, PointMetric, Precision

SHARES = ("sensitivity", "specificity", "ppv", "npv")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """Images are positive if the probability of the class `positive` is `threshold` or more.

    `metric` and `asked` say what the threshold was chosen for, and the other fields what it reached
    on labelled images with their 95 % confidence intervals (Wilson 1927). Images that could not be
    opened are wrong at every threshold: the `failed_positives` are among the `false_negatives`,
    the `failed_negatives` among the `false_positives`. A share of no images, and its interval, are
    `None`: the PPV if no image is called positive, the NPV if none is called negative. `prevalence`
    is the share of positive images. `fit` and `precision` are those of the evaluation.
    """

    positive: str
    metric: PointMetric
    asked: float
    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    failed_positives: int
    failed_negatives: int
    prevalence: float
    sensitivity: float | None
    specificity: float | None
    ppv: float | None
    npv: float | None
    sensitivity_interval: tuple[float, float] | None
    specificity_interval: tuple[float, float] | None
    ppv_interval: tuple[float, float] | None
    npv_interval: tuple[float, float] | None
    fit: Fit
    precision: Precision

    @property
    def name(self) -> str:
        """What was asked, such as `sensitivity=0.95`."""
        return f"{self.metric}={self.asked:.15g}"

    @property
    def positives(self) -> int:
        """The number of images of the class."""
        return self.true_positives + self.false_negatives

    @property
    def negatives(self) -> int:
        """The number of images of other classes."""
        return self.true_negatives + self.false_positives

    @property
    def is_assured(self) -> bool | None:
        """Whether the whole interval reaches what was asked; `None` for a given threshold."""
        if self.metric == "threshold":
            return None
        interval: tuple[float, float] | None = getattr(self, f"{self.metric}_interval")
        return interval is not None and interval[0] >= self.asked

    def counts_of(self, metric: str) -> tuple[int, int]:
        """Return how many images one of the `SHARES` counts as right, and of how many."""
        tp, tn = self.true_positives, self.true_negatives
        return {
            "sensitivity": (tp, self.positives),
            "specificity": (tn, self.negatives),
            "ppv": (tp, tp + self.false_positives),
            "npv": (tn, tn + self.false_negatives),
        }[metric]

    def from_lists(self) -> "OperatingPoint":
        """Return a copy whose intervals are tuples, as JSON has only lists."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: tuple(v) for k, v in values.items() if isinstance(v, list)})

    def check(self, classes: Sequence[str]) -> None:
        """Raise `ValueError` unless the values, read from a file, fit a model with `classes`."""
        checks = {
            "positive": len(classes) > 1 and list(classes).count(self.positive) == 1,
            "metric": self.metric in get_args(PointMetric),
            "fit": self.fit in get_args(Fit),
            "precision": self.precision in get_args(Precision),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in checks:
                is_valid = checks[field.name]
            elif field.type is int:
                is_valid = type(value) is int and value >= 0
            elif field.type is float:
                is_valid = _is_share(value)
            elif field.name in SHARES:
                is_valid = value is None or _is_share(value)
            else:
                is_valid = value is None or _is_interval(value)
            if not is_valid:
                raise ValueError(f"the {field.name} of its operating point is {value!r:.100}")


def _is_share(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]


def _is_interval(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_share, value))
