"""onnxruntime on the CPU or on CUDA."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from effnet_cli.engines import onnx_session
from effnet_cli.engines.base import Crops, Scores, cannot_run_error, scores_of
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.engines.normalise import model_input
from effnet_cli.models.weights import Model
from effnet_cli.options import Precision
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.reporter import Reporter

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# What onnxruntime raises for a file that it cannot run; they have no common class of their own.
RUNTIME_ERRORS = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NotImplemented,
    state.RuntimeException,
)


class OnnxRuntimeEngine:
    """An `Engine`; the cores are shared out between the callers."""

    def __init__(
        self, network: Model, device: str, precision: Precision, callers: int, reporter: Reporter
    ) -> None:
        kind, _, number = device.partition(":")
        provider = PROVIDERS[kind]
        if provider not in onnxruntime.get_available_providers():
            raise EffnetError(
                "The installed onnxruntime cannot use CUDA.",
                "pip install onnxruntime-gpu, or use --engine torch.",
            )
        self.precision, self.scores_are = precision, scores_of(network.card)
        model = get_compiled(network, reporter)
        self._network = network
        with _told(network):
            self._session = onnx_session.open_session(
                model if isinstance(model, bytes) else str(model),
                callers,
                (provider, {"device_id": number or "0"} if kind == "cuda" else {}),
            )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, crops: Crops) -> Scores:
        given = {self._input: model_input(crops, self._network.card)}
        with _told(self._network):
            scores: Scores = self._session.run(None, given)[0]
        return scores.astype(np.float32, copy=False)


@contextmanager
def _told(network: Model) -> Iterator[None]:
    """Say in words that a file cannot be run; of a graph of our own it is a bug."""
    try:
        yield
    except RUNTIME_ERRORS as error:
        if network.file_kind == "tensors":
            raise
        raise cannot_run_error("onnxruntime", network.path) from error
