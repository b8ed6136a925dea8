"""Start a worker process for each model on each engine, and choose its batch sizes."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from effnet_cli.bench import prepare, rounds, validate
from effnet_cli.bench.models import BenchModel
from effnet_cli.bench.prepare import PreparedModel
from effnet_cli.bench.records import Skipped
from effnet_cli.bench.statistics import MIN_TURNS, Turn
from effnet_cli.bench.worker import WarmUp, Worker, WorkerRequest
from effnet_cli.engines.registry import ENGINES, EnginePlan, list_installed, plan_engine
from effnet_cli.models.variants import VARIANTS, Variant
from effnet_cli.options import (
    BenchMode,
    BenchTask,
    EngineName,
    EngineOptions,
    EnginePrecision,
    FileKind,
)
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.reporter import Reporter

LARGEST_BATCH = {"cpu": 32, "cuda": 512, "mps": 64}  # to try for the best throughput
TRAINING_BATCH_SIZE = 32
WORTHWHILE_GAIN = 0.05  # in throughput, for a larger batch to be better
MAX_CALL_SECONDS = 2.0  # of a batch to try
CALLS_PER_TURN = 2  # at least


@dataclass(slots=True)
class Case:
    """A model on an engine at one batch size, warmed up; `is_limit` for the matrix product that
    gives an engine's peak.
    """

    prepared: PreparedModel
    plan: EnginePlan
    batch_size: int
    worker: Worker
    warm_up: WarmUp
    is_limit: bool = False

    def turn(self, seconds: float) -> Turn:
        """See `rounds.Measurable`."""
        return self.worker.turn(self.batch_size, seconds)

    @property
    def turn_seconds(self) -> float:
        """The expected length of a turn."""
        return max(rounds.TURN_SECONDS, CALLS_PER_TURN * self.warm_up.call_ms / 1000)


class Starter:
    """Starts the worker processes of all `cases`; `stack` ends them. `skipped` has what was not, or
    could not be started.
    """

    def __init__(self, task: BenchTask, folder: Path, stack: ExitStack, reporter: Reporter) -> None:
        self._task, self._folder, self._stack, self._reporter = task, folder, stack, reporter
        self._images: tuple[str, ...] = ()
        self._started_at = time.monotonic()
        self.cases: list[Case] = []
        self.skipped: list[Skipped] = []
        self._with_limit: set[tuple[str, str]] = set()
        self._errors: list[EffnetError] = []

    def start(self) -> None:
        """Start all workers; EffnetError if none could be started."""
        task = self._task
        if not validate.has_only_files(task):
            list(engine_precisions(task, "tensors"))  # raises before anything is prepared
        if task.mode == "end-to-end":
            self._images = validate.images(task, self._reporter)
        models = list(self._models())
        is_chosen = bool(task.variants or task.models)
        for number, (name, make) in enumerate(models):
            self._reporter.progress(f"Loading {name}", number, len(models), unit="steps")
            if is_chosen or name not in VARIANTS or self._has_time_for(VARIANTS[name]):
                self._start(make())
            else:
                reason = f"would not fit {task.seconds:g} s; use --variant or a longer --seconds"
                self.skipped.append(Skipped(name, "", reason))
        self._reporter.progress("Loading", len(models), len(models), unit="steps")
        self.check_any(self.cases)

    def check_any(self, measured: Sequence[object]) -> None:
        """Raise the first failure if nothing is left to measure."""
        if not any(measured):
            error = self._errors[0]
            raise EffnetError(f"Nothing could be measured: {error.message}", error.hint)

    def fail(self, prepared: PreparedModel, plan: EnginePlan, error: EffnetError) -> None:
        """Skip a model on an engine; reported once for all its batch sizes."""
        name = prepared.model.name
        skipped = Skipped(name, plan.engine, error.message, is_failure=True)
        if skipped not in self.skipped:
            self.skipped.append(skipped)
            self._errors.append(error)
            self._reporter.note(f"Skipping {name} on {plan.engine}: {error.message}")

    def _models(self) -> Iterator[tuple[str, Callable[[], PreparedModel]]]:
        """The names of the models, and what prepares each."""
        task, folder = self._task, self._folder
        names = task.variants
        if not names and not task.models:
            names = tuple(sorted(VARIANTS, key=lambda n: VARIANTS[n].giga_multiply_adds))
        for name in names:
            yield name, partial(prepare.prepare_variant, name, folder, self._reporter)
        for path in task.models:
            yield path.name, partial(prepare.prepare_file, path, self._reporter)
        for name in task.against:
            yield name, partial(prepare.prepare_torchvision, name, folder)

    def _has_time_for(self, variant: Variant) -> bool:
        """Whether one more variant fits into the time, judged by the ones before it."""
        seconds = self._task.seconds
        if not self.cases:
            return True
        if time.monotonic() - self._started_at > seconds:
            return False
        cases = [case for case in self.cases if not case.is_limit]
        last = cases[-1].prepared.model.variant
        growth = variant.giga_multiply_adds / last.giga_multiply_adds
        of_last = [case for case in cases if case.prepared.model.variant is last]
        more = sum(max(rounds.TURN_SECONDS, growth * case.turn_seconds) for case in of_last)
        return MIN_TURNS * (sum(case.turn_seconds for case in cases) + more) <= seconds

    def _start(self, prepared: PreparedModel) -> None:
        """Start one model on all its engines."""
        self._check_precision(prepared.model)
        for engine, precision in list(engine_precisions(self._task, prepared.model.kind)):
            if prepared.model.runs_on(engine):
                plan = EnginePlan(engine, self._task.device, precision)
                try:
                    self._start_on(plan, prepared)
                    self._start_limit(plan)
                except EffnetError as error:
                    self.fail(prepared, plan, error)

    def _check_precision(self, model: BenchModel) -> None:
        """Raise UsageError if an exported file has none of the precisions that were given."""
        own, given = model.exported_precision, self._task.precisions
        is_given = given != BenchTask.precisions and validate.has_only_files(self._task)
        if own is not None and is_given and own not in given:
            raise UsageError(
                f"{model.name} was exported in {own} and does not run in {', '.join(given)}.",
                "Leave out --precision.",
            )

    def _start_on(self, plan: EnginePlan, prepared: PreparedModel) -> None:
        worker = self._worker(prepared.model, plan, self._task.mode)
        for batch_size, warm_up in batches(self._task, worker, prepared.model.fixed_batch):
            self.cases.append(Case(prepared, plan, batch_size, worker=worker, warm_up=warm_up))

    def _start_limit(self, plan: EnginePlan) -> None:
        """Start a matrix product on the same engine in the same precision, once."""
        key = plan.engine, plan.precision
        is_comparable = "tensors" in ENGINES[plan.engine].kinds and self._task.mode != "end-to-end"
        if not is_comparable or key in self._with_limit:
            return
        self._with_limit.add(key)
        product = prepare.prepare_product(self._task.device, self._folder)
        size = product.model.outputs
        try:
            worker = self._worker(product.model, plan, "inference")
            warm_up = worker.warm_up(size)
        except EffnetError as error:
            self.fail(product, plan, error)
        else:
            case = Case(product, plan, size, worker=worker, warm_up=warm_up, is_limit=True)
            self.cases.append(case)

    def _worker(self, model: BenchModel, plan: EnginePlan, mode: BenchMode) -> Worker:
        request = WorkerRequest(model, plan, mode, images=self._images, options=self._task.images)
        worker = Worker(request)
        self._stack.callback(worker.close)
        return worker


def engine_precisions(
    task: BenchTask, kind: FileKind
) -> Iterator[tuple[EngineName, EnginePrecision]]:
    """The engines and precisions to measure a model in, which is a file of `kind`.

    Raises:
        UsageError: no engine, or not the one that was named, runs that.
        EffnetError: the engine is not installed.
    """
    precisions: Sequence[EnginePrecision] = task.precisions if kind == "tensors" else ("fp32",)
    named: Sequence[EngineName] = [name for name in ENGINES if name in task.engines]
    if task.mode == "train":
        named = ["torch"]
    for precision in () if named else precisions:  # some installed engine must run each
        plan_engine(EngineOptions(task.device, precision=precision), kind)
    device = task.device.partition(":")[0]
    for name in named or list_installed(device, kind):
        for precision in precisions:
            if named or precision in ENGINES[name].precisions.get(device, ()):
                plan_engine(EngineOptions(task.device, name, precision), kind)
                yield name, precision


def batches(
    task: BenchTask, worker: Worker, fixed_size: int | None
) -> Iterator[tuple[int, WarmUp]]:
    """The batch sizes to measure, ascending, so that each peak of memory is its own."""
    default = TRAINING_BATCH_SIZE if task.mode == "train" else 1
    sizes = (fixed_size,) if fixed_size else task.batch_sizes or (default,)
    for size in sorted(sizes):
        warm_up = worker.warm_up(size)
        yield size, warm_up
    if task.mode == "inference" and not task.batch_sizes and not fixed_size:
        yield from best_batch(worker, task.device, warm_up.call_ms)


def best_batch(worker: Worker, device: str, single_ms: float) -> Iterator[tuple[int, WarmUp]]:
    """The batch size with the highest throughput, if that beats one image per `single_ms`."""
    best: tuple[int, WarmUp] | None = None
    size, image_ms = 1, single_ms
    while size < LARGEST_BATCH[device.partition(":")[0]]:
        size *= 2
        try:
            warm_up = worker.warm_up(size)
        except EffnetError:  # out of memory
            break
        if warm_up.call_ms / size > image_ms * (1 + WORTHWHILE_GAIN):
            break
        if warm_up.call_ms / size < image_ms * (1 - WORTHWHILE_GAIN):
            best, image_ms = (size, warm_up), warm_up.call_ms / size
        if warm_up.call_ms > 1000 * MAX_CALL_SECONDS:
            break
    if best is not None:
        yield best
