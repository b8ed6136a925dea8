"""What runs a network: torch, onnxruntime, OpenVINO behind one callable.

A new engine is one class in a file of its own and one row in `ENGINES`.
"""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from effnet_cli.errors import EffnetError, UsageError
from effnet_cli.options import SILENT, EngineName, EngineOptions, Listener, Precision
from effnet_cli.ordered import usable_cores
from effnet_cli.variants import Variant
from effnet_cli.weights import Network

Pixels = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """`float32 [N,3,H,W]` -> logits `float32 [N,C]`; may be called from as many threads as it was
    made for.

    Raises:
        EffnetError: when called, if the device cannot do it (out of memory).
    """

    name: str
    device: str
    precision: Precision

    def __call__(self, pixels: Pixels) -> Logits: ...


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine: `module:class`, the library it needs, how to install that, what it can do on
    which devices, and whether its calls only wait, for threads or a device of its own.

    The class is called as `cls(network, device, precision, callers, listener)`, where `callers` is
    the number of threads that will call the engine at the same time.
    """

    path: str
    library: str
    install: str
    precisions: Mapping[str, tuple[Precision, ...]]
    waits: bool = False


ENGINES: Mapping[EngineName, EngineRow] = {
    "onnxruntime": EngineRow(
        "effnet_cli.engines.onnxruntime_engine:OnnxRuntimeEngine",
        "onnxruntime",
        "pip install onnxruntime",
        {"cpu": ("fp32",), "cuda": ("fp32",)},
    ),
    "openvino": EngineRow(
        "effnet_cli.engines.openvino_engine:OpenVinoEngine",
        "openvino",
        "pip install 'effnet-cli[openvino]'",
        {"cpu": ("fp32", "bf16", "fp16")},
        waits=True,
    ),
    "torch": EngineRow(
        "effnet_cli.engines.torch_engine:TorchEngine",
        "torch",
        "pip install 'torch>=2.14' 'torchvision>=0.29'",
        {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16"), "mps": ("fp32", "fp16")},
    ),
}

# What `--engine auto` tries on each device, best first; the first that is installed and has the
# precision.
AUTO: Mapping[str, tuple[EngineName, ...]] = {
    "cpu": ("onnxruntime", "openvino", "torch"),
    "cuda": ("torch", "onnxruntime"),
    "mps": ("torch",),
}

# Pictures in one call where a person does not say. On a CPU several threads with one picture each
# are faster than one call with many (lite0, 2 cores: 3.5 against 4.2 ms a picture) and every answer
# is the same as for the picture alone.
BATCH_SIZE = {"cpu": 1, "cuda": 32, "mps": 16}
# Multiply-adds in flight at the same time, in billions.
MAX_GIGA_MULTIPLY_ADDS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """An engine that was chosen but not loaded."""

    engine: EngineName
    device: str
    precision: Precision

    @property
    def batch_size(self) -> int:
        return BATCH_SIZE[_device_type(self.device)]

    @property
    def workers(self) -> int:
        """The threads that keep the cores busy: one more where a call only waits."""
        return usable_cores() + ENGINES[self.engine].waits

    def max_callers(self, variant: Variant) -> int:
        """The calls that may run at the same time: as many as cores for small networks, few for
        large ones, whose every call needs up to a gigabyte.
        """
        return min(usable_cores(), max(1, int(MAX_GIGA_MULTIPLY_ADDS / variant.giga_multiply_adds)))

    def load(self, network: Network, callers: int = 1, listener: Listener = SILENT) -> Engine:
        """Load the engine for `callers` threads that call it at the same time.

        Raises:
            EffnetError: the library or the device cannot do it.
        """
        row = ENGINES[self.engine]
        path, name = row.path.split(":")
        try:
            module = import_module(path)
        except (ImportError, OSError) as error:  # OSError: a library that it needs is broken
            raise EffnetError(
                f"The installed {row.library} cannot be loaded: {error}.",
                f"Install it: {row.install}",
            ) from error
        engine: Engine = getattr(module, name)(
            network, self.device, self.precision, callers, listener
        )
        return engine


def plan(options: EngineOptions) -> Plan:
    """Choose engine and device.

    Raises:
        UsageError: what was asked for does not exist, or not together.
        EffnetError: it is not installed or not on this machine.
    """
    device = _device(options.device)
    kind = _device_type(device)
    if options.engine != "auto":
        _check_can(options.engine, kind, options.precision)
        if not _is_installed(options.engine):
            row = ENGINES[options.engine]
            raise EffnetError(
                f"The engine {options.engine} is not installed.", f"Install it: {row.install}"
            )
        return Plan(options.engine, device, options.precision)
    able = [name for name in AUTO[kind] if options.precision in ENGINES[name].precisions[kind]]
    for name in able:
        if _is_installed(name):
            return Plan(name, device, options.precision)
    if able:
        row = ENGINES[able[0]]
        raise EffnetError(
            f"{options.precision} on {kind} needs {row.library}, which is not installed.",
            f"Install it: {row.install}",
        )
    raise UsageError(
        f"No engine runs {options.precision} on {kind}.",
        f"Try {_precisions(kind)}, or another --device.",
    )


def _check_can(engine: EngineName, kind: str, precision: Precision) -> None:
    row = ENGINES[engine]
    if kind not in row.precisions:
        raise UsageError(
            f"The engine {engine} does not run on {kind}.",
            f"Try --device {' or '.join(row.precisions)}.",
        )
    if precision not in row.precisions[kind]:
        able = ", ".join(row.precisions[kind])
        raise UsageError(
            f"The engine {engine} does not run {precision} on {kind}.", f"It runs {able} there."
        )


def _precisions(kind: str) -> str:
    able = {precision for name in AUTO[kind] for precision in ENGINES[name].precisions[kind]}
    return "--precision " + " or ".join(sorted(able))


def _is_installed(engine: EngineName) -> bool:
    return importlib.util.find_spec(ENGINES[engine].library) is not None


def _device_type(device: str) -> str:
    return device.partition(":")[0]


def _device(name: str) -> str:
    """The device that a name means; `auto` is the first CUDA device if torch can use one, else the
    CPU.
    """
    if name == "auto":
        return "cuda" if _has_cuda_device() and _torch_is_built_for_cuda() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in AUTO or (number and not (kind == "cuda" and number.isdigit())):
        raise UsageError(
            f"There is no device {name!r}.", "Use auto, cpu, cuda, cuda:1 (a number) or mps."
        )
    if kind == "cuda" and not _has_cuda_device():
        raise EffnetError(
            "There is no CUDA device here: the driver shows none.", "Use --device cpu."
        )
    if kind == "mps" and sys.platform != "darwin":
        raise EffnetError("The device mps exists on macOS only.", "Use --device cpu.")
    return name


def _has_cuda_device() -> bool:
    """Whether NVIDIA's driver shows a device: asked of the driver, because importing torch takes a
    second.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


def _torch_is_built_for_cuda() -> bool:
    """Whether the installed torch has its CUDA library: builds for the CPU alone are common."""
    spec = importlib.util.find_spec("torch")
    folders = (spec.submodule_search_locations or []) if spec else []
    libraries = ("libtorch_cuda.so", "torch_cuda.dll")
    return any(Path(folder, "lib", name).exists() for folder in folders for name in libraries)
