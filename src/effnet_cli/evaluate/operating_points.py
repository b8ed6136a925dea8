"""Find operating points: thresholds on the probability of one class that reach what was asked."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from effnet_cli.evaluate.metrics import CONFIDENCE_Z, Flags, Labels, Probabilities, share_interval
from effnet_cli.evaluate.model_copy import check_copy, write_copy
from effnet_cli.evaluate.predictions import Predictions
from effnet_cli.models.operating_point import OperatingPoint, Share
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import EvaluateTask, Fit, ModelOptions, Precision, Requirement
from effnet_cli.system.errors import UsageError
from effnet_cli.system.text import pluralize, quote_names

Counts = npt.NDArray[np.integer]

FLOAT_DIGITS = 17  # more decimals than a probability has


# --- refuse early -------------------------------------------------------------------------------


def check_options(task: EvaluateTask) -> None:
    """Raise UsageError if an option of operating points lacks another, or excludes it."""
    if task.at and task.positive is None:
        raise UsageError("--at requires --positive.", "Add --positive CLASS, the class to find.")
    for flag, value in (("--positive", task.positive), ("--save-to", task.save_to)):
        if value is not None and not task.at:
            raise UsageError(f"{flag} requires --at.", "Add --at sensitivity=0.95, for example.")
    if task.save_to is not None and task.calibrate_to is not None:
        raise UsageError(
            "--save-to cannot be combined with --calibrate-to, which changes the thresholds.",
            "Calibrate first, then evaluate the calibrated copy with --save-to.",
        )
    if task.save_to is not None:
        check_copy(task.save_to, "--save-to", task.model)


def find_positive(name: str, classes: Sequence[str], labels: Labels) -> int:
    """Return the index of the class called `name`.

    Raises:
        UsageError: there is no such class, or several, or none or all of `labels` [N] are of it.
    """
    indexes = [index for index, one in enumerate(classes) if one == name]
    if len(indexes) != 1:
        found = "no class" if not indexes else f"{len(indexes)} classes called"
        near = difflib.get_close_matches(name, classes, n=1) if not indexes else []
        instead = f"--positive {near[0]!r}" if near else f"a class such as {quote_names(classes)}"
        raise UsageError(f"The model has {found} {name!r}.", f"Use {instead}.")
    positives = int((labels == indexes[0]).sum())
    if positives in (0, len(labels)):
        which = "of other classes than" if positives else "of the class"
        raise UsageError(
            f"There are no images {which} {name!r} to find a threshold with.",
            "Use a dataset that has images of the class and others.",
        )
    return indexes[0]


# --- thresholds ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OneVsRest:
    """One class against all others.

    `probabilities` of the class and `is_positive` [M] are of the images that could be opened, and
    the counts of those that could not.
    """

    probabilities: Probabilities
    is_positive: Flags
    failed_positives: int = 0
    failed_negatives: int = 0

    def count(self, threshold: float) -> dict[str, int]:
        """Return the counts of an `OperatingPoint` with this threshold."""
        is_called, is_positive = self.probabilities >= threshold, self.is_positive
        return {
            "true_positives": int((is_called & is_positive).sum()),
            "false_positives": int((is_called & ~is_positive).sum()) + self.failed_negatives,
            "true_negatives": int((~is_called & ~is_positive).sum()),
            "false_negatives": int((~is_called & is_positive).sum()) + self.failed_positives,
            "failed_positives": self.failed_positives,
            "failed_negatives": self.failed_negatives,
        }


@dataclass(frozen=True, slots=True)
class Candidates:
    """All thresholds that differ in effect, highest first, and what they do: arrays [T].

    Each calls at least one image positive. `shares` has an array for each figure that can be asked
    for, in which that of no images is NaN.
    """

    probabilities: Probabilities
    true_positives: Counts
    true_negatives: Counts
    shares: dict[str, Probabilities]

    def choose(self, requirement: Requirement) -> float | None:
        """Return the best threshold that reaches what is asked; `None` if none does.

        A higher threshold raises specificity and PPV, a lower one sensitivity and NPV. Of those
        that reach what is asked, the best one costs least of the other kind; and among equals in
        that, it has the most of its own kind.
        """
        reached = np.flatnonzero(self.shares[requirement.metric] >= requirement.value)
        if not len(reached):
            return None
        order = [self.true_positives, self.true_negatives]
        if requirement.metric in ("specificity", "ppv"):
            order.reverse()
        best = int(reached[np.lexsort([counts[reached] for counts in order])[-1]])
        below = [*self.probabilities[1:].tolist(), 0.0][best]
        return _round_between(below, float(self.probabilities[best]))


def list_candidates(images: OneVsRest) -> Candidates:
    """Return the thresholds at each different probability of `images`."""
    order = np.argsort(-images.probabilities, kind="stable")
    descending = images.probabilities[order]
    is_positive = images.is_positive[order].astype(np.intp)
    last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))  # of equal ones
    tp = np.cumsum(is_positive)[last]
    fp = last + 1 - tp + images.failed_negatives
    fn = is_positive.sum() - tp + images.failed_positives
    tn = len(order) - is_positive.sum() + images.failed_negatives - fp
    pairs = {"sensitivity": (tp, fn), "specificity": (tn, fp), "ppv": (tp, fp), "npv": (tn, fn)}
    with np.errstate(invalid="ignore"):
        shares = {name: right / (right + wrong) for name, (right, wrong) in pairs.items()}
    return Candidates(descending[last], tp, tn, shares=shares)


def _round_between(low: float, high: float) -> float:
    """Return a threshold above `low`, up to `high`, with as few decimals as keep it in the middle
    half: probabilities that differ by rounding between engines stay on their side of it.
    """
    middle = low + (high - low) / 2
    for digits in range(1, FLOAT_DIGITS + 1):
        threshold = round(middle, digits)
        if low < threshold <= high and abs(threshold - middle) <= (high - low) / 4:
            return threshold
    return high


# --- points -------------------------------------------------------------------------------------


def find_points(
    predictions: Predictions, positive: int, task: EvaluateTask, precision: Precision
) -> tuple[OperatingPoint, ...]:
    """Find the operating points of `task` for the class with the index `positive`.

    Raises:
        UsageError: no threshold reaches what is asked.
    """
    p, failed = predictions, predictions.failed_labels
    images = OneVsRest(
        p.probabilities[:, positive],
        p.labels == positive,
        failed_positives=int((failed == positive).sum()),
        failed_negatives=int((failed != positive).sum()),
    )
    name, fit = p.classes[positive], task.images.fit
    return tuple(
        find_point(images, one, name=name, fit=fit, precision=precision)
        for one in dict.fromkeys(task.at)
    )


def find_point(
    images: OneVsRest,
    requirement: Requirement,
    *,
    name: str,
    fit: Fit = "crop",
    precision: Precision = "fp32",
) -> OperatingPoint:
    """Find the operating point that `requirement` asks for; `name` is the positive class.

    Raises:
        UsageError: no threshold reaches what is asked.
    """
    threshold = _choose(images, requirement)
    counts = images.count(threshold)
    tp, fp = counts["true_positives"], counts["false_positives"]
    tn, fn = counts["true_negatives"], counts["false_negatives"]
    return OperatingPoint(
        positive=name,
        metric=requirement.metric,
        asked=requirement.value,
        threshold=threshold,
        **counts,
        prevalence=(tp + fn) / (tp + fp + tn + fn),
        sensitivity=_share(tp, fn),
        specificity=_share(tn, fp),
        ppv=_share(tp, fp) if tp + fp else None,
        npv=_share(tn, fn) if tn + fn else None,
        fit=fit,
        precision=precision,
    )


def _choose(images: OneVsRest, requirement: Requirement) -> float:
    """Return the threshold that `requirement` gives or asks for; raises like `find_point`."""
    if requirement.metric == "threshold":
        return requirement.value
    candidates = list_candidates(images)
    threshold = candidates.choose(requirement)
    if threshold is None:
        raise _unreachable(candidates, requirement, images)
    return threshold


def _share(right: int, wrong: int) -> Share:
    images = right + wrong
    return Share(right, images, right / images, interval=share_interval(right, images))


def _unreachable(candidates: Candidates, requirement: Requirement, images: OneVsRest) -> UsageError:
    """Return the error that names the highest value that a threshold reaches."""
    metric, asked = requirement.metric, requirement.value
    failed = images.failed_positives + images.failed_negatives
    reason = ""
    if failed:
        reason = f" {pluralize(failed, 'image')} could not be opened and counted as wrong."
    values = candidates.shares[metric]
    best = 0.0 if np.isnan(values).all() else float(np.nanmax(values))
    return UsageError(
        f"No threshold reaches {metric}={asked:.15g} on these images: the highest value is "
        f"{math.floor(best * 10_000) / 10_000:g}.{reason}",
        "Ask for less, or use a better model.",
    )


def needed_images(asked: float) -> int | None:
    """Return the fewest images whose Wilson interval can begin at `asked`, if all are right;
    `None` if no number is enough.
    """
    return None if asked == 1 else math.ceil(CONFIDENCE_Z**2 * asked / (1 - asked))


def save_points(path: Path, model: ModelOptions, points: tuple[OperatingPoint, ...]) -> None:
    """Write a copy of the model that has these operating points, and no others.

    Raises:
        EffnetError: the file cannot be written.
    """
    resolved = resolve_model(model)
    write_copy(path, resolved, replace(resolved.card, operating_points=points))
