"""What runtimes write about themselves, kept from people and pipes."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# One at a time puts stdout and stderr back; who already has the turn may take it again, as when an
# engine that is loaded in silence loads its own library in silence.
_TURN = threading.RLock()


@contextmanager
def silence_output() -> Iterator[None]:
    """Without what native code writes to the process's stdout and stderr meanwhile.

    The command line's own words go through descriptors of their own (`cli.edge`); of a program that
    calls effnet, what other threads write meanwhile is lost.
    """
    with _TURN:
        kept = {number: os.dup(number) for number in (1, 2)}
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            for number in kept:
                os.dup2(nowhere, number)
            yield
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)
            os.close(nowhere)
