"""Models that give an image several labels or none: a calibrated yes or no for each label."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelScores:
    """For each label [C]: its probability is sigmoid(`scales` * logit + `biases`) (Platt 1999), and
    an image has it from a probability of `thresholds` on.
    """

    scales: tuple[float, ...]
    biases: tuple[float, ...]
    thresholds: tuple[float, ...]

    def to_probabilities(self, logits: npt.NDArray[np.floating[Any]]) -> Probabilities:
        """Return probabilities, float64 [N,C]."""
        values = logits.astype(np.float64) * np.array(self.scales) + np.array(self.biases)
        return sigmoid(values)

    def decide(self, probabilities: Probabilities) -> Flags:
        """Return which labels images have [N,C]."""
        flags: Flags = probabilities >= np.array(self.thresholds)
        return flags

    def check(self, classes: Sequence[str]) -> None:
        """Raise `ValueError` unless the values, read from a file, fit a model with `classes`."""
        for name in ("scales", "biases", "thresholds"):
            values = getattr(self, name)
            is_valid = len(values) == len(classes) and all(type(v) in (int, float) for v in values)
            if not is_valid or not np.isfinite(values).all():
                raise ValueError(f"the {name} of its labels are {values!r:.100}")


def sigmoid(values: Probabilities) -> Probabilities:
    """Return 1 / (1 + exp(-x)), without overflow."""
    result: Probabilities = 0.5 * (1 + np.tanh(0.5 * values))
    return result
