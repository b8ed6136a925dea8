"""Runs a benchmark."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from effnet_cli.bench import validate
from effnet_cli.bench.models import SEEDED_BUILDER, BenchModel
from effnet_cli.bench.records import COPY, BenchResult, CallStatistics, Timing
from effnet_cli.bench.rounds import measure_rounds
from effnet_cli.bench.start import Case, Starter
from effnet_cli.bench.statistics import MIN_TURNS, Turn, summarize
from effnet_cli.engines.registry import plan_engine
from effnet_cli.models import build
from effnet_cli.models.summary import ComputeCost, compute_cost
from effnet_cli.options import BenchTask, EngineOptions
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.machine import describe_machine, measure_copy_gb_per_s
from effnet_cli.system.reporter import SILENT, Reporter

# A training step costs three passes: forward, gradients of the inputs, gradients of the weights.
TRAINING_PASSES = 3


def bench(task: BenchTask, reporter: Reporter = SILENT) -> BenchResult:
    """Measure the models that `task` names, or by default the variants that fit into its `seconds`.

    Raises:
        UsageError: a variant, engine, file or image does not exist, or options are incompatible.
        EffnetError: a library or a device is missing, or nothing could be measured.
    """
    started = time.perf_counter()
    validate.check(task)
    task = replace(task, device=plan_engine(EngineOptions(task.device)).device)
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as folder, ExitStack() as stack:
        starter = Starter(task, Path(folder), stack=stack, reporter=reporter)
        starter.start()
        turns = _measure(task, starter, reporter)
        result = _result(task, starter, turns)
    return replace(result, seconds=time.perf_counter() - started)


def _measure(task: BenchTask, starter: Starter, reporter: Reporter) -> list[list[Turn]]:
    """Return the turns of each case, none for a case that fails; EffnetError if all fail."""
    cases = starter.cases
    least = MIN_TURNS * sum(case.turn_seconds for case in cases)
    total = round(max(task.seconds, least))
    names = dict.fromkeys(case.model.name for case in cases if not case.model.is_limit)
    reporter.note(f"Measuring {', '.join(names)} for about {total} s")

    def show(passed: float) -> None:
        reporter.progress("Measuring", min(round(passed), total - 1), total, unit="steps")

    def fail(index: int, error: EffnetError) -> None:
        starter.fail(cases[index].worker.request, error)

    turns = measure_rounds(cases, task.seconds, on_turn=show, on_failure=fail)
    reporter.progress("Measuring", total, total, unit="steps")
    starter.check_any(t for case, t in zip(cases, turns, strict=True) if not case.model.is_limit)
    return turns


def _result(task: BenchTask, starter: Starter, turns: Sequence[Sequence[Turn]]) -> BenchResult:
    measured = [(case, summarize(t)) for case, t in zip(starter.cases, turns, strict=True) if t]
    limits = {}
    for case, calls in measured:
        if case.model.is_limit:  # what a matrix product reaches in its fastest calls
            plan, giga = case.worker.request.plan, case.model.outputs**2 * case.batch_size / 1e9
            limits[f"{plan.engine} {plan.precision}"] = 1000 * giga / calls.p5_ms
    if task.device == "cpu" and task.mode == "inference":
        limits[COPY] = measure_copy_gb_per_s()
    timings = tuple(_timing(*one, limits) for one in measured if not one[0].model.is_limit)
    return BenchResult(describe_machine(), timings, skipped=tuple(starter.skipped), limits=limits)


@cache
def _compute_cost(model: BenchModel) -> ComputeCost:
    make = model.build
    if model.builder == SEEDED_BUILDER:  # a model with its own number of classes
        make = partial(build.build, model.variant, model.outputs)
    return compute_cost(make, model.shape[0])


def _timing(case: Case, calls: CallStatistics, limits: Mapping[str, float]) -> Timing:
    model, plan, mode = case.model, case.worker.request.plan, case.worker.request.mode
    started, memory, seconds = case.worker.started, case.warm_up, calls.p50_ms / 1000
    cost = _compute_cost(model)
    passes = TRAINING_PASSES if mode == "train" else 1
    giga_multiply_adds = passes * cost.multiply_adds * case.batch_size / 1e9
    gigabytes = (cost.weight_bytes + case.batch_size * cost.activation_bytes) / 1e9
    peak = limits.get(f"{plan.engine} {started.precision}")
    copy = limits.get(COPY) if started.precision == "fp32" else None
    return Timing(
        **vars(calls),
        variant=model.name,
        engine=plan.engine,
        device=plan.device,
        precision=started.precision,
        batch_size=case.batch_size,
        mode=mode,
        weights=model.weights,
        load_ms=started.load_ms,
        cold_ms=started.cold_ms,
        peak_memory_mb=memory.host_bytes and memory.host_bytes / 1e6,
        device_memory_mb=memory.device_bytes and memory.device_bytes / 1e6,
        parameters=cost.parameters,
        giga_multiply_adds=cost.multiply_adds / 1e9,
        share_of_peak=peak and giga_multiply_adds / seconds / peak,
        share_of_bandwidth=copy and gigabytes / seconds / copy,
        top1=None if model.weights == "yours" else model.variant.top1,
        **(case.worker.stage_medians_ms() if mode == "end-to-end" else {}),
    )
