"""Write a copy of a model whose probabilities are calibrated on labelled images."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from effnet_cli.engines.base import Scores, to_probabilities
from effnet_cli.evaluate.metrics import (
    Labels,
    Probabilities,
    calibrate,
    fit_temperature,
    fit_unknown_threshold,
)
from effnet_cli.evaluate.model_copy import write_copy
from effnet_cli.evaluate.predictions import Predictions
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import ModelOptions
from effnet_cli.system.errors import UsageError

MIN_IMAGES = 50  # of fewer, the temperature is mostly the prior's


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted temperature, and the expected calibration error before and after.

    `ece_after` is cross-validated: each half of the images with the temperature of the other half.
    """

    temperature: float
    images: int
    ece_before: float
    ece_after: float


def write_calibrated(path: Path, model: ModelOptions, predictions: Predictions) -> Calibration:
    """Fit a temperature and a threshold to `predictions`, and write the model with them.

    Raises:
        UsageError: there are too few images.
        EffnetError: the file cannot be written.
    """
    scores, labels = predictions.scores, predictions.labels
    if len(labels) < MIN_IMAGES:
        raise UsageError(
            f"{len(labels)} labelled images are too few to calibrate a model.",
            f"Use at least {MIN_IMAGES}.",
        )
    temperature = fit_temperature(scores, labels)
    confidences = to_probabilities(scores, "logits", temperature).max(axis=1)
    resolved = resolve_model(model)
    card = replace(
        resolved.card,
        temperature=temperature,
        unknown_below=fit_unknown_threshold(confidences, predictions.predicted == labels),
        operating_points=(),  # their thresholds are for the old temperature
    )
    write_copy(path, resolved, card)
    before = to_probabilities(scores, "logits", resolved.card.temperature)
    return Calibration(
        temperature=temperature,
        images=len(labels),
        ece_before=_ece(before.max(axis=1), predictions),
        ece_after=_ece(_cross_validate(scores, labels), predictions),
    )


def _cross_validate(scores: Scores, labels: Labels) -> Probabilities:
    """Return the top probability of each image, with a temperature that was fitted to others."""
    confidences = np.empty(len(labels), dtype=np.float64)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        others = np.ones(len(labels), dtype=bool)
        others[half] = False
        temperature = fit_temperature(scores[others], labels[others])
        confidences[half] = to_probabilities(scores[half], "logits", temperature).max(axis=1)
    return confidences


def _ece(confidences: Probabilities, predictions: Predictions) -> float:
    ece, _ = calibrate(confidences, predictions.predicted == predictions.labels)
    return ece
