"""When two images show the same: thresholds of the similarity, and what they promise."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.embed.embedder import normalize
from effnet_cli.embed.records import Vector, Vectors, VectorSource
from effnet_cli.evaluate.metrics import Flags, share_interval

Similarities = npt.NDArray[np.float32]  # [P], of pairs
REPORTED_FARS = (1e-2, 1e-3)
DEFAULT_FAR = 1e-3
CURVE_POINTS = 100
MIN_EXPECTED_MATCHES = 3  # false ones, for a rate to be measured at all


@dataclass(frozen=True, slots=True)
class OperatingRate:
    """What a threshold does: pairs of at least `threshold` are called the same.

    `far` is the false accept rate that was asked for, `false_matches` of the different pairs were
    called the same, and `tar` of the same pairs, with its 95 % interval.
    """

    far: float
    threshold: float
    false_matches: int
    tar: float
    tar_interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Verification:
    """How well similarities tell same pairs from different ones.

    `eer` is the rate at which as many same pairs are missed as different ones are accepted, and
    `auc` the area under the ROC curve. `roc` has points of this curve: false and true accept rates.
    There are `rates` only for the false accept rates that there are enough different pairs for.
    """

    same: int
    different: int
    eer: float
    auc: float
    rates: tuple[OperatingRate, ...]
    roc: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class PairCalibration:
    """A fitted threshold, as it is saved.

    `far` is what it was chosen for, and `promise` the upper end of the 95 % interval of the false
    accept rate that was measured, `false_matches` of `different` pairs. `tar` of `same` pairs reach
    it. If `mean` [D] is not empty, it is subtracted from the vectors before they are compared.
    """

    source: VectorSource
    threshold: float
    far: float
    promise: float
    false_matches: int
    different: int
    tar: float
    same: int
    mean: tuple[float, ...] = ()

    def measure(self, one: Vector, other: Vector) -> float:
        """Return the similarity of two vectors [D]."""
        pair, center = np.stack([one, other]), self.center
        return float(similarities_of(pair, np.array([0]), np.array([1]), center=center)[0])

    @property
    def center(self) -> Vector | None:
        """What is subtracted from vectors, float32 [D], if anything."""
        return np.array(self.mean, np.float32) if self.mean else None


def similarities_of(
    vectors: Vectors,
    first: npt.NDArray[np.intp],
    second: npt.NDArray[np.intp],
    *,
    center: Vector | None = None,
) -> Similarities:
    """Return the cosine of the vectors, rows `first` [P] and `second` [P] of [N,D], after
    subtracting `center` [D].
    """
    unit = vectors if center is None else normalize(vectors - center)
    found: Similarities = np.einsum("pd,pd->p", unit[first], unit[second])
    return found


def least_far(different: int) -> float:
    """Return the smallest false accept rate that so many different pairs can show."""
    return MIN_EXPECTED_MATCHES / different if different else math.inf


def choose_far(asked: float | None, different: int) -> float | None:
    """Return the false accept rate to fit: the one asked for, else 0.1 %, else the smallest power
    of ten that there are enough different pairs for; `None` if there are not enough.
    """
    least = least_far(different)
    if asked is not None:
        return asked if asked >= least else None
    candidates = [DEFAULT_FAR, 1e-2, 1e-1]
    return next((far for far in candidates if far >= least), None)


def find_threshold(different: Similarities, far: float) -> float:
    """Return the lowest threshold at which at most a share `far` of different pairs is accepted."""
    allowed = math.floor(far * len(different))
    ordered = np.sort(different)[::-1]
    if allowed >= len(ordered):
        return -1.0
    return float(np.nextafter(ordered[allowed], np.float32(2)))


def measure_rate(same: Similarities, different: Similarities, far: float) -> OperatingRate:
    """Return what the threshold for a false accept rate does."""
    threshold = find_threshold(different, far)
    accepted = int((same >= threshold).sum())
    return OperatingRate(
        far,
        threshold,
        false_matches=int((different >= threshold).sum()),
        tar=accepted / len(same),
        tar_interval=share_interval(accepted, len(same)),
    )


def measure_pairs(similarities: Similarities, is_same: Flags) -> Verification:
    """Return how well similarities [P] tell same pairs from different ones, of which there are
    both.
    """
    same, different = similarities[is_same], similarities[~is_same]
    order = np.argsort(-similarities, kind="stable")
    is_last = np.append(np.diff(similarities[order]) != 0, True)  # of equal ones
    tar = np.append(0, np.cumsum(is_same[order])[is_last] / len(same))
    far = np.append(0, np.cumsum(~is_same[order])[is_last] / len(different))
    crossing = int(np.argmax(far >= 1 - tar))
    return Verification(
        len(same),
        len(different),
        eer=_interpolate_eer(far, tar, crossing),
        auc=float(np.trapezoid(tar, far)),
        rates=tuple(
            measure_rate(same, different, one)
            for one in REPORTED_FARS
            if one >= least_far(len(different))
        ),
        roc=_sample_curve(far, tar, 1 / len(different)),
    )


def _sample_curve(
    far: npt.NDArray[np.float64], tar: npt.NDArray[np.float64], least: float
) -> tuple[tuple[float, float], ...]:
    """Return the curve at false accept rates from `least` to 1 that are even on a log scale."""
    rates = np.geomspace(least, 1, CURVE_POINTS)
    reached = tar[np.searchsorted(far, rates * (1 + 1e-9), side="right") - 1]
    return tuple((float(f"{x:.4g}"), round(y, 4)) for x, y in zip(rates, reached, strict=True))


def _interpolate_eer(
    far: npt.NDArray[np.float64], tar: npt.NDArray[np.float64], crossing: int
) -> float:
    """Return where the ROC curve meets the line on which both errors are equal."""
    before = max(crossing - 1, 0)
    gaps = [1 - tar[i] - far[i] for i in (before, crossing)]
    share = 0.0 if gaps[0] == gaps[1] else gaps[0] / (gaps[0] - gaps[1])
    return float(far[before] + share * (far[crossing] - far[before]))
