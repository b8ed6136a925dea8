"""Handling of SIGINT and SIGTERM.

Within an epoch, the first signal stops the training after the current step or validation. A second
signal, or one outside an epoch, stops it at once.
"""

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from effnet_cli.models.card import STATE_FILE_NAME
from effnet_cli.system.errors import EffnetError

STOPPED_BY_SIGNAL = 128  # the exit status is this plus the signal number


class TrainingStopped(EffnetError):
    """A signal stopped the training; `progress` says what `--resume` continues from."""

    def __init__(
        self, by: signal.Signals, run_dir: Path, progress: str = "progress is saved"
    ) -> None:
        super().__init__(
            f"Stopped by {by.name}; {progress}.",
            f"Resume with: effnet finetune --resume {shlex.quote(str(run_dir))}",
        )
        self.exit_status = STOPPED_BY_SIGNAL + by


class StopRequest:
    """The number of the signal that requested a stop, or 0."""

    number = 0


@contextmanager
def defer_signals(request: StopRequest) -> Iterator[None]:
    """Record the first signal in `request`, and pass a second one to the previous handler."""
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        handler = previous[number]
        if request.number and callable(handler):
            handler(number, frame)
        request.number = number

    with _handle_signals(handle, previous):
        yield


@contextmanager
def stop_on_signal(run_dir: Path) -> Iterator[None]:
    """Raise `TrainingStopped` when a signal arrives."""

    def handle(number: int, _frame: FrameType | None) -> None:
        raise stop_error(number, run_dir, "the last saved state is kept")

    with _handle_signals(handle, {}):
        yield


def stop_error(number: int, run_dir: Path, progress: str = "progress is saved") -> TrainingStopped:
    """Return the error for a signal. Without a saved state, `--resume` restarts with the head."""
    if not (run_dir / STATE_FILE_NAME).exists():
        progress = "--resume restarts with the classifier head"
    return TrainingStopped(signal.Signals(number), run_dir, progress)


@contextmanager
def _handle_signals(
    handler: Callable[[int, FrameType | None], None], previous: dict[int, Any]
) -> Iterator[None]:
    """Install `handler` (only the main thread can) and put the former handlers in `previous`."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as in a shell's background jobs
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for handled, former in previous.items():
            signal.signal(handled, former)
