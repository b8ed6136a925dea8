"""Records as text: JSON, JSON lines, CSV, words; safe whatever the names are."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.images import Finder
from effnet_cli.output import text as rows
from effnet_cli.predict.classifier import ErrorInfo, ImageResult, Prediction
from effnet_cli.system.errors import EffnetError, OutputClosed, UsageError

# Any name that a file can have, bytes that are no UTF-8 included.
NAMES = st.binary(max_size=30).map(lambda b: b.decode("utf-8", "surrogateescape")) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=30
)
LABELS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def good(path: str, label: str = "cat", probability: float = 0.75) -> ImageResult:
    return ImageResult(path, (Prediction(1, 3, label, probability), Prediction(2, 0, "dog", 0.125)))


def bad(path: str) -> ImageResult:
    return ImageResult(path, error=ErrorInfo("truncated", "It is cut off."))


PREDICTIONS = st.lists(st.builds(good, NAMES, LABELS) | st.builds(bad, NAMES), max_size=5)


def test_row_has_the_documented_shape() -> None:
    assert rows.as_row(good("cat.jpg")) == {
        "path": "cat.jpg",
        "status": "ok",
        "predictions": [
            {"rank": 1, "index": 3, "label": "cat", "probability": 0.75},
            {"rank": 2, "index": 0, "label": "dog", "probability": 0.125},
        ],
    }
    assert rows.as_row(bad("x")) == {
        "path": "x",
        "status": "error",
        "error": {"kind": "truncated", "message": "It is cut off."},
    }


@given(PREDICTIONS)
def test_json_gives_every_name_back(predictions: list[ImageResult]) -> None:
    text = "".join(rows.json_array(map(rows.as_row, predictions)))
    assert json.loads(text.encode("utf-8")) == [rows.as_row(p) for p in predictions]


@given(PREDICTIONS)
def test_json_lines_are_one_object_a_line(predictions: list[ImageResult]) -> None:
    pieces = list(rows.json_lines(map(rows.as_row, predictions)))
    assert all(piece.count("\n") == 1 and piece.endswith("\n") for piece in pieces)
    assert [json.loads(piece.encode("utf-8")) for piece in pieces] == [
        rows.as_row(p) for p in predictions
    ]


@given(PREDICTIONS)
def test_csv_has_one_line_a_rank_and_no_formulas(predictions: list[ImageResult]) -> None:
    text = "".join(rows.csv_lines(predictions))
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert tuple(header) == rows.CSV_COLUMNS
    assert len(lines) == sum(1 if p.error else 2 for p in predictions)
    assert not any(
        cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in lines for cell in row
    )


def test_csv_marks_what_a_spreadsheet_would_run() -> None:
    text = "".join(rows.csv_lines([good("=cmd()", label="-x")]))
    assert text.splitlines()[1] == "'=cmd(),ok,1,3,'-x,0.75,,"


@given(NAMES)
def test_nothing_printable_steers_a_terminal(name: str) -> None:
    shown = rows.printable(name)
    assert all(c.isprintable() or c == "\u200d" for c in shown)
    shown.encode("utf-8")  # whatever the name, this is valid text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat.jpg", "cat.jpg"),
        ("a\nb\x1b[31m", "a\\x0ab\\x1b[31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        (b"\xff.jpg".decode("utf-8", "surrogateescape"), "\\xff.jpg"),
        ("👩\u200d🔬 é [red]", "👩\u200d🔬 é [red]"),
    ],
)
def test_names_are_shown_as_they_are_or_as_escapes(name: str, shown: str) -> None:
    assert rows.printable(name) == shown


@pytest.mark.parametrize(
    ("given", "output", "chosen"),
    [
        (None, None, "table"),
        (None, Path("a.json"), "json"),
        (None, Path("a.JSONL"), "jsonl"),
        (None, Path("a.csv"), "csv"),
        (None, Path("a.txt"), "table"),
        ("csv", Path("a.json"), "csv"),
    ],
)
def test_format_follows_the_option_then_the_name(
    given: rows.Format | None, output: Path | None, chosen: str
) -> None:
    assert rows.chosen_format(given, output) == chosen


def test_file_is_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupted():  # noqa: ANN202
        yield "first\n"
        raise KeyboardInterrupt

    path = tmp_path / "out.jsonl"
    path.write_text("before\n")
    with pytest.raises(KeyboardInterrupt):
        rows.write(interrupted(), path)
    assert path.read_text() == "before\n"
    rows.write(["first\n", "second\n"], path)
    assert path.read_text() == "first\nsecond\n"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_and_device_as_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        rows.write(["x"], tmp_path)
    with pytest.raises(UsageError, match="no ordinary file"):
        rows.write(["x"], Path("/dev/null"))
    assert not Path("/dev/null").is_file()


def test_linked_output_is_written_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    rows.write(["x"], tmp_path / "link.txt")
    assert (tmp_path / "real.txt").read_text() == "x"
    assert (tmp_path / "link.txt").is_symlink()


@pytest.mark.parametrize(
    ("error", "raised"), [(BrokenPipeError, OutputClosed), (OSError, EffnetError)]
)
def test_lost_stdout_is_told_apart(
    error: type[OSError], raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost:
        buffer: "Lost"

        def write(self, _: bytes) -> None:
            raise error(28, "No space left on device")

    stdout = Lost()
    stdout.buffer = stdout
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(raised):
        rows.write(["x"], None)


def test_summary_counts_everything(tmp_path: Path) -> None:
    tally = rows.RunSummary()
    passed = list(tally.count([*(good(str(n)) for n in range(5)), bad("x"), bad("y")]))
    finder = Finder([], not_images=2, linked_twice=1)
    assert len(passed) == 7
    assert (tally.answered, tally.failed.total()) == (5, 2)
    summary = tally.summary(finder)
    for words in (
        "7 images in ",
        "2 failed: 2 truncated",
        "most frequent: cat 5",
        "2 files left out for not being an image",
        "1 link left out",
    ):
        assert words in summary


def test_summary_of_nothing() -> None:
    assert rows.RunSummary().summary(Finder([])).startswith("0 images in ")
