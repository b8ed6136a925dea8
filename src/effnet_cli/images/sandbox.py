"""Images opened in processes of their own: what hangs or crashes there costs one image."""

import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import numpy.typing as npt

from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.sources import ImageSource
from effnet_cli.options import ImageOptions
from effnet_cli.system.errors import ImageError

if sys.platform == "linux":
    import fcntl
    import resource

# Address space that a worker may take besides what it has at its start: what libraries want later,
# and what Pillow's widest modes need for an image of the permitted size (a float image and
# copies of it).
SPARE_BYTES, BYTES_PER_PIXEL = 1 << 30, 24
END_SECONDS = 5.0  # how long to wait for the exit status of a process that has gone

Crops = npt.NDArray[np.uint8]
# A worker's answer: the squares, or kind, message and hint of the error.
Prediction = Crops | tuple[str, str, str]


class SandboxedLoader:
    """An `ImageLoader` whose decoders run in other processes, one for each thread that asks; one
    that dies, or takes longer than `timeout_s`, is replaced.
    """

    def __init__(self, preprocessing: Preprocessing, options: ImageOptions) -> None:
        self._loader = ImageLoader(preprocessing, options)
        self._timeout_s = options.timeout_s
        self._own = threading.local()

    def load(self, source: ImageSource) -> Crops:
        """As `ImageLoader.load`.

        Raises:
            ImageError: also `timeout` and `crashed`.
        """
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is None or not worker.is_alive:
            worker = self._own.worker = _Worker(self._loader)
        answer = worker.ask(source, self._timeout_s)
        if isinstance(answer, tuple):
            raise ImageError(*answer)
        return answer


class _Worker:
    """One process that opens images, and the line to it."""

    _starting = threading.Lock()  # multiprocessing's lists of children are not made for threads

    def __init__(self, loader: ImageLoader) -> None:
        methods = multiprocessing.get_all_start_methods()
        # forks of a server without threads: a process in a few milliseconds
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        with self._starting:
            if context.get_start_method() == "forkserver":
                context.set_forkserver_preload([__name__])
            self._line, other_end = context.Pipe()
            arguments = (other_end, loader.preprocessing, loader.options)
            self._process: BaseProcess = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=arguments, daemon=True
            )
            self._process.start()
            other_end.close()
        self.is_alive = True

    def ask(self, source: ImageSource, timeout_s: float | None) -> Prediction:
        """The squares of an image, or why there are none; the process is over after a hang or a
        crash.
        """
        try:
            self._line.send(source)
            if self._line.poll(timeout_s):
                answer: Prediction = self._line.recv()
                return answer
        except (EOFError, OSError):
            return self._end("crashed")
        return self._end("timeout", f"Opening it took longer than {timeout_s:g} s.")

    def _end(self, kind: str, message: str = "") -> tuple[str, str, str]:
        self.is_alive = False
        if kind == "timeout":
            self._process.kill()
        self._process.join(END_SECONDS)
        self._line.close()
        if kind == "timeout":
            return kind, message, "Raise --timeout if you trust it."
        return kind, f"The decoder crashed on it{_cause(self._process.exitcode)}.", "Leave it out."


def _cause(status: int | None) -> str:
    if status is None or status >= 0:
        return ""
    with suppress(ValueError):
        return f" ({signal.Signals(-status).name})"
    return f" (signal {-status})"


def _serve(line: Connection, preprocessing: Preprocessing, options: ImageOptions) -> None:
    """Answer until nobody asks any more; runs in the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
    _end_with_parent()
    _limit_memory(SPARE_BYTES + BYTES_PER_PIXEL * options.max_pixels)
    loader = ImageLoader(preprocessing, options)
    with suppress(EOFError, OSError):  # the one who asked has gone
        while True:
            line.send(_answer(loader, line.recv()))


def _answer(loader: ImageLoader, source: ImageSource) -> Prediction:
    try:
        return loader.load(source)
    except ImageError as error:
        return error.kind, error.message, error.hint


def _end_with_parent() -> None:
    """Let the kernel end this process when the one who asked has gone, however that ended, even if
    a decoder hangs here: SIGIO tells that the other end of a pipe has closed.
    """
    parent = multiprocessing.parent_process()
    if sys.platform != "linux" or parent is None:  # elsewhere SIGIO ends nothing
        return
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
    fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def _limit_memory(more_bytes: int) -> None:
    """Let this process take so many bytes of address space more than it has now."""
    if sys.platform != "linux":  # elsewhere the limit means something else, or does not exist
        return
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit_bytes = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
