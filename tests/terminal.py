"""Run the command in a terminal."""

import os
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "effnet_cli"]


def in_a_terminal(
    *arguments: str | bytes, cwd: Path, env: dict[str, str] | None = None, status: int = 0
) -> str:
    """Return what the command writes to a terminal of 120 columns; it must exit with `status`."""
    import pty  # noqa: PLC0415 (not on Windows)

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
    except OSError:  # Linux reports a closed terminal this way
        pass
    os.close(main)
    assert process.wait(timeout=60) == status
    return output.decode("utf-8")
