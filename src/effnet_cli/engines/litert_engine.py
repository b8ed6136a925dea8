"""LiteRT (`.tflite`) on the CPU."""

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from effnet_cli.engines import base
from effnet_cli.engines.normalise import model_input
from effnet_cli.engines.quiet import silence_output


class LiteRtEngine:
    """An `Engine` whose files take images as [N,H,W,3], as is usual in LiteRT.

    An interpreter serves one thread and one batch size, so each thread has its own for each size.
    """

    def __init__(self, request: base.LoadRequest) -> None:
        model = request.model
        self.precision, self.scores_are = request.precision, base.scores_of(model.card)
        self._model = model
        self._content = model.path.read_bytes()
        self._threads = request.threads_per_caller
        self._interpreters = base.PerThread(self._load)
        with base.translate_errors("LiteRT", model):
            self._interpreters.get(model.card.export["batch"] or 1)

    def __call__(self, crops: base.Crops) -> base.ModelOutputs:
        values = model_input(crops, self._model.card)
        if values is not crops:
            values = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
        with base.translate_errors("LiteRT", self._model):
            interpreter = self._interpreters.get(len(crops))
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
            interpreter.invoke()
        return base.ModelOutputs(
            interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        )

    def _load(self, size: int) -> Any:
        with silence_output():
            interpreter = Interpreter(model_content=self._content, num_threads=self._threads)
            details = interpreter.get_input_details()[0]
            if details["shape"][0] != size:
                interpreter.resize_tensor_input(details["index"], [size, *details["shape"][1:]])
            interpreter.allocate_tensors()
        return interpreter
