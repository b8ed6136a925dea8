"""What a target is made from."""

from dataclasses import dataclass, replace

import onnx
from torch import nn

from effnet_cli.engines import onnx_writer
from effnet_cli.export import onnx_edits
from effnet_cli.export.quantize import Recipe, as_onnx
from effnet_cli.models.card import CARD_KEY, ModelCard
from effnet_cli.models.weights import Model
from effnet_cli.options import ExportOptions


@dataclass(frozen=True)
class ExportSource:
    """A network and what its exported form is to be; `card` is the one that the file carries.

    `recipe` is there if the form is int8. The module is in evaluation mode, float32, on the CPU.
    """

    network: Model
    card: ModelCard
    options: ExportOptions
    module: nn.Module
    recipe: Recipe | None = None

    def in_float32(self) -> "ExportSource":
        """The same network, for a format that halves its weights itself."""
        return replace(self, options=replace(self.options, precision="fp32"))

    def plain_graph(self) -> onnx.ModelProto:
        """The network as an ONNX graph in float32: pixels -> logits, open batch."""
        crop_px = self.card.preprocessing.crop_px
        content = onnx_writer.build_graph(self.module, crop_px, {CARD_KEY: self.card.to_json()})
        return onnx.load_model_from_string(content)

    def graph(self) -> onnx.ModelProto:
        """The network as the ONNX graph that was asked for."""
        graph = self.plain_graph()
        if self.recipe is not None:
            graph = as_onnx(graph, self.recipe)
        if self.options.precision == "fp16":
            onnx_edits.in_half(graph)
        if self.options.include_preprocessing:
            onnx_edits.with_preprocessing(graph, self.card)
        if self.options.batch is not None:
            onnx_edits.with_batch(graph, self.options.batch)
        return graph
