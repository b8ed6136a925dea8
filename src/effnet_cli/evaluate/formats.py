"""An evaluation as JSON, CSV, sentences and tables."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from effnet_cli.datasets.records import pluralize
from effnet_cli.evaluate.records import ClassMetrics, Evaluation, LabelledPrediction
from effnet_cli.output.text import csv_line

SCHEMA = 1
Table = tuple[list[str], list[list[object]]]


def as_json(found: Evaluation) -> dict[str, Any]:
    """The whole evaluation, schema 1."""
    per_class = [_class_row(row) for row in found.per_class]
    return {"schema": SCHEMA, **asdict(found), "per_class": per_class}


def _class_row(row: ClassMetrics) -> dict[str, Any]:
    return {
        "label": row.name,
        "precision": row.precision,
        "recall": row.recall,
        "f1": row.f1,
        "support": row.images,
    }


def csv_lines(found: Evaluation) -> Iterator[str]:
    """CSV with a header, a line for each class."""
    rows = [_class_row(row) for row in found.per_class]
    yield csv_line(rows[0])
    for row in rows:
        yield csv_line("" if value is None else value for value in row.values())


# --- text --------------------------------------------------------------------------------------


def answer(found: Evaluation) -> Iterator[str]:
    """How good it is, on what, and how far its probabilities can be trusted."""
    low, high = found.top1_interval
    what = pluralize(found.images, "image")
    yield (
        f"{found.model} classifies {found.top1:.1%} of {what} correctly (95 % interval {low:.1%} "
        f"to {high:.1%}); always predicting the largest class: {_majority(found):.1%}."
    )
    top5 = "" if len(found.per_class) <= 5 else f", top-5 {found.top5:.1%}"
    auroc = "" if found.auroc is None else f", AUROC {found.auroc:.3f}"
    yield (
        f"Balanced accuracy {found.balanced_accuracy:.1%}, macro F1 {found.macro_f1:.3f}{top5}"
        f"{auroc}."
    )
    yield (
        f"Expected calibration error {found.ece:.1%}"
        f"{'' if found.temperature == 1 else f' at temperature {found.temperature:.2f}'}."
    )
    if found.comparison is not None:
        other = found.comparison
        low, high = other.interval
        verdict = "not significant" if low <= 0 <= high else "significant"
        yield (
            f"{other.name}: {other.top1:.1%}; difference {100 * other.difference:+.1f} points "
            f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f}), {verdict}."
        )
    if found.failed:
        words = pluralize(found.failed, "image")
        yield f"{words} could not be opened and count{'s' * (found.failed == 1)} as wrong."
    if found.unlabelled:
        yield f"Skipped {pluralize(found.unlabelled, 'image')} of unknown classes."


def _majority(found: Evaluation) -> float:
    """The accuracy of always predicting the largest class."""
    return max(row.images for row in found.per_class) / found.images


def classes_table(found: Evaluation) -> Table:
    """Every class that has images or answers, the worst first."""
    rows = [row for row in found.per_class if row.images or row.precision is not None]
    rows.sort(key=lambda row: -1.0 if row.f1 is None else row.f1)
    cells: list[list[object]] = [
        [row.name, row.images, _share(row.recall), _share(row.precision), _share(row.f1)]
        for row in rows
    ]
    return ["class", "images", "recall", "precision", "F1"], cells


def sections(found: Evaluation) -> Iterator[tuple[str, Table]]:
    """What is wrong, each with a title."""
    yield (
        "Most confused classes",
        (["class", "predicted as", "images"],
         [[one.label, one.prediction, one.images] for one in found.confused]),
    )  # fmt: skip
    yield "Most confident mistakes", _judged_table(found.mistakes)
    if found.label_errors is not None:
        yield "Likely label errors", _judged_table(found.label_errors)
    yield (
        "Could not be opened",
        (["image", "class", "reason"],
         [[one.path, one.label, f"{one.kind}: {one.message}"] for one in found.failures]),
    )  # fmt: skip


def choices(found: Evaluation) -> Iterator[tuple[str, str]]:
    """What was judged, and by what."""
    split = "" if found.split is None else f", split {found.split}"
    yield "images", f"{found.data}{split}"
    yield "model", found.model
    yield "engine", f"{found.engine}, {found.precision}"
    yield "temperature", f"{found.temperature:.3f}"
    yield "classes matched by", found.matching
    for unknown in found.unknown_classes:
        hint = f", nearest: {', '.join(unknown.near)}" if unknown.near else ""
        yield "unknown class", f"{unknown.label}{hint}"
    for merged in found.merged_classes:
        yield "merged folders", f"{merged.label}: {', '.join(merged.folders)}"
    if found.unused_classes:
        yield "classes without images", f"{len(found.unused_classes):,}"


def _judged_table(rows: Sequence[LabelledPrediction]) -> Table:
    cells: list[list[object]] = [
        [
            one.path,
            one.label,
            one.prediction,
            f"{one.probability:.1%}",
            f"{one.label_probability:.1%}",
        ]
        for one in rows
    ]
    return ["image", "label", "prediction", "probability", "label's probability"], cells


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"
