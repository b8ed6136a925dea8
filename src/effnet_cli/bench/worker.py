"""The process that measures one model on one engine, and its handle.

Each model on each engine has its own process, so that memory and start-up time are measured
separately, and a failure ends nothing else.
"""

import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

import numpy as np

from effnet_cli.bench.models import BenchModel
from effnet_cli.bench.stages import StagesCaller
from effnet_cli.bench.statistics import Turn
from effnet_cli.engines.base import Crops, DeviceClock, Engine
from effnet_cli.engines.quiet import silence_output
from effnet_cli.engines.registry import EnginePlan
from effnet_cli.options import BenchMode, ImageOptions, Precision
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.machine import peak_memory_bytes

WARM_UP_SECONDS = 2.0  # at most
WARM_WINDOW_SECONDS, WARM_CHANGE = 0.1, 0.03  # warm: hardly faster than the window before
# A worker counts as hung after this long without a response, plus an allowance for its calls.
SILENCE_SECONDS = 120
SILENT_CALLS = 10  # the allowance per image, in multiples of the first call's time

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """The times of a worker's start.

    `load_ms` is the time to load the model. `cold_ms` is the time from the start of the process to
    the end of the first call.
    """

    precision: Precision
    load_ms: float
    first_call_ms: float
    cold_ms: float


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The time of a call once warm, and the peak memory so far, of the process and of CUDA."""

    call_ms: float
    host_bytes: int | None
    device_bytes: int | None


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """What a worker measures. `images` are paths, used in mode `end-to-end`."""

    model: BenchModel
    plan: EnginePlan
    mode: BenchMode
    images: tuple[str, ...] = ()
    options: ImageOptions = ImageOptions()


class Caller(Protocol):
    """What a worker calls and times."""

    precision: Precision

    def time_ms(self, batch_size: int) -> float:
        """Time one call."""


class Worker:
    """The handle of a worker process, which the constructor starts.

    Its methods raise EffnetError if the process cannot measure the request, has ended, or hangs.
    """

    def __init__(self, request: WorkerRequest) -> None:
        self.request = request
        self._failure: EffnetError | None = None
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(request, other, time.time()), daemon=True
        )
        self._process.start()
        other.close()
        try:
            self.started: WorkerStart = self._receive(SILENCE_SECONDS)
        except BaseException:
            self.close()
            raise

    def warm_up(self, batch_size: int) -> WarmUp:
        """Repeat the call until it stops getting faster."""
        return self._run(warm_up, batch_size, WARM_UP_SECONDS, images=batch_size)

    def turn(self, batch_size: int, seconds: float) -> Turn:
        """Time calls for about `seconds`."""
        return self._run(take_turn, batch_size, seconds, images=batch_size)

    def stage_medians_ms(self) -> dict[str, Any]:
        """Return the median of each stage of mode `end-to-end` over all calls so far."""
        return self._run(StagesCaller.medians_ms)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _run(self, function: Callable[..., Result], *arguments: object, images: int = 1) -> Result:
        """Run `function(caller, *arguments)` in the process; each call takes `images` images."""
        if self._failure is not None:
            raise self._failure
        calls_ms = SILENT_CALLS * images * self.started.first_call_ms
        try:
            self._connection.send((function, arguments))
        except OSError as error:
            raise self._fail_ended() from error
        result: Result = self._receive(SILENCE_SECONDS + calls_ms / 1000)
        return result

    def _receive(self, seconds: float) -> Any:
        try:
            # Poll a second at a time: a pause of both processes (Ctrl+Z) then counts as one second.
            if not any(self._connection.poll(1) for _ in range(math.ceil(seconds))):
                self.close()
                raise self._fail(
                    f"The worker process did not respond for {seconds:.0f} s.",
                    "Try another --engine.",
                )
            response = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._fail_ended() from error
        if isinstance(response, Exception):
            raise response
        return response

    def _fail_ended(self) -> EffnetError:
        self._process.join()
        code = self._process.exitcode or 0
        status = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return self._fail(
            f"The worker process exited ({status}); it may have run out of memory.",
            "Use a smaller --batch-size or --variant.",
        )

    def _fail(self, message: str, hint: str) -> EffnetError:
        self._failure = EffnetError(message, hint)
        return self._failure


# --- the process ----------------------------------------------------------------------------------


def _serve(request: WorkerRequest, connection: Connection, started_at: float) -> None:
    """Load the model, call it once, then run functions until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if request.mode == "inference":  # no other threads need the cores: see `__main__`
        os.environ.pop("OMP_WAIT_POLICY", None)
    try:
        with silence_output():
            loading = time.perf_counter()
            caller = _load_caller(request)
            load_ms = 1000 * (time.perf_counter() - loading)
            first_call_ms = caller.time_ms(1)
        cold_ms = 1000 * (time.time() - started_at)  # the only clock that two processes share
        connection.send(WorkerStart(caller.precision, load_ms, first_call_ms, cold_ms=cold_ms))
        while True:
            function, arguments = connection.recv()
            try:
                response = function(caller, *arguments)
            except EffnetError as error:  # a smaller batch may still work
                response = error
            connection.send(response)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent has closed it
        os._exit(0)
    except EffnetError as error:
        connection.send(error)
    except MemoryError:
        connection.send(EffnetError("Out of memory.", "Use a smaller --batch-size."))
    except BaseException:  # with its traceback, which pickling would lose
        connection.send(RuntimeError(traceback.format_exc()))
    os._exit(1)


def _load_caller(request: WorkerRequest) -> Caller:
    plan = request.plan
    if request.mode == "train":
        from effnet_cli.bench.training import TrainingCaller  # imports torch

        return TrainingCaller(request.model.variant, plan.device, plan.precision)
    model = request.model.resolve(plan.engine)
    if request.mode == "end-to-end":
        return StagesCaller(model, plan, paths=request.images, options=request.options)
    return EngineCaller(plan.load(model), request.model.shape)


class EngineCaller:
    """A `Caller` that runs an engine on noise crops of the given `shape`."""

    def __init__(self, engine: Engine, shape: tuple[int, int, int]) -> None:
        self.precision = engine.precision
        self._engine, self._shape = engine, shape
        self._crops: Crops = np.empty((0, *shape), dtype=np.uint8)

    def time_ms(self, batch_size: int) -> float:
        """See `Caller`."""
        if len(self._crops) != batch_size:
            rng = np.random.default_rng(0)
            self._crops = rng.integers(0, 256, (batch_size, *self._shape), dtype=np.uint8)
        if isinstance(self._engine, DeviceClock):
            times_ms = self._engine.device_times_ms(self._crops, 1)
            if times_ms is not None:
                return times_ms[0]
        started = time.perf_counter_ns()
        self._engine(self._crops)
        return (time.perf_counter_ns() - started) / 1e6


def warm_up(caller: Caller, batch_size: int, seconds: float) -> WarmUp:
    """Call repeatedly until the median time stops falling, or `seconds` have passed."""
    before, deadline = math.inf, time.monotonic() + seconds
    while True:
        window: list[float] = []
        while not window or sum(window) < 1000 * WARM_WINDOW_SECONDS:
            window.append(caller.time_ms(batch_size))
        median = float(np.median(window))
        if median > (1 - WARM_CHANGE) * before or time.monotonic() > deadline:
            return WarmUp(median, peak_memory_bytes(), _device_memory_bytes())
        before = median


def take_turn(caller: Caller, batch_size: int, seconds: float) -> Turn:
    """Time calls for about `seconds`.

    The first call has cold caches. It counts only if it alone takes longer than `seconds`.
    """
    times: list[float] = []
    deadline = time.monotonic() + seconds
    while len(times) < 2 or time.monotonic() < deadline:
        times.append(caller.time_ms(batch_size))
        if times[0] > 1000 * seconds:
            break
    kept = times[1:] or times
    images, took = batch_size * len(kept), sum(kept) / 1000
    if isinstance(caller, StagesCaller):
        images, took = caller.throughput()
    return Turn(tuple(kept), images, took)


def _device_memory_bytes() -> int | None:
    """Return the peak memory allocated on the CUDA device, or `None` without CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())
