"""Deferring signals during training."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from effnet_cli.finetune.signals import StopRequest, TrainingStopped, defer_signals


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """Install handlers for SIGINT and SIGTERM that record their calls."""
    calls: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        calls.append(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield calls
    for number, previous in before.items():
        signal.signal(number, previous)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_deferred_and_the_second_is_not(number: int, handled: list[int]) -> None:
    request = StopRequest()
    previous = signal.getsignal(number)
    with defer_signals(request):
        assert request.number == 0
        os.kill(os.getpid(), number)
        assert request.number == number
        assert handled == []
        os.kill(os.getpid(), number)
        assert handled == [number]
    assert signal.getsignal(number) is previous
    os.kill(os.getpid(), number)
    assert handled == [number, number]
    assert StopRequest().number == 0


def test_previous_handlers_are_restored_after_an_error(handled: list[int]) -> None:
    previous = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), defer_signals(StopRequest()):
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) is previous


def test_second_signal_may_be_another_one(handled: list[int]) -> None:
    with defer_signals(StopRequest()):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert handled == [signal.SIGINT]


def test_ignored_signal_stays_ignored() -> None:
    """Shells start background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = StopRequest()
    try:
        with defer_signals(request):
            os.kill(os.getpid(), signal.SIGINT)
        assert request.number == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_install_no_handler() -> None:
    previous = signal.getsignal(signal.SIGTERM)
    inside: list[object] = []

    def work() -> None:
        with defer_signals(StopRequest()):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [previous]


def test_stopped_run_names_the_command_to_resume(tmp_path: Path) -> None:
    error = TrainingStopped(signal.SIGTERM, tmp_path / "a run; rm -rf")
    assert error.exit_status == 143
    assert TrainingStopped(signal.SIGINT, tmp_path).exit_status == 130
    assert "SIGTERM" in error.message
    assert error.hint.endswith(f"--resume '{tmp_path / 'a run; rm -rf'}'")
