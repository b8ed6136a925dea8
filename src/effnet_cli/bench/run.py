"""A run of measurements: what is measured, in which processes, and what their figures mean."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from effnet_cli import engines
from effnet_cli.bench import prepare, validate
from effnet_cli.bench.models import BenchModel
from effnet_cli.bench.prepare import Prepared
from effnet_cli.bench.records import COPY, BenchResult, LeftOut, Stages, Timing
from effnet_cli.bench.rounds import TURN_SECONDS, measured
from effnet_cli.bench.statistics import MIN_TURNS, Turn, figures
from effnet_cli.bench.worker import Asked, Warm, Worker
from effnet_cli.engines import ENGINES, EnginePlan
from effnet_cli.models.variants import VARIANTS
from effnet_cli.options import BenchTask, EngineName, EngineOptions, FileKind, Precision
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.machine import describe_machine, measure_copy_gb_per_s
from effnet_cli.system.reporter import SILENT, Reporter

MAX_BATCH_SIZE = {"cpu": 32, "cuda": 512, "mps": 64}  # that is tried for the best throughput
TRAINING_BATCH_SIZE = 32
WORTH = 0.05  # the gain in throughput for which a larger batch is better
MAX_CALL_SECONDS = 2.0  # of a batch that is tried
CALLS_A_TURN = 2  # at least

Pair = tuple[EngineName, Precision]


@dataclass(slots=True)
class Row:
    """A batch size of a network on an engine, while it is measured: a `Candidate`."""

    prepared: Prepared
    plan: EnginePlan
    batch_size: int
    worker: Worker
    warm: Warm

    def turn(self, seconds: float) -> Turn:
        """See `Candidate`."""
        return self.worker.turn(self.batch_size, seconds)

    @property
    def turn_seconds(self) -> float:
        """How long a turn takes, about."""
        return max(TURN_SECONDS, CALLS_A_TURN * self.warm.call_ms / 1000)


@dataclass(slots=True)
class ImageInput:
    """What has been started so far."""

    rows: list[Row] = field(default_factory=list)
    yardsticks: dict[tuple[str, str], Row] = field(default_factory=dict)
    tried_yardsticks: set[tuple[str, str]] = field(default_factory=set)
    left_out: list[LeftOut] = field(default_factory=list)
    faults: list[EffnetError] = field(default_factory=list)

    def check(self, measured: Iterable[object]) -> None:
        """Go on only where something is or can be measured.

        Raises:
            EffnetError: nothing; the first one's reason.
        """
        if not any(measured):
            fault = self.faults[0]
            raise EffnetError(f"Nothing could be measured: {fault.message}", fault.hint)


def bench(task: BenchTask, reporter: Reporter = SILENT) -> BenchResult:
    """Measure what `task` names, or the variants that fit its time.

    Raises:
        UsageError: no such variant, engine, file or image, or nothing that can be measured.
        EffnetError: a library or a device is not here.
    """
    started = time.perf_counter()
    validate.check(task)
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as folder, ExitStack() as stack:
        run = _Run(task, Path(folder), stack, reporter)
        run.start()
        turns = run.turns()
        return run.measured(turns, time.perf_counter() - started)


class _Run:
    """One run: starts processes, lets them take turns, reads their figures."""

    def __init__(self, task: BenchTask, folder: Path, stack: ExitStack, reporter: Reporter) -> None:
        self._task, self._folder, self._stack, self._reporter = task, folder, stack, reporter
        self._found = ImageInput()
        self._device = engines.plan_engine(EngineOptions(task.device)).device
        if not validate.has_models_alone(task):
            list(self._pairs("tensors"))  # refuses what cannot be, before anything is prepared
        self._images = validate.images(task, reporter) if task.mode == "end-to-end" else ()
        self._started_at = time.monotonic()

    # --- starting -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a process for each network on each engine.

        Raises:
            EffnetError: none could be started; the first one's reason.
        """
        makers = list(self._makers())
        are_named = bool(self._task.variants or self._task.models)
        for number, (name, make) in enumerate(makers):
            self._reporter.progress(f"Loading {name}", number, len(makers), "steps")
            if not are_named and name in VARIANTS and not self._has_time_for(name):
                reason = f"would not fit {self._task.seconds:g} s; name it, or raise --seconds"
                self._found.left_out.append(LeftOut(name, "", reason))
                continue
            self._start(make())
        self._reporter.progress("Loading", len(makers), len(makers), "steps")
        self._found.check(self._found.rows)

    def _makers(self) -> Iterator[tuple[str, Callable[[], Prepared]]]:
        """The names of what is measured, and what makes each of them."""
        task = self._task
        names = task.variants
        if not names and not task.models:
            names = tuple(sorted(VARIANTS, key=lambda n: VARIANTS[n].giga_multiply_adds))
        for name in names:
            yield name, partial(prepare.of_variant, name, self._folder, self._reporter)
        for path in task.models:
            yield path.name, partial(prepare.of_model, path, self._reporter)
        for name in task.against:
            yield name, partial(prepare.of_peer, name, self._folder)

    def _has_time_for(self, name: str) -> bool:
        """Whether a further variant fits the time, by what the others have needed."""
        rows, seconds = self._found.rows, self._task.seconds
        if not rows:
            return True
        if time.monotonic() - self._started_at > seconds:
            return False
        last = rows[-1].prepared.subject.variant
        growth = VARIANTS[name].giga_multiply_adds / last.giga_multiply_adds
        of_last = [row for row in rows if row.prepared.subject.variant is last]
        more = sum(max(TURN_SECONDS, growth * row.turn_seconds) for row in of_last)
        return MIN_TURNS * (sum(row.turn_seconds for row in rows) + more) <= seconds

    def _start(self, prepared: Prepared) -> None:
        subject = prepared.subject
        self._check_precision(subject)
        pairs = list(self._pairs(subject.kind))
        for engine, precision in pairs:
            if not subject.runs_on(engine):
                continue
            plan = EnginePlan(engine, self._device, precision)
            try:
                self._start_on(plan, prepared)
            except EffnetError as error:
                self._leave_out(prepared, plan, error)
                continue
            self._start_yardstick(plan)

    def _check_precision(self, subject: BenchModel) -> None:
        """Refuse to measure an exported file in another precision than its own.

        Raises:
            UsageError: it was exported in none of those that were asked for.
        """
        own, asked = subject.exported_precision, self._task.precisions
        is_asked = asked != BenchTask.precisions and validate.has_models_alone(self._task)
        if own is not None and is_asked and own not in asked:
            raise UsageError(
                f"{subject.name} runs in {own}, as it was exported, not in {', '.join(asked)}.",
                "Leave out --precision.",
            )

    def _leave_out(self, prepared: Prepared, plan: EnginePlan, error: EffnetError) -> None:
        """Go on without a network on an engine, and say why: once, whatever its batch sizes."""
        name = prepared.subject.name
        one = LeftOut(name, plan.engine, error.message, is_fault=True)
        if one not in self._found.left_out:
            self._found.left_out.append(one)
            self._found.faults.append(error)
            self._reporter.note(f"{name} on {plan.engine} is left out: {error.message}")

    def _pairs(self, kind: FileKind) -> Iterator[Pair]:
        """Engines and precisions that were asked for and are possible.

        Raises:
            UsageError: no engine, or none that was named, can do one of them.
            EffnetError: it is not installed.
        """
        task, on = self._task, self._device.partition(":")[0]
        if task.mode == "train":
            for precision in task.precisions:
                yield (
                    engines.plan_engine(EngineOptions(self._device, "torch", precision)).engine,
                    precision,
                )
            return
        wanted: Sequence[Precision] = task.precisions if kind == "tensors" else ("fp32",)
        names: Sequence[EngineName] = [name for name in ENGINES if name in task.engines]
        for precision in () if names else wanted:  # at least one installed engine runs each
            engines.plan_engine(EngineOptions(self._device, precision=precision), kind)
        for name in names or engines.list_installed(on, kind):
            able = ENGINES[name].precisions.get(on, ())
            for precision in wanted:
                if precision in able or task.engines:  # what was named and cannot be is said
                    engines.plan_engine(EngineOptions(self._device, name, precision), kind)
                    yield name, precision

    def _start_on(self, plan: EnginePlan, prepared: Prepared) -> None:
        worker = self._worker(plan, prepared)
        for batch_size, warm in self._batches(worker, prepared):
            self._found.rows.append(Row(prepared, plan, batch_size, worker, warm))

    def _worker(self, plan: EnginePlan, prepared: Prepared, mode: str | None = None) -> Worker:
        asked = Asked(
            prepared.subject,
            plan,
            "inference" if mode else self._task.mode,
            self._images,
            self._task.images,
        )
        worker = Worker(asked)
        self._stack.callback(worker.close)
        return worker

    def _batches(self, worker: Worker, prepared: Prepared) -> Iterator[tuple[int, Warm]]:
        """The batch sizes to measure, smallest first, so that each peak of memory is its own."""
        task = self._task
        fixed = prepared.subject.fixed_batch
        if fixed is not None:
            yield fixed, worker.warm(fixed)
            return
        if task.mode == "train":
            sizes = task.batch_sizes or (TRAINING_BATCH_SIZE,)
        else:
            sizes = task.batch_sizes or (1,)
        for size in sorted(sizes):
            warm = worker.warm(size)
            yield size, warm
        if task.mode == "inference" and not task.batch_sizes:
            yield from self._best_batch(worker, warm.call_ms)

    def _best_batch(self, worker: Worker, least_ms: float) -> Iterator[tuple[int, Warm]]:
        """The batch size with the highest throughput, if it is worth more than one image at a
        time in `least_ms`.
        """
        best: tuple[int, Warm] | None = None
        size = 1
        while size < MAX_BATCH_SIZE[self._device.partition(":")[0]]:
            size *= 2
            try:
                warm = worker.warm(size)
            except EffnetError:  # no memory for so many
                break
            if warm.call_ms / size > least_ms * (1 + WORTH):
                break
            if warm.call_ms / size < least_ms * (1 - WORTH):
                best, least_ms = (size, warm), warm.call_ms / size
            if warm.call_ms > 1000 * MAX_CALL_SECONDS:
                break
        if best is not None:
            yield best

    def _start_yardstick(self, plan: EnginePlan) -> None:
        """A large matrix product on the same engine in the same precision, once."""
        key = (plan.engine, plan.precision)
        if key in self._found.tried_yardsticks or self._task.mode == "end-to-end":
            return
        if "tensors" not in ENGINES[plan.engine].kinds:
            return
        self._found.tried_yardsticks.add(key)
        prepared = prepare.yardstick(self._device, self._folder)
        try:
            worker, size = self._worker(plan, prepared, "inference"), prepared.subject.outputs
            self._found.yardsticks[key] = Row(prepared, plan, size, worker, worker.warm(size))
        except EffnetError as error:
            self._leave_out(prepared, plan, error)

    # --- measuring ------------------------------------------------------------------------------

    def turns(self) -> list[list[Turn]]:
        """Let all of them take turns; those that fail meanwhile have none.

        Raises:
            EffnetError: all networks failed; the first one's reason.
        """
        candidates = [*self._found.rows, *self._found.yardsticks.values()]
        seconds = self._task.seconds
        least = MIN_TURNS * sum(candidate.turn_seconds for candidate in candidates)
        total = round(max(seconds, least))
        names = dict.fromkeys(row.prepared.subject.name for row in self._found.rows)
        self._reporter.note(f"Measures {', '.join(names)} for about {total} s")

        def hear(passed: float) -> None:
            self._reporter.progress("Measuring", min(round(passed), total - 1), total, "steps")

        def failed(index: int, error: EffnetError) -> None:
            self._leave_out(candidates[index].prepared, candidates[index].plan, error)

        turns = measured(candidates, seconds, hear, failed=failed)
        self._reporter.progress("Measuring", total, total, "steps")
        self._found.check(turns[: len(self._found.rows)])
        return turns

    # --- figures --------------------------------------------------------------------------------

    def measured(self, turns: list[list[Turn]], seconds: float) -> BenchResult:
        """The figures of all rows."""
        found = self._found
        limits = {
            key: _multiply_adds_per_s(row, times)
            for (key, row), times in zip(
                found.yardsticks.items(), turns[len(found.rows) :], strict=True
            )
            if times
        }
        on_cpu = self._device == "cpu"
        copied = measure_copy_gb_per_s() if on_cpu and self._task.mode == "inference" else None
        timings = [
            self._timing(row, times, limits, copied)
            for row, times in zip(found.rows, turns, strict=False)
            if times
        ]
        named = {" ".join(key): value / 1e9 for key, value in limits.items()}
        if copied is not None:
            named[COPY] = copied
        return BenchResult(
            describe_machine(), tuple(timings), tuple(found.left_out), named, seconds
        )

    def _timing(
        self,
        row: Row,
        turns: Sequence[Turn],
        limits: Mapping[tuple[str, str], float],
        copied: float | None,
    ) -> Timing:
        subject, work, mode = row.prepared.subject, row.prepared.work, self._task.mode
        worked = figures(turns)
        seconds, started = worked.p50_ms / 1000, row.worker.started
        peak = limits.get((row.plan.engine, started.precision))
        # a training step goes forward once and back twice: to the inputs and to the weights
        passes = 3 if mode == "train" else 1
        done = passes * work.multiply_adds * row.batch_size / seconds
        moved = work.weight_bytes + row.batch_size * work.activation_bytes
        has_bytes = copied is not None and started.precision == "fp32"
        return Timing(
            subject.name,
            row.plan.engine,
            row.plan.device,
            started.precision,
            row.batch_size,
            mode,
            subject.weights,
            worked,
            started.load_ms,
            started.cold_ms,
            row.warm.memory_mb,
            row.warm.device_memory_mb,
            work.parameters,
            work.multiply_adds / 1e9,
            done / peak if peak and mode != "end-to-end" else None,
            moved / 1e9 / seconds / copied if has_bytes and copied else None,
            row.prepared.top1,
            Stages(*row.worker.stages()) if mode == "end-to-end" else None,
        )


def _multiply_adds_per_s(row: Row, turns: Sequence[Turn]) -> float:
    """What a matrix product reaches in its good moments: that is the limit."""
    return row.prepared.work.multiply_adds * row.batch_size / (figures(turns).p5_ms / 1000)
