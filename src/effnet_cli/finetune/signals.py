"""Signals during a training: while the whole network learns, the first one asks for an end after
the running step; a second one, or one before, ends at once.
"""

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from effnet_cli.finetune.run_dir import STATE_FILE_NAME
from effnet_cli.system.errors import EffnetError

SIGNAL_STATUS = 128  # plus the signal's number is the exit status of what it ended


class TrainingStopped(EffnetError):
    """A training that a signal has stopped, and what `--resume` finds of it."""

    def __init__(
        self, by: signal.Signals, folder: Path, rest: str = "what was learned so far is kept"
    ) -> None:
        super().__init__(
            f"Stopped by {by.name}; {rest}.",
            f"Go on with: effnet finetune --resume {shlex.quote(str(folder))}",
        )
        self.exit_status = SIGNAL_STATUS + by


class Stop:
    """Whether a signal has asked for the end: its number, or 0."""

    number = 0


@contextmanager
def listening(stop: Stop) -> Iterator[None]:
    """Tell `stop` of SIGINT and SIGTERM while the block runs (only a main thread can)."""
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.number:  # the second time: as if nobody had listened
            handler = before[number]
            if callable(handler):
                handler(number, frame)
        stop.number = number

    with _handled(ask, before):
        yield


@contextmanager
def ending(folder: Path) -> Iterator[None]:
    """Raise `TrainingStopped` at once on SIGINT and SIGTERM while the block runs: `folder` holds
    all that `--resume` needs.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        has_state = (folder / STATE_FILE_NAME).exists()
        rest = "what was saved last is kept" if has_state else "the classifier begins anew"
        raise TrainingStopped(signal.Signals(number), folder, rest)

    with _handled(end, {}):
        yield


@contextmanager
def _handled(
    handler: Callable[[int, FrameType | None], None], before: dict[int, Any]
) -> Iterator[None]:
    """Give both signals to `handler` while the block runs; `before` gets what had them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as shells start what is in the background
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for watched, former in before.items():
            signal.signal(watched, former)
