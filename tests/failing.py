"""Builders of networks that do not build: each runs in a process of its own."""

import os
import signal

from effnet_cli.errors import EffnetError


def dies(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuses(_: object) -> None:
    raise EffnetError("There is no such thing.", "Use another.")


def fails(_: object) -> None:
    raise ValueError("a bug of ours")
