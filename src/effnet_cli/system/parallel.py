"""Threads whose results come in order."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import Queue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ordered(
    work: Callable[[Item], Result], items: Iterator[Item], workers: int, ahead: int
) -> Iterator[Result]:
    """`work(item)` for each item, in the order of the items, by `workers` threads.

    At most `ahead` results wait for the consumer. An error of `work` or of `items` is raised in its
    turn. The threads are daemons, so that an interrupted program ends at once.
    """
    futures: Queue[Future[Result] | None] = Queue(ahead)
    lock = threading.Lock()
    ended = threading.Event()

    def take() -> tuple[Item, Future[Result]] | None:
        """The next item, and its future, queued in one step so that the order holds."""
        with lock:
            if ended.is_set():
                return None
            future: Future[Result] = Future()
            try:
                item = next(items)
            except StopIteration:  # not stored: it would hold this frame, and with it the future
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
        threading.Thread(target=run, daemon=True).start()
    try:
        while future := futures.get():
            yield future.result()
    finally:
        ended.set()
        while not futures.empty():  # frees a thread that waits for room, so that it sees the end
            futures.get_nowait()


def resolve_future(future: Future[Result], make: Callable[[], Result]) -> None:
    """Put the result of `make`, or the error it raises, into `future`."""
    try:
        future.set_result(make())
    except BaseException as error:
        future.set_exception(error)
