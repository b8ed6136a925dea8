"""Evaluate a model that gives an image several labels."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.labelled import LabelledImages
from effnet_cli.engines.base import Scores, card_probabilities
from effnet_cli.evaluate.label_metrics import Flags, compute_label_metrics
from effnet_cli.evaluate.metrics import flags_interval
from effnet_cli.evaluate.predictions import score_images
from effnet_cli.evaluate.records import (
    FailedImage,
    LabelConfusion,
    LabelEvaluation,
    LabelMistake,
)
from effnet_cli.models.label_scores import LabelScores, Probabilities
from effnet_cli.options import EvaluateTask
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.reporter import Reporter
from effnet_cli.system.text import quote_names

MAX_MISTAKEN_IMAGES = 100
MAX_CONFUSIONS = 50


def check_task(task: EvaluateTask) -> None:
    """Raise UsageError if an option has no meaning for several labels."""
    for flag, value in (
        ("--compare", task.compare),
        ("--calibrate-to", task.calibrate_to),
        ("--at", task.at or None),
    ):
        if value is not None:
            raise UsageError(
                f"{flag} is for models with one class for each image; this one has several labels.",
                f"Omit {flag}.",
            )


def evaluate_labels(
    task: EvaluateTask,
    classifier: Classifier,
    data: LabelledImages,
    *,
    scores: LabelScores,
    reporter: Reporter,
) -> LabelEvaluation:
    """Evaluate a model on the images of `data`.

    Raises:
        UsageError: no image can be opened, or the dataset and the model have no label in common.
    """
    names = classifier.card.classes
    targets, unknown = _match_labels(data, names)
    if unknown:
        reporter.note(f"The model has no label {quote_names(unknown)}: they are left out.")
    found: list[Scores] = []
    places, errors = score_images(
        classifier, data.paths, found.append, what="Evaluation", reporter=reporter
    )
    probabilities = card_probabilities(classifier.card, np.stack(found), classifier.scores_are)
    decided = scores.decide(probabilities)
    metrics = compute_label_metrics(
        probabilities,
        targets[places],
        np.delete(targets, places, axis=0),
        names=names,
        thresholds=scores.thresholds,
    )
    is_exact = np.zeros(len(targets), dtype=np.bool_)
    is_exact[places] = (decided == targets[places]).all(axis=1)
    return LabelEvaluation(
        **vars(metrics),
        data=str(task.root),
        split=data.split,
        model=classifier.name,
        engine=classifier.engine,
        precision=classifier.precision,
        exact_interval=flags_interval(is_exact, data.groups),
        groups=len(np.unique(data.groups[data.groups >= 0])),
        confused=tuple(_count_confusions(targets[places], decided, names)),
        mistakes=tuple(
            _list_mistakes(
                [data.paths[int(place)] for place in places],
                targets[places],
                decided,
                probabilities=probabilities,
                names=names,
            )
        ),
        failures=tuple(_list_failures(data.paths, targets, errors, names=names)),
        unknown_labels=tuple(unknown),
    )


def _list_failures(
    paths: Sequence[str],
    targets: Flags,
    errors: Mapping[int, ImageError],
    *,
    names: Sequence[str],
) -> Iterator[FailedImage]:
    for place, error in sorted(errors.items()):
        labels = ", ".join(_names(targets[place], names))
        yield FailedImage(paths[place], labels, kind=error.kind, message=str(error))


def _match_labels(data: LabelledImages, names: Sequence[str]) -> tuple[Flags, list[str]]:
    """Return which of the model's labels each image has [N,C], and the labels it lacks."""
    indexes = {name: index for index, name in enumerate(names)}
    known = [place for place, name in enumerate(data.classes) if name in indexes]
    if not known:
        raise UsageError(
            f"None of the labels {quote_names(data.classes)} of {data.root!r} is one of the model.",
            f"Use a dataset with labels such as {quote_names(names)}.",
        )
    targets = np.zeros((len(data.labels), len(names)), dtype=np.bool_)
    columns = [indexes[data.classes[place]] for place in known]
    targets[:, columns] = data.targets[:, known]
    return targets, [name for name in data.classes if name not in indexes]


def _count_confusions(
    targets: Flags, decided: Flags, names: Sequence[str]
) -> Iterator[LabelConfusion]:
    """Yield the pairs of a label that was missed and one that was given instead, most frequent
    first.
    """
    missed, wrong = targets & ~decided, decided & ~targets
    pairs = missed.T.astype(np.intp) @ wrong
    counts = Counter({(int(a), int(b)): int(pairs[a, b]) for a, b in np.argwhere(pairs)})
    for (one, other), images in counts.most_common(MAX_CONFUSIONS):
        yield LabelConfusion(names[one], names[other], images)


def _list_mistakes(
    paths: Sequence[str],
    targets: Flags,
    decided: Flags,
    *,
    probabilities: Probabilities,
    names: Sequence[str],
) -> Iterator[LabelMistake]:
    """Yield the images with the labels that are most surprising, these first."""
    surprise = np.abs(probabilities - targets) * (decided != targets)
    order = np.argsort(-surprise.max(axis=1), kind="stable")
    for place in order[:MAX_MISTAKEN_IMAGES].tolist():
        if surprise[place].any():
            yield LabelMistake(
                paths[place],
                labels=_names(targets[place], names),
                missed=_names(targets[place] & ~decided[place], names),
                wrong=_names(decided[place] & ~targets[place], names),
                probability=float(probabilities[place, int(surprise[place].argmax())]),
            )


def _names(flags: npt.NDArray[np.bool_], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(names[int(index)] for index in np.flatnonzero(flags))
