"""What a model learns, and by what it is judged: one class for each image, or several labels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from effnet_cli.datasets.label_sets import LabelSets
from effnet_cli.datasets.records import Dataset, Subset
from effnet_cli.engines.base import to_probabilities
from effnet_cli.evaluate.label_metrics import compute_label_metrics, fit_label_scores, label_loss
from effnet_cli.evaluate.metrics import (
    compute_metrics,
    fit_temperature,
    fit_unknown_threshold,
    mean_loss,
)
from effnet_cli.evaluate.records import LabelMetrics, Metrics
from effnet_cli.finetune.inference import Floats
from effnet_cli.finetune.loader import Indexes
from effnet_cli.finetune.optim import smoothed_cross_entropy
from effnet_cli.models.card import ModelCard
from effnet_cli.options import FinetuneOptions

# Of the asymmetric loss, as its authors use it.
PROBABILITY_MARGIN, NEGATIVE_FOCUS = 0.05, 4
UNEVEN_SHARE = 0.5  # of the log frequencies, where classes are uneven
Labels = npt.NDArray[np.integer[Any]]


class Objective(Protocol):
    """What a model learns.

    Labels [N] are those of a `Subset`, logits float32 [N,C].
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes or labels."""
        ...

    @property
    def offsets(self) -> Tensor:
        """What is added to the logits in training only, float32 [C]."""
        ...

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the summed loss of a batch: logits float32 [N,C], labels int64 [N]."""
        ...

    def mean_loss(self, logits: Floats, labels: Labels) -> float:
        """Return the mean loss of validation images."""
        ...

    def calibrated_loss(self, logits: Floats, labels: Labels) -> float:
        """Return the mean loss after calibration, which makes models comparable."""
        ...

    def measure(self, subset: Subset, indexes: Indexes, logits: Floats) -> Metrics | LabelMetrics:
        """Return the metrics of the images at `indexes`; all others count as failed."""
        ...

    def rank(self, metrics: Any) -> list[float]:
        """Return what epochs are compared by; higher is better."""
        ...

    def read_metrics(self, content: Mapping[str, Any]) -> Metrics | LabelMetrics:
        """Return metrics from their JSON object."""
        ...

    def calibrate(self, card: ModelCard, logits: Floats, labels: Labels) -> ModelCard:
        """Return the card of a model with these logits of validation images."""
        ...


@dataclass(frozen=True, slots=True)
class ClassObjective:
    """One class for each image: softmax and cross-entropy.

    `offsets`, float32 [C], are added to the logits in training only. If classes are `is_uneven`,
    balanced accuracy counts as much as top-1; with `is_balanced`, only balanced accuracy counts.
    """

    names: tuple[str, ...]
    offsets: Tensor
    is_uneven: bool
    is_balanced: bool

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the summed cross-entropy, with label smoothing."""
        return smoothed_cross_entropy(logits + self.offsets.to(logits.device), labels)

    def mean_loss(self, logits: Floats, labels: Labels) -> float:
        """Return the mean cross-entropy."""
        return mean_loss(logits, labels)

    def calibrated_loss(self, logits: Floats, labels: Labels) -> float:
        """Return the mean cross-entropy at the best temperature."""
        return mean_loss(logits / np.float32(fit_temperature(logits, labels)), labels)

    def measure(self, subset: Subset, indexes: Indexes, logits: Floats) -> Metrics:
        """Return the metrics of the classes."""
        failed = np.concatenate([subset.failed, np.delete(subset.labels, indexes)])
        return compute_metrics(logits, subset.labels[indexes], failed, names=self.names)

    def rank(self, metrics: Metrics) -> list[float]:
        """Rank by accuracy, then by the loss."""
        accuracy = metrics.top1
        if self.is_balanced:
            accuracy = metrics.balanced_accuracy
        elif self.is_uneven:
            accuracy = (metrics.top1 + metrics.balanced_accuracy) / 2
        return [accuracy, -metrics.loss]

    def read_metrics(self, content: Mapping[str, Any]) -> Metrics:
        """Return metrics from their JSON object."""
        return Metrics.from_dict(content)

    def calibrate(self, card: ModelCard, logits: Floats, labels: Labels) -> ModelCard:
        """Fit a temperature, and the threshold of what is unknown."""
        temperature = fit_temperature(logits, labels)
        confidences = to_probabilities(logits, "logits", temperature).max(axis=1)
        threshold = fit_unknown_threshold(confidences, logits.argmax(axis=1) == labels)
        return replace(card, temperature=temperature, unknown_below=threshold)


@dataclass(frozen=True, slots=True)
class LabelObjective:
    """Several labels or none: a sigmoid for each, and the asymmetric loss.

    `weights`, float32 [C], are those of the images that have a label.
    """

    names: tuple[str, ...]
    label_sets: LabelSets
    weights: Tensor

    @property
    def offsets(self) -> Tensor:
        """Zeros."""
        return torch.zeros(len(self.names))

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the summed asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119), in the mean
        over the labels: absent labels that are far from given count little.
        """
        targets = torch.from_numpy(self.label_sets.targets).to(logits.device)[labels]
        shifted = (logits.sigmoid() - PROBABILITY_MARGIN).clamp(min=0)
        missed = -functional.logsigmoid(logits) * self.weights.to(logits.device)
        wrong = -torch.log1p(-shifted) * shifted**NEGATIVE_FOCUS
        return torch.where(targets, missed, wrong).mean(dim=1).sum()

    def mean_loss(self, logits: Floats, labels: Labels) -> float:
        """Return the mean binary cross-entropy."""
        return label_loss(logits, self.label_sets.targets[labels])

    def calibrated_loss(self, logits: Floats, labels: Labels) -> float:
        """Return the mean binary cross-entropy of calibrated probabilities."""
        targets = self.label_sets.targets[labels]
        scores = fit_label_scores(logits, targets)
        return label_loss(logits * np.array(scores.scales) + np.array(scores.biases), targets)

    def measure(self, subset: Subset, indexes: Indexes, logits: Floats) -> LabelMetrics:
        """Return the metrics of the labels at the thresholds that are best on these images."""
        targets = self.label_sets.targets[subset.labels[indexes]]
        failed = np.concatenate([subset.failed, np.delete(subset.labels, indexes)])
        scores = fit_label_scores(logits, targets)
        return compute_label_metrics(
            scores.to_probabilities(logits),
            targets,
            self.label_sets.targets[failed],
            names=self.names,
            thresholds=scores.thresholds,
        )

    def rank(self, metrics: LabelMetrics) -> list[float]:
        """Rank by mean average precision, then by the loss."""
        return [metrics.mean_average_precision, -metrics.loss]

    def read_metrics(self, content: Mapping[str, Any]) -> LabelMetrics:
        """Return metrics from their JSON object."""
        return LabelMetrics.from_dict(content)

    def calibrate(self, card: ModelCard, logits: Floats, labels: Labels) -> ModelCard:
        """Fit the probability and the threshold of each label."""
        scores = fit_label_scores(logits, self.label_sets.targets[labels])
        return replace(card, label_scores=scores)


def make_objective(dataset: Dataset, options: FinetuneOptions) -> Objective:
    """Return what a model of a dataset learns."""
    if dataset.label_sets is None:
        offsets = torch.from_numpy(_logit_offsets(dataset, options))
        return ClassObjective(
            dataset.classes, offsets, dataset.is_uneven, is_balanced=options.balance
        )
    return LabelObjective(
        dataset.classes,
        dataset.label_sets,
        torch.from_numpy(_label_weights(dataset.train, dataset.label_sets, options)),
    )


def _logit_offsets(dataset: Dataset, options: FinetuneOptions) -> npt.NDArray[np.float32]:
    """Return what is added to the logits in training, so that small classes are not neglected.

    A share of the logarithm of each class's frequency (Menon et al. 2020, arXiv 2007.07314): all of
    it makes the model ignore how frequent classes are, half of it is a compromise.
    """
    counts = np.maximum(dataset.train.count(len(dataset.classes)), 1)
    share = 1.0 if options.balance else UNEVEN_SHARE if dataset.is_uneven else 0.0
    offsets: npt.NDArray[np.float32] = (share * np.log(counts / counts.sum())).astype(np.float32)
    return offsets


def _label_weights(
    train: Subset, label_sets: LabelSets, options: FinetuneOptions
) -> npt.NDArray[np.float32]:
    """Return the weights of images that have a label: with --balance, all of them together weigh as
    much as those that do not.
    """
    have = label_sets.targets[train.labels].sum(axis=0)
    weights = (len(train.labels) - have) / np.maximum(have, 1) if options.balance else 1.0
    return np.broadcast_to(weights, have.shape).astype(np.float32)


def describe_best(metrics: Mapping[str, Any]) -> str:
    """Return the best accuracy so far, for the progress bar."""
    if "mean_average_precision" in metrics:
        return f"best mAP {metrics['mean_average_precision']:.1%}"
    return f"best top-1 {metrics['top1']:.1%}"


def epoch_scores(metrics: Metrics | LabelMetrics) -> dict[str, Any]:
    """Return the figures of an epoch."""
    names: Sequence[str] = ("top1", "balanced_accuracy", "macro_f1")
    if isinstance(metrics, LabelMetrics):
        names = ("mean_average_precision", "macro_f1")
    content = asdict(metrics)
    return {name: content[name] for name in names}
