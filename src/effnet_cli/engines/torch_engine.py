"""torch on the CPU, CUDA or MPS."""

import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from effnet_cli.engines.base import Crops, LoadRequest, ModelOutputs, scores_of
from effnet_cli.engines.normalise import normalise_tensor
from effnet_cli.models import build
from effnet_cli.models.efficientnet import EfficientNet
from effnet_cli.models.weights import Model
from effnet_cli.system.errors import EffnetError, UsageError

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Module = Callable[[torch.Tensor], torch.Tensor]


class TorchEngine:
    """An `Engine` that uses channels_last memory, and autocast for bf16 and fp16.

    It does not use torch.compile: on a CPU that takes 42 s, in which eager mode runs a thousand
    images and onnxruntime ten thousand; on a GPU, decoding is the bottleneck for image folders.
    """

    def __init__(self, request: LoadRequest) -> None:
        model = request.model
        self.precision, self.scores_are = request.precision, scores_of(model.card)
        self._preprocessing, self._pool = model.card.preprocessing, model.pool
        self._device = torch.device(request.device)
        if self._device.type == "cpu":
            torch.set_num_threads(request.threads_per_caller)
        else:
            _check_is_usable(self._device)
            torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: TF32 keeps 10 of 23 bits
        self._layout = torch.channels_last
        self._module: Module
        if model.file_kind == "pt2":
            self._layout = torch.contiguous_format
            self._module = _load_program(model, self._device)
        else:
            module = build.load_module(model).to(self._device)
            self._module = module.to(memory_format=self._layout)
        self._passes: dict[int, Callable[[], object]] = {}  # by batch size
        self._lock = threading.Lock() if self._device.type != "cpu" else nullcontext()

    def __call__(self, crops: Crops) -> ModelOutputs:
        batch = torch.from_numpy(np.require(crops, requirements=["C", "W"]))
        if self._device.type == "cuda":
            batch = batch.pin_memory()
        try:
            with self._lock, torch.inference_mode(), self._autocast():
                outputs = self._run(self._model_input(batch))
                return ModelOutputs(*(values.float().cpu().numpy() for values in outputs))
        except torch.OutOfMemoryError as error:
            raise EffnetError(
                f"Not enough memory on {self._device} for a batch of {len(crops)}.",
                "Use a smaller --batch-size.",
            ) from error

    def _run(self, values: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the scores and, unless it is an exported program, the features."""
        if isinstance(self._module, EfficientNet):
            maps = self._module.features(values)
            features = torch.flatten(self._module.avgpool(maps), 1)
            yield self._module.classifier(features)
            yield features if self._pool == "avg" else self._module.pool_gem(maps)
        else:
            yield self._module(values)

    def device_times_ms(self, crops: Crops, calls: int) -> list[float] | None:
        """See `DeviceClock`. Times a captured CUDA graph of the pass where that is faster."""
        if self._device.type != "cuda":
            return None
        with torch.inference_mode(), self._autocast():
            if len(crops) not in self._passes:
                values = self._model_input(torch.from_numpy(crops))
                self._passes[len(crops)] = self._fastest_pass(values)
            return _event_times_ms(self._passes[len(crops)], calls)

    def _model_input(self, batch: torch.Tensor) -> torch.Tensor:
        """Convert crops, uint8 [N,H,W,3], to the module's input on its device."""
        if self.scores_are == "probabilities":  # the module includes its preprocessing
            return batch.to(self._device, non_blocking=True)
        if self._device.type == "cuda":  # a quarter of the bytes to copy; MPS may round differently
            batch = batch.to(self._device, non_blocking=True)
        values = normalise_tensor(batch, self._preprocessing)
        return values.to(self._device, memory_format=self._layout)

    def _fastest_pass(self, values: torch.Tensor) -> Callable[[], object]:
        """Return the faster pass with these values: eager, or a captured CUDA graph."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):  # libraries choose their kernels before the capture
            for _ in range(3):
                self._module(values)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._module(values)
        passes: list[Callable[[], object]] = [lambda: self._module(values), graph.replay]
        return min(passes, key=lambda one: sorted(_event_times_ms(one, 11))[5])

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = AUTOCAST_DTYPES.get(self.precision)
        return torch.autocast(self._device.type, dtype, enabled=dtype is not None)


def _load_program(model: Model, device: torch.device) -> Module:
    """Load the program in a `.pt2` file.

    Raises:
        EffnetError: torch cannot load it.
        UsageError: it was exported for another device, or its pickles could run code.
    """
    if device.type != "cpu":
        raise UsageError(
            f"{str(model.path)!r} was exported for the CPU, not for {device}.",
            "Use --device cpu, or the model file that it was exported from.",
        )
    try:
        if model.card.export["target"] == "aotinductor":
            package: Module = torch._inductor.aoti_load_package(str(model.path))
            return package
        _check_has_no_code(model.path)
        return torch.export.load(model.path).module()
    except EffnetError:
        raise
    except Exception as error:  # torch can raise anything for a program it cannot read
        raise EffnetError(
            f"torch {torch.__version__} cannot load {str(model.path)!r} ({type(error).__name__}).",
            "Export it again with this torch version.",
        ) from error


def _check_has_no_code(path: Path) -> None:
    """Refuse a file with pickles that hold code, which `torch.export.load` would run.

    effnet's own exports store tensors as plain bytes, and have one pickle, of plain values.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        tables = [json.loads(archive.read(n)) for n in names if n.endswith("_config.json")]
        pickles = [archive.read(name) for name in names if name.endswith(".pt")]
    is_archive = any(name.endswith("/archive_format") for name in names)
    entries = [entry for table in tables for entry in table["config"].values()]
    has_pickled_tensors = any(entry["use_pickle"] for entry in entries)
    if not is_archive or has_pickled_tensors or not all(map(_is_plain, filter(None, pickles))):
        raise UsageError(
            f"Refusing to load {str(path)!r}: it contains pickles that could run code.",
            "Use a file exported by effnet.",
        )


def _is_plain(content: bytes) -> bool:
    """Return whether a pickle holds only plain values."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # torch can raise anything for content it cannot read
        return False
    return True


def _event_times_ms(run: Callable[[], object], calls: int) -> list[float]:
    """Return the milliseconds of each call, measured with events on the current CUDA device."""
    times = []
    for _ in range(calls):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


def _check_is_usable(device: torch.device) -> None:
    """Refuse a device that the driver reports but this build of torch cannot use."""
    if device.type == "mps":
        is_usable = torch.backends.mps.is_available()
    else:
        is_usable = torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if not is_usable:
        raise EffnetError(
            f"The installed torch cannot use the device {str(device)!r}.",
            "Use --device cpu, or install a torch build that supports it.",
        )
