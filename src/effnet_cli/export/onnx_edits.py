"""Changes to the ONNX graph of a network: what goes in, what comes out, in which numbers."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from effnet_cli.engines.onnx_writer import INPUT, OUTPUT
from effnet_cli.models.card import ModelCard

IMAGE, PROBABILITIES = "image", "probabilities"
BATCH = "batch"


def with_preprocessing(model: onnx.ModelProto, card: ModelCard) -> None:
    """Let `model` take `image`, uint8 [batch,H,W,3] (red, green, blue), and give `probabilities`,
    float32 [batch,classes]: softmax(logits / temperature).

    The arithmetic is that of `engines.normalise`, step by step.
    """
    p, graph = card.preprocessing, model.graph
    before: list[onnx.NodeProto] = [
        helper.make_node("Cast", [IMAGE], ["image.float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image.float"], ["image.nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["image.nchw", "preprocess.255"], ["image.unit"]),
        helper.make_node("Sub", ["image.unit", "preprocess.mean"], ["image.centred"]),
        helper.make_node("Div", ["image.centred", "preprocess.std"], [INPUT]),
    ]
    after: list[onnx.NodeProto] = [
        helper.make_node("Div", [OUTPUT, "postprocess.temperature"], ["logits.scaled"]),
        helper.make_node("Softmax", ["logits.scaled"], [PROBABILITIES], axis=1),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for name, values in (
        ("preprocess.255", [255]),
        ("preprocess.mean", p.mean),
        ("preprocess.std", p.std),
        ("postprocess.temperature", [card.temperature]),
    ):
        array = np.array(values, dtype=np.float32)
        shape = (-1, 1, 1) if name.startswith("preprocess") else (-1,)
        graph.initializer.append(numpy_helper.from_array(array.reshape(shape), name))
    size: list[int | str] = [BATCH, p.crop_px, p.crop_px, 3]
    graph.input[0].CopyFrom(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, size))
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [BATCH, len(card.classes)])
    )


def with_batch(model: onnx.ModelProto, batch: int) -> None:
    """Fix the number of images in a call."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch


def in_half(model: onnx.ModelProto) -> None:
    """Let the network compute in float16; what goes in and comes out stays float32."""
    graph = model.graph
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(_halved(values), tensor.name))
    for node in graph.node:
        node.input[:] = [f"{INPUT}.half" if name == INPUT else name for name in node.input]
        node.output[:] = [f"{OUTPUT}.half" if name == OUTPUT else name for name in node.output]
    into = helper.make_node("Cast", [INPUT], [f"{INPUT}.half"], to=TensorProto.FLOAT16)
    back = helper.make_node("Cast", [f"{OUTPUT}.half"], [OUTPUT], to=TensorProto.FLOAT)
    nodes = [into, *graph.node, back]
    del graph.node[:]
    graph.node.extend(nodes)


def _halved(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float16]:
    """float16, the largest finite numbers in place of what it cannot hold."""
    most = np.finfo(np.float16).max
    result: npt.NDArray[np.float16] = np.clip(values, -most, most).astype(np.float16)
    return result


def initializers(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    """The constants of a graph by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each value."""
    result: dict[str, list[onnx.NodeProto]] = {}
    for name, node in _reads(model):
        result.setdefault(name, []).append(node)
    return result


def _reads(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    return ((name, node) for node in model.graph.node for name in node.input)
