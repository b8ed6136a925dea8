"""What runs a network: torch, onnxruntime, OpenVINO behind one callable.

A new engine is one class in a file of its own and one row in `ENGINES`.
"""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from effnet_cli.engines.base import Engine
from effnet_cli.engines.exported import ExportedEngine
from effnet_cli.models.export_file import FILE_KINDS
from effnet_cli.models.variants import Variant
from effnet_cli.models.weights import Model
from effnet_cli.options import EngineName, EngineOptions, FileKind, Precision
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import SILENT, Reporter


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine: `module:class`, the library it needs, how to install that, which files it runs,
    what it can do on which devices, and whether its calls only wait, for threads or a device of its
    own.

    The class is called as `cls(network, device, precision, callers, reporter)`, where `callers` is
    the number of threads that will call the engine at the same time.
    """

    path: str
    library: str
    install: str
    kinds: tuple[FileKind, ...]
    precisions: Mapping[str, tuple[Precision, ...]]
    waits: bool = False


ENGINES: Mapping[EngineName, EngineRow] = {
    "onnxruntime": EngineRow(
        "effnet_cli.engines.onnxruntime_engine:OnnxRuntimeEngine",
        "onnxruntime",
        "pip install onnxruntime",
        ("tensors", "onnx"),
        {"cpu": ("fp32",), "cuda": ("fp32",)},
    ),
    "openvino": EngineRow(
        "effnet_cli.engines.openvino_engine:OpenVinoEngine",
        "openvino",
        "pip install 'effnet-cli[openvino]'",
        ("tensors", "onnx", "openvino"),
        {"cpu": ("fp32", "bf16", "fp16")},
        waits=True,
    ),
    "torch": EngineRow(
        "effnet_cli.engines.torch_engine:TorchEngine",
        "torch",
        "pip install 'torch>=2.14' 'torchvision>=0.29'",
        ("tensors", "pt2"),
        {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16"), "mps": ("fp32", "fp16")},
    ),
    "litert": EngineRow(
        "effnet_cli.engines.litert_engine:LiteRtEngine",
        "ai_edge_litert",
        "pip install 'effnet-cli[litert]'",
        ("litert",),
        {"cpu": ("fp32",)},
    ),
    "executorch": EngineRow(
        "effnet_cli.engines.executorch_engine:ExecuTorchEngine",
        "executorch",
        "pip install 'effnet-cli[executorch]'",
        ("executorch",),
        {"cpu": ("fp32",)},
    ),
}

# What `--engine auto` tries on each device, best first: the first that runs such a file, is
# installed and has the precision.
AUTO: Mapping[str, tuple[EngineName, ...]] = {
    "cpu": ("onnxruntime", "openvino", "torch", "litert", "executorch"),
    "cuda": ("torch", "onnxruntime"),
    "mps": ("torch",),
}

# Images in one call where a person does not say. On a CPU several threads with one image each
# are faster than one call with many (lite0, 2 cores: 3.5 against 4.2 ms an image) and every answer
# is the same as for the image alone.
BATCH_SIZE = {"cpu": 1, "cuda": 32, "mps": 16}
# Multiply-adds in flight at the same time, in billions.
MAX_GIGA_MULTIPLY_ADDS = 16


@dataclass(frozen=True, slots=True)
class EnginePlan:
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

    def load(self, network: Model, callers: int = 1, reporter: Reporter = SILENT) -> Engine:
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
            network, self.device, self.precision, callers, reporter
        )
        return ExportedEngine(engine, network.card) if network.file_kind != "tensors" else engine


def plan_engine(options: EngineOptions, kind: FileKind = "tensors") -> EnginePlan:
    """Choose engine and device for a network in a file of some kind.

    Raises:
        UsageError: what was asked for does not exist, or not together.
        EffnetError: it is not installed or not on this machine.
    """
    device = _device(options.device)
    on = _device_type(device)
    if options.engine != "auto":
        _check_can(options.engine, on, options.precision, kind)
        _check_is_installed(options.engine)
        return EnginePlan(options.engine, device, options.precision)
    for_kind = [name for name in AUTO[on] if kind in ENGINES[name].kinds]
    able = [name for name in for_kind if options.precision in ENGINES[name].precisions[on]]
    if not able and for_kind:
        exportable = " or --model with an int8 export," if kind == "tensors" else ""
        raise UsageError(
            f"No engine runs {options.precision} on {on}{_of(kind)}.",
            f"Try {_precisions(on, for_kind)},{exportable} or another --device.",
        )
    if not able:
        raise UsageError(f"No engine runs {_files(kind)} on {on}.", "Use --device cpu.")
    installed = next((name for name in able if _is_installed(name)), None)
    if installed is None:
        row = ENGINES[able[0]]
        what = f"{options.precision} on {on}" if kind == "tensors" else f"To run {_files(kind)}"
        raise EffnetError(
            f"{what} needs {row.library}, which is not installed.", f"Install it: {row.install}"
        )
    return EnginePlan(installed, device, options.precision)


def list_installed(on: str, kind: FileKind) -> list[EngineName]:
    """The installed engines that run files of some kind on a type of device (`cpu`, `cuda`, ...),
    those that `auto` prefers first.
    """
    return [name for name in AUTO[on] if kind in ENGINES[name].kinds and _is_installed(name)]


def _check_can(engine: EngineName, on: str, precision: Precision, kind: FileKind) -> None:
    row = ENGINES[engine]
    if kind not in row.kinds:
        others = [name for name, other in ENGINES.items() if kind in other.kinds]
        raise UsageError(
            f"The engine {engine} does not run {_files(kind)}.",
            f"Use --engine {' or '.join(others)}.",
        )
    if on not in row.precisions:
        raise UsageError(
            f"The engine {engine} does not run on {on}.",
            f"Try --device {' or '.join(row.precisions)}.",
        )
    if precision not in row.precisions[on]:
        able = ", ".join(row.precisions[on])
        raise UsageError(
            f"The engine {engine} does not run {precision} on {on}.", f"It runs {able} there."
        )


def _check_is_installed(engine: EngineName) -> None:
    if not _is_installed(engine):
        raise EffnetError(
            f"The engine {engine} is not installed.", f"Install it: {ENGINES[engine].install}"
        )


def _files(kind: FileKind) -> str:
    """Files of some kind, in words."""
    if kind == "tensors":
        return "model files"
    suffix = next(suffix for suffix, name in FILE_KINDS.items() if name == kind)
    return f"{suffix} files"


def _of(kind: FileKind) -> str:
    return "" if kind == "tensors" else f" for {_files(kind)}"


def _precisions(on: str, engines: Sequence[EngineName]) -> str:
    able = {precision for name in engines for precision in ENGINES[name].precisions[on]}
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
