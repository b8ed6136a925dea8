"""The records of an evaluation. Shares are 0..1; intervals are 95 % confidence intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effnet_cli.models.operating_point import OperatingPoint

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class. Recall and F1 are `None` without images; precision, if it is never predicted."""

    name: str
    images: int
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Metrics:
    """The metrics that training and evaluation share.

    `loss` is the mean cross-entropy (natural logarithm) over the images that could be opened.
    `top1` counts the `failed` ones as wrong. `balanced_accuracy` and `macro_f1` are the means of
    recall and F1 over the classes that have images.
    """

    images: int
    failed: int
    loss: float
    top1: float
    balanced_accuracy: float
    macro_f1: float
    classes: tuple[ClassMetrics, ...]

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "Metrics":
        """Undo `dataclasses.asdict`."""
        classes = tuple(ClassMetrics(**row) for row in content["classes"])
        return Metrics(**{**content, "classes": classes})


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Images with a top probability from `low` to `high`.

    `confidence` is their mean top probability; it and `accuracy` are `None` without images.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class LabelRow:
    """Figures of one label of several: `images` have it, `predicted` were given it, `right` both.

    Recall, precision and F1 are at `threshold`; figures are `None` where undefined.
    """

    name: str
    images: int
    predicted: int
    right: int
    recall: float | None
    precision: float | None
    f1: float | None
    average_precision: float | None
    auroc: float | None
    threshold: float


@dataclass(frozen=True, kw_only=True)
class LabelMetrics:
    """Figures of a model that gives an image several labels. `exact` is the share of images with
    exactly the right labels; means are over the labels that images have.
    """

    images: int
    failed: int
    loss: float
    mean_average_precision: float
    macro_f1: float
    micro_f1: float
    micro_precision: float
    micro_recall: float
    exact: float
    labels: tuple[LabelRow, ...]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LabelMetrics":
        """Undo `asdict`, also after a passage through JSON."""
        rows = tuple(LabelRow(**row) for row in content["labels"])
        return cls(**{**content, "labels": rows})


@dataclass(frozen=True, slots=True)
class LabelledPrediction:
    """One image: its label, the predicted class, and the probability of each."""

    path: str
    label: str
    prediction: str
    probability: float
    label_probability: float


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image without a prediction, and why."""

    path: str
    label: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """How many images of class `label` were predicted as `prediction`."""

    label: str
    prediction: str
    images: int


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """Image counts by label (rows) and prediction (columns), both in the order of `labels`."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class UnknownClass:
    """A class of the dataset that the model lacks, and the model's most similar class names."""

    label: str
    near: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MergedClass:
    """A class of the model that several classes of the dataset map to."""

    label: str
    folders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Another model on the same images. `difference`: the evaluated model's top-1 minus `top1`."""

    name: str
    top1: float
    difference: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class ClassRanking:
    """How well the probability of one class ranks its images above all others (one-vs-rest).

    `auroc` and `average_precision` are `None` without images of the class or of others, of those
    that could be opened. `roc` has points (1 - specificity, sensitivity) and `precision_recall`
    points (recall, precision) of curves that are drawn with straight lines; without a value, or if
    there are many classes, they are empty.
    """

    name: str
    auroc: float | None = None
    average_precision: float | None = None
    roc: tuple[tuple[float, float], ...] = ()
    precision_recall: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation(Metrics):
    """A model's performance on labelled images. Its fields are the keys of the JSON output, except
    that `classes` is called `per_class` there, with the figures of `ranking`, and the curves of
    `ranking` are called `curves`.

    Images that failed count as wrong in every accuracy, recall and F1. Intervals are those over
    `groups` of images, or over images if there are none (0). `auroc` takes the second
    class as positive and is `None` unless there are two classes, both with images. `ece` is the
    expected calibration error over the bins of `calibration`. `confusion` is `None` above 200
    classes, and `label_errors` is `None` without cleanlab. The `unlabelled` images belong to
    `unknown_classes` and are excluded from all metrics.
    """

    data: str
    split: str | None
    model: str
    engine: str
    precision: str
    temperature: float
    top1_interval: Interval
    top5: float
    top5_interval: Interval
    groups: int
    auroc: float | None
    ece: float
    calibration: tuple[CalibrationBin, ...]
    confusion: ConfusionMatrix | None
    confused: tuple[ConfusedPair, ...]
    mistakes: tuple[LabelledPrediction, ...]
    label_errors: tuple[LabelledPrediction, ...] | None
    failures: tuple[FailedImage, ...]
    matching: str
    unknown_classes: tuple[UnknownClass, ...]
    unused_classes: tuple[str, ...]
    merged_classes: tuple[MergedClass, ...]
    unlabelled: int
    ranking: tuple[ClassRanking, ...]
    operating_points: tuple[OperatingPoint, ...] = ()
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class LabelConfusion:
    """How many images have the label `missed`, which they were not given, and not `given`, which
    they were.
    """

    missed: str
    given: str
    images: int


@dataclass(frozen=True, slots=True)
class LabelMistake:
    """An image that was not given exactly its `labels`: those `missed`, and those `wrong`.

    `probability` is that of the label among them that is most surprising.
    """

    path: str
    labels: tuple[str, ...]
    missed: tuple[str, ...]
    wrong: tuple[str, ...]
    probability: float


@dataclass(frozen=True, kw_only=True)
class LabelEvaluation(LabelMetrics):
    """A model that gives an image several labels, on labelled images. Its fields are the keys of
    the JSON output, except that `labels` is called `per_label` there.

    The interval is that over `groups` of images, or over images if there are none (0).
    """

    data: str
    split: str | None
    model: str
    engine: str
    precision: str
    exact_interval: Interval
    groups: int
    confused: tuple[LabelConfusion, ...]
    mistakes: tuple[LabelMistake, ...]
    failures: tuple[FailedImage, ...]
    unknown_labels: tuple[str, ...]
