"""From turns of calls to figures: percentiles, how sure the median is, what has changed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.bench.records import FASTER, SAME, SLOWER, Figures

STABLE_SPREAD = 0.05  # of the turns' medians, up to which a median can be quoted
MIN_TURNS = 5  # below that nothing is known of the spread
RESAMPLES = 500
CONFIDENCE = 95.0  # percent


@dataclass(frozen=True, slots=True)
class Turn:
    """Calls in a row: their times in milliseconds; images and seconds of the throughput, where
    that is not the calls' own.
    """

    times_ms: tuple[float, ...]
    images: int
    seconds: float


def figures(turns: Sequence[Turn]) -> Figures:
    """What the turns of one candidate say."""
    times = np.concatenate([np.asarray(turn.times_ms) for turn in turns])
    p5, p50, p90, p99 = (float(value) for value in np.percentile(times, (5, 50, 90, 99)))
    medians = np.array([np.median(turn.times_ms) for turn in turns])
    low, high = np.percentile(medians, (10, 90))
    spread = float((high - low) / p50)
    return Figures(
        p5,
        p50,
        p90,
        p99,
        _interval(turns),
        sum(turn.images for turn in turns) / sum(turn.seconds for turn in turns),
        len(times),
        len(turns),
        spread,
        _verdict(spread, len(turns)),
    )


def _verdict(spread: float, turns: int) -> str:
    if turns < MIN_TURNS:
        return f"unstable (only {turns} turn{'' if turns == 1 else 's'})"
    return "stable" if spread <= STABLE_SPREAD else f"unstable (spread {spread:.0%})"


def _interval(turns: Sequence[Turn]) -> tuple[float, float]:
    """Where the median is, by drawing as many turns again and again: calls of one turn are alike,
    so that turns are what was drawn by chance.
    """
    times = [np.asarray(turn.times_ms) for turn in turns]
    rng = np.random.default_rng(0)
    medians: npt.NDArray[np.float64] = np.array(
        [
            np.median(np.concatenate([times[i] for i in rng.integers(len(times), size=len(times))]))
            for _ in range(RESAMPLES)
        ]
    )
    outside = (100 - CONFIDENCE) / 2
    low, high = np.percentile(medians, (outside, 100 - outside))
    return float(low), float(high)


def changed(
    old_ms: float,
    old_interval: tuple[float, float],
    new_ms: float,
    new_interval: tuple[float, float],
    tolerance: float,
) -> tuple[float, tuple[float, float], str]:
    """The ratio of two medians, new by old, its interval, and the verdict.

    It is `slower` or `faster` where the ratio departs from 1 by more than `tolerance` and the
    interval, too, lies on that side of 1.
    """
    ratio = new_ms / old_ms
    # independent errors of the two medians add up as squares, on a scale of logarithms
    below = np.hypot(np.log(new_ms / new_interval[0]), np.log(old_interval[1] / old_ms))
    above = np.hypot(np.log(new_interval[1] / new_ms), np.log(old_ms / old_interval[0]))
    low, high = float(ratio * np.exp(-below)), float(ratio * np.exp(above))
    verdict = SAME
    if ratio > 1 + tolerance and low > 1:
        verdict = SLOWER
    elif ratio < 1 / (1 + tolerance) and high < 1:
        verdict = FASTER
    return ratio, (low, high), verdict
