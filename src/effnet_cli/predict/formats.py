"""Rows as JSON objects and lines of CSV."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from effnet_cli.output.text import csv_line
from effnet_cli.predict.records import (
    ErrorInfo,
    ImageResult,
    Overlay,
    PlacedFile,
    Prediction,
    ResultRow,
)

PROBABILITY_DIGITS = 6  # probabilities differ by 1e-6 between engines; more digits would be noise
CSV_COLUMNS = ("path", "status", "rank", "index", "label", "probability", "error_kind", "error")


def to_row(row: ResultRow) -> dict[str, Any]:
    """The JSON object of one image."""
    result = row.result
    content: dict[str, Any] = {"path": result.path, "status": result.status}
    if result.error is not None:
        return content | {"error": {"kind": result.error.kind, "message": result.error.message}}
    if row.placement is not None:
        content["moved_to" if row.placement.is_moved else "copied_to"] = row.placement.path
    if row.overlay is not None:
        content["overlay"] = row.overlay.path
    return content | {"predictions": [_to_json(one) for one in result.predictions]}


def _to_json(prediction: Prediction) -> dict[str, Any]:
    return {
        "rank": prediction.rank,
        "index": prediction.index,
        "label": prediction.label,
        "probability": round(prediction.probability, PROBABILITY_DIGITS),
    }


def from_row(content: Mapping[str, Any]) -> ResultRow:
    """The inverse of `to_row`; pixels are not restored."""
    error, overlay = content.get("error"), content.get("overlay")
    place = content.get("moved_to", content.get("copied_to"))
    return ResultRow(
        ImageResult(
            content["path"],
            tuple(Prediction(**one) for one in content.get("predictions", ())),
            None if error is None else ErrorInfo(**error),
        ),
        None if overlay is None else Overlay(overlay),
        None if place is None else PlacedFile(place, is_moved="moved_to" in content),
    )


def csv_lines(rows: Iterable[ResultRow]) -> Iterator[str]:
    """CSV with a header, one line per rank."""
    yield csv_line(CSV_COLUMNS)
    for row in map(to_row, rows):
        start = (row["path"], row["status"])
        if "error" in row:
            yield csv_line((*start, "", "", "", "", *row["error"].values()))
        for one in row.get("predictions", ()):
            yield csv_line((*start, *one.values(), "", ""))
