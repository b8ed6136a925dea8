"""An evaluation as a JSON object and CSV lines."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from effnet_cli.evaluate.records import ClassMetrics, Evaluation
from effnet_cli.output.text import csv_line

SCHEMA = 1


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
    yield from (csv_line(row.values()) for row in rows)
