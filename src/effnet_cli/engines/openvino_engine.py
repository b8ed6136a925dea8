"""OpenVINO on the CPU."""

import sys
import threading
from importlib import import_module
from typing import Any

import numpy as np

from effnet_cli.engines.base import Crops, LoadRequest, Scores, scores_of, translate_errors
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.engines.normalise import model_input
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.parallel import usable_cores

CONVERSION_TOOLS = "openvino.tools.ovc"
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def _import_openvino() -> Any:
    """openvino without its conversion tools, which it imports where they are installed, and a
    telemetry client with them: a third of its import time.
    """
    tools = sys.modules.get(CONVERSION_TOOLS)
    sys.modules[CONVERSION_TOOLS] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    finally:
        del sys.modules[CONVERSION_TOOLS]
        if tools is not None:
            sys.modules[CONVERSION_TOOLS] = tools


openvino = _import_openvino()


class OpenVinoEngine:
    """An `Engine`. Compiles the graph for fixed batch sizes, powers of two: up to 1.7 times as fast
    as a dynamic one.
    """

    def __init__(self, request: LoadRequest) -> None:
        model = request.model
        self.precision, self.scores_are = request.precision, scores_of(model.card)
        self._card = model.card
        self._core = openvino.Core()
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if request.precision.upper() not in able:
            raise EffnetError(
                f"This processor has no {request.precision} arithmetic.", "Use --precision fp32."
            )
        graph = get_compiled(model, request.reporter)
        with translate_errors("OpenVINO", model):
            self._graph = self._core.read_model(graph)
        self._settings = {
            "INFERENCE_PRECISION_HINT": HINTS[request.precision],
            "NUM_STREAMS": str(request.callers),
            "ENABLE_CPU_PINNING": "NO",  # the threads that decode need the same cores
            "INFERENCE_NUM_THREADS": str(max(usable_cores(), request.callers)),
        }
        self._lock = threading.Lock()
        self._compiled: dict[int, Any] = {}  # by batch size
        self._local = threading.local()  # each thread's requests, by batch size
        # A first call before any other thread's: two at the same time deadlock in OpenVINO 2026.4
        # (one holds the lock of a C++ static, the other the interpreter's).
        crop_px = model.card.preprocessing.crop_px
        batch_size = model.card.export.get("batch") or 1
        self(np.zeros((batch_size, crop_px, crop_px, 3), dtype=np.uint8))

    def __call__(self, crops: Crops) -> Scores:
        count = len(crops)
        size = 1 << (count - 1).bit_length()  # the next power of two
        if size != count:
            padding = np.zeros((size - count, *crops.shape[1:]), dtype=crops.dtype)
            crops = np.concatenate([crops, padding])
        request = self._request(size)
        request.infer([model_input(crops, self._card)], share_inputs=True)
        return np.array(request.get_output_tensor(0).data[:count], dtype=np.float32)

    def _request(self, size: int) -> Any:
        requests: dict[int, Any] = self._local.__dict__.setdefault("requests", {})
        if size not in requests:
            requests[size] = self._compile(size).create_infer_request()
        return requests[size]

    def _compile(self, size: int) -> Any:
        with self._lock:
            if size not in self._compiled:
                self._graph.reshape([size, *list(self._graph.input(0).partial_shape)[1:]])
                self._compiled[size] = self._core.compile_model(self._graph, "CPU", self._settings)
            return self._compiled[size]
