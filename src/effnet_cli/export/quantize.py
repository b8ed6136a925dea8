"""A float32 graph -> 8-bit integers: weights per channel, what flows between the operators per
tensor.

Naive recipes lose much; what is done here against it, with what it brought (docs/export.md):
  - Each convolution's bias is corrected by what rounding its weights shifts on average: the mean
    difference of probabilities halves.
  - How wide the ranges are is not decided beforehand: every calibrator is tried on the calibration
    images and the one that answers most like float32 is taken; the best one differs from network
    to network.
  - Activations behind a convolution are folded into its range. Logits stay float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from effnet_cli.engines import onnx_session
from effnet_cli.engines.base import Scores, to_probabilities
from effnet_cli.engines.normalise import Pixels
from effnet_cli.engines.onnx_writer import INPUT, OUTPUT
from effnet_cli.export.calibration import CALIBRATORS, Calibration, Calibrator
from effnet_cli.export.onnx_edits import initializers, readers

LEVELS = 255  # steps between the ends of a range
WEIGHT_LEVELS = 127  # symmetric
LEAST_SCALE = 1e-12  # of a channel whose weights are all zero
FOLDED = ("Clip", "Relu")  # into the range of the convolution before them
WEIGHTED = ("Conv", "Gemm")


@dataclass(frozen=True, slots=True)
class Scale:
    """real = `scale` * (integer - `zero_point`), integers 0..255."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class Weights:
    """One layer's weights as int8 with a scale for each output channel [O], its bias as int32."""

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    bias: npt.NDArray[np.int32]
    bias_scales: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a graph becomes int8: the scale of every value that is stored in 8 bits, and each
    weighted layer by the name of its output.
    """

    calibrator: Calibrator
    values: Mapping[str, Scale]
    weights: Mapping[str, Weights]


def recipe(model: onnx.ModelProto, calibration: Calibration, calibrator: Calibrator) -> Recipe:
    """The recipe that a calibrator leads to."""
    constants, read_by = initializers(model), readers(model)
    values = {INPUT: _scale(calibration[INPUT].range_by(calibrator))}
    weights = {}
    for node in model.graph.node:
        output = node.output[0]
        if node.op_type in WEIGHTED:
            weight, bias = (np.asarray(constants[name], np.float64) for name in node.input[1:3])
            means = calibration[node.input[0]].channel_means
            bias_scale = values[node.input[0]].scale
            weights[output] = _weights(weight, bias, means, bias_scale)
        if node.op_type == "Sigmoid":
            values[output] = Scale(1 / 256, 0)  # what LiteRT demands
        elif node.op_type == "Flatten":
            values[output] = values[node.input[0]]
        elif not _is_folded(node, read_by) and not _ends(node, read_by):
            values[output] = _scale(calibration[output].range_by(calibrator))
    return Recipe(calibrator, values, weights)


def folded_into(
    node: onnx.NodeProto, read_by: Mapping[str, Sequence[onnx.NodeProto]]
) -> onnx.NodeProto | None:
    """The activation that a layer's range makes superfluous."""
    after = read_by.get(node.output[0], ())
    if node.op_type in WEIGHTED and len(after) == 1 and after[0].op_type in FOLDED:
        return after[0]
    return None


def _is_folded(node: onnx.NodeProto, read_by: Mapping[str, Sequence[onnx.NodeProto]]) -> bool:
    return folded_into(node, read_by) is not None


def _ends(node: onnx.NodeProto, read_by: Mapping[str, Sequence[onnx.NodeProto]]) -> bool:
    """Whether a node makes the logits."""
    after = read_by.get(node.output[0], ())
    return not after or any(OUTPUT in other.output for other in after)


def _scale(ends: tuple[float, float]) -> Scale:
    low, high = ends
    scale = max((high - low) / LEVELS, LEAST_SCALE)
    return Scale(float(np.float32(scale)), int(np.clip(round(-low / scale), 0, LEVELS)))


def _weights(
    weight: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
    input_means: npt.NDArray[np.float64],
    input_scale: float,
) -> Weights:
    """int8 weights [O,I,...]; the bias takes back what their rounding shifts on average."""
    others = tuple(range(1, weight.ndim))
    column = (-1, *(1 for _ in others))
    # a bias has to fit into 32 bits at its channel's scale
    least = np.maximum(np.abs(bias) / (input_scale * 2.0**30), LEAST_SCALE)
    scales = np.maximum(np.abs(weight).max(axis=others) / WEIGHT_LEVELS, least).astype(np.float32)
    wide = scales.astype(np.float64).reshape(column)
    values = np.clip(np.rint(weight / wide), -WEIGHT_LEVELS, WEIGHT_LEVELS)
    shift = (values * wide - weight).reshape(*weight.shape[:2], -1).sum(axis=2)  # [O,I]
    is_depthwise = shift.shape[1] == 1 and len(input_means) == len(shift)
    corrected = bias - (shift[:, 0] * input_means if is_depthwise else shift @ input_means)
    bias_scales = (scales * np.float32(input_scale)).astype(np.float32)
    return Weights(
        values.astype(np.int8),
        scales,
        np.rint(corrected / bias_scales).astype(np.int32),
        bias_scales,
    )


# --- the ONNX form --------------------------------------------------------------------------------


def as_onnx(model: onnx.ModelProto, how: Recipe) -> onnx.ModelProto:
    """The graph with QuantizeLinear and DequantizeLinear around its operators, which runtimes fuse
    into integer operators.
    """
    writer = _QdqWriter(model, how)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    del result.graph.initializer[:]
    result.graph.node.extend(writer.nodes)
    result.graph.initializer.extend(writer.constants)
    return result


class _QdqWriter:
    """Writes the `nodes` and `constants` of an int8 graph."""

    def __init__(self, model: onnx.ModelProto, how: Recipe) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._how = how
        self._stored: dict[str, str] = {}  # a value -> its 8-bit form, as float again
        read_by = readers(model)
        self._store(INPUT)
        dropped = {
            after.output[0]: after
            for node in model.graph.node
            if (after := folded_into(node, read_by)) is not None
        }
        for node in model.graph.node:
            if node.output[0] in dropped:
                continue
            after = folded_into(node, read_by)
            self._write(node, node.output[0] if after is None else after.output[0])

    def _write(self, node: onnx.NodeProto, output: str) -> None:
        inputs = [self._stored.get(name, name) for name in node.input]
        if node.op_type in WEIGHTED:
            inputs[1:] = self._layer(output, self._how.weights[node.output[0]])
        written = onnx.NodeProto()
        written.CopyFrom(node)
        written.input[:], written.output[:] = inputs, [output]
        if node.op_type == "ReduceMean":
            # of integers, which add up exactly, runtimes have this one
            written.op_type = "GlobalAveragePool"
            del written.attribute[:]
        self.nodes.append(written)
        if output in self._how.values:
            self._store(output)

    def _store(self, name: str) -> None:
        """Keep a value in 8 bits."""
        scale = self._how.values[name]
        parameters = [
            self._constant(f"{name}.scale", np.array(scale.scale, np.float32)),
            self._constant(f"{name}.zero_point", np.array(scale.zero_point, np.uint8)),
        ]
        quantised, stored = f"{name}.quantised", f"{name}.stored"
        self.nodes += [
            helper.make_node("QuantizeLinear", [name, *parameters], [quantised]),
            helper.make_node("DequantizeLinear", [quantised, *parameters], [stored]),
        ]
        self._stored[name] = stored

    def _layer(self, name: str, weights: Weights) -> list[str]:
        """The names of a layer's weight and bias as float again."""
        names = []
        for part, values, scales in (
            ("weight", weights.values, weights.scales),
            ("bias", weights.bias, weights.bias_scales),
        ):
            inputs = [
                self._constant(f"{name}.{part}.int", values),
                self._constant(f"{name}.{part}.scales", scales),
            ]
            names.append(f"{name}.{part}")
            self.nodes.append(helper.make_node("DequantizeLinear", inputs, [names[-1]], axis=0))
        return names

    def _constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(values, name))
        return name


# --- the choice -----------------------------------------------------------------------------------


def best_recipe(
    model: onnx.ModelProto, calibration: Calibration, images: Sequence[Pixels]
) -> Recipe:
    """The recipe whose probabilities differ least, on average over `images`, from float32's."""
    wanted = _answers(model, images)
    candidates = [recipe(model, calibration, calibrator) for calibrator in CALIBRATORS]
    differences = [
        float(np.abs(_answers(as_onnx(model, one), images) - wanted).sum(axis=1).mean())
        for one in candidates
    ]
    return candidates[int(np.argmin(differences))]


def _answers(model: onnx.ModelProto, images: Sequence[Pixels]) -> npt.NDArray[np.float64]:
    session = onnx_session.open_session(model.SerializeToString())
    logits: Scores = np.concatenate([session.run([OUTPUT], {INPUT: x})[0] for x in images])
    return to_probabilities(logits, "logits")
