"""Predictions as JSON objects and CSV lines."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from effnet_cli.options import Format
from effnet_cli.output.text import csv_line, json_array, json_lines
from effnet_cli.predict.records import ErrorInfo, ImageResult, Prediction

PROBABILITY_DIGITS = 6  # probabilities differ by 1e-6 between engines; more digits would be noise
CSV_COLUMNS = ("path", "status", "rank", "index", "label", "probability", "error_kind", "error")


def as_row(result: ImageResult) -> dict[str, Any]:
    """The JSON object of one image."""
    row: dict[str, Any] = {"path": result.path, "status": result.status}
    if result.error is not None:
        return row | {"error": {"kind": result.error.kind, "message": result.error.message}}
    predictions = [
        {
            "rank": one.rank,
            "index": one.index,
            "label": one.label,
            "probability": round(one.probability, PROBABILITY_DIGITS),
        }
        for one in result.predictions
    ]
    if result.filed is not None:
        row["moved_to" if result.is_moved else "copied_to"] = result.filed
    if result.explained is not None:
        row["explained"] = result.explained
    return row | {"predictions": predictions}


def from_row(row: Mapping[str, Any]) -> ImageResult:
    """The inverse of `as_row`; pixels are not restored."""
    error = row.get("error")
    return ImageResult(
        row["path"],
        tuple(Prediction(**one) for one in row.get("predictions", ())),
        None if error is None else ErrorInfo(**error),
        explained=row.get("explained"),
        filed=row.get("moved_to", row.get("copied_to")),
        is_moved="moved_to" in row,
    )


def csv_lines(results: Iterable[ImageResult]) -> Iterator[str]:
    """CSV with a header, one line per rank."""
    yield csv_line(CSV_COLUMNS)
    for result in results:
        row = as_row(result)
        if result.error is not None:
            error = row["error"]
            yield csv_line(
                (row["path"], row["status"], "", "", "", "", error["kind"], error["message"])
            )
        for one in row.get("predictions", ()):
            yield csv_line((row["path"], row["status"], *one.values(), "", ""))


ENCODERS: Mapping[Format, Callable[[Iterable[ImageResult]], Iterator[str]]] = {
    "json": lambda results: json_array(map(as_row, results)),
    "jsonl": lambda results: json_lines(map(as_row, results)),
    "csv": csv_lines,
}
