"""An exported file as an engine: it may take a fixed number of images in a call."""

import numpy as np

from effnet_cli.engines.base import Crops, Engine, Scores
from effnet_cli.models.card import ModelCard
from effnet_cli.system.errors import EffnetError


class ExportedEngine:
    """An `Engine` around the one that runs the file; checks what it gives."""

    def __init__(self, engine: Engine, card: ModelCard) -> None:
        self.precision = card.precision or engine.precision
        self.scores_are = engine.scores_are
        self._engine = engine
        self._batch: int | None = card.export["batch"]
        self._num_classes = len(card.classes)

    def __call__(self, crops: Crops) -> Scores:
        scores = self._in_batches(crops, self._batch or len(crops))
        shape = (len(crops), self._num_classes)
        if scores.shape != shape:
            raise EffnetError(
                f"The model's output has the shape {list(scores.shape)} instead of {list(shape)}: "
                f"its JSON names {self._num_classes} classes.",
                "Export it again.",
            )
        return scores

    def _in_batches(self, crops: Crops, size: int) -> Scores:
        """Calls of exactly `size` crops, the last one padded."""
        if size == len(crops):
            return self._engine(crops)
        parts = []
        for start in range(0, len(crops), size):
            part = crops[start : start + size]
            padding = np.zeros((size - len(part), *part.shape[1:]), dtype=part.dtype)
            full = np.concatenate([part, padding]) if len(padding) else part
            parts.append(self._engine(full)[: len(part)])
        return np.concatenate(parts)
