"""The source from which every target is written."""

from dataclasses import asdict, dataclass, replace

import onnx
from torch import nn

from effnet_cli.engines import onnx_writer
from effnet_cli.export import onnx_edits
from effnet_cli.export.quantize import Int8Recipe, to_int8
from effnet_cli.models.card import CARD_KEY, ModelCard
from effnet_cli.models.feature_maps import FeatureMaps
from effnet_cli.models.weights import Model
from effnet_cli.options import ExportOptions, Precision


@dataclass(frozen=True)
class ExportSource:
    """A model and the form in which to export it.

    `card` is written into the file. `module` is the model in evaluation mode, float32, on the CPU.
    `recipe` is set for int8.
    """

    model: Model
    card: ModelCard
    options: ExportOptions
    module: nn.Module
    recipe: Int8Recipe | None = None

    def in_fp32(self) -> "ExportSource":
        """Return the same source in fp32."""
        options = replace(self.options, precision="fp32", quantize=None)
        card = replace(self.card, export={**self.card.export, **asdict(options)})
        return replace(self, card=card, options=options, recipe=None)

    def feature_maps(self) -> FeatureMaps:
        """Return the part of the module that `--feature-maps` exports."""
        architecture = self.model.variant.architecture
        return FeatureMaps(self.module, architecture, self.card.preprocessing).eval()

    def float_graph(self) -> onnx.ModelProto:
        """Return the model as a float32 ONNX graph from pixels to logits, for any batch size.

        With `--include-features`, it also outputs the features; with `--feature-maps`, only these.
        """
        metadata = {CARD_KEY: self.card.to_json()}
        if self.options.feature_maps:
            return onnx.load_model_from_string(
                onnx_writer.build_map_graph(self.feature_maps(), metadata)
            )
        content = onnx_writer.build_graph(
            self.module,
            self.card.preprocessing.crop_px,
            metadata,
            pool="avg" if self.options.include_features else None,
        )
        return onnx.load_model_from_string(content)

    def graph(self, precision: Precision = "fp32") -> onnx.ModelProto:
        """Return the ONNX graph in the given precision, with the other options applied."""
        graph = self.float_graph()
        if precision == "int8" and self.recipe is not None:
            graph = to_int8(graph, self.recipe)
        if precision == "fp16":
            onnx_edits.to_fp16(graph)
        if self.options.include_preprocessing:
            onnx_edits.add_preprocessing(graph, self.card)
        if self.options.batch is not None:
            onnx_edits.set_batch(graph, self.options.batch)
        return graph
