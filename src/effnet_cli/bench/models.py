"""A model to measure, as it travels to a worker process; imports no torch, so that engines which
need none are measured without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from effnet_cli.engines.registry import ENGINES
from effnet_cli.models.card import ModelCard
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import Variant
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import EngineName, FileKind, ModelOptions, Precision
from effnet_cli.system.errors import EffnetError

ONNX_EXPORT = {"target": "onnx", "precision": "fp32", "quantize": None, "batch": None}


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model to measure.

    With `options` it is a file, and `export` the record of an exported one. Without, it has seeded
    weights: `graph` is its ONNX file for the engines that need one (`None` if it cannot be
    written), and `builder`, as `module:function`, makes its torch module from the variant; both
    take crops as they are if it `takes_bytes`. `outputs` is the number of scores.
    """

    name: str
    variant: Variant
    weights: str
    outputs: int
    kind: FileKind = "tensors"
    options: ModelOptions | None = None
    export: Mapping[str, Any] = field(default_factory=dict)
    graph: Path | None = None
    builder: str = "effnet_cli.bench.prepare:build_seeded"
    takes_bytes: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a crop."""
        px = self.variant.preprocessing.crop_px
        return px, px, 3

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that an exported file takes, if there is one."""
        return self.export.get("batch")

    @property
    def exported_precision(self) -> Precision | None:
        return self.export.get("quantize") or self.export.get("precision")

    def runs_on(self, engine: EngineName) -> bool:
        """Whether an engine runs this kind of model."""
        return self.kind in ENGINES[engine].kinds

    def resolve(self, engine: EngineName) -> Model:
        """What `engine` loads.

        Raises:
            EffnetError: there is no file for it.
        """
        if self.options is not None:
            return resolve_model(self.options)
        export = {"include_preprocessing": True} if self.takes_bytes else {}
        if "onnx" not in ENGINES[engine].kinds:
            module, function = self.builder.split(":")
            built = getattr(import_module(module), function)(self.variant)
            return Model(self.variant, self._card(export), module=built)
        if self.graph is None:
            raise EffnetError(
                f"{self.name} has operators that effnet cannot write as a graph.",
                "Use --engine torch.",
            )
        card = self._card({"include_preprocessing": False, **ONNX_EXPORT, **export})
        return Model(self.variant, card, self.graph)

    def _card(self, export: Mapping[str, Any]) -> ModelCard:
        card = replace(imagenet_card(self.variant.name, self.variant.preprocessing), export=export)
        if self.outputs != len(card.classes):
            card = replace(card, classes=tuple(map(str, range(self.outputs))))
        return card
