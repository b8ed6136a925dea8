"""Keep native libraries from writing to stdout and stderr."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Only one thread at a time replaces stdout and stderr. The lock is reentrant because an engine that
# is loaded silently may itself load its library silently.
_LOCK = threading.RLock()


@contextmanager
def silence_output() -> Iterator[None]:
    """Discard what the process writes to stdout and stderr.

    The command line uses separate descriptors for its own output. In a program that calls effnet,
    whatever other threads write in the meantime is lost.
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
