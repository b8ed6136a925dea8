"""Commands in processes of their own that have torch imported already.

A server imports it once, and each process is a fork of that server: two seconds less than a start.
"""

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PATIENCE_SECONDS = 90
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "torchvision", "effnet_cli.cli", "effnet_cli.finetune"])


@dataclass(frozen=True)
class Ended:
    """What one or several processes have left behind."""

    status: int  # of the first, or else of one that failed; -N where signal N ended it
    stdout: str
    stderr: str


def ended(code: str, arguments: Sequence[str | Path], processes: int = 1) -> Ended:
    """Run `code` with `arguments` in one process, or in several that know of each other as those
    that `torchrun` starts; where one fails the others are ended, as `torchrun` does.
    """
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder, f"{rank}.out") for rank in range(processes)]
        errs = [Path(folder, f"{rank}.err") for rank in range(processes)]
        port = free_port()
        started = []
        for rank, files in enumerate(zip(outs, errs, strict=True)):
            environment = dict(os.environ)
            if processes > 1:
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                environment |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
            process = FORKS.Process(
                target=_run, args=(code, [str(a) for a in arguments], environment, *files)
            )
            process.start()
            started.append(process)
        status = _status(started)
        return Ended(status, *("".join(f.read_text() for f in files) for files in (outs, errs)))


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number: int = listener.getsockname()[1]
    return number


def _status(processes: list[ForkServerProcess]) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
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


def _run(
    code: str, arguments: list[str], environment: Mapping[str, str], out: Path, err: Path
) -> None:
    for file, number in ((out, 1), (err, 2)):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["effnet", *arguments]
    exec(code, {"__name__": "__main__"})
