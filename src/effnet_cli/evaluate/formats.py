"""Convert an evaluation to a JSON object and CSV lines."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

from effnet_cli.evaluate.records import ClassRanking, Evaluation, LabelEvaluation, LabelRow
from effnet_cli.models.operating_point import OperatingPoint
from effnet_cli.output.text import csv_line

SCHEMA = 1
# The keys of a class in the output, and the `ClassMetrics` field of each.
CLASS_KEYS = {
    "label": "name", "precision": "precision", "recall": "recall", "f1": "f1", "support": "images",
}  # fmt: skip
RANKING_KEYS = ("auroc", "average_precision")  # keys of a class, too, and `ClassRanking` fields
CURVE_KEYS = ("roc", "precision_recall")


def as_json(found: Evaluation | LabelEvaluation) -> dict[str, Any]:
    """Return the whole evaluation as a JSON object, schema 1."""
    if isinstance(found, LabelEvaluation):
        about = asdict(found)
        per_label = about.pop("labels")
        return {"schema": SCHEMA, "multi_label": True, **about, "per_label": per_label}
    content = asdict(found)
    del content["classes"], content["ranking"]
    return {
        "schema": SCHEMA,
        **content,
        "operating_points": [_point_row(point) for point in found.operating_points],
        "curves": [_curve_row(row) for row in found.ranking if row.roc],
        "per_class": list(_class_rows(found)),
    }


def _class_rows(found: Evaluation) -> Iterator[dict[str, Any]]:
    for row, ranking in zip(found.classes, found.ranking, strict=True):
        shares = {key: getattr(row, field) for key, field in CLASS_KEYS.items()}
        yield shares | {key: getattr(ranking, key) for key in RANKING_KEYS}


def _curve_row(row: ClassRanking) -> dict[str, Any]:
    return {"label": row.name, **{key: getattr(row, key) for key in CURVE_KEYS}}


def _point_row(point: OperatingPoint) -> dict[str, Any]:
    counts = {"positives": point.positives, "negatives": point.negatives}
    return {"name": point.name, **asdict(point), **counts, "is_assured": point.is_assured}


def csv_lines(found: Evaluation | LabelEvaluation) -> Iterator[str]:
    """Yield CSV lines: a header, then one line per class or label."""
    if isinstance(found, LabelEvaluation):
        yield csv_line(field.name for field in fields(LabelRow))
        yield from (csv_line(asdict(row).values()) for row in found.labels)
        return
    yield csv_line((*CLASS_KEYS, *RANKING_KEYS))
    yield from (csv_line(row.values()) for row in _class_rows(found))
