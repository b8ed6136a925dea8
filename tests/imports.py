"""The modules that a command imports, listed in a fresh process."""

import subprocess
import sys
from pathlib import Path

HEAVY = {"torch", "torchvision", "onnx", "openvino", "safetensors.torch"}


def imported_by(*arguments: str | Path) -> set[str]:
    """Return the modules that are loaded when the command ends."""
    code = (
        "import sys; from effnet_cli.cli.main import run; run(); "
        "sys.stderr.write('\\nMODULES ' + ' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return set(done.stderr.rpartition("MODULES ")[2].split())
