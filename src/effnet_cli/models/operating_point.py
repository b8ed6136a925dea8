"""Operating points: thresholds on the probability of one class, with what they reached."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from effnet_cli.options import Fit, PointMetric, Precision

SHARES = ("sensitivity", "specificity", "ppv", "npv")  # fields of an operating point
COUNTS = (
    *("true_positives", "false_positives", "true_negatives", "false_negatives"),
    *("failed_positives", "failed_negatives"),
)


@dataclass(frozen=True, slots=True)
class Share:
    """`right` of `images`: their ratio and its 95 % confidence interval (Wilson 1927)."""

    right: int
    images: int
    value: float
    interval: tuple[float, float]

    def is_valid(self) -> bool:
        """Return whether the values, read from a file, have the right types and ranges."""
        pair = self.interval
        return (
            all(map(_is_count, (self.right, self.images)))
            and (isinstance(pair, tuple) and len(pair) == 2)
            and all(map(_is_ratio, (self.value, *pair)))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """Images are positive if the probability of the class `positive` is `threshold` or more.

    `metric` and `asked` say what the threshold was chosen for, and the other fields what it reached
    on labelled images. Those that could not be opened are wrong at every threshold: the
    `failed_positives` are among the `false_negatives`, the `failed_negatives` among the
    `false_positives`. `ppv` is `None` if no image is called positive, and `npv` if none is called
    negative. `prevalence` is the share of positive images. `fit` and `precision` are those of the
    evaluation.
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
    sensitivity: Share
    specificity: Share
    ppv: Share | None
    npv: Share | None
    fit: Fit
    precision: Precision

    @property
    def name(self) -> str:
        """What was asked, such as `sensitivity=0.95`."""
        return f"{self.metric}={self.asked:.15g}"

    @property
    def positives(self) -> int:
        """The number of images of the class."""
        return self.sensitivity.images

    @property
    def negatives(self) -> int:
        """The number of images of other classes."""
        return self.specificity.images

    @property
    def asked_share(self) -> Share | None:
        """The share that was asked for; `None` for a given threshold."""
        share: Share | None = None if self.metric == "threshold" else getattr(self, self.metric)
        return share

    @property
    def is_assured(self) -> bool | None:
        """Whether the whole interval reaches what was asked; `None` for a given threshold."""
        share = self.asked_share
        return None if share is None else share.interval[0] >= self.asked

    def check(self, classes: Sequence[str]) -> None:
        """Raise `ValueError` unless the values, read from a file, fit a model with `classes`."""
        checks = {
            "positive": len(classes) > 1 and list(classes).count(self.positive) == 1,
            "metric": self.metric in get_args(PointMetric),
            "fit": self.fit in get_args(Fit),
            "precision": self.precision in get_args(Precision),
            **{name: _is_ratio(getattr(self, name)) for name in ("asked", "threshold")},
            "prevalence": _is_ratio(self.prevalence),
            **{name: _is_count(getattr(self, name)) for name in COUNTS},
            **{name: _is_share(getattr(self, name), name) for name in SHARES},
        }
        for name, is_valid in checks.items():
            if not is_valid:
                value = getattr(self, name)
                raise ValueError(f"the {name} of its operating point is {value!r:.100}")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_ratio(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]


def _is_share(value: object, name: str) -> bool:
    if value is None:
        return name in ("ppv", "npv")
    return isinstance(value, Share) and value.is_valid()
