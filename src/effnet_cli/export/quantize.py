"""Quantises a float32 graph to int8: weights per channel, activations per tensor.

Simple recipes lose accuracy. Three steps prevent that here (docs/export.md has the measurements):
  - The bias of each layer compensates for the mean shift caused by rounding its weights, which
    halves the mean difference in probabilities.
  - No single way of choosing ranges is best for every model, so each one is tried on calibration
    images, and the one closest to float32 is used.
  - A ReLU after a layer becomes part of the layer's range. Logits stay float32.

x86 processors without VNNI add two products of an 8-bit value and an 8-bit weight in 16 bits, where
2 * 255 * 127 does not fit: of some photos in ten the class was wrong. With weights of 7 bits (-63
to 63) the sum always fits, and all processors compute the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from effnet_cli.engines import onnx_session
from effnet_cli.engines.base import to_probabilities
from effnet_cli.engines.normalise import Pixels
from effnet_cli.engines.onnx_writer import INPUT, OUTPUT
from effnet_cli.export.calibration import CALIBRATORS, Calibration, Calibrator
from effnet_cli.export.onnx_edits import map_readers, read_constants

RANGE_STEPS = 255
MIN_SCALE = 1e-12  # for a channel or a value that is always zero
FUSED = ("Clip", "Relu")  # merged into the range of the layer before them
LAYERS = ("Conv", "Gemm")
# What has no 8-bit form, of classifiers that compare features with examples.
FLOAT_ONLY = ("Sqrt", "Exp", "Log")


@dataclass(frozen=True, slots=True)
class Int8Scale:
    """The mapping real = `scale` * (integer - `zero_point`), for integers from 0 to 255."""

    scale: float
    zero_point: int


SIGMOID_SCALE = Int8Scale(1 / 256, 0)  # LiteRT accepts no other


@dataclass(frozen=True, slots=True)
class Int8Layer:
    """A layer's int8 weight and int32 bias, each with a scale per output channel [O]."""

    weight: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    bias: npt.NDArray[np.int32]
    bias_scales: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Int8Recipe:
    """How to convert a graph to int8.

    `values` holds the scale of each value stored in 8 bits, by name. `layers` holds each layer, by
    the name of its output. What has neither stays float32.
    """

    calibrator: Calibrator
    values: Mapping[str, Int8Scale]
    layers: Mapping[str, Int8Layer]


def choose_recipe(
    model: onnx.ModelProto,
    calibration: Calibration,
    images: Sequence[Pixels],
    *,
    weight_bits: int,
) -> Int8Recipe:
    """Return the recipe whose probabilities on `images` differ least from float32 on average."""
    expected = _predict(model, images)
    recipes = [
        make_recipe(model, calibration, calibrator, weight_bits=weight_bits)
        for calibrator in CALIBRATORS
    ]
    differences = [
        float(np.abs(_predict(to_int8(model, recipe), images) - expected).sum(axis=1).mean())
        for recipe in recipes
    ]
    return recipes[int(np.argmin(differences))]


def _predict(model: onnx.ModelProto, images: Sequence[Pixels]) -> npt.NDArray[np.float64]:
    session = onnx_session.open_session(model.SerializeToString())
    logits = np.concatenate([session.run([OUTPUT], {INPUT: pixels})[0] for pixels in images])
    return to_probabilities(logits, "logits")


def make_recipe(
    model: onnx.ModelProto,
    calibration: Calibration,
    calibrator: Calibrator,
    *,
    weight_bits: int,
) -> Int8Recipe:
    """Return the recipe whose ranges come from `calibrator`."""
    constants, readers = read_constants(model), map_readers(model)
    values = {INPUT: scale_for(calibration[INPUT].range_by(calibrator))}
    layers, floats = {}, list_float_values(model)
    for node, output, _ in fuse_activations(model):
        if output in floats:
            continue
        input_, after = node.input[0], readers.get(output, ())
        if node.op_type in LAYERS:
            weight, bias = (np.asarray(constants[name], np.float64) for name in node.input[1:3])
            means, scale = calibration[input_].channel_means, values[input_].scale
            layers[output] = quantize_layer(
                weight, bias, input_means=means, input_scale=scale, weight_bits=weight_bits
            )
        if node.op_type == "Sigmoid":
            values[output] = SIGMOID_SCALE
        elif node.op_type == "Flatten":
            values[output] = values[input_]
        elif after:  # not the logits
            values[output] = scale_for(calibration[output].range_by(calibrator))
    return Int8Recipe(calibrator, values, layers)


def fuse_activations(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str, str | None]]:
    """Yield each node, the name of its output, and the operator fused into it, if any.

    A ReLU that is the only reader of a layer is fused into it, and the name is then that of the
    ReLU's output.
    """
    readers = map_readers(model)
    fused = set()
    for node in model.graph.node:
        output = node.output[0]
        after = readers.get(output, ())
        if node.op_type in LAYERS and len(after) == 1 and after[0].op_type in FUSED:
            fused.add(after[0].output[0])
            yield node, after[0].output[0], after[0].op_type
        elif output not in fused:
            yield node, output, None


def list_float_values(model: onnx.ModelProto) -> frozenset[str]:
    """Return the values that stay float32: those of a classifier with operators that have no 8-bit
    form. It is a small part of the model.
    """
    nodes = list(model.graph.node)
    if not any(node.op_type in FLOAT_ONLY for node in nodes):
        return frozenset()
    features = next(place for place, node in enumerate(nodes) if node.op_type == "Flatten")
    return frozenset(node.output[0] for node in nodes[features + 1 :])


def scale_for(ends: tuple[float, float]) -> Int8Scale:
    """Return the scale that covers a range."""
    low, high = ends
    scale = max((high - low) / RANGE_STEPS, MIN_SCALE)
    return Int8Scale(float(np.float32(scale)), int(np.clip(round(-low / scale), 0, RANGE_STEPS)))


def quantize_layer(
    weight: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
    *,
    input_means: npt.NDArray[np.float64],
    input_scale: float,
    weight_bits: int,
) -> Int8Layer:
    """Round a weight [O,I,...] to int8, and correct the bias for the mean shift this causes."""
    largest = 2 ** (weight_bits - 1) - 1
    others = tuple(range(1, weight.ndim))
    # the bias must fit into 32 bits at its channel's scale
    minimum = np.maximum(np.abs(bias) / (input_scale * 2.0**30), MIN_SCALE)
    scales = np.maximum(np.abs(weight).max(axis=others) / largest, minimum).astype(np.float32)
    steps = scales.astype(np.float64).reshape(-1, *(1 for _ in others))
    rounded = np.clip(np.rint(weight / steps), -largest, largest)
    shift = (rounded * steps - weight).reshape(*weight.shape[:2], -1).sum(axis=2)  # [O,I]
    is_depthwise = shift.shape[1] == 1 and len(input_means) == len(shift)
    corrected = bias - (shift[:, 0] * input_means if is_depthwise else shift @ input_means)
    bias_scales = (scales * np.float32(input_scale)).astype(np.float32)
    return Int8Layer(
        weight=rounded.astype(np.int8),
        scales=scales,
        bias=np.rint(corrected / bias_scales).astype(np.int32),
        bias_scales=bias_scales,
    )


# --- int8 as ONNX ---------------------------------------------------------------------------------


def to_int8(model: onnx.ModelProto, recipe: Int8Recipe) -> onnx.ModelProto:
    """Return the graph with QuantizeLinear and DequantizeLinear around its operators.

    Runtimes fuse these into integer operators.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    del result.graph.initializer[:]
    _QdqWriter(result.graph, recipe).write(model)
    return result


class _QdqWriter:
    """Writes the nodes and constants of an int8 graph to `graph`."""

    def __init__(self, graph: onnx.GraphProto, recipe: Int8Recipe) -> None:
        self._graph, self._recipe = graph, recipe
        self._dequantized: dict[str, str] = {}  # value -> the name of its dequantised 8-bit form

    def write(self, model: onnx.ModelProto) -> None:
        self._quantize(INPUT)
        floats = list_float_values(model)
        for node, output, _ in fuse_activations(model):
            self._write_node(node, output, is_float=output in floats)
        read = {name for node in self._graph.node for name in node.input}
        read -= {name for node in self._graph.node for name in node.output}
        self._graph.initializer.extend(one for one in model.graph.initializer if one.name in read)

    def _write_node(self, node: onnx.NodeProto, output: str, *, is_float: bool) -> None:
        inputs = [self._dequantized.get(name, name) for name in node.input]
        if node.op_type in LAYERS and not is_float:
            inputs[1:] = self._write_layer(output, self._recipe.layers[output])
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:], copy.output[:] = inputs, [output]
        if node.op_type == "ReduceMean" and not is_float:
            # the only mean that the runtimes compute in integers, whose sums are exact
            copy.op_type = "GlobalAveragePool"
            del copy.attribute[:]
        self._graph.node.append(copy)
        if output in self._recipe.values:
            self._quantize(output)

    def _quantize(self, name: str) -> None:
        """Store a value in 8 bits."""
        scale = self._recipe.values[name]
        parameters = [
            self._add_constant(f"{name}.scale", np.array(scale.scale, np.float32)),
            self._add_constant(f"{name}.zero_point", np.array(scale.zero_point, np.uint8)),
        ]
        quantized, dequantized = f"{name}.quantised", f"{name}.stored"
        self._add_node("QuantizeLinear", [name, *parameters], quantized)
        self._dequantized[name] = self._add_node(
            "DequantizeLinear", [quantized, *parameters], dequantized
        )

    def _write_layer(self, name: str, layer: Int8Layer) -> list[str]:
        """Dequantise a layer's weight and bias; return the names of the results."""
        names = []
        for part, values, scales in (
            ("weight", layer.weight, layer.scales),
            ("bias", layer.bias, layer.bias_scales),
        ):
            inputs = [
                self._add_constant(f"{name}.{part}.int", values),
                self._add_constant(f"{name}.{part}.scales", scales),
                # optional in the standard, but onnxruntime 1.16 to 1.26 cannot run a Gemm without
                self._add_constant(
                    f"{name}.{part}.zero_points", np.zeros_like(values, shape=scales.shape)
                ),
            ]
            names.append(self._add_node("DequantizeLinear", inputs, f"{name}.{part}", axis=0))
        return names

    def _add_node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._graph.node.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def _add_constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name
