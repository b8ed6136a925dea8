"""The registry of engines, and how one is chosen.

To add an engine, write a class in a new file, and add a row to `ENGINES` and the name to
`options.EngineName`.
"""

import ctypes
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from effnet_cli.engines.base import Engine, LoadRequest
from effnet_cli.engines.exported import ExportedEngine
from effnet_cli.models.export_file import EXPORT_KINDS
from effnet_cli.models.variants import Variant
from effnet_cli.models.weights import Model
from effnet_cli.options import EngineName, EngineOptions, EnginePrecision, FileKind
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import SILENT, Reporter


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine.

    `path` is the `module:class` that loads a model, called as in `EnginePlan.load`. `library` is
    the module it imports, `install` the command that installs it. `kinds` are the kinds of file it
    runs, `precisions` those it supports on each type of device. `--engine auto` prefers it on the
    `preferred_on` device types, and otherwise takes the first row that fits. `waits`: the calling
    thread only waits, while the engine's own threads or device work.
    """

    path: str
    library: str
    install: str
    kinds: tuple[FileKind, ...]
    precisions: Mapping[str, tuple[EnginePrecision, ...]]
    preferred_on: tuple[str, ...] = ()
    waits: bool = False


ENGINES: Mapping[EngineName, EngineRow] = {
    "onnxruntime": EngineRow(
        path="effnet_cli.engines.onnxruntime_engine:OnnxRuntimeEngine",
        library="onnxruntime",
        install="pip install onnxruntime",
        kinds=("tensors", "onnx"),
        precisions={"cpu": ("fp32",), "cuda": ("fp32",)},
    ),
    "openvino": EngineRow(
        path="effnet_cli.engines.openvino_engine:OpenVinoEngine",
        library="openvino",
        install="pip install 'effnet-cli[openvino]'",
        kinds=("tensors", "onnx", "openvino"),
        precisions={"cpu": ("fp32", "bf16", "fp16")},
        waits=True,
    ),
    "torch": EngineRow(
        path="effnet_cli.engines.torch_engine:TorchEngine",
        library="torch",
        install="pip install 'torch>=2.14' 'torchvision>=0.29'",
        kinds=("tensors", "pt2"),
        precisions={
            "cpu": ("fp32", "bf16"),
            "cuda": ("fp32", "bf16", "fp16"),
            "mps": ("fp32", "fp16"),
        },
        preferred_on=("cuda",),
    ),
    "litert": EngineRow(
        path="effnet_cli.engines.litert_engine:LiteRtEngine",
        library="ai_edge_litert",
        install="pip install 'effnet-cli[litert]'",
        kinds=("litert",),
        precisions={"cpu": ("fp32",)},
    ),
    "executorch": EngineRow(
        path="effnet_cli.engines.executorch_engine:ExecuTorchEngine",
        library="executorch",
        install="pip install 'effnet-cli[executorch]'",
        kinds=("executorch",),
        precisions={"cpu": ("fp32",)},
    ),
}

# Default batch size. On a CPU, several threads with one image each are faster than one call with
# many images (lite0, 2 cores: 3.5 vs. 4.2 ms per image), and each prediction is the same as for the
# image alone.
BATCH_SIZE = {"cpu": 1, "cuda": 32, "mps": 16}
MAX_GIGA_MULTIPLY_ADDS = 16  # running at the same time
FILE_DESCRIPTIONS: Mapping[FileKind, str] = {
    "tensors": "model files",
    **{kind: f"{suffix} files" for suffix, kind in EXPORT_KINDS.items()},
}


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """An engine that has been chosen but not loaded."""

    engine: EngineName
    device: str
    precision: EnginePrecision

    @property
    def batch_size(self) -> int:
        return BATCH_SIZE[device_type_of(self.device)]

    @property
    def workers(self) -> int:
        """The number of threads that keep the cores busy: one extra if calls only wait."""
        return usable_cores() + ENGINES[self.engine].waits

    def max_callers(self, variant: Variant) -> int:
        """Return how many calls may run at once.

        One per core for small models; fewer for large ones, whose calls need up to a gigabyte each.
        """
        return min(usable_cores(), max(1, int(MAX_GIGA_MULTIPLY_ADDS / variant.giga_multiply_adds)))

    def load(self, model: Model, callers: int = 1, reporter: Reporter = SILENT) -> Engine:
        """Load the engine for `callers` threads that call it at once.

        Raises:
            EffnetError: the library or the device cannot run the model.
        """
        row = ENGINES[self.engine]
        path, name = row.path.split(":")
        try:
            module = importlib.import_module(path)
        except (ImportError, OSError) as error:  # OSError: a native library it needs is broken
            raise EffnetError(
                f"The installed {row.library} could not be imported: {error}.",
                f"Reinstall it: {row.install.replace('install', 'install --force-reinstall', 1)}",
            ) from error
        request = LoadRequest(
            model, self.device, precision=self.precision, callers=callers, reporter=reporter
        )
        engine: Engine = getattr(module, name)(request)
        return engine if model.file_kind == "tensors" else ExportedEngine(engine, model.card)


def plan_engine(options: EngineOptions, kind: FileKind = "tensors") -> EnginePlan:
    """Choose the engine and the device for a file of the given kind.

    Raises:
        UsageError: an unknown engine or device, or a combination that does not exist.
        EffnetError: the engine is not installed, or this machine has no such device.
    """
    device = _resolve_device(options.device)
    device_type, files = device_type_of(device), FILE_DESCRIPTIONS[kind]
    names, subject = list_engines(device_type, kind), "No engine supports"
    if options.engine != "auto":
        _check_engine(options.engine, kind)
        names = [name for name in names if name == options.engine]
        subject = f"The engine {options.engine} does not support"
    if not names:
        raise UsageError(f"{subject} {files} on {device_type}.", "Use --device cpu.")
    able = [name for name in names if options.precision in ENGINES[name].precisions[device_type]]
    if not able:
        others = {one for name in names for one in ENGINES[name].precisions[device_type]}
        raise UsageError(
            f"{subject} {files} in {options.precision} on {device_type}.",
            f"Use --precision {' or '.join(sorted(others))}.",
        )
    installed = next((name for name in able if _is_installed(name)), None)
    if installed is None:
        raise EffnetError(
            f"Running {files} in {options.precision} on {device_type} requires the engine "
            f"{able[0]}, which is not installed.",
            f"Install it: {ENGINES[able[0]].install}",
        )
    return EnginePlan(installed, device, options.precision)


def device_type_of(device: str) -> str:
    """Return the type of a device: `cuda` for `cuda:1`."""
    return device.partition(":")[0]


def list_engines(device_type: str, kind: FileKind) -> list[EngineName]:
    """Return the engines for a kind of file on a type of device, those `auto` prefers first."""
    rows = sorted(ENGINES.items(), key=lambda item: device_type not in item[1].preferred_on)
    return [name for name, row in rows if device_type in row.precisions and kind in row.kinds]


def list_installed(device_type: str, kind: FileKind) -> list[EngineName]:
    """Return the engines from `list_engines` that are installed."""
    return [name for name in list_engines(device_type, kind) if _is_installed(name)]


def _check_engine(engine: EngineName, kind: FileKind) -> None:
    if engine not in ENGINES:
        raise UsageError(f"Unknown engine {engine!r}.", f"Use auto, {', '.join(ENGINES)}.")
    if kind not in ENGINES[engine].kinds:
        others = [name for name, row in ENGINES.items() if kind in row.kinds]
        raise UsageError(
            f"The engine {engine} does not support {FILE_DESCRIPTIONS[kind]}.",
            f"Use --engine {', '.join(others)}.",
        )


def _is_installed(engine: EngineName) -> bool:
    return importlib.util.find_spec(ENGINES[engine].library) is not None


def _resolve_device(name: str) -> str:
    """Return `name`, or for `auto` the first CUDA device if torch can use it, else the CPU."""
    if name == "auto":
        return "cuda" if _has_cuda_device() and _is_torch_built_for_cuda() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name):
        raise UsageError(f"Unknown device {name!r}.", "Use auto, cpu, cuda, cuda:N or mps.")
    if name.startswith("cuda") and not _has_cuda_device():
        raise EffnetError("No CUDA device found.", "Use --device cpu.")
    if name == "mps" and sys.platform != "darwin":
        raise EffnetError("mps is only available on macOS.", "Use --device cpu.")
    return name


def _has_cuda_device() -> bool:
    """Ask NVIDIA's driver whether there is a device; importing torch to ask takes a second."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)  # stays 0 if a call fails
    driver.cuInit(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value > 0


def _is_torch_built_for_cuda() -> bool:
    """Return whether the installed torch has its CUDA library: CPU-only builds are common."""
    spec = importlib.util.find_spec("torch")
    folders = (spec.submodule_search_locations or []) if spec else []
    libraries = ("libtorch_cuda.so", "torch_cuda.dll")
    return any(Path(folder, "lib", name).exists() for folder in folders for name in libraries)
