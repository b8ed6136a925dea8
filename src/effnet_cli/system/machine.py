"""What it was measured on: processor, its instruction sets, memory, GPU, versions of libraries."""

import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from effnet_cli import __version__
from effnet_cli.system.parallel import usable_cores

# What decides how fast networks run, as Linux calls it.
INSTRUCTION_SETS = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni",
    "amx_tile", "amx_bf16", "amx_int8", "neon", "asimd", "asimdhp", "asimddp", "sve", "bf16",
    "i8mm",
)  # fmt: skip
LIBRARIES = ("torch", "torchvision", "onnxruntime", "openvino", "ai-edge-litert", "executorch")
COPY_MB = 256
COPIES = 5


def describe_machine() -> dict[str, Any]:
    """This machine, ready for JSON; what cannot be found out is `None`."""
    cpu, flags = _processor()
    return {
        "cpu": cpu,
        "cores": usable_cores(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "memory_gb": _memory_gb(),
        "gpu": _gpu(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "effnet": __version__,
        "libraries": dict(_versions(LIBRARIES)),
    }


def measure_copy_gb_per_s() -> float:
    """What a large copy reads and writes, in gigabytes a second; the best of some."""
    threads, size = usable_cores(), COPY_MB * 2**20 // usable_cores()
    sources = [np.ones(size, np.uint8) for _ in range(threads)]
    targets = [np.empty(size, np.uint8) for _ in range(threads)]
    best = 0.0
    for _ in range(COPIES):
        started = time.perf_counter()
        workers = [
            threading.Thread(target=np.copyto, args=pair)
            for pair in zip(targets, sources, strict=True)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, 2 * threads * size / 1e9 / (time.perf_counter() - started))
    return best


def peak_memory_bytes() -> int | None:
    """The largest resident set of this process so far."""
    if sys.platform == "win32":
        import psutil  # noqa: PLC0415 (needed only here)

        peak: int = psutil.Process().memory_info().peak_wset
        return peak
    if sys.platform == "linux":  # where getrusage counts the process that started this one, too
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    import resource  # noqa: PLC0415 (not on Windows)

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _processor() -> tuple[str | None, set[str]]:
    """Its name, and what it can do."""
    if sys.platform == "darwin":
        model = _said("sysctl", "-n", "machdep.cpu.brand_string")
        said = _said("sysctl", "-n", "machdep.cpu.features") or "neon"  # only Intel's are listed
        return model, set(said.lower().split())
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    found: dict[str, str] = dict(
        re.findall(r"^(model name|flags|Features)\s*: (.*)$", text, re.MULTILINE)
    )
    words = found.get("flags", found.get("Features", "")).split()
    model = found.get("model name") or platform.processor() or platform.machine()
    return model, set(words)


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # Windows has no such call
        return None


def _gpu() -> dict[str, str] | None:
    """The first NVIDIA GPU and its driver, as the driver's own tool names them."""
    said = _said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if not said:
        return None
    name, _, driver = said.splitlines()[0].rpartition(", ")
    return {"name": name, "driver": driver}


def _said(*command: str) -> str | None:
    """What a command prints; `None` if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _versions(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
