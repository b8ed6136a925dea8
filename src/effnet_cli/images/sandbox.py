"""Decode images in worker processes, so that a hang or crash costs only one image."""

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

# Address space that a worker may use beyond what it has at its start: for later allocations of
# libraries, and for the largest permitted image in Pillow's widest mode (float) and its copies.
SPARE_MEMORY_BYTES, BYTES_PER_PIXEL = 1 << 30, 24
EXIT_SECONDS = 5.0  # to wait for the exit status of a dead process

Crops = npt.NDArray[np.uint8]
Result = Crops | tuple[str, str, str]  # or kind, message and hint of an error


class SandboxedLoader:
    """An `ImageLoader` that decodes in worker processes, one per calling thread. A worker that
    dies or takes longer than `timeout_s` is replaced.
    """

    def __init__(self, preprocessing: Preprocessing, options: ImageOptions) -> None:
        self._preprocessing, self._options = preprocessing, options
        self._of_thread = threading.local()

    def load(self, source: ImageSource) -> Crops:
        """Load an image like `ImageLoader.load`.

        Raises:
            ImageError: for the same reasons, or with the kind `timeout` or `crashed`.
        """
        worker: _Worker | None = getattr(self._of_thread, "worker", None)
        if worker is None or not worker.is_alive:
            worker = self._of_thread.worker = _Worker(self._preprocessing, self._options)
        result = worker.load(source)
        if isinstance(result, tuple):
            raise ImageError(*result)
        return result


class _Worker:
    """The handle of a process that loads images."""

    _start_lock = threading.Lock()  # multiprocessing's lists of children are not thread-safe

    def __init__(self, preprocessing: Preprocessing, options: ImageOptions) -> None:
        self.is_alive = True
        self._timeout_s = options.timeout_s
        methods = multiprocessing.get_all_start_methods()
        # the fork server, which has no threads, forks in a few milliseconds
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        with self._start_lock:
            if context.get_start_method() == "forkserver":
                context.set_forkserver_preload([__name__])
            self._connection, other_end = context.Pipe()
            arguments = (other_end, preprocessing, options)
            self._process: BaseProcess = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=arguments, daemon=True
            )
            self._process.start()
            other_end.close()

    def load(self, source: ImageSource) -> Result:
        """Return the crops of an image, or its error. A hang or a crash ends the process."""
        try:
            self._connection.send(source)
            if self._connection.poll(self._timeout_s):
                result: Result = self._connection.recv()
                return result
        except (EOFError, OSError):
            self._close()
            message = f"The decoder crashed{_describe_signal(self._process.exitcode)}."
            return "crashed", message, "Remove the image, or convert it to another format."
        self._process.kill()
        self._close()
        message = f"Decoding took longer than {self._timeout_s:g} s."
        return "timeout", message, "Use a longer --timeout if you trust the file."

    def _close(self) -> None:
        self.is_alive = False
        self._process.join(EXIT_SECONDS)
        self._connection.close()


def _describe_signal(status: int | None) -> str:
    if status is None or status >= 0:
        return ""
    with suppress(ValueError):
        return f" ({signal.Signals(-status).name})"
    return f" (signal {-status})"


def _serve(connection: Connection, preprocessing: Preprocessing, options: ImageOptions) -> None:
    """Load images in the worker until the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group
    _end_with_parent()
    _limit_memory(SPARE_MEMORY_BYTES + BYTES_PER_PIXEL * options.max_pixels)
    loader = ImageLoader(preprocessing, options)
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            connection.send(_load(loader, connection.recv()))


def _load(loader: ImageLoader, source: ImageSource) -> Result:
    try:
        return loader.load(source)
    except ImageError as error:
        return error.kind, error.message, error.hint


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent is gone, even if a decoder hangs here. SIGIO
    arrives when the parent's end of a pipe closes.
    """
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None:  # elsewhere SIGIO does not end a process
        import fcntl  # noqa: PLC0415 (only Linux)

        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def _limit_memory(more_bytes: int) -> None:
    """Let this process take `more_bytes` of address space beyond what it has now."""
    if sys.platform == "linux":  # elsewhere the limit means something else, or does not exist
        import resource  # noqa: PLC0415 (not on Windows)

        # read by hand: psutil would add 20 ms to the start of each worker
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit_bytes = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
