"""Run exported files, which may take a fixed number of images per call."""

import numpy as np

from effnet_cli.engines.base import Crops, Engine, ModelOutputs, pad
from effnet_cli.models.card import ModelCard
from effnet_cli.system.errors import EffnetError


class ExportedEngine:
    """An `Engine` that wraps the one that runs the file."""

    def __init__(self, engine: Engine, card: ModelCard) -> None:
        self.precision = card.precision or "fp32"
        self.scores_are = engine.scores_are
        self._engine = engine
        self._batch_size: int | None = card.export["batch"]
        self._num_classes = len(card.classes)

    def __call__(self, crops: Crops) -> ModelOutputs:
        size = self._batch_size or len(crops)
        parts = [pad(crops[start : start + size], size) for start in range(0, len(crops), size)]
        outputs = [self._engine(part) for part in parts]
        scores = np.concatenate([one.scores for one in outputs])
        shape = [size * len(parts), self._num_classes]
        if list(scores.shape) != shape:
            raise EffnetError(
                f"The model returned shape {list(scores.shape)}, but its JSON lists "
                f"{self._num_classes} classes.",
                "Export it again.",
            )
        features = [one.features for one in outputs if one.features is not None]
        return ModelOutputs(
            scores[: len(crops)], np.concatenate(features)[: len(crops)] if features else None
        )
