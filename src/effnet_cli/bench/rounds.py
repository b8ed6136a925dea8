"""Who is measured when: candidates take turns, so that what the machine does beside hits all."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from effnet_cli.bench.statistics import MIN_TURNS, Turn
from effnet_cli.system.errors import EffnetError

TURN_SECONDS = 0.15  # long enough that caches are warm for most of it


class Candidate(Protocol):
    """Something that can be timed."""

    def turn(self, seconds: float) -> Turn:
        """Some calls in a row, for about so long.

        Raises:
            EffnetError: it cannot be called any more.
        """


def measured(
    candidates: Sequence[Candidate],
    seconds: float,
    hear: Callable[[float], object] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    failed: Callable[[int, EffnetError], object] = lambda _, __: None,
) -> list[list[Turn]]:
    """The turns of each candidate: round after round, each in another order, for `seconds`, and
    for as many rounds as a verdict needs.

    `hear` is told after each turn how many seconds have passed, `failed` which candidate has failed
    and why: it has no turns then, and the others go on.
    """
    turns: list[list[Turn]] = [[] for _ in candidates]
    order, rng, started = list(range(len(candidates))), random.Random(0), clock()  # noqa: S311
    rounds = 0
    while order and (rounds < MIN_TURNS or clock() - started < seconds):
        rng.shuffle(order)
        for index in tuple(order):
            try:
                turns[index].append(candidates[index].turn(TURN_SECONDS))
            except EffnetError as error:
                order.remove(index)
                turns[index].clear()
                failed(index, error)
            hear(clock() - started)
        rounds += 1
    return turns
