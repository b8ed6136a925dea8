"""Edits of ONNX graphs."""

import numpy as np
import onnx
from onnx import numpy_helper

from effnet_cli.export import onnx_edits


def test_fp16_constants_are_clipped() -> None:
    graph = onnx.helper.make_model(
        onnx.helper.make_graph(
            [], "g", [], [], [numpy_helper.from_array(np.array([1e6, -1e9, 1.0], np.float32), "w")]
        )
    )
    onnx_edits.to_fp16(graph)
    values = onnx_edits.read_constants(graph)["w"]
    assert values.tolist() == [65504.0, -65504.0, 1.0]
