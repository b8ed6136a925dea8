"""A network to measure, as it travels to the process that measures it: nothing here imports torch,
so that an engine that needs none is measured without.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from effnet_cli.engines import ENGINES
from effnet_cli.models.card import ModelCard
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import Variant
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import EngineName, FileKind, ModelOptions, Precision
from effnet_cli.system.errors import EffnetError

# What an ONNX graph that was written for a measurement says of itself.
AS_EXPORTED = {
    "target": "onnx",
    "precision": "fp32",
    "quantize": None,
    "batch": None,
}


@dataclass(frozen=True, slots=True)
class BenchModel:
    """What is measured.

    `options` name its file; without them it is seeded, and `graph` is its ONNX file for engines
    that need one (`None` where it cannot be written). `builder` is `module:function`, which makes
    the torch module of what is seeded from its variant. `shape` is that of one crop, `outputs` the
    number of scores. `takes_bytes`: its graph and its module take crops as they are.
    """

    name: str
    variant: Variant
    weights: str
    kind: FileKind
    shape: tuple[int, int, int]
    outputs: int
    options: ModelOptions | None = None
    graph: Path | None = None
    builder: str = "effnet_cli.bench.prepare:seeded"
    takes_bytes: bool = False

    def network(self, engine: EngineName) -> Model:
        """What `engine` loads.

        Raises:
            EffnetError: there is nothing for it.
        """
        if self.options is not None:
            return resolve_model(self.options)
        if "onnx" not in ENGINES[engine].kinds:
            module, function = self.builder.split(":")
            built = getattr(import_module(module), function)(self.variant)
            card = self._card()
            if self.takes_bytes:
                card = replace(card, export={"include_preprocessing": True})
            return Model(self.variant, card, module=built)
        if self.graph is None:
            raise EffnetError(
                f"{self.name} has operators that are not written as a graph here.",
                "Use --engine torch.",
            )
        about = {**AS_EXPORTED, "include_preprocessing": self.takes_bytes}
        return Model(self.variant, replace(self._card(), export=about), self.graph)

    @property
    def fixed_batch(self) -> int | None:
        """The only number of images in a call that an exported file takes, if there is one."""
        if self.options is None or self.kind == "tensors":
            return None
        batch: int | None = resolve_model(self.options).card.export["batch"]
        return batch

    @property
    def exported_precision(self) -> Precision | None:
        """What an exported file computes in, if it is one."""
        if self.options is None or self.kind == "tensors":
            return None
        export = resolve_model(self.options).card.export
        precision: Precision = export.get("quantize") or export["precision"]
        return precision

    def runs_on(self, engine: EngineName) -> bool:
        """Whether an engine runs what it is in."""
        kinds = ENGINES[engine].kinds
        return self.kind in kinds if self.options is not None else "tensors" in kinds

    def _card(self) -> ModelCard:
        card = imagenet_card(self.variant.name, self.variant.preprocessing)
        if self.outputs == len(card.classes):
            return card
        return replace(card, classes=tuple(map(str, range(self.outputs))))
