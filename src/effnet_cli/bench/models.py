"""A model to measure, in the form sent to a worker process.

This module does not import torch, so that engines that do not need it are measured without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_cli.engines.registry import ENGINES
from effnet_cli.models.card import ModelCard
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import Variant
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import EngineName, FileKind, ModelOptions, Precision
from effnet_cli.system.errors import EffnetError

if TYPE_CHECKING:
    from torch import nn

SEEDED_BUILDER = "effnet_cli.bench.prepare:build_seeded"
ONNX_EXPORT = {"target": "onnx", "precision": "fp32", "quantize": None, "batch": None}


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model to measure.

    If `options` are set, they say what to load; an exported file has a `precision`, and may have a
    `fixed_batch`. If not, the weights are random, with a fixed seed: `graph` is the ONNX file for
    engines that need one (`None` if it cannot be written), and `builder` is the `module:function`
    that builds the torch module from the variant. `is_limit` marks the matrix product that measures
    an engine's peak speed, and takes crops without preprocessing. `outputs` counts the scores.
    """

    name: str
    variant: Variant
    weights: str
    outputs: int
    kind: FileKind = "tensors"
    options: ModelOptions | None = None
    precision: Precision | None = None
    fixed_batch: int | None = None
    graph: Path | None = None
    builder: str = SEEDED_BUILDER
    is_limit: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a crop."""
        px = self.variant.preprocessing.crop_px
        return px, px, 3

    def resolve(self, engine: EngineName) -> Model:
        """Return the model for `engine` to load; EffnetError if there is no file for it."""
        if self.options is not None:
            return resolve_model(self.options)
        if "onnx" not in ENGINES[engine].kinds:
            export = {"include_preprocessing": True} if self.is_limit else {}
            return Model(self.variant, self._card(export), module=self.build())
        if self.graph is None:
            raise EffnetError(
                f"{self.name} uses operators that effnet cannot export to ONNX.",
                "Use --engine torch.",
            )
        card = self._card({"include_preprocessing": self.is_limit, **ONNX_EXPORT})
        return Model(self.variant, card, self.graph)

    def build(self) -> "nn.Module":
        """Build the torch module with seeded weights."""
        module, function = self.builder.split(":")
        built: nn.Module = getattr(import_module(module), function)(self.variant)
        return built

    def _card(self, export: Mapping[str, Any]) -> ModelCard:
        card = replace(imagenet_card(self.variant), export=export)
        if self.outputs != len(card.classes):
            card = replace(card, classes=tuple(map(str, range(self.outputs))))
        return card
