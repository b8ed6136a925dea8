"""Convert an audit to a JSON object, JSON rows and CSV lines."""

import os
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

from effnet_cli.audit.records import Audit, Problem
from effnet_cli.output.text import csv_line

AUDIT_SCHEMA = 1
# The columns of the CSV, and the field of `Problem` of each.
AUDIT_COLUMNS = {
    "path": "path", "label": "label", "split": "split", "problem": "kind", "action": "action",
    "new_label": "new_label", "score": "score", "rank": "rank", "other": "other",
    "reason": "reason",
}  # fmt: skip


def as_json(found: Audit) -> dict[str, Any]:
    """Return the whole audit as a JSON object, schema 1."""
    content = {field.name: getattr(found, field.name) for field in fields(found)}
    return {"schema": AUDIT_SCHEMA, **{name: _plain(value) for name, value in content.items()}}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | None) else asdict(value)  # type: ignore[call-overload]


def to_row(problem: Problem) -> dict[str, object]:
    """Return a problem as a JSON object, with the keys of the CSV."""
    return {name: getattr(problem, field) for name, field in AUDIT_COLUMNS.items()}


def csv_lines(found: Audit) -> Iterator[str]:
    """Yield CSV lines: a header, then one line per problem. Paths are absolute, so that the file
    can be used anywhere.
    """
    yield csv_line(AUDIT_COLUMNS)
    for problem in found.problems:
        score = None if problem.score is None else f"{problem.score:.4f}"
        other = None if problem.other is None else _absolute(problem.other)
        cells = {"path": _absolute(problem.path), "score": score, "other": other}
        yield csv_line((to_row(problem) | cells).values())


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (keeps symbolic links)
