"""An evaluation as text: JSON, CSV, tables, and the answer in words."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from effnet_cli.datasets.records import pluralize
from effnet_cli.evaluate.metrics import ClassMetrics
from effnet_cli.evaluate.run import INSTALL_LIBRARY, Evaluation, LabelledPrediction
from effnet_cli.output.text import csv_line

SCHEMA = 1
Table = tuple[list[str], list[list[object]]]


def as_json(found: Evaluation) -> dict[str, Any]:
    """The whole result, schema 1."""
    metrics = found.metrics
    return {
        "schema": SCHEMA,
        "data": found.data,
        "split": found.split,
        "model": found.model,
        "engine": found.engine,
        "precision": found.precision,
        "temperature": found.temperature,
        "images": found.images,
        "failed": metrics.failed,
        "top1": metrics.top1,
        "top1_interval": list(found.top1_interval),
        "top5": found.top5,
        "top5_interval": list(found.top5_interval),
        "balanced_accuracy": metrics.balanced_accuracy,
        "macro_f1": metrics.macro_f1,
        "auroc": found.auroc,
        "loss": metrics.loss,
        "ece": found.ece,
        "calibration": [asdict(one) for one in found.bins],
        "per_class": [_class(row) for row in metrics.classes],
        "confusion": _confusion(found),
        "confused": [asdict(one) for one in found.confused],
        "mistakes": [asdict(one) for one in found.mistakes],
        "label_errors": _judged(found.label_errors),
        "failures": [asdict(one) for one in found.failed],
        "matching": found.matching,
        "unknown_classes": [{"label": n, "near": list(near)} for n, near in found.unknown_classes],
        "unused_classes": list(found.unused_classes),
        "merged_classes": [{"label": n, "folders": list(two)} for n, two in found.merged_classes],
        "unlabelled": found.unlabelled,
        "comparison": None if found.comparison is None else asdict(found.comparison),
    }


def _class(row: ClassMetrics) -> dict[str, Any]:
    return {
        "label": row.name,
        "precision": row.precision,
        "recall": row.recall,
        "f1": row.f1,
        "support": row.images,
    }


def _confusion(found: Evaluation) -> dict[str, Any] | None:
    if found.confusion is None:
        return None
    return {"labels": list(found.classes), "counts": [list(row) for row in found.confusion]}


def _judged(rows: Sequence[LabelledPrediction] | None) -> list[dict[str, Any]] | None:
    return None if rows is None else [asdict(row) for row in rows]


def csv_lines(found: Evaluation) -> Iterator[str]:
    """CSV with a header, a line for each class."""
    rows = [_class(row) for row in found.metrics.classes]
    yield csv_line(rows[0])
    for row in rows:
        yield csv_line("" if value is None else value for value in row.values())


# --- words --------------------------------------------------------------------------------------


def answer(found: Evaluation) -> Iterator[str]:
    """How good it is, on what, and how far its probabilities can be trusted."""
    metrics = found.metrics
    low, high = found.top1_interval
    what = pluralize(found.images, "image")
    yield (
        f"{found.model} answers {metrics.top1:.1%} of {what} right (95 % interval {low:.1%} to "
        f"{high:.1%}); guessing the largest class: {_guessing(found):.1%}."
    )
    top5 = "" if len(found.classes) <= 5 else f", top-5 {found.top5:.1%}"
    auroc = "" if found.auroc is None else f", AUROC {found.auroc:.3f}"
    yield (
        f"Balanced accuracy {metrics.balanced_accuracy:.1%}, macro F1 {metrics.macro_f1:.3f}{top5}"
        f"{auroc}."
    )
    yield (
        f"Its probabilities are off by {found.ece:.1%} on average (expected calibration error"
        f"{'' if found.temperature == 1 else f', temperature {found.temperature:.2f}'})."
    )
    if found.comparison is not None:
        other = found.comparison
        low, high = other.interval
        verdict = "no certain difference" if low <= 0 <= high else "a certain difference"
        yield (
            f"{other.name} answers {other.top1:.1%} right: {100 * other.difference:+.1f} points "
            f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f}), {verdict}."
        )
    if metrics.failed:
        words = pluralize(metrics.failed, "image")
        yield f"{words} could not be opened and count{'s' * (metrics.failed == 1)} as wrong."
    if found.unlabelled:
        yield f"Left out: {pluralize(found.unlabelled, 'image')} of what is no class of the model."


def _guessing(found: Evaluation) -> float:
    """What answering the largest class always would get right."""
    return max(row.images for row in found.metrics.classes) / found.images


def classes_table(found: Evaluation) -> Table:
    """Every class that has images or answers, the worst first."""
    rows = [row for row in found.metrics.classes if row.images or row.precision is not None]
    rows.sort(key=lambda row: -1.0 if row.f1 is None else row.f1)
    cells: list[list[object]] = [
        [row.name, row.images, _share(row.recall), _share(row.precision), _share(row.f1)]
        for row in rows
    ]
    return ["class", "images", "recall", "precision", "F1"], cells


def sections(found: Evaluation) -> Iterator[tuple[str, Table]]:
    """What is wrong, each with a title."""
    yield (
        "ConfusedPair most often",
        (["class", "answered with", "images"],
         [[one.label, one.answer, one.images] for one in found.confused]),
    )  # fmt: skip
    yield "Most confident mistakes", _judged_table(found.mistakes)
    if found.label_errors is not None:
        yield "Labels that are likely wrong", _judged_table(found.label_errors)
    yield (
        "Could not be opened",
        (["image", "class", "why"],
         [[one.path, one.label, f"{one.kind}: {one.message}"] for one in found.failed]),
    )  # fmt: skip


def choices(found: Evaluation) -> Iterator[tuple[str, str]]:
    """What was judged, and by what."""
    split = "" if found.split is None else f", split {found.split}"
    yield "images", f"{found.data}{split}"
    yield "model", found.model
    yield "engine", f"{found.engine}, {found.precision}"
    yield "temperature", f"{found.temperature:.3f}"
    yield "classes matched by", found.matching
    for name, near in found.unknown_classes:
        hint = f", nearest: {', '.join(near)}" if near else ""
        yield "not a class of the model", f"{name}{hint}"
    for name, several in found.merged_classes:
        yield "folders of one class", f"{name}: {', '.join(several)}"
    if found.unused_classes:
        yield "classes without images", f"{len(found.unused_classes):,}"


def hints(found: Evaluation) -> Iterator[str]:
    """What more could be known."""
    if found.label_errors is None:
        yield f"Likely label errors need cleanlab: {INSTALL_LIBRARY}"


def _judged_table(rows: Sequence[LabelledPrediction]) -> Table:
    cells: list[list[object]] = [
        [one.path, one.label, one.answer, f"{one.probability:.1%}", f"{one.label_probability:.1%}"]
        for one in rows
    ]
    return ["image", "labelled", "answer", "its probability", "the label's"], cells


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"
