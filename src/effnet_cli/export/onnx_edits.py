"""Edits a model's ONNX graph: preprocessing, batch size, float16."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from effnet_cli.engines.onnx_writer import INPUT, OUTPUT
from effnet_cli.models.card import ModelCard

IMAGE, PROBABILITIES = "image", "probabilities"  # input and output with preprocessing
BATCH = "batch"
Constant = tuple[str, Sequence[float], tuple[int, ...]]  # name, values and shape


def add_preprocessing(model: onnx.ModelProto, card: ModelCard) -> None:
    """Add preprocessing and probabilities to `model`: softmax(logits / temperature), or the
    sigmoid of each label.

    Its input becomes `image`, uint8 [batch,H,W,3] in RGB, and its output `probabilities`, float32
    [batch,classes]. The arithmetic follows `engines.normalise` step by step.
    """
    p, graph = card.preprocessing, model.graph
    before = [
        helper.make_node("Cast", [IMAGE], ["image.float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image.float"], ["image.nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["image.nchw", "preprocess.255"], ["image.unit"]),
        helper.make_node("Sub", ["image.unit", "preprocess.mean"], ["image.centred"]),
        helper.make_node("Div", ["image.centred", "preprocess.std"], [INPUT]),
    ]
    after, constants = _probability_nodes(card)
    _set_nodes(model, [*before, *graph.node, *after])
    for name, values, shape in (
        ("preprocess.255", [255], (-1, 1, 1)),
        ("preprocess.mean", p.mean, (-1, 1, 1)),
        ("preprocess.std", p.std, (-1, 1, 1)),
        *constants,
    ):
        array = np.array(values, dtype=np.float32).reshape(shape)
        graph.initializer.append(numpy_helper.from_array(array, name))
    for value, name, dtype, dims in (
        (graph.input[0], IMAGE, TensorProto.UINT8, [p.crop_px, p.crop_px, 3]),
        (graph.output[0], PROBABILITIES, TensorProto.FLOAT, [len(card.classes)]),
    ):
        value.CopyFrom(helper.make_tensor_value_info(name, dtype, [BATCH, *dims]))


def _probability_nodes(card: ModelCard) -> tuple[list[onnx.NodeProto], list[Constant]]:
    """Return the nodes that turn logits into probabilities, and their constants."""
    labels = card.label_scores
    if labels is None:
        return [
            helper.make_node("Div", [OUTPUT, "postprocess.temperature"], ["logits.scaled"]),
            helper.make_node("Softmax", ["logits.scaled"], [PROBABILITIES], axis=1),
        ], [("postprocess.temperature", [card.temperature], (-1,))]
    # the same operators as before the model, which writers of other formats know, too
    return [
        helper.make_node("Div", [OUTPUT, "postprocess.widths"], ["logits.scaled"]),
        helper.make_node("Sub", ["logits.scaled", "postprocess.shifts"], ["logits.moved"]),
        helper.make_node("Sigmoid", ["logits.moved"], [PROBABILITIES]),
    ], [
        ("postprocess.widths", [1 / scale for scale in labels.scales], (-1,)),
        ("postprocess.shifts", [-bias for bias in labels.biases], (-1,)),
    ]


def set_batch(model: onnx.ModelProto, batch: int) -> None:
    """Fix the number of images per call."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch


def to_fp16(model: onnx.ModelProto) -> None:
    """Make `model` compute in float16; its input and outputs stay float32."""
    graph = model.graph
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:  # not the shapes
            tensor.CopyFrom(numpy_helper.from_array(_clip_to_fp16(values), tensor.name))
    half = {name: f"{name}.half" for name in (INPUT, *(value.name for value in graph.output))}
    for node in graph.node:
        node.input[:] = [half.get(name, name) for name in node.input]
        node.output[:] = [half.get(name, name) for name in node.output]
    nodes = [part for node in graph.node for part in _split_bias(node)]
    first = helper.make_node("Cast", [INPUT], [half[INPUT]], to=TensorProto.FLOAT16)
    last = [
        helper.make_node("Cast", [half[value.name]], [value.name], to=TensorProto.FLOAT)
        for value in graph.output
    ]
    _set_nodes(model, [first, *nodes, *last])


def _split_bias(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Add the bias of a Gemm separately: tract would compute the two in different precisions."""
    if node.op_type != "Gemm":
        return [node]
    *inputs, bias = node.input
    product, (output,) = onnx.NodeProto(), node.output
    product.CopyFrom(node)
    product.input[:], product.output[:] = inputs, [f"{output}.product"]
    return [product, helper.make_node("Add", [f"{output}.product", bias], [output])]


def _clip_to_fp16(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float16]:
    """Convert to float16, clipping numbers beyond its range to its largest finite ones."""
    limit = np.finfo(np.float16).max
    result: npt.NDArray[np.float16] = np.clip(values, -limit, limit).astype(np.float16)
    return result


def _set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def read_constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    """Return the graph's constants, keyed by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def map_readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each value, keyed by the value's name."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers
