"""Run code and commands in processes that have already imported torch.

A server process imports it once and is forked for each run, which saves three seconds.
`run_forked` runs code, and `serve_command` creates an `effnet` executable for shells.
"""

import functools
import json
import multiprocessing
import os
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 90
PRELOADED = [
    "torch",
    "torch._dynamo",  # torch's optimizers import it
    "torchvision",
    "onnx",
    "cleanlab.filter",
    "effnet_cli.cli.app",
    "effnet_cli.audit.run",
    "effnet_cli.bench.run",
    "effnet_cli.evaluate.run",
    "effnet_cli.export.run",
    "effnet_cli.finetune.run",
    "effnet_cli.predict.run",
]
COMMAND = "from effnet_cli import __main__\n__main__.main()"
MAX_REQUEST_BYTES = 1 << 20
# Requests a process with its own arguments, folder, environment and files; exits with its status.
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    request = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [request], [0, 1, 2])
    sys.exit(int(server.recv(9)))
"""


@dataclass(frozen=True)
class ForkedResult:
    """Exit status and output of one or several processes."""

    status: int  # of the first process that failed; -N if signal N ended it
    stdout: str
    stderr: str


def run_forked(code: str, arguments: Sequence[str | Path], processes: int = 1) -> ForkedResult:
    """Run `code` with `arguments` in one process, or in several as with `torchrun`: if one fails,
    the others are killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder, f"{rank}.out") for rank in range(processes)]
        errs = [Path(folder, f"{rank}.err") for rank in range(processes)]
        port = free_port()
        started = []
        for rank, (out, err) in enumerate(zip(outs, errs, strict=True)):
            environment = dict(os.environ)
            if processes > 1:
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                environment |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
            with open(os.devnull) as stdin, out.open("ab") as stdout, err.open("ab") as stderr:  # noqa: PTH123
                files = [stdin.fileno(), stdout.fileno(), stderr.fileno()]
                strings = [str(argument) for argument in arguments]
                started.append(_start(code, strings, Path.cwd(), environment, files))
        status = _wait(started)
        return ForkedResult(
            status, *("".join(path.read_text() for path in paths) for paths in (outs, errs))
        )


@contextmanager
def serve_command(command: Path) -> Iterator[None]:
    """Create an executable `command` that runs `effnet`, until the block ends."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        client, address = Path(folder, "client.py"), Path(folder, "socket")
        client.write_text(CLIENT)
        client_command = shlex.join([sys.executable, "-IS", str(client), str(address)])
        command.write_text(f'#!/bin/sh\nexec {client_command} "$@"\n')
        command.chmod(0o755)
        listener.bind(str(address))
        listener.listen()
        server = threading.Thread(target=_serve, args=(listener,), daemon=True)
        server.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


def _serve(listener: socket.socket) -> None:
    """Run requested commands one after the other."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # the listener was shut down
            return
        with client:
            request, files, _, _ = socket.recv_fds(client, MAX_REQUEST_BYTES, 3)
            arguments, folder, environment = json.loads(request)
            status = _wait([_start(COMMAND, arguments, Path(folder), environment, files)])
            for file in files:
                os.close(file)
            client.send(str(status if status >= 0 else 128 - status).encode())


def free_port() -> int:
    """Return an unused TCP port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number: int = listener.getsockname()[1]
    return number


def _wait(processes: list[ForkServerProcess]) -> int:
    """Wait for all processes, or kill them when one fails or time runs out; return the status."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while any(process.is_alive() for process in processes):
        failed = any(process.exitcode not in (0, None) for process in processes)
        if failed or time.monotonic() > deadline:
            for process in processes:
                process.kill()
                process.join()
            break
        time.sleep(0.01)
    codes = [process.exitcode or 0 for process in processes]
    return codes[0] or next(filter(None, codes), 0)


@functools.cache
def _fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _start(
    code: str, arguments: list[str], folder: Path, environment: Mapping[str, str], files: list[int]
) -> ForkServerProcess:
    """Start a process with `files` as its standard input, output and error."""
    process = _fork_server().Process(
        target=_run, args=(code, arguments, folder, environment, InheritedFiles(files))
    )
    process.start()
    return process


class InheritedFiles:
    """File descriptors to pass to a process, which receives them as a list of duplicates."""

    def __init__(self, files: Sequence[int]) -> None:
        self.files = files

    def __reduce__(self) -> tuple[object, ...]:
        return _detach, tuple(DupFd(file) for file in self.files)


def _detach(*files: Any) -> list[int]:
    return [file.detach() for file in files]


def _run(
    code: str, arguments: list[str], folder: Path, environment: Mapping[str, str], files: list[int]
) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: PTH123, SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["effnet", *arguments]
    exec(code, {"__name__": "__main__"})
