"""Runs int8 as the ONNX standard defines it, without any processor's integer kernels.

Runtimes replace the operators around each 8-bit value with integer kernels, whose rounding and
overflow depend on the processor. Here the integers are converted to float32, which holds them and
their products exactly, and the sums are rounded to seven digits. The result is the same everywhere.
"""

from effnet_cli.engines.base import Crops, ModelOutputs, ScoresAre
from effnet_cli.engines.normalise import normalise
from effnet_cli.engines.onnx_session import open_session
from effnet_cli.engines.onnx_writer import INPUT, OUTPUT
from effnet_cli.export.quantize import Int8Recipe, to_int8
from effnet_cli.export.source import ExportSource
from effnet_cli.options import Precision


class ExactInt8Engine:
    """An `Engine` for the recipe of a source; its answers do not depend on the processor."""

    precision: Precision = "int8"
    scores_are: ScoresAre = "logits"

    def __init__(self, source: ExportSource, recipe: Int8Recipe) -> None:
        self._preprocessing = source.card.preprocessing
        graph = to_int8(source.float_graph(), recipe)
        self._session = open_session(graph.SerializeToString(), has_integer_kernels=False)

    def __call__(self, crops: Crops) -> ModelOutputs:
        pixels = normalise(crops, self._preprocessing)
        return ModelOutputs(self._session.run([OUTPUT], {INPUT: pixels})[0])
