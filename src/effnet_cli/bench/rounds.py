"""Measures cases in alternation, so that disturbances on the machine affect all equally."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from effnet_cli.bench.statistics import MIN_TURNS, Turn
from effnet_cli.system.errors import EffnetError

TURN_SECONDS = 0.15  # long enough that caches are warm for most of it


class Measurable(Protocol):
    """Something whose calls can be timed."""

    def turn(self, seconds: float) -> Turn:
        """Time calls for about `seconds`; EffnetError if it cannot be called again."""


def measure_rounds(
    cases: Sequence[Measurable],
    seconds: float,
    *,
    on_turn: Callable[[float], object] = lambda _: None,
    on_failure: Callable[[int, EffnetError], object] = lambda _, __: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[list[Turn]]:
    """Measure each case once per round, in random order, and return the turns of each case.

    Rounds continue for `seconds`, and at least until there are enough for a verdict. `on_turn`
    receives the elapsed seconds. `on_failure` receives the index and the error of a case that
    failed, which then has no turns.
    """
    turns: list[list[Turn]] = [[] for _ in cases]
    order, rng, started = list(range(len(cases))), random.Random(0), clock()  # noqa: S311
    rounds = 0
    while order and (rounds < MIN_TURNS or clock() - started < seconds):
        rng.shuffle(order)
        for index in tuple(order):
            try:
                turns[index].append(cases[index].turn(TURN_SECONDS))
            except EffnetError as error:
                order.remove(index)
                turns[index].clear()
                on_failure(index, error)
            on_turn(clock() - started)
        rounds += 1
    return turns
