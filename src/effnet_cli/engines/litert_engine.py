"""LiteRT (`.tflite`) on the CPU."""

import threading
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from effnet_cli.engines.base import Crops, LoadRequest, Scores, scores_of, translate_errors
from effnet_cli.engines.normalise import model_input
from effnet_cli.engines.quiet import silence_output


class LiteRtEngine:
    """An `Engine`. An interpreter serves one thread and one batch size, so each thread has its
    own. Files take images as [N,H,W,3], as is usual in LiteRT.
    """

    def __init__(self, request: LoadRequest) -> None:
        model = request.model
        self.precision, self.scores_are = request.precision, scores_of(model.card)
        self._model = model
        self._content = model.path.read_bytes()
        self._threads = request.threads_per_caller
        self._local = threading.local()  # each thread's interpreters, by batch size
        with translate_errors("LiteRT", model):
            self._interpreter(model.card.export["batch"] or 1)

    def __call__(self, crops: Crops) -> Scores:
        values = model_input(crops, self._model.card)
        if values is not crops:
            values = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
        with translate_errors("LiteRT", self._model):
            interpreter = self._interpreter(len(crops))
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
            interpreter.invoke()
        scores: Scores = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        return scores

    def _interpreter(self, size: int) -> Any:
        interpreters: dict[int, Any] = self._local.__dict__.setdefault("interpreters", {})
        if size not in interpreters:
            interpreters[size] = self._load(size)
        return interpreters[size]

    def _load(self, size: int) -> Any:
        with silence_output():
            interpreter = Interpreter(model_content=self._content, num_threads=self._threads)
            details = interpreter.get_input_details()[0]
            if details["shape"][0] != size:
                interpreter.resize_tensor_input(details["index"], [size, *details["shape"][1:]])
            interpreter.allocate_tensors()
        return interpreter
