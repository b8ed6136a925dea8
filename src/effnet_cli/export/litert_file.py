"""A LiteRT file: tensors, constants and operators, and the flatbuffer that holds them."""

from collections.abc import Sequence
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np
import numpy.typing as npt

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
SPARE_BYTES = 2**20  # for all that is no constant
OLD_CODES = 127  # operators that the first form of the schema could name

Op = schema.BuiltinOperator
Array = npt.NDArray[Any]

TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}
# The versions of the operators that take int8 (tensorflow/lite/tools/versioning/op_version.cc).
INT8_VERSIONS = {
    Op.CONV_2D: 3,
    Op.DEPTHWISE_CONV_2D: 3,
    Op.FULLY_CONNECTED: 4,
    Op.ADD: 2,
    Op.MUL: 2,
    Op.MEAN: 2,
    Op.PAD: 2,
    Op.LOGISTIC: 2,
    Op.DEQUANTIZE: 2,
}
HALF_DEQUANTIZE_VERSION = 3
# float32 times int8 with a scale for each channel
HYBRID_DENSE_VERSION = 12


class LiteRtFile:
    """What is added to it is named by numbers, in the order of adding."""

    def __init__(self, *, has_open_batch: bool) -> None:
        self._has_open_batch = has_open_batch
        self._buffers: list[Any] = [schema.BufferT()]  # the first one is the empty one
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: list[tuple[int, int]] = []  # operators and their versions

    def constant(self, name: str, values: Array, scales: Any = None) -> int:
        """A tensor whose values are in the file."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._buffers.append(buffer)
        index = self.tensor(name, list(values.shape), values.dtype, scales, is_fixed=True)
        self._tensors[index].buffer = len(self._buffers) - 1
        return index

    def tensor(
        self, name: str, shape: list[int], dtype: Any, scales: Any = None, *, is_fixed: bool = False
    ) -> int:
        """A tensor that is computed; its first axis is the batch unless it `is_fixed`."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, shape, TYPES[np.dtype(dtype)]
        if not is_fixed and self._has_open_batch:
            tensor.shapeSignature = [-1, *shape[1:]]
        tensor.quantization = scales
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def like(self, other: int, name: str, shape: list[int]) -> int:
        """A tensor of the type and scale of another one, of another shape."""
        tensor = self._tensors[other]
        dtypes = {number: dtype for dtype, number in TYPES.items()}
        return self.tensor(name, shape, dtypes[tensor.type], tensor.quantization)

    def add(
        self, kind: int, inputs: list[int], output: int, options: str | None, **settings: Any
    ) -> None:
        """An operator; `options` is the name of its table in the schema."""
        code = kind, self._version(kind, inputs)
        if code not in self._codes:
            self._codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.index(code)
        operator.inputs, operator.outputs = inputs, [output]
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in settings.items():
                setattr(operator.builtinOptions, name, value)
        self._operators.append(operator)

    def _version(self, kind: int, inputs: list[int]) -> int:
        types = [self._tensors[number].type for number in inputs]
        if types[0] == schema.TensorType.INT8:
            return INT8_VERSIONS.get(kind, 1)
        if types[0] == schema.TensorType.FLOAT16:
            return HALF_DEQUANTIZE_VERSION
        return HYBRID_DENSE_VERSION if schema.TensorType.INT8 in types else 1

    def content(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The flatbuffer."""
        graph = schema.SubGraphT()
        graph.name = "effnet"
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = "effnet"
        model.subgraphs, model.buffers = [graph], self._buffers
        model.operatorCodes = [_code(*code) for code in self._codes]
        constants = sum(len(buffer.data) for buffer in self._buffers[1:])
        builder = flatbuffers.Builder(constants + SPARE_BYTES)
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())


def _code(kind: int, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = kind
    code.deprecatedBuiltinCode = min(kind, OLD_CODES)
    code.version = version
    return code


def quantisation(scales: Sequence[float] | Array, zeros: Sequence[int], axis: int = 0) -> Any:
    """Scales and zero points: one of each, or one for each channel along `axis`."""
    result = schema.QuantizationParametersT()
    result.scale = np.asarray(scales, np.float32)
    result.zeroPoint = np.asarray(zeros, np.int64)
    result.quantizedDimension = axis
    return result
