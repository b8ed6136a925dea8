"""The records of an audit. Shares and probabilities are 0..1."""

from dataclasses import dataclass
from typing import Literal

from effnet_cli.datasets.findings import Finding

ProblemName = Literal[
    "unreadable", "label_conflict", "leak", "near_leak", "near_conflict", "wrong_label", "outlier",
    "copy", "near_copy", "dark", "bright", "flat", "blurred", "small", "odd_shape",
]  # fmt: skip
Action = Literal["remove", "relabel", "check"]


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """A kind of problem: its title, and a sentence about how it is found."""

    name: ProblemName
    title: str
    note: str


# In the order of the output: what makes a training or its results wrong comes first.
PROBLEM_KINDS = (
    ProblemKind("unreadable", "Unreadable files", "The image cannot be opened."),
    ProblemKind(
        "label_conflict", "The same image in several classes", "The files have the same content."
    ),
    ProblemKind(
        "leak", "The same image in several splits", "Results on the other split are too good."
    ),
    ProblemKind(
        "near_leak",
        "Near copies in several splits",
        "The same image, encoded again or resized, by 16-pixel thumbnails.",
    ),
    ProblemKind(
        "near_conflict",
        "Near copies in several classes",
        "The same image, encoded again or resized, by 16-pixel thumbnails.",
    ),
    ProblemKind(
        "wrong_label",
        "Labels that are likely wrong",
        "By a classifier that was not trained on the image; the lowest probabilities of the label "
        "come first.",
    ),
    ProblemKind(
        "outlier",
        "Images unlike all others",
        "By the distance to the tenth most similar image, compared with that of other images.",
    ),
    ProblemKind("copy", "Exact copies", "Another file of the same class has the same content."),
    ProblemKind(
        "near_copy",
        "Near copies",
        "The same image of the same class, encoded again or resized, by 16-pixel thumbnails.",
    ),
    ProblemKind("dark", "Too dark", "Much darker than most images of the dataset."),
    ProblemKind("bright", "Too bright", "Much brighter than most images of the dataset."),
    ProblemKind("flat", "No contrast", "Much less contrast than most images of the dataset."),
    ProblemKind("blurred", "Blurred", "Much less sharp than most images, as the model sees them."),
    ProblemKind("small", "Small", "Much smaller than most images, and than the model's input."),
    ProblemKind("odd_shape", "Odd shapes", "Much wider or taller than most images."),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of one file.

    `rank` counts from 1 within a kind, worst first. `action` is a proposal; `new_label` is the
    label to consider instead. `score` is higher for worse problems and only comparable within a
    kind: for a wrong label, 1 - its probability; for an outlier or a property of the image, the
    modified z-score; else `None`. `other` is the file that this one is compared with.
    """

    kind: ProblemName
    rank: int
    path: str
    label: str
    split: str | None
    action: Action
    new_label: str | None = None
    score: float | None = None
    reason: str = ""
    other: str | None = None


@dataclass(frozen=True, slots=True)
class AuditedClass:
    """One class. `accuracy` is the share of its images that a classifier that was not trained on
    them recognises; `None` if it has too few.
    """

    name: str
    images: int
    unreadable: int
    likely_wrong: int
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class SimilarClasses:
    """Two classes that a classifier confuses both ways.

    `first_as_second` is the share of the images of `first` that look more like `second` to a
    classifier that was not trained on them.
    """

    first: str
    second: str
    first_as_second: float
    second_as_first: float


@dataclass(frozen=True, slots=True)
class BorderCheck:
    """How well the border of the images alone predicts the class.

    Accuracies are means over the classes, so that `chance` is 1 / their number. `whole_accuracy` is
    that of the classifier that sees all of the image. `is_suspicious` if the border reaches more
    than half of what the whole image adds to chance.
    """

    accuracy: float
    whole_accuracy: float
    chance: float
    images: int
    is_suspicious: bool


@dataclass(frozen=True, slots=True)
class Audit:
    """What is wrong with a dataset.

    `findings` are about its classes, `problems` about files, in the order of `PROBLEM_KINDS` and
    rank. `accuracy` is the mean over the classes of the share of images that are recognised by a
    classifier that was not trained on them. It and `border` are `None` where there are too few
    images; `notes` says what could not be checked, and why.
    """

    root: str
    layout: str
    model: str
    folds: int
    images: int
    classes: tuple[AuditedClass, ...]
    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    similar_classes: tuple[SimilarClasses, ...]
    accuracy: float | None
    border: BorderCheck | None
    notes: tuple[str, ...]
