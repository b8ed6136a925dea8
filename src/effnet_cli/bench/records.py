"""What comes of a measurement."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from effnet_cli.options import BenchMode, Precision


@dataclass(frozen=True, slots=True)
class Figures:
    """Times of one call, in milliseconds, and what they are worth.

    `interval_ms` holds the true median with 95 % confidence (bootstrap over the turns). `spread` is
    the range of the turns' own medians, from the 10th to the 90th percentile, by `p50_ms`.
    `images_per_s` is all images by all time.
    """

    p5_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    interval_ms: tuple[float, float]
    images_per_s: float
    calls: int
    turns: int
    spread: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Stages:
    """Medians for one image, one after the other in one thread, in milliseconds."""

    decode_ms: float
    resize_ms: float
    network_ms: float


@dataclass(frozen=True, slots=True)
class Timing:
    """One network on one engine, with so many images in a call.

    `weights` are `pretrained`, `yours` or `seeded`. `cold_ms` is from the start of a process to its
    first answer, `load_ms` the part of it that loads the engine. `peak_memory_mb` is the largest
    resident set of a process that does only this, `device_memory_mb` the largest allocation on the
    device. `share_of_peak` is of the multiply-adds in a large matrix product by the same engine in
    the same precision, `share_of_bandwidth` of what a large copy moves; `None` where there is
    nothing to compare with. `top1` is published, in percent.
    """

    variant: str
    engine: str
    device: str
    precision: Precision
    batch_size: int
    mode: BenchMode
    weights: str
    figures: Figures
    load_ms: float
    cold_ms: float
    peak_memory_mb: float | None
    device_memory_mb: float | None
    parameters: int
    giga_multiply_adds: float
    share_of_peak: float | None
    share_of_bandwidth: float | None
    top1: float | None
    stages: Stages | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was not measured, and why; `is_fault`: it was to be, and failed."""

    variant: str
    engine: str
    reason: str
    is_fault: bool = False


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All that a run has measured. `limits` are this machine's: billions of multiply-adds a second
    by engine and precision ("torch fp32"), and gigabytes a second that a copy moves (`COPY`).
    """

    machine: Mapping[str, Any]
    timings: tuple[Timing, ...]
    left_out: tuple[LeftOut, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """One row beside an earlier one: `ratio` of the medians, new by old, within `interval` with
    95 % confidence.
    """

    variant: str
    engine: str
    device: str
    precision: str
    batch_size: int
    mode: str
    old_ms: float
    new_ms: float
    ratio: float
    interval: tuple[float, float]
    verdict: str


COPY = "copy"
FASTER, SLOWER, SAME = "faster", "slower", "the same"
