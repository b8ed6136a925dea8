"""The result of an export as JSON."""

from dataclasses import asdict
from typing import Any

from effnet_cli.export.records import ExportComparison, ExportResult


def to_dict(result: ExportResult) -> dict[str, Any]:
    """Return the JSON object of an export."""
    return {
        "target": result.target,
        "precision": result.precision,
        "path": None if result.path is None else str(result.path),
        **comparison_dict(result.comparison, result.not_compared),
        "seconds": result.seconds,
    }


def comparison_dict(comparison: ExportComparison, not_compared: str | None) -> dict[str, Any]:
    """Return the comparison as stored under `check` in the JSON beside an exported file."""
    is_passed = not_compared is None and comparison.rejection is None
    return {"passed": is_passed, "not_compared": not_compared, **asdict(comparison)}
