"""Convert an evaluation to a JSON object and CSV lines."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from effnet_cli.evaluate.records import ClassMetrics, Evaluation
from effnet_cli.output.text import csv_line

SCHEMA = 1
# The keys of a class in the output, and the `ClassMetrics` field of each.
CLASS_KEYS = {
    "label": "name", "precision": "precision", "recall": "recall", "f1": "f1", "support": "images",
}  # fmt: skip


def as_json(found: Evaluation) -> dict[str, Any]:
    """Return the whole evaluation as a JSON object, schema 1."""
    content = asdict(found)
    del content["classes"]
    return {"schema": SCHEMA, **content, "per_class": [_class_row(row) for row in found.classes]}


def _class_row(row: ClassMetrics) -> dict[str, Any]:
    return {key: getattr(row, field) for key, field in CLASS_KEYS.items()}


def csv_lines(found: Evaluation) -> Iterator[str]:
    """Yield CSV lines: a header, then one line per class."""
    yield csv_line(CLASS_KEYS)
    yield from (csv_line(_class_row(row).values()) for row in found.classes)
