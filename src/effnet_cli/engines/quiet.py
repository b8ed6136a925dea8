"""Keeps native libraries from writing to stdout and stderr."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# One thread at a time replaces stdout and stderr. Reentrant: an engine that is loaded in silence
# may load its own library in silence.
_LOCK = threading.RLock()


@contextmanager
def silence_output() -> Iterator[None]:
    """Discard what the process writes to stdout and stderr.

    The command line has descriptors of its own for its output; in a program that calls effnet, what
    other threads write meanwhile is lost.
    """
    with _LOCK:
        saved = {number: os.dup(number) for number in (1, 2)}
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            for number in saved:
                os.dup2(null, number)
            yield
        finally:
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)
            os.close(null)
