"""onnxruntime on the CPU or on CUDA."""

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from effnet_cli.engines.base import Crops, LoadRequest, ModelOutputs, scores_of, translate_errors
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.engines.normalise import model_input
from effnet_cli.engines.onnx_session import open_session
from effnet_cli.system.errors import EffnetError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Raised by onnxruntime for a file that it cannot run; they have no common base class.
RUNTIME_ERRORS = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NotImplemented,
    state.RuntimeException,
)


class OnnxRuntimeEngine:
    """An `Engine` that runs ONNX graphs."""

    def __init__(self, request: LoadRequest) -> None:
        model = request.model
        self.precision, self.scores_are = request.precision, scores_of(model.card)
        self._model = model
        device_type, _, number = request.device.partition(":")
        provider = PROVIDERS[device_type]
        if provider not in onnxruntime.get_available_providers():
            raise EffnetError(
                "The installed onnxruntime does not support CUDA.",
                "Install onnxruntime-gpu, or use --engine torch.",
            )
        settings = {"device_id": number or "0"} if device_type == "cuda" else {}
        graph = get_compiled(model, request.reporter)
        with translate_errors("onnxruntime", model, RUNTIME_ERRORS):
            self._session = open_session(graph, request.callers, (provider, settings))
        self._input = self._session.get_inputs()[0].name

    def __call__(self, crops: Crops) -> ModelOutputs:
        values = {self._input: model_input(crops, self._model.card)}
        with translate_errors("onnxruntime", self._model, RUNTIME_ERRORS):
            outputs = self._session.run(None, values)
        return ModelOutputs(*(values.astype(np.float32, copy=False) for values in outputs))
