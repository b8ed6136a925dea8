"""Describe the machine: processor, memory, GPU, and versions of libraries."""

import ctypes
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from effnet_cli import __version__
from effnet_cli.system.cgroup import memory_left_bytes
from effnet_cli.system.parallel import usable_cores

# The instruction sets that decide how fast a model runs, by their names in Linux.
INSTRUCTION_SETS = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni",
    "amx_tile", "amx_bf16", "amx_int8", "neon", "asimd", "asimdhp", "asimddp", "sve", "bf16",
    "i8mm",
)  # fmt: skip
LIBRARIES = ("torch", "torchvision", "onnxruntime", "openvino", "ai-edge-litert", "executorch")
# glibc's malloc.h: parameters of mallopt
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30
COPY_MB = 256
COPIES = 5


def describe_machine() -> dict[str, Any]:
    """Describe this machine as a JSON object, with `None` for unknown values."""
    import psutil

    cpu, flags = _processor()
    return {
        "cpu": cpu,
        "cores": usable_cores(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": _gpu(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "effnet": __version__,
        "libraries": dict(_versions(LIBRARIES)),
    }


def available_memory_bytes() -> int:
    """Return the memory that new data can take without swapping, or leaving its container."""
    import psutil

    available = int(psutil.virtual_memory().available)
    left = memory_left_bytes()
    return available if left is None else min(available, left)


def measure_copy_gb_per_s() -> float:
    """Measure the GB/s of a large copy, reads plus writes: the best of COPIES copies."""
    threads, size = usable_cores(), COPY_MB * 2**20 // usable_cores()
    sources = [np.ones(size, np.uint8) for _ in range(threads)]
    targets = [np.empty(size, np.uint8) for _ in range(threads)]
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(COPIES):
            started = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            seconds.append(time.perf_counter() - started)
    return 2 * threads * size / 1e9 / min(seconds)


def peak_memory_bytes() -> int | None:
    """Return the largest resident set size of this process so far."""
    if sys.platform == "win32":
        import psutil

        peak: int = psutil.Process().memory_info().peak_wset
        return peak
    if sys.platform == "linux":  # getrusage would also count the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the kernel at once.

    Otherwise, the memory for activations in training, 100 MB each, is mapped and cleared again in
    every layer, which takes a fifth of a step on a CPU. Other C libraries neither have nor need
    such a setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _processor() -> tuple[str | None, set[str]]:
    """Return the processor's name and instruction sets."""
    if sys.platform == "darwin":
        model = _output_of("sysctl", "-n", "machdep.cpu.brand_string")
        flags = _output_of("sysctl", "-n", "machdep.cpu.features")  # only on Intel processors
        return model, set((flags or "neon").lower().split())
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    found: dict[str, str] = dict(
        re.findall(r"^(model name|flags|Features)\s*: (.*)$", text, re.MULTILINE)
    )
    model = found.get("model name") or platform.processor() or platform.machine()
    return model, set(found.get("flags", found.get("Features", "")).split())


def _gpu() -> dict[str, str] | None:
    """Return the first NVIDIA GPU and its driver."""
    row = _output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if not row:
        return None
    name, _, driver = row.splitlines()[0].rpartition(", ")
    return {"name": name, "driver": driver}


def _output_of(*command: str) -> str | None:
    """Return what a command prints, or `None` if it is missing, fails or prints nothing."""
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
