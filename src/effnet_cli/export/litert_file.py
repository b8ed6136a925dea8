"""Builds the flatbuffer of a LiteRT file from tensors, constants and operators."""

from collections.abc import Mapping, Sequence
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np
import numpy.typing as npt

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
STRUCTURE_BYTES = 2**20  # room for everything except the constants
MAX_OLD_CODE = 127  # the highest operator code in the first version of the schema

Op = schema.BuiltinOperator
Array = npt.NDArray[Any]

TENSOR_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}
# Each operator's options table, if it has one, and its version for int8
# (tensorflow/lite/tools/versioning/op_version.cc).
OPERATOR_ROWS: Mapping[int, tuple[str | None, int]] = {
    Op.ADD: ("AddOptions", 2),
    Op.CAST: ("CastOptions", 1),
    Op.CONV_2D: ("Conv2DOptions", 3),
    Op.DEPTHWISE_CONV_2D: ("DepthwiseConv2DOptions", 3),
    Op.DEQUANTIZE: ("DequantizeOptions", 2),
    Op.DIV: ("DivOptions", 1),
    Op.EXP: ("ExpOptions", 1),
    Op.FULLY_CONNECTED: ("FullyConnectedOptions", 4),
    Op.LOG: (None, 1),
    Op.LOGISTIC: (None, 2),
    Op.MEAN: ("ReducerOptions", 2),
    Op.MUL: ("MulOptions", 2),
    Op.PAD: ("PadOptions", 2),
    Op.QUANTIZE: ("QuantizeOptions", 1),
    Op.REDUCE_MAX: ("ReducerOptions", 1),
    Op.RELU: (None, 1),
    Op.RELU6: (None, 1),
    Op.RESHAPE: ("ReshapeOptions", 1),
    Op.SOFTMAX: ("SoftmaxOptions", 1),
    Op.SQRT: (None, 1),
    Op.SUB: ("SubOptions", 1),
}
FP16_DEQUANTIZE_VERSION = 3
HYBRID_DENSE_VERSION = 3  # float32 input, int8 weights with one scale


class LiteRtFile:
    """A LiteRT model under construction; tensors are identified by their index."""

    def __init__(self, *, has_open_batch: bool) -> None:
        self._has_open_batch = has_open_batch
        self._buffers: list[Any] = [schema.BufferT()]  # buffer 0 is empty by definition
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._metadata: list[Any] = []
        self._codes: list[tuple[int, int]] = []  # operators and their versions

    def constant(self, name: str, values: Array, quantization: Any = None) -> int:
        """Add a tensor whose values are stored in the file."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._buffers.append(buffer)
        shape = list(values.shape)
        index = self.tensor(name, shape, values.dtype, quantization=quantization, is_batched=False)
        self._tensors[index].buffer = len(self._buffers) - 1
        return index

    def tensor(
        self,
        name: str,
        shape: list[int],
        dtype: Any,
        *,
        quantization: Any = None,
        is_batched: bool = True,
    ) -> int:
        """Add a computed tensor, whose first axis is the batch if `is_batched`."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, shape, TENSOR_TYPES[np.dtype(dtype)]
        if is_batched and self._has_open_batch:
            tensor.shapeSignature = [-1, *shape[1:]]
        tensor.quantization = quantization
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def tensor_like(self, other: int, name: str, shape: list[int]) -> int:
        """Add a tensor with the same type and quantisation as `other`."""
        tensor = self._tensors[other]
        dtypes = {number: dtype for dtype, number in TENSOR_TYPES.items()}
        return self.tensor(name, shape, dtypes[tensor.type], quantization=tensor.quantization)

    def operator(self, op: int, inputs: list[int], output: int, **settings: Any) -> int:
        """Add an operator and return its output."""
        code = op, self._version(op, inputs)
        if code not in self._codes:
            self._codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.index(code)
        operator.inputs, operator.outputs = inputs, [output]
        table, _ = OPERATOR_ROWS[op]
        if table is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            operator.builtinOptions = getattr(schema, f"{table}T")()
            for name, value in settings.items():
                setattr(operator.builtinOptions, name, value)
        self._operators.append(operator)
        return output

    def _version(self, op: int, inputs: list[int]) -> int:
        types = [self._tensors[index].type for index in inputs]
        if types[0] == schema.TensorType.INT8:
            return OPERATOR_ROWS[op][1]
        if types[0] == schema.TensorType.FLOAT16:
            return FP16_DEQUANTIZE_VERSION
        return HYBRID_DENSE_VERSION if schema.TensorType.INT8 in types else 1

    def add_metadata(self, name: str, content: bytes) -> None:
        """Add a named buffer to the file."""
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(content, np.uint8)
        self._buffers.append(buffer)
        entry.name, entry.buffer = name, len(self._buffers) - 1
        self._metadata.append(entry)

    def to_bytes(self, inputs: list[int], outputs: list[int]) -> bytes:
        """Serialise the model as a flatbuffer."""
        graph = schema.SubGraphT()
        graph.name = "effnet"
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = "effnet"
        model.subgraphs, model.buffers = [graph], self._buffers
        model.metadata = self._metadata
        model.operatorCodes = [_operator_code(*code) for code in self._codes]
        constants_bytes = sum(len(buffer.data) for buffer in self._buffers[1:])
        builder = flatbuffers.Builder(constants_bytes + STRUCTURE_BYTES)
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())


def _operator_code(op: int, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = op
    code.deprecatedBuiltinCode = min(op, MAX_OLD_CODE)
    code.version = version
    return code


def quantization(scales: Sequence[float] | Array, zero_points: Sequence[int], axis: int = 0) -> Any:
    """Return quantisation parameters: one scale and zero point, or one per channel along `axis`."""
    result = schema.QuantizationParametersT()
    result.scale = np.asarray(scales, np.float32)
    result.zeroPoint = np.asarray(zero_points, np.int64)
    result.quantizedDimension = axis
    return result
