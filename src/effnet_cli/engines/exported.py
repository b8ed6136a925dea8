"""An exported network behind the same callable as any other: it may want its images as bytes, or
a fixed number of them.
"""

import numpy as np
import numpy.typing as npt

from effnet_cli.engines.base import Engine, Logits, Pixels
from effnet_cli.models.card import ModelCard
from effnet_cli.system.errors import EffnetError

# Softmax gives 0 for what float32 cannot hold; its logarithm is to stay finite.
LEAST_PROBABILITY = 1e-38


class AsExported:
    """An `Engine` around the one that runs the file."""

    def __init__(self, engine: Engine, card: ModelCard) -> None:
        self.name, self.device = engine.name, engine.device
        self.precision = card.export.get("quantize") or card.export["precision"]
        self._engine, self._card = engine, card
        self._batch: int | None = card.export["batch"]

    def __call__(self, pixels: Pixels) -> Logits:
        with_preprocessing = self._card.export["include_preprocessing"]
        values = self._in_batches(self._bytes_of(pixels) if with_preprocessing else pixels)
        num_classes = len(self._card.classes)
        if values.shape != (len(pixels), num_classes):
            raise EffnetError(
                f"The network answers with the shape {list(values.shape)} where "
                f"{[len(pixels), num_classes]} belongs: its JSON names {num_classes} classes.",
                "Export it again.",
            )
        return self._logits_of(values) if with_preprocessing else values

    def _in_batches(self, pixels: npt.NDArray[np.generic]) -> Logits:
        if self._batch is None:
            return self._engine(pixels)  # type: ignore[arg-type]
        parts = []
        for start in range(0, len(pixels), self._batch):
            part = pixels[start : start + self._batch]
            padding = np.zeros((self._batch - len(part), *part.shape[1:]), dtype=part.dtype)
            full = np.concatenate([part, padding]) if len(padding) else part
            parts.append(self._engine(full)[: len(part)])  # type: ignore[arg-type]
        return np.concatenate(parts)

    def _bytes_of(self, pixels: Pixels) -> npt.NDArray[np.uint8]:
        """The image that was normalised, uint8 [N,H,W,3]: exact, as it held whole numbers."""
        p = self._card.preprocessing
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (p.mean, p.std))
        values = np.rint((pixels * std + mean) * np.float32(255))
        return np.ascontiguousarray(values.astype(np.uint8).transpose(0, 2, 3, 1))

    def _logits_of(self, probabilities: Logits) -> Logits:
        """Logits with the same softmax at the card's temperature."""
        logarithms = np.log(np.maximum(probabilities, np.float32(LEAST_PROBABILITY)))
        return (logarithms * self._card.temperature).astype(np.float32)
