"""OpenVINO on the CPU."""

import ctypes
import sys
import threading
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from effnet_cli.engines import base
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.engines.normalise import model_input
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.parallel import usable_cores

CONVERSION_TOOLS = "openvino.tools.ovc"
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def _import_openvino() -> Any:
    """Import openvino without its conversion tools.

    Where they are installed, openvino imports them and a telemetry client with them, which takes a
    third of its import time.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault(CONVERSION_TOOLS, None)
    try:
        return import_module("openvino")
    finally:
        if modules[CONVERSION_TOOLS] is None:
            del modules[CONVERSION_TOOLS]


openvino = _import_openvino()
# One for the whole process, which is never freed. Each `Core` gives its thread an alternate stack
# for signal handlers, and on release puts back the previous one, even if that has been freed
# (OpenVINO 2026.4): once two cores are released in the order of their creation, Ctrl-C crashes.
CORE = openvino.Core()
# Not even at the end of the process: its threads may be running then, which ends a program with an
# abort, or they are gone after a fork, and the child waits for them forever.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(CORE))


class OpenVinoEngine:
    """An `Engine` that compiles the graph for fixed batch sizes, which are powers of two.

    This is up to 1.7 times as fast as a dynamic batch size.
    """

    def __init__(self, request: base.LoadRequest) -> None:
        model = request.model
        self.precision, self.scores_are = request.precision, base.scores_of(model.card)
        self._card = model.card
        able = CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if request.precision.upper() not in able:
            raise EffnetError(
                f"This processor does not support {request.precision}.", "Use --precision fp32."
            )
        graph = get_compiled(model, request.reporter)
        with base.translate_errors("OpenVINO", model):
            self._graph = CORE.read_model(graph)
        self._settings = {
            "INFERENCE_PRECISION_HINT": HINTS[request.precision],
            "NUM_STREAMS": str(request.callers),
            "ENABLE_CPU_PINNING": "NO",  # the decoding threads need the same cores
            "INFERENCE_NUM_THREADS": str(max(usable_cores(), request.callers)),
        }
        self._lock = threading.Lock()
        self._compiled = cache(self._compile)
        self._requests = base.PerThread(self._create_request)
        # Make the first call before any other thread can: two first calls at the same time deadlock
        # in OpenVINO 2026.4 (one holds the lock of a C++ static, the other Python's).
        crop_px = model.card.preprocessing.crop_px
        batch_size = model.card.export.get("batch") or 1
        self(np.zeros((batch_size, crop_px, crop_px, 3), dtype=np.uint8))

    def __call__(self, crops: base.Crops) -> base.ModelOutputs:
        size = 1 << (len(crops) - 1).bit_length()  # the next power of two
        request = self._requests.get(size)
        request.infer([model_input(base.pad(crops, size), self._card)], share_inputs=True)
        outputs = (request.get_output_tensor(i).data for i in range(len(request.model_outputs)))
        return base.ModelOutputs(
            *(np.array(one[: len(crops)], dtype=np.float32) for one in outputs)
        )

    def _create_request(self, size: int) -> Any:
        with self._lock:
            return self._compiled(size).create_infer_request()

    def _compile(self, size: int) -> Any:
        self._graph.reshape([size, *list(self._graph.input(0).partial_shape)[1:]])
        return CORE.compile_model(self._graph, "CPU", self._settings)
