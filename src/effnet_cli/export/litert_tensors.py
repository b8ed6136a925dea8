"""Maps the values of an ONNX graph to tensors of a LiteRT file, in float32, int8 or both."""

from typing import Any

import numpy as np
import onnx

from effnet_cli.export.litert_file import Array, LiteRtFile, Op, quantization
from effnet_cli.export.onnx_edits import read_constants
from effnet_cli.export.source import ExportSource

INT8_OFFSET = 128  # LiteRT's int8 starts at -128, while a recipe's integers start at 0


class ValueTensors:
    """Finds or adds the tensor for each value of `graph`, with images as [N,H,W,C].

    `constants` holds the graph's constants, `shapes` the shapes of the values added so far.
    """

    def __init__(self, file: LiteRtFile, graph: onnx.ModelProto, source: ExportSource) -> None:
        self.constants = read_constants(graph)
        self.shapes: dict[str, list[int]] = {}
        self._file = file
        self._recipe = source.recipe
        self._is_fp16 = source.options.precision == "fp16"
        self._float32: dict[str, int] = {}
        self._int8: dict[str, int] = {}

    def is_int8(self, name: str) -> bool:
        """Return whether the recipe stores a value in 8 bits."""
        return self._recipe is not None and name in self._recipe.values

    def add(self, name: str, shape: list[int], dtype: Any = None) -> int:
        """Add the tensor for a value that an operator computes.

        Its type is `dtype` if given, else int8 or float32 as in the recipe.
        """
        self.shapes[name] = shape
        if dtype is None and self.is_int8(name):
            self._int8[name] = self._int8_tensor(name, name)
            return self._int8[name]
        self._float32[name] = self._file.tensor(name, shape, dtype or np.float32)
        return self._float32[name]

    def alias(self, name: str, original: str) -> None:
        """Make a value share the tensors of `original`."""
        self.shapes[name] = self.shapes[original]
        for tensors in (self._float32, self._int8):
            if original in tensors:
                tensors[name] = tensors[original]

    def read(self, name: str, output: str) -> int:
        """Return a value in the type used by the operator that writes `output`."""
        return self._as_int8(name) if self.is_int8(output) else self.as_float32(name)

    def as_float32(self, name: str) -> int:
        """Return a value in float32, dequantised if necessary, or a constant as a vector."""
        if name in self.constants:
            return self._file.constant(name, self.constants[name].ravel())
        if name not in self._float32:
            tensor = self._file.tensor(f"{name}.float", self.shapes[name], np.float32)
            self._float32[name] = self._file.operator(Op.DEQUANTIZE, [self._int8[name]], tensor)
        return self._float32[name]

    def _as_int8(self, name: str) -> int:
        if name not in self._int8:
            tensor = self._int8_tensor(f"{name}.int8", name)
            self._int8[name] = self._file.operator(Op.QUANTIZE, [self._float32[name]], tensor)
        return self._int8[name]

    def _int8_tensor(self, tensor_name: str, name: str) -> int:
        assert self._recipe is not None
        scale = self._recipe.values[name]
        parameters = quantization([scale.scale], [scale.zero_point - INT8_OFFSET])
        return self._file.tensor(tensor_name, self.shapes[name], np.int8, quantization=parameters)

    # --- weights ----------------------------------------------------------------------------------

    def layer(self, node: onnx.NodeProto, output: str, *, is_depthwise: bool = False) -> list[int]:
        """Add the weights and the bias of the layer that computes `output`.

        The weights are [O,H,W,I], or [1,H,W,O] if depthwise, or [O,I] if dense.
        """
        names, axis = node.input[1:3], 3 if is_depthwise else 0
        if self._recipe is None or output not in self._recipe.layers:
            values = _to_channels_last(self.constants[names[0]], is_depthwise)
            return [self._float(names[0], values), self._float(names[1], self.constants[names[1]])]
        layer = self._recipe.layers[output]
        zeros = [0] * len(layer.scales)
        values = _to_channels_last(layer.weight, is_depthwise)
        weight = self._file.constant(names[0], values, quantization(layer.scales, zeros, axis))
        scales = quantization(layer.bias_scales, zeros)
        return [weight, self._file.constant(names[1], layer.bias, scales)]

    def is_hybrid(self, output: str) -> bool:
        """Return whether a layer has int8 weights, but float32 input and output."""
        recipe = self._recipe
        return recipe is not None and output in recipe.layers and output not in recipe.values

    def hybrid_layer(self, node: onnx.NodeProto, output: str) -> list[int]:
        """Add the int8 weights, the float32 bias and a factor per channel of a dense layer.

        The layer's result has to be multiplied by the factors. A scale per channel in the weights
        themselves would need version 12 of the operator, which LiteRT has only since 2025.
        """
        assert self._recipe is not None
        layer = self._recipe.layers[output]
        scale = float(layer.scales.max())
        factors = (layer.scales.astype(np.float64) / scale).astype(np.float32)
        bias = layer.bias * layer.bias_scales.astype(np.float64) / factors
        return [
            self._file.constant(node.input[1], layer.weight, quantization([scale], [0])),
            self._file.constant(node.input[2], bias.astype(np.float32)),
            self._file.constant(f"{output}.factors", factors),
        ]

    def _float(self, name: str, values: Array) -> int:
        """Add a float32 constant, stored as float16 if the export is fp16."""
        if not self._is_fp16:
            return self._file.constant(name, values)
        stored = self._file.constant(f"{name}.half", values.astype(np.float16))
        tensor = self._file.tensor(name, list(values.shape), np.float32, is_batched=False)
        return self._file.operator(Op.DEQUANTIZE, [stored], tensor)


def _to_channels_last(weight: Array, is_depthwise: bool) -> Array:
    """Convert [O,I,H,W] to [O,H,W,I], or depthwise [O,1,H,W] to [1,H,W,O]; keep [O,I] as is."""
    if weight.ndim != 4:
        return weight
    return weight.transpose(1, 2, 3, 0) if is_depthwise else weight.transpose(0, 2, 3, 1)
