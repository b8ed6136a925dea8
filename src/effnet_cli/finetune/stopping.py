"""Signals during a training: the first one asks for an end after the running step, the second one
ends at once.
"""

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from effnet_cli.errors import EffnetError

SIGNAL_STATUS = 128  # plus the signal's number is the exit status of what it ended


class Stopped(EffnetError):
    """A training that a signal has stopped; its state is kept."""

    def __init__(self, by: signal.Signals, folder: Path) -> None:
        super().__init__(
            f"Stopped by {by.name}; what was learned so far is kept.",
            f"Go on with: effnet finetune --resume {shlex.quote(str(folder))}",
        )
        self.exit_status = SIGNAL_STATUS + by


class Stop:
    """Whether a signal has asked for the end: its number, or 0."""

    number = 0


@contextmanager
def listening(stop: Stop) -> Iterator[None]:
    """Tell `stop` of SIGINT and SIGTERM while the block runs (only a main thread can)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.number:  # the second time: as if nobody had listened
            handler = before[number]
            if callable(handler):
                handler(number, frame)
        stop.number = number

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as shells start what is in the background
            before[number] = signal.signal(number, ask)
    try:
        yield
    finally:
        for watched, handler in before.items():
            signal.signal(watched, handler)
