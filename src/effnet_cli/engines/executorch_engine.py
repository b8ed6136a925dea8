"""ExecuTorch (`.pte`) on the CPU."""

import logging
import threading
import warnings
from importlib import import_module
from typing import Any

import numpy as np
import torch

from effnet_cli.engines.base import Crops, Scores, cannot_run_error, scores_of
from effnet_cli.engines.normalise import model_input
from effnet_cli.engines.quiet import silence_output
from effnet_cli.models.weights import Model
from effnet_cli.options import Precision
from effnet_cli.system.reporter import Reporter


def _runtime() -> Any:
    """The runtime, imported without the words of the compiler that it brings along."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its interface may change
            return import_module("executorch.runtime").Runtime.get()
    finally:
        logging.disable(logging.NOTSET)


class ExecuTorchEngine:
    """An `Engine` for the fixed number of images that a program was made for."""

    def __init__(
        self, network: Model, device: str, precision: Precision, callers: int, reporter: Reporter
    ) -> None:
        self.precision, self.scores_are = precision, scores_of(network.card)
        self._card = network.card
        self._lock = threading.Lock()  # a method has one set of buffers
        try:
            with silence_output():
                self._program = _runtime().load_program(network.path)
                self._method = self._program.load_method("forward")
        except (RuntimeError, ValueError) as error:
            raise cannot_run_error("ExecuTorch", network.path) from error

    def __call__(self, crops: Crops) -> Scores:
        values = torch.from_numpy(
            np.require(model_input(crops, self._card), requirements=["C", "W"])
        )
        with self._lock:
            scores: Scores = self._method.execute([values])[0].numpy().copy()
        return scores
