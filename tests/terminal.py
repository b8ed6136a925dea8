"""The command in a terminal of its own."""

import os
import pty
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "effnet_cli"]


def in_a_terminal(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What the command writes to a terminal of 120 columns."""
    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **(env or {})}
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=other, stdout=other, stderr=other, cwd=cwd, env=environment
    )
    os.close(other)
    output = b""
    try:
        while chunk := os.read(main, 65536):
            output += chunk
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(main)
    assert process.wait(timeout=60) == 0
    return output.decode("utf-8")
