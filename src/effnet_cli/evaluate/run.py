"""Evaluate a model on labelled images."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from effnet_cli import options
from effnet_cli.datasets import saved_split
from effnet_cli.datasets.label_sets import SAVED_JOINER
from effnet_cli.datasets.labelled import LabelledImages, load_labelled
from effnet_cli.datasets.split import SPLIT_BY_NAME, TRAIN
from effnet_cli.evaluate import calibrate, label_run, metrics, operating_points
from effnet_cli.evaluate.curves import rank_classes
from effnet_cli.evaluate.label_map import LabelMap, describe_label_map, match_labels
from effnet_cli.evaluate.model_copy import check_copy
from effnet_cli.evaluate.predictions import Predictions, predict_labelled
from effnet_cli.evaluate.records import Comparison, ConfusionMatrix, Evaluation, LabelEvaluation
from effnet_cli.models.card import SPLIT_FILE_NAME
from effnet_cli.models.operating_point import OperatingPoint
from effnet_cli.options import EvaluateTask, FinetuneTask
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import UsageError
from effnet_cli.system.reporter import SILENT, Reporter
from effnet_cli.system.text import pluralize, quote_names

MAX_MATRIX_CLASSES = 200  # with more classes, no confusion matrix is kept


def evaluate(task: EvaluateTask, reporter: Reporter = SILENT) -> Evaluation | LabelEvaluation:
    """Evaluate a model on labelled images, and `task.compare`, if given, on the same images.

    Raises:
        UsageError: no such model or images, no class in common, or no threshold that reaches what
            `task.at` asks.
        EffnetError: the engine cannot be loaded or used.
    """
    if task.calibrate_to is not None:
        check_copy(task.calibrate_to, "--calibrate-to", task.model)
    operating_points.check_options(task)
    models = [model for model in (task.model, task.compare) if model is not None]
    classifiers = [
        Classifier(model, task.engine, task.images, options=task.options, reporter=reporter)
        for model in models
    ]
    scores = classifiers[0].card.label_scores
    if scores is not None:
        label_run.check_task(task)
        task = replace(task, labels=_label_options(task))
        data = _choose_images(task, models, classifiers, reporter=reporter)
        return label_run.evaluate_labels(
            task, classifiers[0], data, scores=scores, reporter=reporter
        )
    if task.labels.multi_label:
        name = classifiers[0].name
        raise UsageError(f"{name} gives one class to each image.", "Omit --multi-label.")
    data = _choose_images(task, models, classifiers, reporter=reporter)
    return _evaluate_classes(task, classifiers, data, reporter=reporter)


def _evaluate_classes(
    task: EvaluateTask,
    classifiers: Sequence[Classifier],
    data: LabelledImages,
    *,
    reporter: Reporter,
) -> Evaluation:
    """Evaluate a model that gives one class to each image, and the others beside it."""
    classifier, *others = classifiers
    label_map = match_labels(data.classes, classifier.card.classes)
    if data.split is not None:
        reporter.note(f"{pluralize(len(data.labels), 'image')} in the split {data.split}")
    for line in describe_label_map(label_map, len(classifier.card.classes)):
        reporter.note(line)
    labels = label_map.apply(data.labels)
    known = np.flatnonzero(labels >= 0)
    positive = None
    if task.positive is not None:
        positive = operating_points.find_positive(
            task.positive, classifier.card.classes, labels[known]
        )
    predictions = predict_labelled(
        classifier,
        data.paths.take(known),
        labels[known],
        groups=data.groups[known],
        what="Evaluation",
        reporter=reporter,
    )
    points: tuple[OperatingPoint, ...] = ()
    if positive is not None:
        points = operating_points.find_points(
            predictions, positive, task, precision=classifier.precision
        )
    if task.calibrate_to is not None:
        reporter.note(_calibrate(task.calibrate_to, task.model, predictions))
    if task.save_to is not None:
        operating_points.save_points(task.save_to, task.model, points)
        reporter.note(
            f"Saved {str(task.save_to)!r}. Use it: effnet predict IMAGE --model {task.save_to} "
            f"--operating-point {points[0].name}"
        )
    found = _evaluation(predictions, label_map, task=task, data=data, classifier=classifier)
    found = replace(found, operating_points=points)
    for other in others:
        found = replace(found, comparison=_compare(predictions, other, reporter))
    return found


def _label_options(task: EvaluateTask) -> options.LabelOptions:
    """Return how to read several labels; a run separates those that it saves in its own way."""
    separator = task.labels.label_separator
    if task.root.name == SPLIT_FILE_NAME:
        separator = SAVED_JOINER
    return replace(task.labels, multi_label=True, label_separator=separator)


def _calibrate(path: Path, model: options.ModelOptions, predictions: Predictions) -> str:
    """Write a calibrated copy of the model, and return a note about it."""
    found = calibrate.write_calibrated(path, model, predictions)
    return (
        f"Calibrated on {pluralize(found.images, 'image')}: expected calibration error "
        f"{found.ece_before:.1%} before, {found.ece_after:.1%} after (cross-validated). Use it: "
        f"effnet predict IMAGE --model {path}"
    )


def _choose_images(
    task: EvaluateTask,
    models: Sequence[options.ModelOptions],
    classifiers: Sequence[Classifier],
    *,
    reporter: Reporter,
) -> LabelledImages:
    """Load the images of `task.split`, which the dataset or the models define; by default, all that
    the models were not trained on.
    """
    data = load_labelled(task.root, task.split, task.labels, is_optional=True)
    if task.root.name != SPLIT_FILE_NAME:  # what a run has written itself
        for line in data.notes:
            reporter.note(line)
    wanted = None if task.split is None else SPLIT_BY_NAME.get(task.split.lower())
    is_own = data.split is not None and wanted == SPLIT_BY_NAME[data.split]
    if wanted != TRAIN or not is_own:
        located = [
            saved_split.locate_images(
                data, one.card, model.model, images=task.images, reporter=reporter
            )
            for model, one in zip(models, classifiers, strict=True)
        ]
        if task.split is None or is_own:
            return saved_split.exclude_training_images(data, located, reporter)
        data = saved_split.select_split(data, located, task.split)
    if wanted == TRAIN:
        reporter.note("Evaluating training images: the figures say little about other images.")
    return data


def validation_task(task: FinetuneTask, folder: Path) -> EvaluateTask:
    """Return the task that evaluates a run folder's model on its own validation images."""
    return EvaluateTask(
        folder / SPLIT_FILE_NAME,
        options.ModelOptions(model=folder),
        options.EngineOptions(task.device),
        images=task.images,
        options=options.PredictOptions(workers=task.workers),
        split="val",
    )


def _evaluation(
    predictions: Predictions,
    label_map: LabelMap,
    *,
    task: EvaluateTask,
    data: LabelledImages,
    classifier: Classifier,
) -> Evaluation:
    p, total = predictions, len(predictions.all_labels)
    shared = metrics.compute_metrics(
        p.scores, p.labels, p.failed_labels, names=p.classes, scores_are=classifier.scores_are
    )
    is_top5 = np.zeros(total, dtype=np.bool_)
    is_top5[p.places] = metrics.is_among_top(p.scores, p.labels, 5)
    ece, bins = metrics.calibrate(p.probabilities.max(axis=1), p.predicted == p.labels)
    return Evaluation(
        **vars(shared),
        data=str(task.root),
        split=data.split,
        model=classifier.name,
        engine=classifier.engine,
        precision=classifier.precision,
        temperature=classifier.card.temperature,
        top1_interval=metrics.flags_interval(p.is_right, p.groups),
        top5=float(is_top5.mean()),
        top5_interval=metrics.flags_interval(is_top5, p.groups),
        groups=len(np.unique(p.groups[p.groups >= 0])),
        auroc=_auroc(p),
        ece=ece,
        calibration=bins,
        confusion=_confusion_matrix(p) if len(p.classes) <= MAX_MATRIX_CLASSES else None,
        confused=tuple(p.confused_pairs()),
        mistakes=tuple(p.mistakes()),
        label_errors=p.label_errors(),
        failures=tuple(p.failures()),
        matching=label_map.matching,
        unknown_classes=label_map.unknown,
        unused_classes=label_map.unused,
        merged_classes=label_map.merged,
        unlabelled=len(data.labels) - total,
        ranking=tuple(rank_classes(p)),
    )


def _auroc(predictions: Predictions) -> float | None:
    """Return the area under the ROC curve; `None` unless two classes exist, both with images."""
    if len(predictions.classes) != 2 or len(np.unique(predictions.labels)) != 2:
        return None
    roc_auc_score = import_module("sklearn.metrics").roc_auc_score  # importing takes a second
    return float(roc_auc_score(predictions.labels, predictions.probabilities[:, 1]))


def _confusion_matrix(predictions: Predictions) -> ConfusionMatrix:
    """Count how often each class is predicted as each; scikit-learn warns about a single class."""
    size = len(predictions.classes)
    cells = predictions.labels * size + predictions.predicted
    counts = np.bincount(cells, minlength=size**2).reshape(size, size)
    return ConfusionMatrix(predictions.classes, tuple(map(tuple, counts.tolist())))


def _compare(predictions: Predictions, other: Classifier, reporter: Reporter) -> Comparison:
    """Evaluate another model on the same images; its classes are matched by name, too."""
    owners = "The first model", f"{other.name}, with which it is compared"
    label_map = match_labels(predictions.classes, other.card.classes, owners)
    labels = label_map.apply(predictions.all_labels)
    used = {predictions.classes[label] for label in np.unique(predictions.labels)}
    lacking = [row.label for row in label_map.unknown if row.label in used]
    if lacking:
        reporter.note(
            f"{other.name} has no class {quote_names(lacking)}: it is counted as wrong on these "
            "images"
        )
    theirs = predict_labelled(
        other,
        predictions.paths,
        labels,
        groups=predictions.groups,
        what=f"Evaluation of {other.name}",
        reporter=reporter,
    )
    difference, interval = metrics.paired_difference(
        predictions.is_right, theirs.is_right, predictions.groups
    )
    top1 = float(theirs.is_right.mean())
    return Comparison(other.name, top1, difference=difference, interval=interval)
