"""The process that measures one network on one engine, and the handle on it.

Each has a process of its own, so that its memory is its own, its start is a start, and a failure
ends nothing else.
"""

import math
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from effnet_cli.bench.models import BenchModel
from effnet_cli.bench.stages import StagesCaller
from effnet_cli.bench.statistics import Turn
from effnet_cli.engines import Crops, DeviceClock, Engine, EnginePlan
from effnet_cli.engines.quiet import silence_output
from effnet_cli.options import BenchMode, ImageOptions, Precision
from effnet_cli.system.errors import EffnetError

# Warm is who needs no less time than the calls before.
WARM_WINDOW_SECONDS, WARM_CHANGE, WARM_UP_SECONDS = 0.1, 0.03, 2.0
MB = 1e6
GONE = "the process that measured it ended ({}); it may have had too little memory"
# No answer for so long is a hang: besides the calls, which take as long as the network is large.
PATIENCE_SECONDS = 120
CALLS_WITHOUT_ANSWER = 10  # times the first call with one image, for each image of a batch


@dataclass(frozen=True, slots=True)
class Started:
    """What the start of a process has shown."""

    precision: Precision
    load_ms: float
    first_call_ms: float
    cold_ms: float


@dataclass(frozen=True, slots=True)
class Warm:
    """What the first calls with a batch size have shown."""

    call_ms: float
    memory_mb: float | None
    device_memory_mb: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a process is to measure; `images` are the paths for end-to-end."""

    subject: BenchModel
    plan: EnginePlan
    mode: BenchMode
    images: tuple[str, ...] = ()
    options: ImageOptions = ImageOptions()


class Caller(Protocol):
    """What is called again and again in the process."""

    precision: Precision

    def times_ms(self, batch_size: int, calls: int) -> list[float]:
        """Milliseconds of each of some calls."""


# --- this side ----------------------------------------------------------------------------------


class Worker:
    """The handle on a process that measures.

    Raises:
        EffnetError: it cannot measure that, has ended, or gives no answer.
    """

    def __init__(self, asked: Asked) -> None:
        self._end: EffnetError | None = None
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(asked, other, time.time()), daemon=True
        )
        self._process.start()
        other.close()
        try:
            self.started: Started = self._received(PATIENCE_SECONDS)
        except BaseException:
            self.close()
            raise

    def warm(self, batch_size: int) -> Warm:
        """Call until it gets no faster."""
        warm: Warm = self._ask(batch_size, "warm", batch_size, WARM_UP_SECONDS)
        return warm

    def turn(self, batch_size: int, seconds: float) -> Turn:
        """Some calls in a row, for about so long."""
        turn: Turn = self._ask(batch_size, "turn", batch_size, seconds)
        return turn

    def stages(self) -> tuple[float, float, float]:
        """Medians of decoding, resizing and network, in milliseconds, of all turns so far."""
        medians: tuple[float, float, float] = self._ask(1, "stages")
        return medians

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _ask(self, batch_size: int, *words: object) -> Any:
        if self._end is not None:
            raise self._end
        calls_ms = CALLS_WITHOUT_ANSWER * batch_size * self.started.first_call_ms
        try:
            self._connection.send(words)
        except OSError as error:
            raise self._gone() from error
        return self._received(PATIENCE_SECONDS + calls_ms / 1000)

    def _received(self, seconds: float) -> Any:
        try:
            if not self._has_answer(seconds):
                raise self._hung(seconds)
            kind, *content = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if kind == "refused":
            raise EffnetError(*content)
        if kind == "bug":
            raise RuntimeError(content[0])
        return content[0]

    def _has_answer(self, seconds: float) -> bool:
        """Whether one comes in time. Time in which we are stopped (Ctrl+Z) is no more than a
        second of it: the process is stopped with us.
        """
        return any(self._connection.poll(1) for _ in range(math.ceil(seconds)))

    def _hung(self, seconds: float) -> EffnetError:
        self.close()
        self._end = EffnetError(
            f"the process that measured it gave no answer for {seconds:.0f} s.",
            "Try another --engine.",
        )
        return self._end

    def _gone(self) -> EffnetError:
        self._process.join()
        code = self._process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        self._end = EffnetError(f"{GONE.format(how)}.", "Use a smaller --batch-size or --variant.")
        return self._end


# --- the process --------------------------------------------------------------------------------


def _serve(asked: Asked, connection: Connection, started_at: float) -> None:
    """Load, answer once, then do what is asked until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if asked.mode == "inference":  # nothing else works meanwhile: see `__main__`
        os.environ.pop("OMP_WAIT_POLICY", None)
    try:
        with silence_output():
            loading = time.perf_counter()
            caller = _caller(asked)
            load_ms = 1000 * (time.perf_counter() - loading)
            (first_call_ms,) = caller.times_ms(1, 1)
        cold_ms = 1000 * (time.time() - started_at)  # two processes share no other clock
        connection.send(("done", Started(caller.precision, load_ms, first_call_ms, cold_ms)))
        while True:
            word, *arguments = connection.recv()
            try:
                answer: tuple[Any, ...] = "done", _DO[word](caller, asked, *arguments)
            except EffnetError as error:  # so many images are too many; fewer were not
                answer = "refused", error.message, error.hint
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # nobody listens any more
        os._exit(0)
    except EffnetError as error:
        connection.send(("refused", error.message, error.hint))
    except MemoryError:
        connection.send(("refused", "There is too little memory.", "Use a smaller --batch-size."))
    except BaseException:
        connection.send(("bug", traceback.format_exc()))
    os._exit(1)


def _caller(asked: Asked) -> Caller:
    if asked.mode == "train":
        from effnet_cli.bench.training import TrainingCaller  # imports torch

        return TrainingCaller(asked.subject.variant, asked.plan.device, asked.plan.precision)
    network = asked.subject.network(asked.plan.engine)
    if asked.mode == "end-to-end":
        return StagesCaller(network, asked.plan, asked.images, asked.options)
    return EngineCaller(asked.plan.load(network), asked.subject.shape)


class EngineCaller:
    """An engine and images of noise."""

    def __init__(self, engine: Engine, shape: tuple[int, int, int]) -> None:
        self.precision = engine.precision
        self._engine, self._shape = engine, shape
        self._crops: Crops = np.empty((0, *shape), dtype=np.uint8)

    def times_ms(self, batch_size: int, calls: int) -> list[float]:
        """See `Caller`."""
        if len(self._crops) != batch_size:
            rng = np.random.default_rng(0)
            self._crops = rng.integers(0, 256, (batch_size, *self._shape), dtype=np.uint8)
        if isinstance(self._engine, DeviceClock):
            times = self._engine.device_times_ms(self._crops, calls)
            if times is not None:
                return times
        return timed(lambda: self._engine(self._crops), calls)


def timed(call: Callable[[], object], calls: int) -> list[float]:
    """Milliseconds of each of some calls."""
    times = []
    for _ in range(calls):
        started = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - started) / 1e6)
    return times


def _warm(caller: Caller, _: Asked, batch_size: int, seconds: float) -> Warm:
    """Calls in windows until one is not faster than the one before, or `seconds` are over."""
    before, deadline = float("inf"), time.monotonic() + seconds
    while True:
        window: list[float] = []
        while not window or sum(window) < 1000 * WARM_WINDOW_SECONDS:
            window += caller.times_ms(batch_size, 1)
        median = float(np.median(window))
        if median > (1 - WARM_CHANGE) * before or time.monotonic() > deadline:
            return Warm(median, _peak_memory_mb(), _device_memory_mb())
        before = median


def _turn(caller: Caller, _: Asked, batch_size: int, seconds: float) -> Turn:
    """Calls for about `seconds`; the first one finds cold caches, and counts only where one call
    takes longer than the turn.
    """
    times: list[float] = []
    deadline = time.monotonic() + seconds
    while len(times) < 2 or time.monotonic() < deadline:
        times += caller.times_ms(batch_size, 1)
        if times[0] > 1000 * seconds:
            break
    kept = times if len(times) == 1 else times[1:]
    throughput = getattr(caller, "throughput", None)  # of many images at the same time
    images, took = throughput() if throughput else (batch_size * len(kept), sum(kept) / 1000)
    return Turn(tuple(kept), images, took)


def _stages(caller: Any, _: Asked) -> tuple[float, float, float]:
    medians: tuple[float, float, float] = caller.medians_ms()
    return medians


_DO: dict[str, Callable[..., Any]] = {"warm": _warm, "turn": _turn, "stages": _stages}


def _peak_memory_mb() -> float | None:
    """The largest resident set of this process; `None` where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: its getrusage also counts the process that started this one
        return (
            int(re.findall(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)[0]) * 1024 / MB
        )
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, else KiB
    return peak / MB if sys.platform == "darwin" else peak * 1024 / MB


def _device_memory_mb() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    allocated: int = torch.cuda.max_memory_allocated()
    return allocated / MB
