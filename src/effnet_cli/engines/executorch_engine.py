"""ExecuTorch (`.pte`) on the CPU."""

import threading
from importlib import import_module

import numpy as np
import torch

from effnet_cli.engines.base import Crops, LoadRequest, ModelOutputs, scores_of, translate_errors
from effnet_cli.engines.normalise import model_input
from effnet_cli.engines.quiet import silence_library


class ExecuTorchEngine:
    """An `Engine` that takes exactly the number of images that the program was exported for."""

    def __init__(self, request: LoadRequest) -> None:
        model = request.model
        self.precision, self.scores_are = request.precision, scores_of(model.card)
        self._card = model.card
        self._lock = threading.Lock()  # a method has one set of buffers
        # The runtime imports a compiler that logs, and warns that its interface may change.
        with translate_errors("ExecuTorch", model), silence_library():
            runtime = import_module("executorch.runtime").Runtime.get()
            self._program = runtime.load_program(model.path)
            self._method = self._program.load_method("forward")

    def __call__(self, crops: Crops) -> ModelOutputs:
        values = np.require(model_input(crops, self._card), requirements=["C", "W"])
        with self._lock:
            scores = self._method.execute([torch.from_numpy(values)])[0].numpy().copy()
        return ModelOutputs(scores)
