"""torch on the CPU, CUDA or MPS."""

import threading
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from effnet_cli import model
from effnet_cli.engines import Logits, Pixels
from effnet_cli.errors import EffnetError
from effnet_cli.options import Listener, Precision
from effnet_cli.ordered import usable_cores
from effnet_cli.weights import Network

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """An `Engine`: channels_last, autocast below fp32.

    Not compiled: on a CPU torch.compile takes 42 s, for which eager answers a thousand pictures and
    onnxruntime ten thousand; on a GPU decoding is what a folder of pictures waits for.
    """

    name = "torch"

    def __init__(
        self, network: Network, device: str, precision: Precision, callers: int, listener: Listener
    ) -> None:
        self.device, self.precision = device, precision
        self._device = torch.device(device)
        if self._device.type == "cpu":
            torch.set_num_threads(max(1, usable_cores() // callers))
        else:
            _check_is_usable(self._device)
            torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: TF32 keeps 10 bits of 23
        module = model.of(network)
        self._module = module.to(self._device).to(memory_format=torch.channels_last)
        self._lock = threading.Lock() if self._device.type != "cpu" else nullcontext()

    def __call__(self, pixels: Pixels) -> Logits:
        batch = torch.from_numpy(np.ascontiguousarray(pixels))
        if self._device.type == "cuda":
            batch = batch.pin_memory()
        try:
            with self._lock, torch.inference_mode(), self._autocast():
                batch = batch.to(self._device, non_blocking=True, memory_format=torch.channels_last)
                logits: Logits = self._module(batch).float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise EffnetError(
                f"{self.device} has no memory for {len(pixels)} pictures at once.",
                "Use a smaller --batch-size.",
            ) from error
        return logits

    def _autocast(self) -> AbstractContextManager[object]:
        enabled = self.precision in DTYPES
        return torch.autocast(self._device.type, DTYPES.get(self.precision), enabled=enabled)


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
