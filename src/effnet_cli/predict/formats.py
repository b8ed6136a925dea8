"""Convert rows to JSON objects and CSV lines."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from effnet_cli.output.text import csv_line
from effnet_cli.predict import records
from effnet_cli.predict.records import ResultRow

PROBABILITY_DIGITS = 6  # probabilities differ by 1e-6 between engines; more digits would be noise
CSV_COLUMNS = ("path", "status", "rank", "index", "label", "probability", "error_kind", "error")


def to_row(row: ResultRow) -> dict[str, Any]:
    """Return one image's row as a JSON object."""
    result = row.result
    content: dict[str, Any] = {"path": result.path, "status": result.status}
    if result.error is not None:
        return content | {"error": asdict(result.error)}
    if row.placed is not None:
        content["moved_to" if row.placed.is_moved else "copied_to"] = row.placed.path
    if row.overlay is not None:
        content["overlay"] = row.overlay.path
    if result.operating_point is not None:
        content["operating_point"] = _rounded(result.operating_point)
    if result.is_multi_label:
        content["multi_label"] = True
    content["predictions"] = [_rounded(one) for one in result.predictions]
    return content


def _rounded(one: records.Prediction | records.Decision) -> dict[str, Any]:
    return asdict(one) | {"probability": round(one.probability, PROBABILITY_DIGITS)}


def from_row(content: Mapping[str, Any]) -> ResultRow:
    """Undo `to_row`, except that pixels are not restored."""
    error, overlay = content.get("error"), content.get("overlay")
    decision = content.get("operating_point")
    path = content.get("moved_to", content.get("copied_to"))
    return ResultRow(
        records.ImageResult(
            content["path"],
            tuple(records.Prediction(**one) for one in content.get("predictions", ())),
            None if error is None else records.ErrorInfo(**error),
            operating_point=None if decision is None else records.Decision(**decision),
            is_multi_label=content.get("multi_label", False),
        ),
        None if overlay is None else records.Overlay(overlay),
        None if path is None else records.PlacedFile(path, is_moved="moved_to" in content),
    )


def csv_lines(rows: Iterable[ResultRow]) -> Iterator[str]:
    """Yield CSV lines: a header, then one line per prediction or error."""
    yield csv_line(CSV_COLUMNS)
    for row in map(to_row, rows):
        start = (row["path"], row["status"])
        if "error" in row:
            yield csv_line((*start, "", "", "", "", *row["error"].values()))
        elif not row["predictions"]:  # none of several labels
            yield csv_line((*start, *[""] * (len(CSV_COLUMNS) - len(start))))
        for one in row.get("predictions", ()):
            yield csv_line((*start, *one.values(), "", ""))
