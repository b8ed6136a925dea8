"""Prepares models in the form that engines load."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, numpy_helper, parser
from torch import Tensor, nn

from effnet_cli.bench.models import SEEDED_BUILDER, BenchModel
from effnet_cli.engines import onnx_writer
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.engines.registry import device_type_of
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models import build, variants
from effnet_cli.models.variants import Variant, find_variant
from effnet_cli.models.weights import find_local_weights, resolve_model
from effnet_cli.options import ModelOptions
from effnet_cli.system.errors import UsageError
from effnet_cli.system.reporter import Reporter

OUTPUTS = 1000  # the classes of ImageNet-1k
SEED = 0
TORCHVISION_BUILDER = "effnet_cli.bench.prepare:build_torchvision"
# Side of the crops of the matrix product. Both matrices are n by n, where n is the number of values
# in a crop: 2,028, 8,112 and 4,107. On a CPU, the product takes a twentieth of a second.
PRODUCT_PX = {"cpu": 26, "cuda": 52, "mps": 37}


def prepare_variant(name: str, folder: Path, reporter: Reporter) -> BenchModel:
    """Prepare a variant with its published weights if available, else with seeded weights."""
    variant = find_variant(name)
    if find_local_weights(variant) is None:
        return _prepare_seeded(variant, folder)
    options = ModelOptions(variant.name)
    get_compiled(resolve_model(options), reporter)  # so that no measured process has to compile it
    return BenchModel(variant.name, variant, "pretrained", outputs=OUTPUTS, options=options)


def prepare_file(path: Path, reporter: Reporter) -> BenchModel:
    """Prepare a model file or an exported file; UsageError if it cannot be used."""
    options = ModelOptions(model=path)
    resolved = resolve_model(options)
    card, kind = resolved.card, resolved.file_kind
    if kind == "tensors":
        get_compiled(resolved, reporter)
    return BenchModel(
        path.name if path.is_file() else path.resolve().name,
        replace(resolved.variant, preprocessing=card.preprocessing),
        "yours",
        outputs=len(card.classes),
        kind=kind,
        options=options,
        precision=card.precision,
        fixed_batch=card.export.get("batch"),
    )


def prepare_torchvision(name: str, folder: Path) -> BenchModel:
    """Prepare a torchvision classifier, which must exist, with seeded weights."""
    weights: Any = build.import_torchvision("torchvision.models").get_model_weights(name).DEFAULT
    transforms, meta = weights.transforms(), weights.meta
    variant = Variant(
        name=name,
        architecture=replace(
            find_variant(variants.DEFAULT_VARIANT).architecture,
            name=name,
            parameters=meta["num_params"],
            paper_px=transforms.crop_size[0],
        ),
        weight_set=str(weights),
        has_same_padding=False,
        eps=1e-5,
        preprocessing=Preprocessing(
            transforms.resize_size[0],
            transforms.crop_size[0],
            interpolation="bilinear",
            **variants.IMAGENET,
        ),
        giga_multiply_adds=meta["_ops"],
        top1=meta["_metrics"]["ImageNet-1K"]["acc@1"],
        top5=meta["_metrics"]["ImageNet-1K"]["acc@5"],
        source=variants.WeightsSource(file_name="", sha256="", size_mb=0.0),
    )
    return _prepare_seeded(variant, folder, builder=TORCHVISION_BUILDER)


def build_torchvision(variant: Variant) -> nn.Module:
    """Build the torchvision classifier of this name as `build_seeded` does."""
    models = build.import_torchvision("torchvision.models")
    return _seed(lambda: models.get_model(variant.name, num_classes=OUTPUTS))


def check_torchvision(name: str) -> None:
    """Raise UsageError unless torchvision has a classifier of this name."""
    models = build.import_torchvision("torchvision.models")
    known = models.list_models(models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Use, for example, resnet50."
        raise UsageError(f"torchvision has no classifier {name!r}.", hint)


def build_seeded(variant: Variant) -> nn.Module:
    """Build a variant's untrained module in evaluation mode, always with the same weights."""
    return _seed(lambda: build.build(variant, OUTPUTS))


def _seed(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return make().eval().requires_grad_(False)


def _prepare_seeded(variant: Variant, folder: Path, builder: str = SEEDED_BUILDER) -> BenchModel:
    model = BenchModel(variant.name, variant, "seeded", outputs=OUTPUTS, builder=builder)
    path = folder / f"{variant.name}.onnx"
    try:
        path.write_bytes(onnx_writer.build_graph(model.build(), model.shape[0], {}))
    except (NotImplementedError, torch.fx.proxy.TraceError):  # torchvision's other architectures
        return model
    return replace(model, graph=path)


# --- the matrix product -------------------------------------------------------------------------


def prepare_product(device: str, folder: Path) -> BenchModel:
    """Prepare a product of two n-by-n matrices as a model: n crops of n values to n scores each."""
    px = PRODUCT_PX[device_type_of(device)]
    features, name, base = 3 * px**2, "matrix product", find_variant(variants.DEFAULT_VARIANT)
    preprocessing = replace(base.preprocessing, resize_px=px, crop_px=px)
    path = folder / f"product-{features}.onnx"
    if not path.exists():
        path.write_bytes(_product_graph(px))
    return BenchModel(
        name,
        replace(base, name=name, preprocessing=preprocessing),
        "seeded",
        outputs=features,
        fixed_batch=features,
        graph=path,
        builder=f"{__name__}:build_product",
        is_limit=True,
    )


class _Product(nn.Linear):
    """The matrix product, uint8 [N,H,W,3] -> float32 [N,n], with n = 3*H*W features."""

    def forward(self, crops: Tensor) -> Tensor:
        return super().forward(crops.float().flatten(1))


def build_product(variant: Variant) -> nn.Module:
    """Build the torch module of the matrix product."""
    features = 3 * variant.preprocessing.crop_px**2
    layer = _Product(features, features, bias=False).eval().requires_grad_(False)
    layer.weight.normal_(generator=torch.Generator().manual_seed(SEED))
    return layer


def _product_graph(px: int) -> bytes:
    """Return an ONNX file with one product, uint8 [batch,px,px,3] -> float32 [batch,3*px*px]."""
    features = 3 * px**2
    weight = np.random.default_rng(SEED).standard_normal((features, features), dtype=np.float32)
    proto = parser.parse_model(
        f"""<ir_version: {onnx_writer.IR_VERSION}, opset_import: ["": {onnx_writer.OPSET}]>
        product (uint8[batch, {px}, {px}, 3] crops) => (float[batch, {features}] logits) {{
            bytes = Flatten (crops)
            flat = Cast <to = {TensorProto.FLOAT}> (bytes)
            logits = MatMul (flat, weight)
        }}"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    return bytes(proto.SerializeToString())
