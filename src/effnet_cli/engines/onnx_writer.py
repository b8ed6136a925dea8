"""Write the ONNX graph of a torch module node by node.

The first prediction after an installation waits for this. torch's own exporters take 1 to 7 seconds
and create hundreds of nodes for the "same" padding, while the models here use a dozen operators.
BatchNorm is folded into the convolution before it, and "same" padding is written in numbers:
`auto_pad` is deprecated, and OpenCV 5 pads some of its convolutions on the wrong side.
"""

import operator
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from effnet_cli.engines import onnx_session
from effnet_cli.models.architectures import MAX_MAP_STRIDE
from effnet_cli.models.efficientnet import GEM_MIN, GEM_POWER, SameConv2d
from effnet_cli.models.example_head import SMALLEST_SQUARE
from effnet_cli.models.feature_maps import FeatureMaps
from effnet_cli.options import Pool

OPSET = 17
IR_VERSION = 8
INPUT, OUTPUT, FEATURES = "pixels", "logits", "features"
Shape = tuple[int | str, ...]  # names are dynamic axes


def build_graph(
    module: nn.Module, crop_px: int, metadata: dict[str, str], *, pool: Pool | None = None
) -> bytes:
    """Return `module` (evaluation mode, float32, CPU) as the bytes of an ONNX file.

    The graph's input is `pixels`, float32 [batch,3,crop_px,crop_px]; its outputs are `logits`,
    float32 [batch,classes], and, with a `pool`, the `features` pooled in this way, float32
    [batch,D]. The batch size is dynamic. `metadata` becomes the file's `metadata_props`.

    Raises:
        NotImplementedError: the module uses an operator that is not supported.
    """
    paddings, sizes = _trace(module, crop_px, has_features=pool is not None)
    outputs: dict[str, Shape] = {name: ("batch", size) for name, size in sizes.items()}
    writer = _GraphWriter(module, paddings, pool)
    return _build(writer, (crop_px, crop_px), outputs, metadata=metadata)


def build_map_graph(module: FeatureMaps, metadata: dict[str, str]) -> bytes:
    """Return `module` (evaluation mode, float32, CPU) as the bytes of an ONNX file.

    The graph's input is `pixels`, float32 [batch,3,height,width]; its outputs are the maps, float32
    [batch,channels,height/stride,width/stride]. Batch, height and width are dynamic. Height and
    width must be multiples of 32, for which the "same" padding of a convolution is always equal.

    Raises:
        NotImplementedError: the module uses an operator that is not supported.
    """
    paddings = _record_paddings(module, MAX_MAP_STRIDE)
    outputs: dict[str, Shape] = {
        one.name: ("batch", one.channels, f"height/{one.stride}", f"width/{one.stride}")
        for one in module.maps
    }
    writer = _GraphWriter(module, paddings, None)
    return _build(writer, ("height", "width"), outputs, metadata=metadata)


def _build(
    writer: "_GraphWriter",
    size: tuple[int | str, int | str],
    outputs: Mapping[str, Shape],
    *,
    metadata: dict[str, str],
) -> bytes:
    graph = helper.make_graph(
        writer.nodes,
        "effnet",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, *size])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in outputs.items()
        ],
        writer.weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    helper.set_model_props(model, metadata)
    content: bytes = model.SerializeToString()
    return content


def max_difference(content: bytes, module: nn.Module, crop_px: int) -> float:
    """Return the largest difference in a probability between an ONNX file and its source module.

    The input is two seeded images of soft blobs, with the value range of normalised photographs.
    """
    blobs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = functional.interpolate(blobs, size=(crop_px, crop_px), mode="bicubic")
    with torch.inference_mode():
        expected = module(pixels).softmax(-1)
    session = onnx_session.open_session(content)
    actual = torch.from_numpy(session.run([OUTPUT], {INPUT: pixels.numpy()})[0]).softmax(-1)
    return float((expected - actual).abs().max())


def _trace(
    module: nn.Module, crop_px: int, *, has_features: bool
) -> tuple[dict[nn.Module, list[int]], dict[str, int]]:
    """Run the module once; return each "same" convolution's padding and the sizes of outputs."""
    sizes: dict[str, int] = {}

    def record_features(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[FEATURES] = inputs[0].shape[1]

    def record_logits(_: nn.Module, __: tuple[Tensor, ...], logits: Tensor) -> None:
        sizes[OUTPUT] = logits.shape[1]

    hooks = [module.register_forward_hook(record_logits)]
    if has_features:
        classifier = module.get_submodule("classifier")
        hooks.append(classifier.register_forward_pre_hook(record_features))
    try:
        paddings = _record_paddings(module, crop_px)
    finally:
        for hook in hooks:
            hook.remove()
    return paddings, {OUTPUT: sizes[OUTPUT], **sizes}


def _record_paddings(module: nn.Module, size_px: int) -> dict[nn.Module, list[int]]:
    """Run the module once; return the padding of each "same" convolution."""
    paddings: dict[nn.Module, list[int]] = {}

    def record(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(conv, SameConv2d)
        paddings[conv] = conv.paddings(inputs[0])

    hooks = [
        conv.register_forward_pre_hook(record)
        for conv in module.modules()
        if isinstance(conv, SameConv2d)
    ]
    try:
        with torch.inference_mode():
            module(torch.zeros(1, 3, size_px, size_px))
    finally:
        for hook in hooks:
            hook.remove()
    return paddings


class _Tracer(fx.Tracer):
    """A tracer that stops at modules without children: each of them is one node of the trace."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return next(m.children(), None) is None


class _GraphWriter:
    """Converts a module to ONNX `nodes` and `weights`.

    `paddings` holds the top, left, bottom and right padding of each "same" convolution.
    """

    def __init__(
        self, module: nn.Module, paddings: dict[nn.Module, list[int]], pool: Pool | None
    ) -> None:
        self._paddings, self._pool = paddings, pool
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._modules: dict[str, Any] = dict(module.named_modules())
        self._values: dict[fx.Node, str] = {}  # the ONNX value of each traced node
        for node in _Tracer().trace(module).nodes:
            self._values[node] = self._emit(node)

    def _emit(self, node: fx.Node) -> str:
        """Write the ONNX nodes of one traced node; return the name of their output."""
        inputs = [self._values[argument] for argument in node.args if isinstance(argument, fx.Node)]
        if node.op == "placeholder":
            return INPUT
        if node.op == "output":
            outputs: Any = node.args[0]
            named = outputs if isinstance(outputs, Mapping) else {OUTPUT: outputs}
            self._rename({self._values[value]: name for name, value in named.items()})
            return OUTPUT
        if node.op == "call_function" and node.target in FUNCTIONS:
            if node.target is torch.flatten:
                return self._flatten(node, inputs)
            return self._add(FUNCTIONS[node.target], inputs, node.name)
        module = self._module(node)
        if type(module).__name__ in MODULES:
            return MODULES[type(module).__name__](self, node, module, inputs)
        raise NotImplementedError(f"no ONNX operator is known for {node.format_node()}")

    def _rename(self, names: dict[str, str]) -> None:
        """Rename values to outputs of the graph.

        Not by an Identity: OpenVINO writes it in a version that its older runtimes cannot read.
        """
        for node in self.nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]

    def _module(self, node: Any) -> Any:
        """Return the module that a node calls, if any."""
        return self._modules[node.target] if node.op == "call_module" else None

    def _add(self, operator_name: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator_name, inputs, [output], **attributes))
        return output

    def _store(self, name: str, tensor: Tensor) -> str:
        self.weights.append(numpy_helper.from_array(tensor.detach().float().numpy(), name))
        return name

    def _conv(self, node: fx.Node, conv: Any, inputs: list[str]) -> str:
        norm = self._following_norm(node)
        if norm is not None:
            if norm.running_mean is None:
                raise NotImplementedError("a BatchNorm without running statistics")
            conv = fuse_conv_bn_eval(deepcopy(conv).double(), deepcopy(norm).double())
        inputs = [*inputs, self._store(f"{node.name}.weight", conv.weight)]
        if conv.bias is not None:
            inputs.append(self._store(f"{node.name}.bias", conv.bias))
        attributes = {
            "kernel_shape": conv.kernel_size,
            "strides": conv.stride,
            "dilations": conv.dilation,
            "group": conv.groups,
        }
        pads = self._paddings.get(self._module(node), [*conv.padding, *conv.padding])
        return self._add("Conv", inputs, node.name, pads=pads, **attributes)

    def _following_norm(self, node: fx.Node) -> nn.BatchNorm2d | None:
        """Return the BatchNorm that alone reads this convolution's output, if there is one."""
        module = self._module(next(iter(node.users)))
        return module if len(node.users) == 1 and isinstance(module, nn.BatchNorm2d) else None

    def _norm(self, node: fx.Node, norm: Any, inputs: list[str]) -> str:
        before: Any = node.args[0]
        if isinstance(self._module(before), nn.Conv2d) and self._following_norm(before) is norm:
            return inputs[0]  # folded into the convolution
        raise NotImplementedError(f"{node.target} follows no convolution")

    def _linear(self, node: fx.Node, linear: Any, inputs: list[str]) -> str:
        weight = self._store(f"{node.name}.weight", linear.weight)
        bias = self._store(f"{node.name}.bias", linear.bias)
        return self._add("Gemm", [*inputs, weight, bias], node.name, transB=1)

    def _unit_scale(self, node: fx.Node, _: Any, inputs: list[str]) -> str:
        name = node.name
        smallest = self._store(f"{name}.smallest", torch.tensor(SMALLEST_SQUARE))
        squares = self._add("Mul", [*inputs, *inputs], f"{name}.squares")
        mean = self._add("ReduceMean", [squares], f"{name}.mean", axes=[1], keepdims=1)
        mean = self._add("Add", [mean, smallest], f"{name}.positive")
        return self._add("Div", [*inputs, self._add("Sqrt", [mean], f"{name}.root")], name)

    def _class_vote(self, node: fx.Node, vote: Any, inputs: list[str]) -> str:
        name, axes = node.name, {"axes": [2], "keepdims": 1}
        shape = torch.tensor([-1, vote.num_classes, vote.votes])
        self.weights.append(numpy_helper.from_array(shape.numpy(), f"{name}.shape"))
        scores = self._add("Reshape", [*inputs, f"{name}.shape"], f"{name}.scores")
        highest = self._add("ReduceMax", [scores], f"{name}.highest", **axes)
        below = self._add("Sub", [scores, highest], f"{name}.below")
        mean = self._add(
            "ReduceMean", [self._add("Exp", [below], f"{name}.exp")], f"{name}.mean", **axes
        )
        total = self._add(
            "Add", [highest, self._add("Log", [mean], f"{name}.log")], f"{name}.total"
        )
        return self._add("Flatten", [total], name)

    def _silu(self, node: fx.Node, _: Any, inputs: list[str]) -> str:
        gate = self._add("Sigmoid", inputs, f"{node.name}.gate")
        return self._add("Mul", [*inputs, gate], node.name)

    def _relu6(self, node: fx.Node, _: Any, inputs: list[str]) -> str:
        low, high = (self._store(f"{node.name}.{n}", torch.tensor(float(n))) for n in (0, 6))
        return self._add("Clip", [*inputs, low, high], node.name)

    def _max_pool(self, node: fx.Node, pool: Any, inputs: list[str]) -> str:
        kernel, stride, padding = (
            [size, size] if isinstance(size, int) else list(size)
            for size in (pool.kernel_size, pool.stride, pool.padding)
        )
        sizes = {"kernel_shape": kernel, "strides": stride, "pads": [*padding, *padding]}
        return self._add("MaxPool", inputs, node.name, ceil_mode=int(pool.ceil_mode), **sizes)

    def _flatten(self, node: fx.Node, inputs: list[str]) -> str:
        """Write the features that the classifier starts from, and those pooled in another way."""
        if self._pool == "gem":
            average: Any = node.args[0]
            _add_gem(self, self._values[average.args[0]])
        return self._add("Flatten", inputs, FEATURES if self._pool == "avg" else node.name)

    def _average_pool(self, node: fx.Node, pool: Any, inputs: list[str]) -> str:
        if pool.output_size not in (1, (1, 1)):
            raise NotImplementedError(f"{node.target} averages to {pool.output_size}")
        # Not GlobalAveragePool: onnxruntime adds up its values one by one, which leaves four or
        # five exact digits for the 36,100 values of b4's first gate. This is as fast and keeps six.
        return self._add("ReduceMean", inputs, node.name, axes=[2, 3], keepdims=1)


def _add_gem(writer: _GraphWriter, maps: str) -> None:
    """Write `EfficientNet.pool_gem`."""
    values = {"min": GEM_MIN, "power": float(GEM_POWER), "root": 1 / GEM_POWER}
    low, power, root = (
        writer._store(f"gem.{name}", torch.tensor(value)) for name, value in values.items()
    )
    clipped = writer._add("Clip", [maps, low], "gem.clipped")
    powers = writer._add("Pow", [clipped, power], "gem.powers")
    means = writer._add("ReduceMean", [powers], "gem.means", axes=[2, 3], keepdims=0)
    writer._add("Pow", [means, root], FEATURES)


WriteModule = Callable[[_GraphWriter, fx.Node, nn.Module, list[str]], str]


def _operator(name: str) -> WriteModule:
    return lambda writer, node, _, inputs: writer._add(name, inputs, node.name)


def _skip(_: _GraphWriter, __: fx.Node, ___: nn.Module, inputs: list[str]) -> str:
    return inputs[0]


FUNCTIONS = {
    operator.add: "Add",
    operator.iadd: "Add",
    operator.mul: "Mul",
    torch.flatten: "Flatten",
}
# Keyed by class name: some classes are from torchvision, which takes a second to import.
MODULES: dict[str, WriteModule] = {
    "Conv2d": _GraphWriter._conv,
    "SameConv2d": _GraphWriter._conv,
    "BatchNorm2d": _GraphWriter._norm,
    "Linear": _GraphWriter._linear,
    "UnitScale": _GraphWriter._unit_scale,
    "ClassVote": _GraphWriter._class_vote,
    "SiLU": _GraphWriter._silu,
    "ReLU6": _GraphWriter._relu6,
    "ReLU": _operator("Relu"),
    "Sigmoid": _operator("Sigmoid"),
    "AdaptiveAvgPool2d": _GraphWriter._average_pool,
    "MaxPool2d": _GraphWriter._max_pool,
    "Dropout": _skip,
    "StochasticDepth": _skip,
    "Identity": _skip,
}
