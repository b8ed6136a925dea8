"""Turn scores into the most probable classes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.engines.base import scores_of, to_probabilities
from effnet_cli.images.finder import ImageInput
from effnet_cli.models.card import ModelCard
from effnet_cli.models.familiarity import Familiarity
from effnet_cli.options import PredictOptions
from effnet_cli.predict.pipeline import ScoredImage
from effnet_cli.predict.records import ErrorInfo, ImageResult, Prediction
from effnet_cli.system.errors import ImageError, UsageError

UNKNOWN = "unknown"  # the label used when the model abstains


@dataclass(frozen=True, slots=True)
class Ranking:
    """Turns scored images into results with the `top_k` most probable classes of `card`.

    The first prediction is `unknown` if the top probability is below `min_probability`, or if the
    image resembles those that the model was trained on less than `familiarity` asks for.
    """

    card: ModelCard
    top_k: int = 5
    min_probability: float = 0.0
    familiarity: Familiarity | None = None
    keep_crops: bool = False

    def __call__(self, image: ImageInput, scored: ScoredImage | ImageError) -> ImageResult:
        if isinstance(scored, ImageError):
            return ImageResult(image.name, error=ErrorInfo(scored.kind, str(scored)))
        crop = scored.crops[0] if self.keep_crops else None
        return ImageResult(image.name, self._rank(scored), crop=crop)

    def _rank(self, scored: ScoredImage) -> tuple[Prediction, ...]:
        """Return the `top_k` classes of an image, best first."""
        card, scores = self.card, scored.scores
        (probabilities,) = to_probabilities(scores[None], scores_of(card), card.temperature)
        best: list[tuple[int | None, str, float]] = [
            (int(index), card.classes[index], float(probabilities[index]))
            for index in _top(scores.astype(np.float64), self.top_k)
        ]
        probability = best[0][-1]
        if probability < self.min_probability or self._is_unfamiliar(scored):
            best = [(None, UNKNOWN, probability), *best[: self.top_k - 1]]
        return tuple(Prediction(rank, *one) for rank, one in enumerate(best, start=1))

    def _is_unfamiliar(self, scored: ScoredImage) -> bool:
        if self.familiarity is None or scored.features is None:
            return False
        (share,) = self.familiarity.measure(scored.features[None])
        return bool(share < self.familiarity.unknown_below)


def new_ranking(card: ModelCard, options: PredictOptions) -> Ranking:
    """Create the ranking that `options` describe; raise `UsageError` if `unknown_below` is `auto`
    and the model has no threshold.
    """
    threshold, familiarity = options.unknown_below, None
    if threshold == "auto":
        threshold, familiarity = card.unknown_below, card.familiarity
    if options.unknown_below == "auto" and threshold is None and familiarity is None:
        raise UsageError(
            "--unknown-below auto requires a fine-tuned model that has a threshold.",
            "Pass a probability, such as --unknown-below 0.5.",
        )
    return Ranking(
        card,
        options.top_k,
        min_probability=threshold or 0.0,
        familiarity=familiarity,
        keep_crops=options.keep_crops,
    )


def _top(scores: npt.NDArray[np.float64], top_k: int) -> npt.NDArray[np.intp]:
    """Return the indexes of the `top_k` largest `scores` [C], best first, ties in class order."""
    top_k = min(top_k, len(scores))
    least = np.partition(scores, -top_k)[-top_k]
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:top_k]
