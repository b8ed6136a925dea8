"""What `finetune` gives: one record for each epoch, one at the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effnet_cli.evaluate.records import Metrics

PhaseName = Literal["head", "network"]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training images (of the classifier: a part of its training), and what
    validation said then.

    `loss` is the mean training loss (label smoothing, augmentation and class weights included),
    `val_loss` the plain cross-entropy. `images_per_s` counts training alone, `seconds` all.
    """

    phase: PhaseName
    epoch: int
    epochs: int
    loss: float
    val_loss: float
    top1: float
    balanced_accuracy: float
    macro_f1: float
    is_best: bool
    images_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The end: the model file, the best epoch's metrics on validation, and those of the test split
    where there is one.
    """

    model: Path
    phase: PhaseName
    epoch: int
    val: Metrics
    test: Metrics | None
    seconds: float
