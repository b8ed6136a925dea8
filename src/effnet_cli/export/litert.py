"""Writes LiteRT (`.tflite`) files, operator by operator.

The existing converter, litert-torch, needs jax, transformers and an older torch than this
project does, while the models here use only a dozen operators. LiteRT expects images as [N,H,W,C].
The graph is written in that layout, so nothing is transposed at run time.
"""

import io
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import onnx
from onnx import helper

from effnet_cli.export.litert_file import LiteRtFile, Op
from effnet_cli.export.litert_metadata import LABELS_FILE, METADATA_NAME, build_metadata
from effnet_cli.export.litert_tensors import ValueTensors
from effnet_cli.export.onnx_edits import IMAGE
from effnet_cli.export.quantize import fuse_activations
from effnet_cli.export.source import ExportSource
from effnet_cli.models.card import CARD_KEY
from effnet_cli.models.efficientnet import same_padding

FUSED_ACTIVATIONS = {
    None: schema.ActivationFunctionType.NONE,
    "Clip": schema.ActivationFunctionType.RELU6,
    "Relu": schema.ActivationFunctionType.RELU,
}
ELEMENTWISE = {
    "Add": Op.ADD,
    "Mul": Op.MUL,
    "Sigmoid": Op.LOGISTIC,
    "Clip": Op.RELU6,
    "Relu": Op.RELU,
}
FLOAT_OPERATORS = {
    "Cast": Op.CAST,
    "Div": Op.DIV,
    "Exp": Op.EXP,
    "Log": Op.LOG,
    "Softmax": Op.SOFTMAX,
    "Sqrt": Op.SQRT,
    "Sub": Op.SUB,
}


def write_litert(source: ExportSource, path: Path) -> None:
    """Write one file, with the card and the class names in a zip archive appended to it.

    LiteRT's metadata tools look for additional files there.
    """
    archive = io.BytesIO()
    labels = "".join(f"{' '.join(label.split())}\n" for label in source.card.classes)
    with zipfile.ZipFile(archive, "w") as files:
        for name, text in ((f"{CARD_KEY}.json", source.card.to_json()), (LABELS_FILE, labels)):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            files.writestr(entry, text)
    path.write_bytes(_LiteRtWriter(source).write() + archive.getvalue())


class _LiteRtWriter:
    """Translates the ONNX graph of a model into LiteRT operators."""

    def __init__(self, source: ExportSource) -> None:
        px = source.card.preprocessing.crop_px
        self._input_shape = [source.options.batch or 1, px, px, 3]
        self._card, self._graph = source.card, source.graph()
        self._file = LiteRtFile(has_open_batch=source.options.batch is None)
        self._values = ValueTensors(self._file, self._graph, source)

    def write(self) -> bytes:
        """Return the content of the file, without the card."""
        input_, output = self._graph.graph.input[0].name, self._graph.graph.output[0].name
        dtype = np.uint8 if input_ == IMAGE else np.float32
        tensor = self._values.add(input_, self._input_shape, dtype)
        for node, result, activation in fuse_activations(self._graph):
            OPERATOR_WRITERS[node.op_type](self, node, result, FUSED_ACTIVATIONS[activation])
        metadata = build_metadata(self._card, has_raw_input=input_ == IMAGE)
        self._file.add_metadata(METADATA_NAME, metadata)
        return self._file.to_bytes([tensor], [self._values.as_float32(output)])

    # --- one method per kind of operator ----------------------------------------------------------

    def _write_conv(self, node: onnx.NodeProto, output: str, activation: int) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        strides, is_depthwise = attributes["strides"], attributes["group"] > 1
        value = self._values.read(node.input[0], output)
        shape = self._values.shapes[node.input[0]]
        is_same = _is_same_padding(attributes, shape[1:3])
        if not is_same and any(attributes["pads"]):
            value, shape = self._pad(value, shape, node.input[0], pads=attributes["pads"])
        number, *size, _ = shape
        size = [
            -(-n // stride) if is_same else (n - k) // stride + 1
            for n, k, stride in zip(size, attributes["kernel_shape"], strides, strict=True)
        ]
        inputs = [value, *self._values.layer(node, output, is_depthwise=is_depthwise)]
        channels = self._values.constants[node.input[1]].shape[0]
        self._file.operator(
            Op.DEPTHWISE_CONV_2D if is_depthwise else Op.CONV_2D,
            inputs,
            self._values.add(output, [number, *size, channels]),
            padding=schema.Padding.SAME if is_same else schema.Padding.VALID,
            strideH=strides[0],
            strideW=strides[1],
            fusedActivationFunction=activation,
            **({"depthMultiplier": 1} if is_depthwise else {}),
        )

    def _pad(
        self, value: int, shape: list[int], name: str, *, pads: Sequence[int]
    ) -> tuple[int, list[int]]:
        top, left, bottom, right = pads
        shape = [shape[0], shape[1] + top + bottom, shape[2] + left + right, shape[3]]
        padded = self._file.tensor_like(value, f"{name}.padded", shape)
        edges = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = [value, self._file.constant(f"{name}.pads", edges)]
        return self._file.operator(Op.PAD, inputs, padded), shape

    def _write_dense(self, node: onnx.NodeProto, output: str, activation: int) -> None:
        value = self._values.read(node.input[0], output)
        shape = [
            self._values.shapes[node.input[0]][0],
            self._values.constants[node.input[1]].shape[0],
        ]
        if self._values.is_hybrid(output):
            *inputs, factors = self._values.hybrid_layer(node, output)
            sums = self._file.tensor(f"{output}.sums", shape, np.float32)
            value = self._file.operator(Op.FULLY_CONNECTED, [value, *inputs], sums)
            result = self._values.add(output, shape)
            self._file.operator(
                Op.MUL, [value, factors], result, fusedActivationFunction=activation
            )
            return
        inputs = [value, *self._values.layer(node, output)]
        result = self._values.add(output, shape)
        self._file.operator(Op.FULLY_CONNECTED, inputs, result, fusedActivationFunction=activation)

    def _write_reduce(self, node: onnx.NodeProto, output: str, _: int) -> None:
        shape = list(self._values.shapes[node.input[0]])
        if len(shape) < 4:  # not a feature map
            axes = list(helper.get_node_attr_value(node, "axes"))
            for axis in axes:
                shape[axis] = 1
            op = Op.REDUCE_MAX if node.op_type == "ReduceMax" else Op.MEAN
            result = self._values.add(output, shape)
            self._reduce(self._values.read(node.input[0], output), axes, result, op=op)
        else:
            self._write_mean(node, output)

    def _write_mean(self, node: onnx.NodeProto, output: str) -> None:
        number, height, _, channels = self._values.shapes[node.input[0]]
        value, axes = self._values.read(node.input[0], output), [1, 2]
        if not self._values.is_int8(output):
            # Average each row first: the runtime adds the values one by one, which leaves a mean of
            # 36,100 floats accurate to only four or five digits.
            rows = self._values.add(f"{output}.rows", [number, height, 1, channels])
            value, axes = self._reduce(value, [2], rows), [1]
        self._reduce(value, axes, self._values.add(output, [number, 1, 1, channels]))

    def _reduce(self, value: int, axes: list[int], result: int, *, op: int = Op.MEAN) -> int:
        constant = self._file.constant(f"mean{result}.axes", np.array(axes, np.int32))
        return self._file.operator(op, [value, constant], result, keepDims=True)

    def _write_flatten(self, node: onnx.NodeProto, output: str, _: int) -> None:
        sizes = [math.prod(self._values.shapes[node.input[0]][1:])]
        self._reshape(node.input[0], output, sizes=sizes)

    def _write_reshape(self, node: onnx.NodeProto, output: str, _: int) -> None:
        _, *sizes = self._values.constants[node.input[1]].tolist()
        self._reshape(node.input[0], output, sizes=sizes)

    def _reshape(self, name: str, output: str, *, sizes: list[int]) -> None:
        """Give the part of each image other sizes."""
        shape = [-1, *sizes]
        constant = self._file.constant(f"{output}.shape", np.array(shape, np.int32))
        inputs = [self._values.read(name, output), constant]
        result = self._values.add(output, [self._values.shapes[name][0], *sizes])
        self._file.operator(Op.RESHAPE, inputs, result, newShape=shape)

    def _write_elementwise(self, node: onnx.NodeProto, output: str, _: int) -> None:
        values = [name for name in node.input if name not in self._values.constants]
        inputs = [self._values.read(name, output) for name in values]
        if node.op_type == "Add":  # the limits of a ReLU6 are constants, too
            others = [name for name in node.input if name in self._values.constants]
            inputs += map(self._values.as_float32, others)
        shape = max((self._values.shapes[name] for name in values), key=np.prod)
        self._file.operator(ELEMENTWISE[node.op_type], inputs, self._values.add(output, shape))

    def _write_float(self, node: onnx.NodeProto, output: str, _: int) -> None:
        """Write an operator of pre- or postprocessing, which is float32 in every precision."""
        inputs = [self._values.as_float32(name) for name in node.input]
        tensor = self._values.add(output, self._values.shapes[node.input[0]], np.float32)
        settings = {"beta": 1.0} if node.op_type == "Softmax" else {}
        self._file.operator(FLOAT_OPERATORS[node.op_type], inputs, tensor, **settings)

    def _write_identity(self, node: onnx.NodeProto, output: str, _: int) -> None:
        self._values.alias(output, node.input[0])


OPERATOR_WRITERS: Mapping[str, Callable[[_LiteRtWriter, onnx.NodeProto, str, int], None]] = {
    "Conv": _LiteRtWriter._write_conv,
    "Gemm": _LiteRtWriter._write_dense,
    "ReduceMax": _LiteRtWriter._write_reduce,
    "ReduceMean": _LiteRtWriter._write_reduce,
    "Flatten": _LiteRtWriter._write_flatten,
    "Reshape": _LiteRtWriter._write_reshape,
    **dict.fromkeys(ELEMENTWISE, _LiteRtWriter._write_elementwise),
    **dict.fromkeys(FLOAT_OPERATORS, _LiteRtWriter._write_float),
    "Transpose": _LiteRtWriter._write_identity,  # to the layout that is already used here
    "Identity": _LiteRtWriter._write_identity,
}


def _is_same_padding(attributes: Mapping[str, Any], size: Sequence[int]) -> bool:
    """Return whether LiteRT's SAME pads an image of this height and width in the same way."""
    same = same_padding(size, attributes["kernel_shape"], attributes["strides"])
    return list(attributes["pads"]) == same
