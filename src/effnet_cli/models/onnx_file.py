"""Check ONNX files of unknown origin before a runtime loads them.

An ONNX file can be a program: it can loop, read other files, and expand a few bytes to gigabytes.
effnet only runs files that contain all their tensors and only use operators of its own models.
"""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from effnet_cli.models.card import CARD_KEY, ModelCard

MAX_ONNX_BYTES = 2**31 - 1  # the limit of a protobuf message
ONNX_OPERATORS = {
    "Add", "Cast", "Clip", "Conv", "DequantizeLinear", "Div", "Exp", "Flatten", "Gemm",
    "GlobalAveragePool", "Identity", "Log", "Mul", "QuantizeLinear", "ReduceMax", "ReduceMean",
    "Relu", "Reshape", "Sigmoid", "Softmax", "Sqrt", "Sub", "Transpose",
}  # fmt: skip


def read_checked_card(path: Path) -> ModelCard:
    """Return the card in an ONNX file; `ValueError` if it is damaged, unsafe or not from effnet."""
    size = path.stat().st_size
    if size > MAX_ONNX_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than an ONNX file can have")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise ValueError("it is damaged or not an ONNX file") from error
    cards = [entry.value for entry in model.metadata_props if entry.key == CARD_KEY]
    if len(cards) != 1:
        raise ValueError("it has no effnet header")
    card = ModelCard.from_json(cards[0])
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in ONNX_OPERATORS:
            raise ValueError(f"it uses the operator {node.domain}{node.op_type}")
    if model.functions or model.training_info:
        raise ValueError("it defines functions or training steps")
    for tensor in _tensors(model):
        _check_tensor(tensor)
    return card


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise ValueError(f"a graph is nested in the operator {node.op_type}")
            yield from (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors)


def _check_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
        raise ValueError(f"the tensor {tensor.name} is in another file")
    try:
        numpy_helper.to_array(tensor)
    except Exception as error:
        raise ValueError(f"the tensor {tensor.name} is damaged ({error})") from error
