"""Run a benchmark."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from effnet_cli import engines
from effnet_cli.bench import validate
from effnet_cli.bench.records import COPY, BenchResult, Timing
from effnet_cli.bench.rounds import measure_rounds
from effnet_cli.bench.start import Case, Starter
from effnet_cli.bench.statistics import MIN_TURNS, Turn, summarize
from effnet_cli.options import BenchTask, EngineOptions
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.machine import describe_machine, measure_copy_gb_per_s
from effnet_cli.system.reporter import SILENT, Reporter

# A training step goes forward once and back twice: to the inputs and to the weights.
TRAINING_PASSES = 3


def bench(task: BenchTask, reporter: Reporter = SILENT) -> BenchResult:
    """Measure what `task` names, or the variants that fit its time.

    Raises:
        UsageError: no such variant, engine, file or image, or options that exclude each other.
        EffnetError: a library or a device is missing, or everything failed.
    """
    started = time.perf_counter()
    validate.check(task)
    task = replace(task, device=engines.plan_engine(EngineOptions(task.device)).device)
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as folder, ExitStack() as stack:
        starter = Starter(task, Path(folder), stack=stack, reporter=reporter)
        starter.start()
        turns = _measure(task, starter, reporter)
        result = _result(task, starter, turns)
    return replace(result, seconds=time.perf_counter() - started)


def _measure(task: BenchTask, starter: Starter, reporter: Reporter) -> list[list[Turn]]:
    """The turns of all cases, then of all limits; none for those that fail meanwhile.

    Raises:
        EffnetError: all cases failed.
    """
    cases = [*starter.cases, *starter.limits.values()]
    least = MIN_TURNS * sum(case.turn_seconds for case in cases)
    total = round(max(task.seconds, least))
    names = dict.fromkeys(case.prepared.model.name for case in starter.cases)
    reporter.note(f"Measuring {', '.join(names)} for about {total} s")

    def show(passed: float) -> None:
        reporter.progress("Measuring", min(round(passed), total - 1), total, unit="steps")

    def fail(index: int, error: EffnetError) -> None:
        starter.fail(cases[index].prepared, cases[index].plan, error)

    turns = measure_rounds(cases, task.seconds, on_turn=show, on_failure=fail)
    reporter.progress("Measuring", total, total, unit="steps")
    starter.check_any(turns[: len(starter.cases)])
    return turns


def _result(task: BenchTask, starter: Starter, turns: Sequence[Sequence[Turn]]) -> BenchResult:
    count = len(starter.cases)
    peaks = {
        key: _peak_multiply_adds_per_s(case, measured)
        for (key, case), measured in zip(starter.limits.items(), turns[count:], strict=True)
        if measured
    }
    has_copy = task.device == "cpu" and task.mode == "inference"
    copy_gb_per_s = measure_copy_gb_per_s() if has_copy else None
    timings = []
    for case, measured in zip(starter.cases, turns[:count], strict=True):
        if measured:
            peak = peaks.get((case.plan.engine, case.worker.started.precision))
            timings.append(_timing(case, measured, peak, copy_gb_per_s))
    limits = {" ".join(key): value / 1e9 for key, value in peaks.items()}
    if copy_gb_per_s is not None:
        limits[COPY] = copy_gb_per_s
    return BenchResult(
        describe_machine(), tuple(timings), skipped=tuple(starter.skipped), limits=limits
    )


def _timing(
    case: Case, turns: Sequence[Turn], peak: float | None, copy_gb_per_s: float | None
) -> Timing:
    model, cost, mode = case.prepared.model, case.prepared.cost, case.worker.request.mode
    statistics, started = summarize(turns), case.worker.started
    seconds = statistics.p50_ms / 1000
    passes = TRAINING_PASSES if mode == "train" else 1
    multiply_adds = passes * cost.multiply_adds * case.batch_size
    gigabytes = (cost.weight_bytes + case.batch_size * cost.activation_bytes) / 1e9
    share_of_peak = share_of_bandwidth = None
    if peak is not None and mode != "end-to-end":
        share_of_peak = multiply_adds / seconds / peak
    if copy_gb_per_s is not None and started.precision == "fp32":
        share_of_bandwidth = gigabytes / seconds / copy_gb_per_s
    return Timing(
        **asdict(statistics),
        variant=model.name,
        engine=case.plan.engine,
        device=case.plan.device,
        precision=started.precision,
        batch_size=case.batch_size,
        mode=mode,
        weights=model.weights,
        load_ms=started.load_ms,
        cold_ms=started.cold_ms,
        peak_memory_mb=case.warm_up.memory_mb,
        device_memory_mb=case.warm_up.device_memory_mb,
        parameters=cost.parameters,
        giga_multiply_adds=cost.multiply_adds / 1e9,
        share_of_peak=share_of_peak,
        share_of_bandwidth=share_of_bandwidth,
        top1=case.prepared.top1,
        **(case.worker.stage_medians_ms() if mode == "end-to-end" else {}),
    )


def _peak_multiply_adds_per_s(case: Case, turns: Sequence[Turn]) -> float:
    """What a matrix product reaches in its fastest calls."""
    seconds = summarize(turns).p5_ms / 1000
    return case.prepared.cost.multiply_adds * case.batch_size / seconds
