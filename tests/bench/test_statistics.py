"""Statistics and rounds, with known delays on a fake clock."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.bench import worker
from effnet_cli.bench.records import FASTER, SLOWER, UNCHANGED, Median
from effnet_cli.bench.rounds import measure_rounds
from effnet_cli.bench.statistics import MIN_TURNS, Turn, compare_medians, summarize
from effnet_cli.bench.worker import EngineCaller
from effnet_cli.engines.base import Crops, ModelOutputs

pytestmark = pytest.mark.usefixtures("one_core")


class Clock:
    """A clock that advances on request."""

    def __init__(self) -> None:
        self.ms = 0.0

    def perf_counter_ns(self) -> int:
        return round(self.ms * 1e6)

    def monotonic(self) -> float:
        return self.ms / 1000


@dataclass
class SlowEngine:
    """A fake engine whose calls cycle through given delays."""

    clock: Clock
    delays_ms: Sequence[float]
    calls: int = 0
    sizes: list[int] = field(default_factory=list)
    precision: str = "fp32"
    scores_are: str = "logits"

    def __call__(self, crops: Crops) -> ModelOutputs:
        self.clock.ms += self.delays_ms[self.calls % len(self.delays_ms)]
        self.calls += 1
        self.sizes.append(len(crops))
        return ModelOutputs(np.zeros((len(crops), 3), np.float32))


@dataclass
class FakeCase:
    """A benchmark case with a fake engine."""

    engine: SlowEngine
    order: list["FakeCase"]
    batch_size: int = 1

    def turn(self, seconds: float) -> Turn:
        self.order.append(self)
        caller = EngineCaller(self.engine, (4, 4, 3))  # type: ignore[arg-type]
        return worker.take_turn(caller, self.batch_size, seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(worker, "time", clock)
    return clock


def test_percentiles_and_throughput_match_the_delays(clock: Clock) -> None:
    delays = [float(ms) for ms in range(1, 101)]
    case = FakeCase(SlowEngine(clock, delays), [], batch_size=4)
    (turns,) = measure_rounds([case], 10.0, clock=clock.monotonic)
    found = summarize(turns)
    kept = [ms for turn in turns for ms in turn.times_ms]
    assert set(kept) <= set(delays)
    assert len(kept) == found.calls > 100
    for value, percent in (
        (found.p5_ms, 5), (found.p50_ms, 50), (found.p90_ms, 90), (found.p99_ms, 99)
    ):  # fmt: skip
        assert value == pytest.approx(np.percentile(kept, percent))
    assert found.images_per_s == pytest.approx(4 * len(kept) / (sum(kept) / 1000))
    assert found.p50_low_ms <= found.p50_ms <= found.p50_high_ms
    assert set(case.engine.sizes) == {4}
    assert found.verdict.startswith("unstable (spread ")


def test_first_call_counts_only_if_it_is_the_whole_turn(clock: Clock) -> None:
    cold = FakeCase(SlowEngine(clock, [50.0] + [2.0] * 74), [])  # a turn is 50 + 50 * 2 ms
    assert 50.0 not in cold.turn(0.15).times_ms
    long = FakeCase(SlowEngine(clock, [700.0]), [])
    assert long.turn(0.15).times_ms == (700.0,)


def test_constant_delays_are_stable_and_drifting_ones_are_not(clock: Clock) -> None:
    steady = FakeCase(SlowEngine(clock, [5.0]), [])
    drifting = FakeCase(SlowEngine(clock, [5.0]), [])
    turns = [steady.turn(0.15) for _ in range(8)]
    assert summarize(turns).verdict == "stable"
    assert summarize(turns).median == (5.0, 5.0, 5.0)
    assert summarize(turns[: MIN_TURNS - 1]).verdict == f"unstable (only {MIN_TURNS - 1} turns)"
    drift = []
    for number in range(8):
        drifting.engine.delays_ms = [5.0 + number / 10]
        drift.append(drifting.turn(0.15))
    assert summarize(drift).spread == pytest.approx((5.63 - 5.07) / 5.35, abs=0.01)
    assert summarize(drift).verdict == "unstable (spread 11%)"


def test_cases_take_turns_in_every_round(clock: Clock) -> None:
    order: list[FakeCase] = []
    fakes = [FakeCase(SlowEngine(clock, [ms]), order) for ms in (1.0, 2.0, 50.0)]
    elapsed: list[float] = []
    turns = measure_rounds(fakes, 20.0, on_turn=elapsed.append, clock=clock.monotonic)
    assert [len(each) for each in turns] == [len(order) // 3] * 3
    rounds = [tuple(map(id, order[i : i + 3])) for i in range(0, len(order), 3)]
    assert all(len(set(one)) == 3 for one in rounds)
    assert len(set(rounds)) > 3  # the order changes, so that no case is always first
    assert elapsed == sorted(elapsed)
    assert elapsed[-4] < 20.0 <= elapsed[-1]


def test_slow_cases_get_enough_turns_for_a_verdict(clock: Clock) -> None:
    (turns,) = measure_rounds(
        [FakeCase(SlowEngine(clock, [9000.0]), [])], 1.0, clock=clock.monotonic
    )
    assert len(turns) == MIN_TURNS


@given(
    st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(1.0, 1.5), st.floats(1.0, 1.5),
    st.floats(0.01, 0.5),
)  # fmt: skip
def test_comparison_is_symmetric(
    old: float, new: float, wide: float, wider: float, tolerance: float
) -> None:
    before, after = Median(old, old / wide, old * wide), Median(new, new / wider, new * wider)
    ratio, (low, high), verdict = compare_medians(before, after, tolerance)
    back, (back_low, back_high), reverse = compare_medians(after, before, tolerance)
    assert ratio == pytest.approx(new / old)
    assert low <= ratio * (1 + 1e-9)
    assert ratio <= high * (1 + 1e-9)
    assert (back, back_low, back_high) == pytest.approx((1 / ratio, 1 / high, 1 / low))
    edges = (ratio / (1 + tolerance), 1 / ratio / (1 + tolerance), low, high)
    if all(abs(edge - 1) > 1e-9 for edge in edges):  # rounding decides there
        assert {verdict: reverse}[verdict] == {
            FASTER: SLOWER,
            SLOWER: FASTER,
            UNCHANGED: UNCHANGED,
        }[verdict]


def test_change_must_be_certain_and_large() -> None:
    certain, uncertain = Median(100, 99, 101), Median(100, 80, 125)
    assert compare_medians(certain, Median(120, 119, 121), 0.05)[2] == SLOWER
    tolerated = Median(104, 103.5, 104.5)
    assert compare_medians(certain, tolerated, 0.05)[2] == UNCHANGED
    assert compare_medians(uncertain, Median(120, 96, 150), 0.05)[2] == UNCHANGED
    assert compare_medians(certain, Median(80, 79, 81), 0.05)[2] == FASTER
