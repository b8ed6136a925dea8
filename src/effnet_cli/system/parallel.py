"""Run work in threads and return the results in order."""

import atexit
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cache, partial
from queue import Queue
from typing import TypeVar

from effnet_cli.system.cgroup import cpu_limit

JOIN_SECONDS = 5.0  # to wait for threads at the end of a program
# Not weak references: a thread still frees its local objects after Python has forgotten it.
_daemons: list[threading.Thread] = []

_cpu_limit = cache(cpu_limit)

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Return the number of processors that this process, or its container, may use."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    limit = _cpu_limit()
    return count if limit is None else min(count, math.ceil(limit))


def start_daemon(target: Callable[[], object]) -> None:
    """Run `target` in a thread that does not keep an interrupted program alive.

    A program that ends normally waits a moment for it: Python ends a daemon where it stands, and
    inside a native library that aborts the process.
    """
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    _daemons[:] = [*filter(threading.Thread.is_alive, _daemons), thread]


@atexit.register
def _join_daemons() -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    for thread in _daemons:
        thread.join(max(0.0, deadline - time.monotonic()))


def map_ordered(
    work: Callable[[Item], Result], items: Iterator[Item], workers: int, ahead: int
) -> Iterator[Result]:
    """Yield `work(item)` for each item, in order, computed by `workers` threads.

    At most `ahead` results wait for the consumer. An error in `work` or `items` is raised in place
    of its result. The threads are daemons, so that an interrupted program ends right away.
    """
    futures: Queue[Future[Result] | None] = Queue(ahead)
    lock = threading.Lock()
    ended = threading.Event()

    def take() -> tuple[Item, Future[Result]] | None:
        """Take the next item and queue its future under one lock, so that the order is kept."""
        with lock:
            if ended.is_set():
                return None
            future: Future[Result] = Future()
            try:
                item = next(items)
            except StopIteration:  # not stored, as it would keep this frame and the future alive
                ended.set()
                futures.put(None)
                return None
            except BaseException as error:
                ended.set()
                future.set_exception(error)
                futures.put(future)
                return None
            futures.put(future)
            return item, future

    def run() -> None:
        while taken := take():
            item, future = taken
            resolve_future(future, partial(work, item))

    for _ in range(workers):
        start_daemon(run)
    try:
        while future := futures.get():
            yield future.result()
    finally:
        ended.set()
        while not futures.empty():  # makes room for a waiting thread, so that it sees the end
            futures.get_nowait()


def resolve_future(future: Future[Result], make: Callable[[], Result]) -> None:
    """Set the result of `make()`, or the error it raises, on `future`."""
    try:
        future.set_result(make())
    except BaseException as error:
        future.set_exception(error)
