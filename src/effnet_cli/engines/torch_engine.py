"""torch on the CPU, CUDA or MPS."""

import io
import json
import threading
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from effnet_cli.engines.base import Crops, Scores, scores_of
from effnet_cli.engines.normalise import normalise_tensor
from effnet_cli.models import build
from effnet_cli.models.weights import Model
from effnet_cli.options import Precision
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import Reporter

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """An `Engine`: channels_last, autocast below fp32.

    Not compiled: on a CPU torch.compile takes 42 s, for which eager answers a thousand images and
    onnxruntime ten thousand; on a GPU decoding is what a folder of images waits for.
    """

    def __init__(
        self, network: Model, device: str, precision: Precision, callers: int, reporter: Reporter
    ) -> None:
        self.precision, self.scores_are = precision, scores_of(network.card)
        self._card = network.card
        self._device = torch.device(device)
        if self._device.type == "cpu":
            torch.set_num_threads(max(1, usable_cores() // callers))
        else:
            _check_is_usable(self._device)
            torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: TF32 keeps 10 bits of 23
        self._layout = (
            torch.contiguous_format if network.file_kind == "pt2" else torch.channels_last
        )
        self._module: Callable[[torch.Tensor], torch.Tensor] = (
            _program(network, device)
            if network.file_kind == "pt2"
            else build.load_module(network).to(self._device).to(memory_format=self._layout)
        )
        self._passes: dict[int, Callable[[], object]] = {}  # by batch size
        self._lock = threading.Lock() if self._device.type != "cpu" else nullcontext()

    def __call__(self, crops: Crops) -> Scores:
        batch = torch.from_numpy(np.require(crops, requirements=["C", "W"]))
        if self._device.type == "cuda":
            batch = batch.pin_memory()
        try:
            with self._lock, torch.inference_mode(), self._autocast():
                scores: Scores = self._module(self._input(batch)).float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise EffnetError(
                f"{self._device} has no memory for {len(crops)} images at once.",
                "Use a smaller --batch-size.",
            ) from error
        return scores

    def device_times_ms(self, crops: Crops, calls: int) -> list[float] | None:
        """See `DeviceClock`. Where a captured graph of the pass is faster, it is what is timed."""
        if self._device.type != "cuda":
            return None
        size = len(crops)
        if size not in self._passes:
            self._passes[size] = self._faster_pass(self._input(torch.from_numpy(crops)))
        with torch.inference_mode(), self._autocast():
            return _event_times_ms(self._passes[size], calls)

    def _input(self, batch: torch.Tensor) -> torch.Tensor:
        """What the module takes of crops, uint8 [N,H,W,3], on the device."""
        if self.scores_are == "probabilities":  # the file normalises
            return batch
        if self._device.type == "cuda":  # a quarter of the bytes to copy, and a faster division
            batch = batch.to(self._device, non_blocking=True)
        pixels = normalise_tensor(batch, self._card.preprocessing)
        return pixels.to(self._device, memory_format=self._layout)

    def _faster_pass(self, batch: torch.Tensor) -> Callable[[], object]:
        """The network on these images, as it is or as a captured graph."""
        with torch.inference_mode(), self._autocast():
            aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            with torch.cuda.stream(aside):  # libraries choose their kernels before the capture
                for _ in range(3):
                    self._module(batch)
            torch.cuda.current_stream(self._device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._module(batch)

            def eager() -> object:
                return self._module(batch)

            passes: list[Callable[[], object]] = [eager, graph.replay]
            return min(passes, key=lambda one: sorted(_event_times_ms(one, 11))[5])

    def _autocast(self) -> AbstractContextManager[object]:
        enabled = self.precision in DTYPES
        return torch.autocast(self._device.type, DTYPES.get(self.precision), enabled=enabled)


def _program(network: Model, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What an exported `.pt2` file holds, ready to be called.

    Raises:
        UsageError: it was made for another device.
        EffnetError: torch cannot load it.
    """
    if device != "cpu":
        raise UsageError(
            f"{str(network.path)!r} was exported for the CPU, not for {device}.",
            "Use --device cpu, or the model file that it was made from.",
        )
    try:
        if network.card.export["target"] == "aotinductor":
            compiled: Callable[[torch.Tensor], torch.Tensor] = torch._inductor.aoti_load_package(
                str(network.path)
            )
            return compiled
        _check_runs_no_pickle(network.path)
        return torch.export.load(network.path).module()
    except EffnetError:
        raise
    except Exception as error:  # torch raises anything for a program that it cannot read
        raise EffnetError(
            f"torch {torch.__version__} cannot load {str(network.path)!r} "
            f"({type(error).__name__}).",
            "Export it again with this torch.",
        ) from error


def _event_times_ms(run: Callable[[], object], calls: int) -> list[float]:
    """Milliseconds of each call by the events of the current CUDA device."""
    times = []
    for _ in range(calls):
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


def _is_plain(content: bytes) -> bool:
    """Whether a pickle holds plain values."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # torch raises anything for what it cannot read
        return False
    return True


def _check_runs_no_pickle(path: Path) -> None:
    """Refuse a file with pickles that hold code: `torch.export.load` would run it.

    What effnet exports has its tensors as plain bytes and one pickle, of plain values.
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
            f"{str(path)!r} is refused: it holds pickles, which run code.",
            "Use a file that effnet exported.",
        )


def _check_is_usable(device: torch.device) -> None:
    """Whether this build of torch can use a device that the driver shows."""
    if device.type == "mps":
        usable = torch.backends.mps.is_available()
    else:
        usable = torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if not usable:
        raise EffnetError(
            f"The installed torch cannot use the device {str(device)!r}.",
            "Use --device cpu, or install torch for it.",
        )
