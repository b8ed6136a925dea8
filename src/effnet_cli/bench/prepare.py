"""What a run of measurements needs before it: networks in the form that engines load, and what one
image costs them.
"""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from effnet_cli.bench.models import BenchModel
from effnet_cli.engines import onnx_writer
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models import build
from effnet_cli.models.summary import ComputeCost, compute_cost
from effnet_cli.models.variants import (
    DEFAULT_VARIANT,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Architecture,
    Variant,
    WeightsSource,
    find_variant,
)
from effnet_cli.models.weights import resolve_model, weights_state
from effnet_cli.options import ModelOptions
from effnet_cli.system.errors import UsageError
from effnet_cli.system.reporter import Reporter

CLASSES = 1000
SEED = 0
# Side of the yardstick's crops, whose values are the features of its matrices (2,028, 8,112 and
# 4,107): on a CPU their product takes a twentieth of a second.
YARDSTICK_PX = {"cpu": 26, "cuda": 52, "mps": 37}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A subject, what one image costs it, and its published top-1 in percent."""

    subject: BenchModel
    work: ComputeCost
    top1: float | None


def of_variant(name: str, folder: Path, reporter: Reporter) -> Prepared:
    """A variant with its published weights if they are here, else with seeded ones.

    Raises:
        UsageError: there is no such variant.
    """
    row = find_variant(name)
    if weights_state(row) != "available":
        return _seeded_subject(row, folder)
    options = ModelOptions(row.name)
    get_compiled(resolve_model(options), reporter)  # so that no process to be measured makes it
    subject = BenchModel(
        row.name, row, "pretrained", "tensors", _shape(row.preprocessing), CLASSES, options
    )
    return Prepared(subject, compute_cost(row, CLASSES), row.top1)


def of_model(path: Path, reporter: Reporter) -> Prepared:
    """A model file or an exported one.

    Raises:
        UsageError: it cannot be used.
    """
    options = ModelOptions(model=path)
    network = resolve_model(options)
    if network.file_kind == "tensors":
        get_compiled(network, reporter)
    preprocessing, outputs = network.card.preprocessing, len(network.card.classes)
    row = replace(network.variant, preprocessing=preprocessing)
    name = path.name if path.is_file() else path.resolve().name
    subject = BenchModel(
        name, row, "yours", network.file_kind, _shape(preprocessing), outputs, options
    )
    return Prepared(subject, compute_cost(row, outputs), None)


def of_peer(name: str, folder: Path) -> Prepared:
    """A classifier of torchvision, seeded.

    Raises:
        UsageError: torchvision has none of that name.
    """
    check_peer(name)
    weights: Any = build.import_torchvision("torchvision.models").get_model_weights(name).DEFAULT
    transforms, meta = weights.transforms(), weights.meta
    row = Variant(
        name=name,
        architecture=Architecture(
            name=name,
            builder=f"torchvision.models:{name}",
            parameters=meta["num_params"],
            paper_px=transforms.crop_size[0],
        ),
        weight_set=str(weights),
        preprocessing=Preprocessing(
            transforms.resize_size[0],
            transforms.crop_size[0],
            "bilinear",
            IMAGENET_MEAN,
            IMAGENET_STD,
        ),
        giga_multiply_adds=meta["_ops"],
        top1=meta["_metrics"]["ImageNet-1K"]["acc@1"],
        top5=meta["_metrics"]["ImageNet-1K"]["acc@5"],
        source=WeightsSource(file_name="", sha256="", size_mb=0.0),
    )
    return _seeded_subject(row, folder)


def check_peer(name: str) -> None:
    """Refuse what torchvision does not have.

    Raises:
        UsageError: it has no classifier of that name.
    """
    models = build.import_torchvision("torchvision.models")
    known = models.list_models(models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Name one such as resnet50."
        raise UsageError(f"torchvision has no classifier {name!r}.", hint)


def yardstick(device: str, folder: Path) -> Prepared:
    """A product of two square matrices as a model: `n` values of `n` crops to `n` scores."""
    px = YARDSTICK_PX[device.partition(":")[0]]
    features = 3 * px**2
    preprocessing = Preprocessing(px, px, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
    row = replace(find_variant(DEFAULT_VARIANT), name="matrix product", preprocessing=preprocessing)
    path = folder / f"product-{features}.onnx"
    if not path.exists():
        path.write_bytes(_product_graph(px))
    subject = BenchModel(
        row.name,
        row,
        "seeded",
        "onnx",
        _shape(preprocessing),
        features,
        graph=path,
        builder=f"{__name__}:product",
        takes_bytes=True,
    )
    return Prepared(subject, ComputeCost(features**2, features**2, 0), None)


def seeded(row: Variant) -> nn.Module:
    """The untrained network of a variant, always with the same values, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return build.build(row, CLASSES).eval().requires_grad_(False)


def _seeded_subject(row: Variant, folder: Path) -> Prepared:
    module, path = seeded(row), folder / f"{row.name}.onnx"
    try:
        path.write_bytes(onnx_writer.build_graph(module, row.preprocessing.crop_px, {}))
    except (NotImplementedError, torch.fx.proxy.TraceError):  # a peer of another kind
        path.unlink(missing_ok=True)
    graph = path if path.exists() else None
    shape = _shape(row.preprocessing)
    subject = BenchModel(row.name, row, "seeded", "tensors", shape, CLASSES, graph=graph)
    return Prepared(subject, compute_cost(row, CLASSES), row.top1)


def _shape(preprocessing: Preprocessing) -> tuple[int, int, int]:
    return preprocessing.crop_px, preprocessing.crop_px, 3


# --- the yardstick ------------------------------------------------------------------------------


class _Values(nn.Module):
    """uint8 [N,H,W,3] -> float32 [N,3*H*W]."""

    def forward(self, crops: Tensor) -> Tensor:
        return crops.float().flatten(1)


def product(row: Variant) -> nn.Module:
    """uint8 [N,H,W,3] -> [N,n]: a linear layer with n = 3*H*W features."""
    features = 3 * row.preprocessing.crop_px**2
    generator = torch.Generator().manual_seed(SEED)
    layer = nn.Linear(features, features, bias=False)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
    return nn.Sequential(_Values(), layer).eval().requires_grad_(False)


def _product_graph(px: int) -> bytes:
    """An ONNX file with one matrix product, uint8 [batch,px,px,3] -> float32 [batch,3*px*px]."""
    features = 3 * px**2
    weight = np.random.default_rng(SEED).standard_normal((features, features), dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["crops"], ["bytes"]),
            helper.make_node("Cast", ["bytes"], ["flat"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "product",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["batch", px, px, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", features])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = helper.make_opsetid("", onnx_writer.OPSET)
    model_proto = helper.make_model(graph, opset_imports=[opset], ir_version=onnx_writer.IR_VERSION)
    content: bytes = model_proto.SerializeToString()
    return content
