"""Records of a benchmark. Times are in milliseconds, memory in megabytes (10^6 bytes)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from effnet_cli.options import BenchMode, Precision

COPY = "copy"  # the name of the bandwidth limit
FASTER, SLOWER, UNCHANGED = "faster", "slower", "unchanged"


class Median(NamedTuple):
    """A median and its 95 % confidence interval."""

    ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class TimingKey:
    """What was timed. Timings of two results are compared if their keys are equal."""

    variant: str
    engine: str
    device: str
    precision: Precision
    batch_size: int
    mode: BenchMode


@dataclass(frozen=True)
class CallStatistics:
    """Statistics of the time per call.

    `p50_low_ms` to `p50_high_ms` is the 95 % confidence interval of the median (bootstrap over
    turns). `images_per_s` is the number of images divided by the total time. `spread` is the range
    from the 10th to the 90th percentile of the turns' medians, divided by `p50_ms`. It decides the
    `verdict`, together with the number of turns.
    """

    p5_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p50_low_ms: float
    p50_high_ms: float
    images_per_s: float
    calls: int
    turns: int
    spread: float
    verdict: str

    @property
    def median(self) -> Median:
        return Median(self.p50_ms, self.p50_low_ms, self.p50_high_ms)


@dataclass(frozen=True, kw_only=True)
class Timing(CallStatistics, TimingKey):
    """The speed of one model on one engine at one batch size. Its fields are the JSON keys.

    `weights` are `pretrained`, `yours` (a file) or `seeded` (random). `cold_ms` is the time from
    the start of a process to its first prediction, including `load_ms`, the time to load the model.
    `peak_memory_mb` is the largest resident set of the process. `share_of_peak` is relative to the
    multiply-adds per second of a large matrix product on the same engine in the same precision,
    `share_of_bandwidth` to the bytes per second of a large copy; each is `None` if no such limit
    applies. `top1` is the published accuracy in percent. The last three fields are medians for
    one image in mode `end-to-end`.
    """

    weights: str
    load_ms: float
    cold_ms: float
    peak_memory_mb: float | None
    device_memory_mb: float | None
    parameters: int
    giga_multiply_adds: float
    share_of_peak: float | None
    share_of_bandwidth: float | None
    top1: float | None
    decode_ms: float | None = None
    resize_ms: float | None = None
    model_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A model that was not measured on `engine` (empty: on any); `is_failure` if that was tried."""

    variant: str
    engine: str
    reason: str
    is_failure: bool = False


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The results of a benchmark.

    `limits` are those of the machine: billions of multiply-adds per second for each engine and
    precision (keys such as `torch fp32`), and gigabytes per second under `COPY`.
    """

    machine: Mapping[str, Any]
    timings: tuple[Timing, ...]
    skipped: tuple[Skipped, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Change(TimingKey):
    """A timing compared with an earlier one.

    `ratio` is the new median divided by the old one, and `interval` its 95 % confidence interval.
    """

    old_ms: float
    new_ms: float
    ratio: float
    interval: tuple[float, float]
    verdict: str
