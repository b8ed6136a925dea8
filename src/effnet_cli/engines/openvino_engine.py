"""OpenVINO on the CPU."""

import sys
import threading
from importlib import import_module
from typing import Any

import numpy as np

from effnet_cli.engines.base import Crops, Scores, cannot_run_error, scores_of
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.engines.normalise import model_input
from effnet_cli.models.weights import Model
from effnet_cli.options import Precision
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import Reporter

CONVERSION_TOOLS = "openvino.tools.ovc"


def _runtime() -> Any:
    """The package openvino without its conversion tools.

    It imports them, and with them a telemetry client, if they are there: a third of the time of its
    import. For its import only, they are not.
    """
    tools = sys.modules.get(CONVERSION_TOOLS)
    sys.modules[CONVERSION_TOOLS] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    finally:
        del sys.modules[CONVERSION_TOOLS]
        if tools is not None:
            sys.modules[CONVERSION_TOOLS] = tools


openvino = _runtime()

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}


class OpenVinoEngine:
    """An `Engine`. The graph is compiled for fixed batch sizes, which is up to 1.7 times as fast as
    a dynamic one.
    """

    def __init__(
        self, network: Model, device: str, precision: Precision, callers: int, reporter: Reporter
    ) -> None:
        self.precision, self.scores_are = precision, scores_of(network.card)
        self._card = network.card
        self._core = openvino.Core()
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if CAPABILITIES[precision] not in able:
            raise EffnetError(
                f"This processor has no {precision} arithmetic.", "Use --precision fp32."
            )
        model = get_compiled(network, reporter)
        try:
            self._model = self._core.read_model(model if isinstance(model, bytes) else str(model))
        except RuntimeError as error:
            if network.file_kind == "tensors":  # our own graph: a bug
                raise
            raise cannot_run_error("OpenVINO", network.path) from error
        self._settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "NUM_STREAMS": str(callers),
            "ENABLE_CPU_PINNING": "NO",  # the threads that decode need the same cores
            "INFERENCE_NUM_THREADS": str(max(usable_cores(), callers)),
        }
        self._lock = threading.Lock()
        self._compiled: dict[int, Any] = {}  # by batch size
        self._local = threading.local()  # each thread's requests, by batch size
        # Also before any other thread calls: two first calls at the same time deadlock in OpenVINO
        # 2026.4 (one holds the lock of a C++ static, the other the interpreter's).
        side = self._card.preprocessing.crop_px
        self(np.zeros((self._card.export.get("batch") or 1, side, side, 3), dtype=np.uint8))

    def __call__(self, crops: Crops) -> Scores:
        count = len(crops)
        size = self._batch_size_for(count)
        if size != count:
            padding = np.zeros((size - count, *crops.shape[1:]), dtype=crops.dtype)
            crops = np.concatenate([crops, padding])
        request = self._request(size)
        request.infer([model_input(crops, self._card)], share_inputs=True)
        return np.array(request.get_output_tensor(0).data[:count], dtype=np.float32)

    def _batch_size_for(self, count: int) -> int:
        """A power of two that holds `count` images."""
        return 1 << (count - 1).bit_length()

    def _request(self, size: int) -> Any:
        requests: dict[int, Any] = self._local.__dict__.setdefault("requests", {})
        if size not in requests:
            requests[size] = self._compile(size).create_infer_request()
        return requests[size]

    def _compile(self, size: int) -> Any:
        with self._lock:
            if size not in self._compiled:
                self._model.reshape([size, *list(self._model.input(0).partial_shape)[1:]])
                self._compiled[size] = self._core.compile_model(self._model, "CPU", self._settings)
            return self._compiled[size]
