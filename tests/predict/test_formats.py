"""Predictions as JSON and CSV, with any names."""

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.output.text import json_array, json_lines
from effnet_cli.predict import formats
from effnet_cli.predict.records import ErrorInfo, ImageResult, Prediction, ResultRow

# Any name that a file can have, bytes that are no UTF-8 included.
NAMES = st.binary(max_size=30).map(lambda b: b.decode("utf-8", "surrogateescape")) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=30
)
LABELS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def good(path: str, label: str = "cat", probability: float = 0.75) -> ResultRow:
    predictions = (Prediction(1, 3, label, probability), Prediction(2, 0, "dog", 0.125))
    return ResultRow(ImageResult(path, predictions))


def bad(path: str) -> ResultRow:
    return ResultRow(ImageResult(path, error=ErrorInfo("truncated", "It is cut off.")))


PREDICTIONS = st.lists(st.builds(good, NAMES, LABELS) | st.builds(bad, NAMES), max_size=5)


def test_row_has_the_documented_shape() -> None:
    assert formats.to_row(good("cat.jpg")) == {
        "path": "cat.jpg",
        "status": "ok",
        "predictions": [
            {"rank": 1, "index": 3, "label": "cat", "probability": 0.75},
            {"rank": 2, "index": 0, "label": "dog", "probability": 0.125},
        ],
    }
    assert formats.to_row(bad("x")) == {
        "path": "x",
        "status": "error",
        "error": {"kind": "truncated", "message": "It is cut off."},
    }


@given(PREDICTIONS)
def test_json_gives_every_name_back(predictions: list[ResultRow]) -> None:
    text = "".join(json_array(map(formats.to_row, predictions)))
    assert json.loads(text.encode("utf-8")) == [formats.to_row(p) for p in predictions]


@given(PREDICTIONS)
def test_json_lines_are_one_object_a_line(predictions: list[ResultRow]) -> None:
    pieces = list(json_lines(map(formats.to_row, predictions)))
    assert all(piece.count("\n") == 1 and piece.endswith("\n") for piece in pieces)
    assert [json.loads(piece.encode("utf-8")) for piece in pieces] == [
        formats.to_row(p) for p in predictions
    ]


@given(PREDICTIONS)
def test_csv_has_one_line_a_rank_and_no_formulas(predictions: list[ResultRow]) -> None:
    text = "".join(formats.csv_lines(predictions))
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert tuple(header) == formats.CSV_COLUMNS
    assert len(lines) == sum(1 if p.result.error else 2 for p in predictions)
    assert not any(
        cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in lines for cell in row
    )


def test_csv_marks_what_a_spreadsheet_would_run() -> None:
    text = "".join(formats.csv_lines([good("=cmd()", label="-x")]))
    assert text.splitlines()[1] == "'=cmd(),ok,1,3,'-x,0.75,,"
