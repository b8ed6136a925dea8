"""The records of a run: one for each epoch, one for the result."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from effnet_cli.evaluate.records import LabelMetrics, Metrics

PhaseName = Literal["head", "full"]
PHASE_TITLES: Mapping[PhaseName, str] = {"head": "classifier head", "full": "full model"}


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a phase and the validation after it.

    An epoch of the full model is one pass over the training images; one of the head is an eighth
    of its training. `loss` is the mean training loss, with label smoothing, augmentation and class
    weights; `val_loss` is the plain cross-entropy. Models that give an image several labels have a
    mean average precision instead of top-1 and balanced accuracy. `images_per_s` covers training
    only, `seconds` also validation.
    """

    phase: PhaseName
    epoch: int
    epochs: int
    loss: float
    val_loss: float
    top1: float | None
    balanced_accuracy: float | None
    macro_f1: float
    is_best: bool
    images_per_s: float
    seconds: float
    mean_average_precision: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that this kind of model has."""
        return {name: value for name, value in asdict(self).items() if value is not None}


# Scores that another kind of model has.
NO_SCORES: dict[str, Any] = {
    "top1": None,
    "balanced_accuracy": None,
    "mean_average_precision": None,
}


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The model file, the phase and epoch it comes from, and its metrics on the validation images
    and on the test split, if there is one.
    """

    model: Path
    phase: PhaseName
    epoch: int
    val: Metrics | LabelMetrics
    test: Metrics | LabelMetrics | None
    seconds: float


@dataclass(frozen=True, slots=True)
class AllImagesResult:
    """The model file that was trained on all `images` of training and validation, and its metrics
    on the test split, if there is one.
    """

    model: Path
    images: int
    test: Metrics | LabelMetrics | None


TrainingRecord: TypeAlias = Epoch | TrainingResult | AllImagesResult
