"""Turn scores into the most probable classes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.engines.base import card_probabilities, scores_of, to_probabilities
from effnet_cli.images.finder import ImageInput
from effnet_cli.models.card import ModelCard
from effnet_cli.models.familiarity import Familiarity
from effnet_cli.models.label_scores import LabelScores
from effnet_cli.models.operating_point import OperatingPoint
from effnet_cli.options import ImageOptions, PredictOptions
from effnet_cli.predict.operating_point import choose_point, decide, put_decision_first
from effnet_cli.predict.pipeline import ScoredImage
from effnet_cli.predict.records import Decision, ErrorInfo, ImageResult, Prediction
from effnet_cli.system.errors import ImageError, UsageError

UNKNOWN = "unknown"  # the label used when the model abstains


@dataclass(frozen=True, slots=True)
class Ranking:
    """Turns scored images into results with the `top_k` most probable classes of `card`.

    A model with several labels gives all those from their thresholds on, or none.

    The first prediction is `unknown` if the top probability is below `min_probability`, or if the
    image resembles those that the model was trained on less than `familiarity` asks for. With a
    `point`, it is what the point decides.
    """

    card: ModelCard
    top_k: int = 5
    min_probability: float = 0.0
    familiarity: Familiarity | None = None
    point: OperatingPoint | None = None
    keep_crops: bool = False

    def __call__(self, image: ImageInput, scored: ScoredImage | ImageError) -> ImageResult:
        if isinstance(scored, ImageError):
            return ImageResult(image.name, error=ErrorInfo(scored.kind, str(scored)))
        crop = scored.crops[0] if self.keep_crops else None
        if self.card.label_scores is not None:
            labels = self._choose_labels(scored, self.card.label_scores)
            return ImageResult(image.name, labels, crop=crop, is_multi_label=True)
        predictions, decision = self._rank(scored)
        return ImageResult(image.name, predictions, crop=crop, operating_point=decision)

    def _choose_labels(self, scored: ScoredImage, labels: LabelScores) -> tuple[Prediction, ...]:
        """Return the labels that an image has, best first: all of them, or none."""
        (probabilities,) = card_probabilities(self.card, scored.scores[None], scores_of(self.card))
        (is_given,) = labels.decide(probabilities[None])
        order = np.argsort(-probabilities, kind="stable")
        given = [int(index) for index in order if is_given[index]]
        return tuple(
            Prediction(
                rank, index, self.card.classes[index], probability=float(probabilities[index])
            )
            for rank, index in enumerate(given, start=1)
        )

    def _rank(self, scored: ScoredImage) -> tuple[tuple[Prediction, ...], Decision | None]:
        """Return the `top_k` classes of an image, best first, and what was decided."""
        card, scores = self.card, scored.scores
        (probabilities,) = to_probabilities(scores[None], scores_of(card), card.temperature)
        ranked, decision = _top(scores.astype(np.float64), self.top_k + 1), None
        if self.point is not None:
            positive = card.classes.index(self.point.positive)
            decision = decide(self.point, float(probabilities[positive]))
            ranked = put_decision_first(ranked, positive, decision.is_positive)
        best: list[tuple[int | None, str, float]] = [
            (int(index), card.classes[index], float(probabilities[index]))
            for index in ranked[: self.top_k]
        ]
        probability = best[0][-1]
        if probability < self.min_probability or self._is_unfamiliar(scored):
            best = [(None, UNKNOWN, probability), *best[: self.top_k - 1]]
        rows = tuple(Prediction(rank, *one) for rank, one in enumerate(best, start=1))
        return rows, decision

    def _is_unfamiliar(self, scored: ScoredImage) -> bool:
        if self.familiarity is None or scored.features is None:
            return False
        (share,) = self.familiarity.measure(scored.features[None])
        return bool(share < self.familiarity.unknown_below)


def new_ranking(card: ModelCard, options: PredictOptions, images: ImageOptions) -> Ranking:
    """Create the ranking that `options` describe; raise `UsageError` if `unknown_below` is `auto`
    and the model has no threshold, or if it has no such operating point.
    """
    if card.label_scores is not None:
        _check_multi_label(options)
    point = choose_point(card, options, images)
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
        point=point,
        keep_crops=options.keep_crops,
    )


def _check_multi_label(options: PredictOptions) -> None:
    for flag, value in (
        ("--unknown-below", options.unknown_below),
        ("--operating-point", options.operating_point),
    ):
        if value is not None:
            raise UsageError(
                f"{flag} is for models with one class for each image; this one has several labels, "
                "each with a threshold.",
                f"Omit {flag}.",
            )


def _top(scores: npt.NDArray[np.float64], top_k: int) -> npt.NDArray[np.intp]:
    """Return the indexes of the `top_k` largest `scores` [C], best first, ties in class order."""
    top_k = min(top_k, len(scores))
    least = np.partition(scores, -top_k)[-top_k]
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:top_k]
