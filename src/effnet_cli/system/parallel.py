"""An ordered map over threads: work overlaps, results come in the order of the items."""

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

    A thread takes an item and its place in the order in one step; at most `ahead` places wait for
    the consumer. An error of `work` or of `items` is raised at its place. The threads are daemons:
    an interrupted program ends at once.
    """
    places: Queue[Future[Result] | None] = Queue(ahead)
    turn = threading.Lock()
    ended = threading.Event()

    def take() -> tuple[Item, Future[Result]] | None:
        with turn:
            if ended.is_set():
                return None
            place: Future[Result] = Future()
            try:
                item = next(items)
            except StopIteration:
                ended.set()
                places.put(None)
                return None
            except BaseException as error:
                ended.set()
                place.set_exception(error)
                places.put(place)
                return None
            places.put(place)
            return item, place

    def serve() -> None:
        while taken := take():
            item, place = taken
            resolve_future(place, partial(work, item))

    for _ in range(workers):
        threading.Thread(target=serve, daemon=True).start()
    try:
        while place := places.get():
            yield place.result()
    finally:
        ended.set()
        while not places.empty():  # frees a thread that waits for room, so that it sees the end
            places.get_nowait()


def resolve_future(place: Future[Result], make: Callable[[], Result]) -> None:
    """Put what `make` gives, or the error that it raises, into `place`."""
    try:
        place.set_result(make())
    except BaseException as error:
        place.set_exception(error)
