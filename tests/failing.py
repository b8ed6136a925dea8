"""Builders of models, most of which fail: each runs in its own process."""

import os
import signal
import time

from torch import nn

from effnet_cli.bench import prepare
from effnet_cli.engines.quiet import silence_output
from effnet_cli.models.variants import Variant
from effnet_cli.system.errors import EffnetError


def dies(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuses(_: object) -> None:
    raise EffnetError("There is no such thing.", "Use another.")


def hangs(_: object) -> None:
    time.sleep(1000)


def fails(_: object) -> None:
    raise ValueError("a bug of ours")


def silences(row: Variant) -> nn.Module:
    """Build a model while silencing output, as the libraries of some engines do."""
    with silence_output():
        return prepare.build_product(row)
