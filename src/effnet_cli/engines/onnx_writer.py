"""A torch network as an ONNX graph, written node by node.

torch's own exporters need 1 to 7 seconds and give graphs of hundreds of nodes for the "same"
padding; the networks here use a dozen operators, so that their graph is written directly: BatchNorm
folded into the convolution before it, "same" padding left to the runtime, which knows the input's
size. The first answer after an installation waits for this.
"""

import operator
from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional

from effnet_cli.engines import onnx_session
from effnet_cli.models.lite import SameConv2d

OPSET = 17
IR_VERSION = 8
INPUT, OUTPUT = "pixels", "logits"


def build_graph(network: nn.Module, crop_px: int, metadata: dict[str, str]) -> bytes:
    """`network` (evaluation mode, float32, CPU) as the bytes of an ONNX file.

    The graph's input is `pixels`, float32 [batch,3,crop_px,crop_px], its output `logits`, float32
    [batch,outputs]; batch is dynamic. `metadata` becomes the file's `metadata_props`.

    Raises:
        NotImplementedError: the network uses an operator that has no entry here.
    """
    writer = _Writer(network)
    with torch.inference_mode():
        outputs = network(torch.zeros(1, 3, crop_px, crop_px)).shape[1]
    graph = helper.make_graph(
        writer.nodes,
        "effnet",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, crop_px, crop_px])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", outputs])],
        writer.weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    helper.set_model_props(model, metadata)
    content: bytes = model.SerializeToString()
    return content


def max_difference(content: bytes, network: nn.Module, crop_px: int) -> float:
    """The largest difference of a probability between an ONNX file and the torch network it was
    written from.

    Asked on two seeded images of soft blobs, values about as normalised photographs have them.
    """
    blobs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = functional.interpolate(blobs, size=(crop_px, crop_px), mode="bicubic")
    with torch.inference_mode():
        wanted = network(pixels).softmax(-1)
    session = onnx_session.open_session(content)
    given = torch.from_numpy(session.run([OUTPUT], {INPUT: pixels.numpy()})[0]).softmax(-1)
    return float((wanted - given).abs().max())


class _Tracer(fx.Tracer):
    """Stops at modules without children, so that each of them is one node of the trace."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return next(m.children(), None) is None


class _Writer:
    """Turns a network into ONNX `nodes` and `weights`."""

    def __init__(self, network: nn.Module) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._modules = dict(network.named_modules())
        self._values: dict[
            fx.Node, str
        ] = {}  # the ONNX value that holds the result of each traced node
        for node in _Tracer().trace(network).nodes:
            self._values[node] = self._emit(node)

    def _emit(self, node: fx.Node) -> str:
        """Write the ONNX nodes of one traced node; return the name of the value they make."""
        inputs = [self._values[argument] for argument in node.args if isinstance(argument, fx.Node)]
        match node.op:
            case "placeholder":
                return INPUT
            case "output":
                return self._add("Identity", inputs, OUTPUT)
            case "call_function" if node.target in FUNCTIONS:
                return self._add(FUNCTIONS[node.target], inputs, node.name)
            case "call_module" if type(module := self._module(node)).__name__ in MODULES:
                return MODULES[type(module).__name__](self, node, module, inputs)
        raise NotImplementedError(f"no ONNX operator is known for {node.format_node()}")

    def _module(self, node: fx.Node) -> nn.Module:
        module: nn.Module = self._modules[str(node.target)]
        return module

    def _add(self, operator_name: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator_name, inputs, [output], **attributes))
        return output

    def _store(self, name: str, tensor: Tensor) -> str:
        self.weights.append(numpy_helper.from_array(tensor.detach().float().numpy(), name))
        return name

    def _conv(self, node: fx.Node, conv: Any, inputs: list[str]) -> str:
        weight, bias = conv.weight, conv.bias
        norm = self._following_norm(node)
        if norm is not None:
            weight, bias = _folded(weight, bias, norm)
        inputs = [*inputs, self._store(f"{node.name}.weight", weight)]
        if bias is not None:
            inputs.append(self._store(f"{node.name}.bias", bias))
        if isinstance(conv, SameConv2d):
            padding: dict[str, Any] = {"auto_pad": "SAME_UPPER"}
        else:
            padding = {"pads": [*conv.padding, *conv.padding]}
        sizes = {
            "kernel_shape": conv.kernel_size,
            "strides": conv.stride,
            "dilations": conv.dilation,
        }
        return self._add("Conv", inputs, node.name, group=conv.groups, **sizes, **padding)

    def _following_norm(self, node: fx.Node) -> nn.BatchNorm2d | None:
        """The BatchNorm that is the only reader of this convolution's output."""
        reader = next(iter(node.users))
        module = self._module(reader) if reader.op == "call_module" else None
        return module if len(node.users) == 1 and isinstance(module, nn.BatchNorm2d) else None

    def _norm(self, node: fx.Node, norm: Any, inputs: list[str]) -> str:
        before = node.args[0]
        if (
            isinstance(before, fx.Node)
            and before.op == "call_module"
            and isinstance(self._module(before), nn.Conv2d)
            and self._following_norm(before) is norm
        ):
            return inputs[0]  # folded into the convolution
        raise NotImplementedError(f"{node.target} follows no convolution")

    def _linear(self, node: fx.Node, linear: Any, inputs: list[str]) -> str:
        weight = self._store(f"{node.name}.weight", linear.weight)
        bias = self._store(f"{node.name}.bias", linear.bias)
        return self._add("Gemm", [*inputs, weight, bias], node.name, transB=1)

    def _silu(self, node: fx.Node, _: Any, inputs: list[str]) -> str:
        gate = self._add("Sigmoid", inputs, f"{node.name}.gate")
        return self._add("Mul", [*inputs, gate], node.name)

    def _relu6(self, node: fx.Node, _: Any, inputs: list[str]) -> str:
        bounds = [
            self._store(f"{node.name}.{bound}", torch.tensor(float(bound))) for bound in (0, 6)
        ]
        return self._add("Clip", [*inputs, *bounds], node.name)

    def _same(self, node: fx.Node, _: Any, inputs: list[str]) -> str:
        return inputs[0]

    def _named(self, node: fx.Node, module: Any, inputs: list[str]) -> str:
        return self._add(type(module).__name__, inputs, node.name)

    def _maximum(self, node: fx.Node, pool: Any, inputs: list[str]) -> str:
        kernel, stride, padding = (
            [size, size] if isinstance(size, int) else list(size)
            for size in (pool.kernel_size, pool.stride, pool.padding)
        )
        sizes = {"kernel_shape": kernel, "strides": stride, "pads": [*padding, *padding]}
        return self._add("MaxPool", inputs, node.name, ceil_mode=int(pool.ceil_mode), **sizes)

    def _average(self, node: fx.Node, pool: Any, inputs: list[str]) -> str:
        if pool.output_size not in (1, (1, 1)):
            raise NotImplementedError(f"{node.target} averages to {pool.output_size}")
        # Not GlobalAveragePool: onnxruntime adds up its blocks value by value, and of the 36,100 of
        # b4's first gate that leaves four or five digits; this is as fast, and keeps six.
        return self._add("ReduceMean", inputs, node.name, axes=[2, 3], keepdims=1)


FUNCTIONS = {
    operator.add: "Add",
    operator.iadd: "Add",
    operator.mul: "Mul",
    torch.flatten: "Flatten",
}

# By class name: some of the classes live in torchvision, whose import costs a second.
MODULES: dict[str, Callable[[_Writer, fx.Node, nn.Module, list[str]], str]] = {
    "Conv2d": _Writer._conv,
    "SameConv2d": _Writer._conv,
    "BatchNorm2d": _Writer._norm,
    "Linear": _Writer._linear,
    "SiLU": _Writer._silu,
    "ReLU6": _Writer._relu6,
    "ReLU": lambda writer, node, _, inputs: writer._add("Relu", inputs, node.name),
    "Sigmoid": _Writer._named,
    "AdaptiveAvgPool2d": _Writer._average,
    "MaxPool2d": _Writer._maximum,
    "Dropout": _Writer._same,
    "StochasticDepth": _Writer._same,
    "Identity": _Writer._same,
}


def _folded(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that answers as the given one followed by `norm` (computed
    in float64).
    """
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise NotImplementedError("a BatchNorm without running statistics")
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    offset = bias.double() if bias is not None else torch.zeros_like(mean.double())
    return weight.double() * scale[:, None, None, None], norm.bias.double() + (
        offset - mean
    ) * scale
