"""Choose the operating point of a run, and decide by it."""

import numpy as np
import numpy.typing as npt

from effnet_cli.models.card import ModelCard
from effnet_cli.models.operating_point import OperatingPoint
from effnet_cli.options import ImageOptions, PredictOptions
from effnet_cli.predict.records import Decision
from effnet_cli.system.errors import UsageError
from effnet_cli.system.text import pluralize

FIND_COMMAND = (
    "effnet evaluate DATA --model FILE --at sensitivity=0.95 --positive CLASS --save-to "
    "NEW.safetensors"
)


def choose_point(
    card: ModelCard, options: PredictOptions, images: ImageOptions
) -> OperatingPoint | None:
    """Return the operating point that `options` name; `None` if they name none.

    Raises:
        UsageError: the model has no such point, or its figures would not hold with the options.
    """
    name = options.operating_point
    if name is None:
        return None
    if options.unknown_below is not None:
        raise UsageError(
            "--operating-point cannot be combined with --unknown-below: its figures are for "
            "calling every image positive or negative.",
            "Omit one of them.",
        )
    if images.views > 1:
        raise UsageError(
            "--operating-point cannot be combined with --tta: its threshold was found without.",
            "Omit one of them.",
        )
    point = _find_point(card, name)
    if images.fit != point.fit:
        raise UsageError(
            f"The operating point {point.name} was found with --fit {point.fit}, not {images.fit}.",
            f"Use --fit {point.fit}, or find it again with effnet evaluate --fit {images.fit}.",
        )
    return point


def _find_point(card: ModelCard, name: str) -> OperatingPoint:
    points = card.operating_points
    if not points:
        again = ", and export that" if card.export else ""
        raise UsageError(
            "--operating-point requires a model that stores one.",
            f"Find it on labelled images: {FIND_COMMAND}{again}.",
        )
    found = [point for point in points if name in (point.name, point.metric)]
    if len(found) != 1:
        count = "no operating point" if not found else f"{len(found)} operating points"
        raise UsageError(
            f"The model has {count} {name!r}.",
            f"Use {' or '.join(point.name for point in found or points)}.",
        )
    return found[0]


def decide(point: OperatingPoint, probability: float) -> Decision:
    """Decide by the probability of the positive class."""
    return Decision(
        name=point.name,
        label=point.positive,
        threshold=point.threshold,
        probability=probability,
        is_positive=probability >= point.threshold,
    )


def put_decision_first(
    ranked: npt.NDArray[np.intp], positive: int, is_positive: bool
) -> npt.NDArray[np.intp]:
    """Return class indexes, best first, with the decided one in front: `positive`, or the best
    other one.
    """
    first = positive if is_positive else int(ranked[ranked != positive][0])
    return np.concatenate([[first], ranked[ranked != first]])


def describe(point: OperatingPoint) -> str:
    """Return a note about an operating point that is used."""
    low, high = point.sensitivity.interval
    least, most = point.specificity.interval
    return (
        f"Operating point {point.name}: {point.positive!r} from a probability of "
        f"{point.threshold:.15g}. Its sensitivity was {point.sensitivity.value:.1%} (95 % interval "
        f"{low:.1%} to {high:.1%}) on {pluralize(point.positives, 'positive image')}, its "
        f"specificity {point.specificity.value:.1%} ({least:.1%} to {most:.1%}) on "
        f"{point.negatives:,} negative."
    )
