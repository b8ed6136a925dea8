"""Statistics of call times: percentiles, confidence intervals, comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.bench.records import FASTER, SLOWER, UNCHANGED, CallStatistics, Median
from effnet_cli.system.text import pluralize

STABLE_SPREAD = 0.05  # the largest spread of the turns' medians that counts as stable
MIN_TURNS = 5  # fewer say nothing about the spread
RESAMPLES = 500
CONFIDENCE_INTERVAL = (2.5, 97.5)  # percentiles that enclose 95 % of the resamples


@dataclass(frozen=True, slots=True)
class Turn:
    """The times of consecutive calls, and the images and seconds that give the throughput.

    The throughput may have been measured separately.
    """

    times_ms: tuple[float, ...]
    images: int
    seconds: float


def summarize(turns: Sequence[Turn]) -> CallStatistics:
    """Return the statistics of all calls of a case."""
    times = [np.asarray(turn.times_ms) for turn in turns]
    p5, p50, p90, p99 = np.percentile(np.concatenate(times), (5, 50, 90, 99)).tolist()
    low, high = np.percentile([np.median(one) for one in times], (10, 90))
    median_low, median_high = _median_interval(times)
    spread = float((high - low) / p50)
    return CallStatistics(
        p5_ms=p5,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p50_low_ms=median_low,
        p50_high_ms=median_high,
        images_per_s=sum(turn.images for turn in turns) / sum(turn.seconds for turn in turns),
        calls=sum(map(len, times)),
        turns=len(turns),
        spread=spread,
        verdict=_verdict(spread, len(turns)),
    )


def _verdict(spread: float, turns: int) -> str:
    if turns < MIN_TURNS:
        return f"unstable (only {pluralize(turns, 'turn')})"
    return "stable" if spread <= STABLE_SPREAD else f"unstable (spread {spread:.0%})"


def _median_interval(times: Sequence[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Return the confidence interval of the median.

    The bootstrap resamples whole turns, because the calls of one turn are not independent.
    """
    rng = np.random.default_rng(0)
    medians = [
        np.median(np.concatenate([times[i] for i in rng.integers(len(times), size=len(times))]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(medians, CONFIDENCE_INTERVAL).tolist()
    return low, high


def compare_medians(
    old: Median, new: Median, tolerance: float
) -> tuple[float, tuple[float, float], str]:
    """Return the ratio of the new median to the old one, its confidence interval, and the verdict.

    The verdict is `SLOWER` or `FASTER` if the ratio differs from 1 by more than `tolerance` and the
    whole interval lies on the same side of 1, else `UNCHANGED`.
    """
    ratio = new.ms / old.ms
    # the errors of the two medians are independent, so on a log scale their squares add up
    below = np.hypot(np.log(new.ms / new.low_ms), np.log(old.high_ms / old.ms))
    above = np.hypot(np.log(new.high_ms / new.ms), np.log(old.ms / old.low_ms))
    low, high = float(ratio * np.exp(-below)), float(ratio * np.exp(above))
    verdict = UNCHANGED
    if ratio > 1 + tolerance and low > 1:
        verdict = SLOWER
    elif ratio < 1 / (1 + tolerance) and high < 1:
        verdict = FASTER
    return ratio, (low, high), verdict
