"""How good a model is on labelled images, and where it errs."""

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effnet_cli import engines
from effnet_cli.datasets.labelled import LabelledImages, load_labelled
from effnet_cli.datasets.saved_split import (
    SPLIT_FILE_NAME,
    exclude_training_images,
    locate_images,
)
from effnet_cli.engines import Scores
from effnet_cli.evaluate.label_map import LabelMap, join_words, match_labels
from effnet_cli.evaluate.metrics import (
    area_under_roc,
    calibration,
    compute_metrics,
    confusion,
    is_among_top,
    paired_difference,
    share_interval,
)
from effnet_cli.evaluate.records import (
    Comparison,
    ConfusedPair,
    ConfusionMatrix,
    Evaluation,
    FailedImage,
    LabelledPrediction,
)
from effnet_cli.images.finder import ImageInput
from effnet_cli.models.card import ModelCard
from effnet_cli.options import (
    EngineOptions,
    EvaluateTask,
    FinetuneTask,
    ModelOptions,
    PredictOptions,
)
from effnet_cli.output.text import pluralize
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.reporter import SILENT, Reporter

MAX_MISTAKES = 100  # that are kept, the most confident first
MAX_CONFUSED = 50  # pairs of classes
MAX_LABEL_ERRORS = 100
MAX_CONFUSION_CLASSES = 200  # of which the whole matrix is given
LABEL_ERROR_LIBRARY = "cleanlab"
INSTALL_LIBRARY = "pip install 'effnet-cli[labels]'"
TOP_K = 5


@dataclass(slots=True)
class _Answers:
    """Scores of the images that could be opened, and which those are."""

    scores: Scores
    places: npt.NDArray[np.intp]
    faults: dict[int, ImageError] = field(default_factory=dict)


def evaluate(task: EvaluateTask, reporter: Reporter = SILENT) -> Evaluation:
    """Judge a model on labelled images; with `task.compare` a second one on the same.

    Raises:
        UsageError: no such model or images, or no class in common.
        EffnetError: the engine cannot be loaded or used.
    """
    classifier = _classifier(task, task.model, reporter)
    other = None if task.compare is None else _classifier(task, task.compare, reporter)
    data = load_labelled(task.root, task.split)
    data = _exclude_training_images(task, task.model, classifier.card, data, reporter)
    if other is not None and task.compare is not None:
        data = _exclude_training_images(task, task.compare, other.card, data, reporter)
    match = match_labels(data.classes, classifier.card.classes)
    for line in describe_label_map(match, data, classifier.card):
        reporter.note(line)
    known = np.array([-1 if index is None else index for index in match.indexes])[data.labels]
    is_known = known >= 0
    images = [data.paths[int(place)] for place in np.flatnonzero(is_known)]
    labels: npt.NDArray[np.intp] = known[is_known]
    answers = _answers(classifier, images, "Evaluation", reporter)
    found = _evaluation(task, classifier, data, match, images, labels, answers)
    if other is None:
        return found
    return _compared(task, found, other, data, images, labels, answers, reporter)


def validation_of(task: FinetuneTask, folder: Path) -> EvaluateTask:
    """What evaluates the model in a run folder on the validation images of its training."""
    model, engine = ModelOptions(model=folder), EngineOptions(task.device)
    options = PredictOptions(workers=task.workers)
    return EvaluateTask(folder / SPLIT_FILE_NAME, model, engine, task.images, options, "val")


def _classifier(task: EvaluateTask, model: ModelOptions, reporter: Reporter) -> Classifier:
    return Classifier(model, task.engine, task.images, task.options, reporter)


def _exclude_training_images(
    task: EvaluateTask,
    model: ModelOptions,
    card: ModelCard,
    data: LabelledImages,
    reporter: Reporter,
) -> LabelledImages:
    """`data` without the images that `model` was trained on, unless they are what --split names."""
    if task.split is not None and data.split == "train":
        reporter.note("Evaluating training images: the figures say little about other images.")
        return data
    places = locate_images(data, card, model.model, task.images, reporter)
    return data if places is None else exclude_training_images(data, places, reporter)


def describe_label_map(match: LabelMap, data: LabelledImages, card: ModelCard) -> Iterator[str]:
    """How the classes were brought together, and what was left out."""
    if data.split is not None:
        yield f"{pluralize(len(data.labels), 'image')} of the split {data.split}"
    if match.matching != "names":
        yield f"Matched folders by {match.matching}"
    for unknown in match.unknown[:TOP_K]:
        hint = f"; did you mean {' or '.join(map(repr, unknown.near))}?" if unknown.near else ""
        yield f"Skipping {unknown.label!r}: not a class of this model{hint}"
    if len(match.unknown) > TOP_K:
        yield f"... and {len(match.unknown) - TOP_K:,} more unknown classes"
    for one in match.merged[:TOP_K]:
        both = "both" if len(one.folders) == 2 else "all"
        folders = join_words(list(map(repr, one.folders)))
        yield f"{folders} {both} map to {one.label!r} and were merged"
    if len(match.merged) > TOP_K:
        yield f"... and {len(match.merged) - TOP_K:,} more merged classes"
    if match.unused:
        shown = ", ".join(map(repr, match.unused[:TOP_K]))
        more = ", ..." if len(match.unused) > TOP_K else ""
        counts = f"{len(match.unused):,} of the model's {len(card.classes):,} classes"
        yield f"{counts} have no images here: {shown}{more}"


def _answers(
    classifier: Classifier, paths: Sequence[str], what: str, reporter: Reporter
) -> _Answers:
    found = (ImageInput(path, path) for path in paths)
    rows: list[Scores] = []
    faults: dict[int, ImageError] = {}
    for place, values in enumerate(classifier.scores(found)):
        if isinstance(values, ImageError):
            faults[place] = values
        else:
            rows.append(values)
        reporter.progress(what, place + 1, len(paths))
    if not rows:
        raise UsageError(
            f"Of {pluralize(len(paths), 'image')} none can be opened.", "Name other images."
        )
    is_good = np.ones(len(paths), dtype=bool)
    is_good[list(faults)] = False
    return _Answers(np.stack(rows), np.flatnonzero(is_good), faults)


def _evaluation(
    task: EvaluateTask,
    classifier: Classifier,
    data: LabelledImages,
    match: LabelMap,
    paths: Sequence[str],
    labels: npt.NDArray[np.intp],
    answers: _Answers,
) -> Evaluation:
    card = classifier.card
    mine, total = labels[answers.places], len(labels)
    failed = np.delete(labels, answers.places)
    metrics = compute_metrics(
        answers.scores, mine, failed, names=card.classes, scores_are=classifier.scores_are
    )
    probabilities = engines.to_probabilities(
        answers.scores, classifier.scores_are, card.temperature
    )
    given = answers.scores.argmax(axis=1)
    right = given == mine
    among = int(is_among_top(answers.scores, mine, TOP_K).sum())
    error, bins = calibration(probabilities.max(axis=1), right)
    counts = confusion(mine, given, len(card.classes))
    judged = _judge(paths, answers.places, mine, given, probabilities, card.classes)
    is_binary = len(card.classes) == 2 and 0 < int((mine == 1).sum()) < len(mine)
    return Evaluation(
        data=str(task.root),
        split=data.split,
        model=classifier.name,
        engine=classifier.engine,
        precision=classifier.precision,
        temperature=card.temperature,
        images=metrics.images,
        failed=metrics.failed,
        top1=metrics.top1,
        top1_interval=share_interval(int(right.sum()), total),
        top5=among / total,
        top5_interval=share_interval(among, total),
        balanced_accuracy=metrics.balanced_accuracy,
        macro_f1=metrics.macro_f1,
        auroc=area_under_roc(probabilities[:, 1], mine == 1) if is_binary else None,
        loss=metrics.loss,
        ece=error,
        calibration=bins,
        per_class=metrics.classes,
        confusion=_whole(counts, card.classes),
        confused=tuple(_confused(counts, card.classes)),
        mistakes=_mistakes(judged, right, probabilities),
        label_errors=_label_errors(judged, mine, probabilities),
        failures=tuple(
            FailedImage(
                paths[place], card.classes[labels[place]], kind=fault.kind, message=str(fault)
            )
            for place, fault in sorted(answers.faults.items())
        ),
        matching=match.matching,
        unknown_classes=match.unknown,
        unused_classes=match.unused,
        merged_classes=match.merged,
        unlabelled=len(data.labels) - total,
    )


def _whole(counts: npt.NDArray[np.intp], names: tuple[str, ...]) -> ConfusionMatrix | None:
    if len(names) > MAX_CONFUSION_CLASSES:
        return None
    return ConfusionMatrix(names, tuple(tuple(row) for row in counts.tolist()))


def _confused(counts: npt.NDArray[np.intp], names: Sequence[str]) -> Iterator[ConfusedPair]:
    """The pairs of classes that are confused most often."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    rows, columns = np.nonzero(wrong)
    order = np.argsort(-wrong[rows, columns], kind="stable")[:MAX_CONFUSED]
    for place in order:
        row, column = rows[place], columns[place]
        yield ConfusedPair(names[row], names[column], int(wrong[row, column]))


def _judge(
    paths: Sequence[str],
    places: npt.NDArray[np.intp],
    labels: npt.NDArray[np.intp],
    given: npt.NDArray[np.intp],
    probabilities: npt.NDArray[np.float64],
    names: Sequence[str],
) -> Callable[[int], LabelledPrediction]:
    """What makes the record of the image with the answer at some place."""

    def judged(index: int) -> LabelledPrediction:
        row = probabilities[index]
        return LabelledPrediction(
            path=paths[int(places[index])],
            label=names[labels[index]],
            prediction=names[given[index]],
            probability=float(row[given[index]]),
            label_probability=float(row[labels[index]]),
        )

    return judged


def _mistakes(
    judged: Callable[[int], LabelledPrediction],
    right: npt.NDArray[np.bool_],
    probabilities: npt.NDArray[np.float64],
) -> tuple[LabelledPrediction, ...]:
    """The wrong answers, the most confident first."""
    wrong = np.flatnonzero(~right)
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return tuple(judged(int(wrong[place])) for place in order[:MAX_MISTAKES])


def _label_errors(
    judged: Callable[[int], LabelledPrediction],
    labels: npt.NDArray[np.intp],
    probabilities: npt.NDArray[np.float64],
) -> tuple[LabelledPrediction, ...] | None:
    """Images whose label is likely wrong, the likeliest first (confident learning: Northcutt et
    al. 2021, arXiv 1911.00068); `None` without the library.
    """
    if importlib.util.find_spec(LABEL_ERROR_LIBRARY) is None:
        return None
    present, own = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        return ()
    shares = probabilities[:, present]
    shares = shares / shares.sum(axis=1, keepdims=True)
    find_label_issues: Any = import_module(f"{LABEL_ERROR_LIBRARY}.filter").find_label_issues
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of classes with few images: it finds less there
        found = find_label_issues(own, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    return tuple(judged(int(index)) for index in found[:MAX_LABEL_ERRORS])


def _compared(
    task: EvaluateTask,
    found: Evaluation,
    other: Classifier,
    data: LabelledImages,
    paths: Sequence[str],
    labels: npt.NDArray[np.intp],
    answers: _Answers,
    reporter: Reporter,
) -> Evaluation:
    """`found` beside another model on the same images; its classes, too, are matched by name."""
    match = match_labels([row.name for row in found.per_class], other.card.classes)
    theirs = _answers(other, paths, f"Evaluation of {other.name}", reporter)
    wanted = np.array([-1 if index is None else index for index in match.indexes])[labels]
    mine_right, other_right = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    mine_right[answers.places] = answers.scores.argmax(axis=1) == labels[answers.places]
    other_right[theirs.places] = theirs.scores.argmax(axis=1) == wanted[theirs.places]
    difference, interval = paired_difference(mine_right, other_right)
    comparison = Comparison(
        other.name, float(other_right.mean()), difference=difference, interval=interval
    )
    return replace(found, comparison=comparison)


def check_limits(found: Evaluation, limits: Mapping[str, float]) -> Iterator[str]:
    """The limits that are not met: `top1 is 0.8000, below 0.9`."""
    for name, limit in limits.items():
        value = getattr(found, name)
        if value is None:
            yield f"{name} needs two classes; the model has {len(found.per_class):,}"
        elif value < limit:
            yield f"{name} is {value:.4f}, below {limit:g}"
