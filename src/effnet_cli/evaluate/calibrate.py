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
from effnet_cli.evaluate.predictions import Predictions
from effnet_cli.models import checkpoint
from effnet_cli.models.hub_repo import parse_repo
from effnet_cli.models.weights import Model, expected_kind, resolve_model
from effnet_cli.options import ModelOptions
from effnet_cli.system.errors import UsageError

MIN_IMAGES = 50  # of fewer, the temperature is mostly the prior's
MODEL_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted temperature, and the expected calibration error before and after.

    `ece_after` is cross-validated: each half of the images with the temperature of the other half.
    """

    temperature: float
    images: int
    ece_before: float
    ece_after: float


def check_calibration(path: Path, model: ModelOptions) -> None:
    """Raise UsageError unless a calibrated copy of `model` can be written to `path`."""
    repo = parse_repo(path)
    if repo is not None:
        raise UsageError(f"--calibrate-to '{repo}' is a repository.", "Use a file on this machine.")
    if path.suffix.lower() != MODEL_SUFFIX:
        raise UsageError(
            f"--calibrate-to {str(path)!r} does not end in {MODEL_SUFFIX}.",
            f"Use --calibrate-to {path.with_suffix(MODEL_SUFFIX)}",
        )
    if path.exists():
        raise UsageError(f"--calibrate-to {str(path)!r} already exists.", "Use a new file.")
    if expected_kind(model) != "tensors":
        raise UsageError(
            f"{str(model.model)!r} is an exported file, which cannot be calibrated.",
            "Calibrate the model file that it was exported from, and export that again.",
        )


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
    )
    checkpoint.write(path, card, _read_tensors(resolved))
    before = to_probabilities(scores, "logits", resolved.card.temperature)
    return Calibration(
        temperature=temperature,
        images=len(labels),
        ece_before=_ece(before.max(axis=1), predictions),
        ece_after=_ece(_cross_validate(scores, labels), predictions),
    )


def _read_tensors(model: Model) -> checkpoint.Arrays:
    from effnet_cli.models import build  # imports torch

    state = build.load_module(model).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


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
