"""Starts a worker process for each model on each engine, and chooses its batch sizes."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from effnet_cli.bench import prepare, rounds, validate
from effnet_cli.bench.models import BenchModel
from effnet_cli.bench.records import Skipped
from effnet_cli.bench.statistics import MIN_TURNS, Turn
from effnet_cli.bench.worker import WarmUp, Worker, WorkerRequest
from effnet_cli.engines.registry import (
    ENGINES,
    EnginePlan,
    device_type_of,
    list_installed,
    plan_engine,
)
from effnet_cli.models.variants import PUBLISHED, VARIANTS
from effnet_cli.options import BenchTask, EngineName, EngineOptions, EnginePrecision, FileKind
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.reporter import Reporter

LARGEST_BATCH = {"cpu": 32, "cuda": 512, "mps": 64}  # the largest to try for the best throughput
TRAINING_BATCH_SIZE = 32
WORTHWHILE_GAIN = 0.05  # in time per image, for a larger batch to count as better
MAX_CALL_SECONDS = 2.0  # after a longer call, no larger batch is tried
CALLS_PER_TURN = 2  # at least


@dataclass(frozen=True, slots=True)
class Case:
    """A warmed-up model on one engine at one batch size."""

    worker: Worker
    batch_size: int
    warm_up: WarmUp

    @property
    def model(self) -> BenchModel:
        return self.worker.request.model

    def turn(self, seconds: float) -> Turn:
        """See `rounds.Measurable`."""
        return self.worker.turn(self.batch_size, seconds)

    @property
    def turn_seconds(self) -> float:
        """The expected length of a turn."""
        return max(rounds.TURN_SECONDS, CALLS_PER_TURN * self.warm_up.call_ms / 1000)


class Starter:
    """Starts the worker processes of all `cases`; closing `stack` ends them.

    `skipped` lists what was not started, or failed.
    """

    def __init__(self, task: BenchTask, folder: Path, stack: ExitStack, reporter: Reporter) -> None:
        self._task, self._folder, self._stack, self._reporter = task, folder, stack, reporter
        self._images: tuple[str, ...] = ()
        self._started_at = time.monotonic()
        self.cases: list[Case] = []
        self.skipped: list[Skipped] = []
        self._limited: set[EnginePlan] = set()  # the plans that have a matrix product
        self._errors: list[EffnetError] = []

    def start(self) -> None:
        """Start all workers; EffnetError if none could be started."""
        task = self._task
        if not validate.has_only_files(task):
            list(engine_plans(task, "tensors"))  # raises before anything is prepared
        if task.mode == "end-to-end":
            self._images = validate.images(task, self._reporter)
        models = list(self._models())
        for number, (name, make) in enumerate(models):
            self._reporter.progress(f"Loading {name}", number, len(models), unit="steps")
            if self._has_time_for(name):
                self._start(make())
            else:
                reason = f"would not fit into {task.seconds:g} s; use --variant, or raise --seconds"
                self.skipped.append(Skipped(name, "", reason))
        self._reporter.progress("Loading", len(models), len(models), unit="steps")
        self.check_any(self.cases)

    def check_any(self, measured: Iterable[object]) -> None:
        """Raise the first failure if nothing is left to measure."""
        if not any(measured):
            error = self._errors[0]
            raise EffnetError(f"Nothing could be measured: {error.message}", error.hint)

    def fail(self, request: WorkerRequest, error: EffnetError) -> None:
        """Skip a model on an engine, and report this once for all its batch sizes."""
        name, engine = request.model.name, request.plan.engine
        skipped = Skipped(name, engine, error.message, is_failure=True)
        if skipped not in self.skipped:
            self.skipped.append(skipped)
            self._errors.append(error)
            self._reporter.note(f"Skipping {name} on {engine}: {error.message}")

    def _models(self) -> Iterator[tuple[str, Callable[[], BenchModel]]]:
        """Yield the name of each model and the function that prepares it."""
        task, folder = self._task, self._folder
        names = task.variants
        if not names and not task.models:
            rows = sorted(PUBLISHED, key=lambda row: row.giga_multiply_adds)
            names = tuple(row.name for row in rows)
        for name in names:
            yield name, partial(prepare.prepare_variant, name, folder, self._reporter)
        for path in task.models:
            yield path.name, partial(prepare.prepare_file, path, self._reporter)
        for name in task.against:
            yield name, partial(prepare.prepare_torchvision, name, folder)

    def _has_time_for(self, name: str) -> bool:
        """Return whether there is time for a model.

        Models named by the task always fit. For other variants, it is estimated from those before.
        """
        task, cases = self._task, [case for case in self.cases if not case.model.is_limit]
        if task.variants or task.models or name not in VARIANTS or not cases:
            return True
        if time.monotonic() - self._started_at > task.seconds:
            return False
        last = cases[-1].model.variant
        growth = VARIANTS[name].giga_multiply_adds / last.giga_multiply_adds
        of_last = [case.turn_seconds for case in cases if case.model.variant is last]
        more = sum(max(rounds.TURN_SECONDS, growth * seconds) for seconds in of_last)
        return MIN_TURNS * (sum(case.turn_seconds for case in cases) + more) <= task.seconds

    def _start(self, model: BenchModel) -> None:
        """Start one model on all its engines, each with a matrix product to measure its peak."""
        self._check_precision(model)
        for plan in list(engine_plans(self._task, model.kind)):
            is_comparable = "tensors" in ENGINES[plan.engine].kinds
            is_limited = plan in self._limited or self._task.mode == "end-to-end"
            if self._start_on(plan, model) and is_comparable and not is_limited:
                self._limited.add(plan)
                self._start_on(plan, prepare.prepare_product(self._task.device, self._folder))

    def _check_precision(self, model: BenchModel) -> None:
        """Raise UsageError if an exported file is in none of the requested precisions."""
        own, given = model.precision, self._task.precisions
        is_given = given != BenchTask.precisions and validate.has_only_files(self._task)
        if own is not None and is_given and own not in given:
            raise UsageError(
                f"{model.name} was exported as {own} and cannot run as {', '.join(given)}.",
                "Omit --precision.",
            )

    def _start_on(self, plan: EnginePlan, model: BenchModel) -> bool:
        """Start one model on one engine at its batch sizes; return whether that succeeded."""
        mode = "inference" if model.is_limit else self._task.mode
        request = WorkerRequest(model, plan, mode, images=self._images, options=self._task.images)
        try:
            worker = Worker(request)
            self._stack.callback(worker.close)
            for batch_size, warm_up in batches(self._task, worker):
                self.cases.append(Case(worker, batch_size, warm_up))
        except EffnetError as error:
            self.fail(request, error)
            return False
        return True


def engine_plans(task: BenchTask, kind: FileKind) -> Iterator[EnginePlan]:
    """Yield the engines and precisions for a file of `kind`. Raise what `plan_engine` raises."""
    precisions: Sequence[EnginePrecision] = task.precisions if kind == "tensors" else ("fp32",)
    engines: Sequence[EngineName] = ("torch",) if task.mode == "train" else task.engines
    named = [name for name in ENGINES if name in engines]
    for precision in () if named else precisions:  # some installed engine must support each
        plan_engine(EngineOptions(task.device, precision=precision), kind)
    device = device_type_of(task.device)
    for name in named or list_installed(device, kind):
        for precision in precisions:
            if named or precision in ENGINES[name].precisions[device]:
                yield plan_engine(EngineOptions(task.device, name, precision), kind)


def batches(task: BenchTask, worker: Worker) -> Iterator[tuple[int, WarmUp]]:
    """Yield the batch sizes to measure, in ascending order because peak memory never falls."""
    fixed_size = worker.request.model.fixed_batch
    default = TRAINING_BATCH_SIZE if task.mode == "train" else 1
    sizes = (fixed_size,) if fixed_size else task.batch_sizes or (default,)
    for size in sorted(sizes):
        warm_up = worker.warm_up(size)
        yield size, warm_up
    if task.mode == "inference" and not task.batch_sizes and not fixed_size:
        yield from best_batch(worker, task.device, warm_up.call_ms)


def best_batch(worker: Worker, device: str, single_ms: float) -> Iterator[tuple[int, WarmUp]]:
    """Yield the batch size with the highest throughput, if it beats one image per `single_ms`."""
    best: list[tuple[int, WarmUp]] = []
    size, image_ms = 1, single_ms
    while size < LARGEST_BATCH[device_type_of(device)]:
        size *= 2
        try:
            warm_up = worker.warm_up(size)
        except EffnetError:  # out of memory
            break
        if warm_up.call_ms / size > image_ms * (1 + WORTHWHILE_GAIN):
            break
        if warm_up.call_ms / size < image_ms * (1 - WORTHWHILE_GAIN):
            best, image_ms = [(size, warm_up)], warm_up.call_ms / size
        if warm_up.call_ms > 1000 * MAX_CALL_SECONDS:
            break
    yield from best
