"""Keep libraries from writing to stdout and stderr."""

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

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


@contextmanager
def silence_library() -> Iterator[None]:
    """Silence a library's logging, warnings and progress bars, too."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), silence_output(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(disabled)
