"""The ONNX graph of a network as a LiteRT (`.tflite`) file, written operator by operator.

The converter that exists, litert-torch, wants an older torch than this project and brings jax and
transformers with it; the networks here need a dozen operators. LiteRT lays images out as
[N,H,W,C], so the graph does too: nothing is transposed at run time.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from effnet_cli.engines.onnx_writer import INPUT, OUTPUT
from effnet_cli.export.litert_file import LiteRtFile, quantisation
from effnet_cli.export.onnx_edits import initializers, readers
from effnet_cli.export.quantize import Recipe, Scale, folded_into
from effnet_cli.export.source import ExportSource
from effnet_cli.models.card import CARD_KEY

IMAGE, PROBABILITIES = "image", "probabilities"
INT8_OFFSET = 128  # LiteRT counts from -128, a recipe from 0

Op = schema.BuiltinOperator
Array = npt.NDArray[Any]

ACTIVATIONS = {
    "Clip": schema.ActivationFunctionType.RELU6,
    "Relu": schema.ActivationFunctionType.RELU,
}


def write_litert(source: ExportSource, path: Path) -> None:
    """One file; the card is in the zip archive that is appended to it, where LiteRT's tools keep
    such files.
    """
    writer = _Writer(source)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        entry = zipfile.ZipInfo(f"{CARD_KEY}.json", date_time=(1980, 1, 1, 0, 0, 0))
        files.writestr(entry, source.card.to_json())
    path.write_bytes(writer.content() + archive.getvalue())


class _Writer:
    """Writes the tensors and operators of one graph."""

    def __init__(self, source: ExportSource) -> None:
        self._source = source
        self._recipe: Recipe | None = source.recipe
        self._file = LiteRtFile(has_open_batch=source.options.batch is None)
        self._floats: dict[str, int] = {}  # value -> its float32 tensor
        self._bytes: dict[str, int] = {}  # value -> its int8 tensor
        self._shapes: dict[str, list[int]] = {}
        graph = source.plain_graph()
        self._constants = initializers(graph)
        self._readers = readers(graph)
        self._write(graph)

    def content(self) -> bytes:
        """The flatbuffer."""
        return self._file.content([self._input], [self._output])

    # --- the graph --------------------------------------------------------------------------------

    def _write(self, graph: onnx.ModelProto) -> None:
        self._write_input()
        dropped = set()
        for node in graph.graph.node:
            if node.output[0] in dropped:
                continue
            after = folded_into(node, self._readers)
            output = node.output[0] if after is None else after.output[0]
            if after is not None:
                dropped.add(output)
            activation = ACTIVATIONS[after.op_type] if after is not None else 0
            OPERATORS[node.op_type](self, node, output, activation)
        self._write_output()

    def _write_input(self) -> None:
        crop_px = self._source.card.preprocessing.crop_px
        shape = self._shapes[INPUT] = [self._batch, crop_px, crop_px, 3]
        if not self._source.options.include_preprocessing:
            self._input = self._floats[INPUT] = self._file.tensor(INPUT, shape, np.float32)
            return
        p = self._source.card.preprocessing
        self._input = self._file.tensor(IMAGE, shape, np.uint8)
        number = self._file.tensor("image.float", shape, np.float32)
        self._file.add(Op.CAST, [self._input], number, "CastOptions")
        for kind, name, values in (
            (Op.DIV, "image.unit", [255.0]),
            (Op.SUB, "image.centred", p.mean),
            (Op.DIV, INPUT, p.std),
        ):
            constant = self._file.constant(f"{name}.by", np.array(values, np.float32))
            result = self._file.tensor(name, shape, np.float32)
            options = "DivOptions" if kind == Op.DIV else "SubOptions"
            self._file.add(kind, [number, constant], result, options)
            number = result
        self._floats[INPUT] = number

    def _write_output(self) -> None:
        self._output = self._float(OUTPUT)
        if not self._source.options.include_preprocessing:
            return
        shape = self._shapes[OUTPUT]
        temperature = np.array([self._source.card.temperature], np.float32)
        scaled = self._file.tensor("logits.scaled", shape, np.float32)
        by = self._file.constant("temperature", temperature)
        self._file.add(Op.DIV, [self._output, by], scaled, "DivOptions")
        self._output = self._file.tensor(PROBABILITIES, shape, np.float32)
        self._file.add(Op.SOFTMAX, [scaled], self._output, "SoftmaxOptions", beta=1.0)

    @property
    def _batch(self) -> int:
        return self._source.options.batch or 1

    # --- operators --------------------------------------------------------------------------------

    def _conv(self, node: onnx.NodeProto, output: str, activation: int) -> None:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        strides, kernel = given["strides"], given["kernel_shape"]
        before = self._in(node.input[0], output)
        shape = list(self._shapes[node.input[0]])
        padding = schema.Padding.SAME
        if given.get("auto_pad", b"NOTSET") != b"SAME_UPPER" and not _is_same(given):
            top, left, bottom, right = given["pads"]
            if any(given["pads"]):
                shape = [shape[0], shape[1] + top + bottom, shape[2] + left + right, shape[3]]
                before = self._padded(before, node.input[0], shape, given["pads"])
            padding = schema.Padding.VALID
        if padding == schema.Padding.SAME:
            height, width = (-(-n // s) for n, s in zip(shape[1:3], strides, strict=True))
        else:
            height, width = (
                (n - k) // s + 1 for n, k, s in zip(shape[1:3], kernel, strides, strict=True)
            )
        is_depthwise = given["group"] > 1
        weight, bias = self._layer(node, is_depthwise)
        channels = self._constants[node.input[1]].shape[0]
        result = self._out(output, [shape[0], height, width, channels])
        settings = {
            "padding": padding,
            "strideH": strides[0],
            "strideW": strides[1],
            "fusedActivationFunction": activation,
        }
        if is_depthwise:
            kind, options = Op.DEPTHWISE_CONV_2D, "DepthwiseConv2DOptions"
            settings["depthMultiplier"] = 1
        else:
            kind, options = Op.CONV_2D, "Conv2DOptions"
        self._file.add(kind, [before, weight, bias], result, options, **settings)

    def _padded(self, before: int, name: str, shape: list[int], pads: Sequence[int]) -> int:
        top, left, bottom, right = pads
        edges = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        after = self._file.like(before, f"{name}.padded", shape)
        self._file.add(
            Op.PAD, [before, self._file.constant(f"{name}.pads", edges)], after, "PadOptions"
        )
        return after

    def _dense(self, node: onnx.NodeProto, output: str, activation: int) -> None:
        channels = self._constants[node.input[1]].shape[0]
        # the last layer answers in float32: LiteRT's own kernel for float32 and int8 weights
        before = self._in(node.input[0], output)
        weight, bias = self._layer(node, False, is_float_in=output not in self._stored)
        result = self._out(output, [self._batch, channels])
        self._file.add(
            Op.FULLY_CONNECTED,
            [before, weight, bias],
            result,
            "FullyConnectedOptions",
            fusedActivationFunction=activation,
        )

    def _average(self, node: onnx.NodeProto, output: str, _: int) -> None:
        number, height, _, channels = self._shapes[node.input[0]]
        before = self._in(node.input[0], output)
        axes = [1, 2]
        if output not in self._stored:
            # Each row first: the runtime adds up value by value, and of 36,100 floats that leaves
            # four or five digits.
            rows = self._out(f"{output}.rows", [number, height, 1, channels])
            self._mean(before, [2], rows)
            before, axes = rows, [1]
        self._mean(before, axes, self._out(output, [number, 1, 1, channels]))

    def _mean(self, before: int, axes: list[int], result: int) -> None:
        over = self._file.constant(f"mean{result}.axes", np.array(axes, np.int32))
        self._file.add(Op.MEAN, [before, over], result, "ReducerOptions", keepDims=True)

    def _flatten(self, node: onnx.NodeProto, output: str, _: int) -> None:
        shape = self._shapes[node.input[0]]
        size = self._file.constant(f"{output}.shape", np.array([-1, shape[3]], np.int32))
        before = self._in(node.input[0], output)
        result = self._out(output, [shape[0], shape[3]])
        self._file.add(
            Op.RESHAPE, [before, size], result, "ReshapeOptions", newShape=[-1, shape[3]]
        )

    def _two(self, node: onnx.NodeProto, output: str, _: int) -> None:
        kind, options = {"Add": (Op.ADD, "AddOptions"), "Mul": (Op.MUL, "MulOptions")}[node.op_type]
        inputs = [self._in(name, output) for name in node.input]
        largest = max((self._shapes[name] for name in node.input), key=lambda s: int(np.prod(s)))
        self._file.add(kind, inputs, self._out(output, largest), options)

    def _one(self, node: onnx.NodeProto, output: str, _: int) -> None:
        kind = {"Sigmoid": Op.LOGISTIC, "Clip": Op.RELU6, "Relu": Op.RELU}[node.op_type]
        before = self._in(node.input[0], output)
        self._file.add(kind, [before], self._out(output, self._shapes[node.input[0]]), None)

    def _same(self, node: onnx.NodeProto, output: str, _: int) -> None:
        name = node.input[0]
        self._shapes[output] = self._shapes[name]
        for tensors in (self._floats, self._bytes):
            if name in tensors:
                tensors[output] = tensors[name]

    # --- values in float32 or int8 ----------------------------------------------------------------

    @property
    def _stored(self) -> Mapping[str, Scale]:
        """The values that are int8."""
        return self._recipe.values if self._recipe is not None else {}

    def _in(self, name: str, output: str) -> int:
        """A value as the operator that makes `output` reads it."""
        return self._byte(name) if output in self._stored else self._float(name)

    def _out(self, name: str, shape: list[int]) -> int:
        """The tensor for a result."""
        self._shapes[name] = shape
        if name not in self._stored:
            self._floats[name] = self._file.tensor(name, shape, np.float32)
            return self._floats[name]
        self._bytes[name] = self._file.tensor(name, shape, np.int8, self._scale_of(name))
        return self._bytes[name]

    def _float(self, name: str) -> int:
        if name not in self._floats:
            tensor = self._file.tensor(f"{name}.float", self._shapes[name], np.float32)
            self._file.add(Op.DEQUANTIZE, [self._bytes[name]], tensor, "DequantizeOptions")
            self._floats[name] = tensor
        return self._floats[name]

    def _byte(self, name: str) -> int:
        if name not in self._bytes:
            tensor = self._file.tensor(
                f"{name}.int8", self._shapes[name], np.int8, self._scale_of(name)
            )
            self._file.add(Op.QUANTIZE, [self._floats[name]], tensor, "QuantizeOptions")
            self._bytes[name] = tensor
        return self._bytes[name]

    def _scale_of(self, name: str) -> Any:
        stored = self._stored[name]
        return quantisation([stored.scale], [stored.zero_point - INT8_OFFSET])

    def _layer(
        self, node: onnx.NodeProto, is_depthwise: bool, is_float_in: bool = False
    ) -> tuple[int, int]:
        """The tensors of a layer's weight, as [O,H,W,I] (depthwise [1,H,W,O]), and bias."""
        name, bias_name = node.input[1:3]
        weight, bias = self._constants[name], self._constants[bias_name]
        if self._recipe is None:
            return (
                self._halved(name, _laid_out(weight, is_depthwise)),
                self._halved(bias_name, bias),
            )
        how = self._recipe.weights[node.output[0]]
        scales = quantisation(how.scales, [0] * len(how.scales), axis=3 if is_depthwise else 0)
        values = self._file.constant(name, _laid_out(how.values, is_depthwise), scales)
        if is_float_in:
            corrected = (how.bias * how.bias_scales.astype(np.float64)).astype(np.float32)
            return values, self._file.constant(bias_name, corrected)
        offsets = quantisation(how.bias_scales, [0] * len(how.bias_scales))
        return values, self._file.constant(bias_name, how.bias, offsets)

    def _halved(self, name: str, values: Array) -> int:
        """A float32 constant, stored in float16 if that was asked for."""
        if self._source.options.precision != "fp16":
            return self._file.constant(name, values)
        half = self._file.constant(f"{name}.half", values.astype(np.float16))
        tensor = self._file.tensor(name, list(values.shape), np.float32, is_fixed=True)
        self._file.add(Op.DEQUANTIZE, [half], tensor, "DequantizeOptions")
        return tensor


OPERATORS = {
    "Conv": _Writer._conv,
    "Gemm": _Writer._dense,
    "ReduceMean": _Writer._average,
    "Flatten": _Writer._flatten,
    "Add": _Writer._two,
    "Mul": _Writer._two,
    "Sigmoid": _Writer._one,
    "Clip": _Writer._one,
    "Relu": _Writer._one,
    "Identity": _Writer._same,
}


def _is_same(attributes: Mapping[str, Any]) -> bool:
    """Whether a padding is what LiteRT calls SAME whatever the size: with stride 1, half a kernel
    on each side.
    """
    half = [(k - 1) // 2 for k in attributes["kernel_shape"]]
    return list(attributes["strides"]) == [1, 1] and list(attributes["pads"]) == [*half, *half]


def _laid_out(weight: Array, is_depthwise: bool) -> Array:
    """[O,I,H,W] -> [O,H,W,I], depthwise [O,1,H,W] -> [1,H,W,O]; [O,I] as it is."""
    if weight.ndim != 4:
        return weight
    return weight.transpose(1, 2, 3, 0) if is_depthwise else weight.transpose(0, 2, 3, 1)
