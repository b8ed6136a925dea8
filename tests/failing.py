"""Model builders for the worker tests, most of which fail."""

import os
import signal
import time

from torch import nn

from effnet_cli.bench import prepare
from effnet_cli.engines.quiet import silence_output
from effnet_cli.models.variants import Variant
from effnet_cli.system.errors import EffnetError


def crash(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(_: object) -> None:
    raise EffnetError("The model does not exist.", "Use another one.")


def hang(_: object) -> None:
    time.sleep(1000)


def fail(_: object) -> None:
    raise ValueError("a bug in the builder")


def build_silently(row: Variant) -> nn.Module:
    """Build a model while silencing output, as the libraries of some engines do."""
    with silence_output():
        return prepare.build_product(row)
