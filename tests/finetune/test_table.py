"""A run and a scan as text, in a terminal and in a pipe."""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from effnet_cli.datasets.findings import Finding
from effnet_cli.datasets.records import ClassCount, Scan
from effnet_cli.evaluate.records import ClassMetrics
from effnet_cli.finetune import table
from effnet_cli.finetune.records import Epoch, TrainingResult
from effnet_cli.output import terminal
from training_records import FIRST, HOSTILE, NAMES, SCAN, SECOND, TRAINED, VAL, is_harmless, named


def training_text(records: Iterable[Epoch | TrainingResult]) -> Iterator[str]:
    return terminal.render(table.blocks(records))


def scan_text(scan: Scan) -> Iterator[str]:
    return terminal.render(table.scan_blocks(scan))


def test_findings_come_errors_first_with_their_paths() -> None:
    assert list(table.findings_blocks(SCAN)) == [
        "Errors",
        "  1 file is broken. Mend it.",
        "    c.png: cut off",
        "Warnings",
        "  'dog' has 8 images. Add some.",
        "Notes",
        "  2 files are copies.",
        "    a.png",
        "    b.png",
    ]
    assert list(table.findings_blocks(replace(SCAN, findings=()))) == []


# --- in a terminal and in a pipe ------------------------------------------------------------------


@pytest.fixture(params=["pipe", 20, 40, 72, 200], ids=str)
def stdout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The columns of the terminal, or `None` for a pipe."""
    return show_in(request.param, monkeypatch)


def show_in(kind: Any, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> int | None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", file)
    options: dict[str, Any] = {"force_terminal": False}
    if kind != "pipe":
        options = {"force_terminal": True, "width": kind, "color_system": "standard"}
    shown = Console(file=file, **options)
    monkeypatch.setattr(terminal, "_stdout", lambda: shown)
    return None if kind == "pipe" else kind


def plain(text: str) -> str:
    """Remove rich's colours from `text`."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_epochs_stream_under_one_header(stdout: int | None) -> None:
    pieces = training_text(iter([FIRST, SECOND]))
    assert next(pieces) == table.TRAINING_COLUMNS + "\n"
    first, second = next(pieces), next(pieces)
    assert plain(first).split() == [
        "head", "1/8", "1.250", "0.500", "87.5%", "0.625", "1,234.5", "2.5", "best"
    ]  # fmt: skip
    assert plain(second).split()[:2] == ["full", "2/5"]
    assert "best" not in second
    assert list(pieces) == []
    assert ("\x1b" in first) == (stdout is not None)


@pytest.mark.parametrize("kind", ["pipe", 200])
def test_columns_stand_under_their_names(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    show_in(kind, monkeypatch)
    header, first, second = map(plain, training_text(iter([FIRST, SECOND])))
    places = {
        "loss": "1.250",
        "val loss": "0.500",
        "top-1": "87.5%",
        "macro F1": "0.625",
        "images/s": "1,234.5",
        "seconds": "2.5",
    }
    for name, cell in places.items():
        assert header.index(name) + len(name) == first.index(cell) + len(cell), name
    assert second.rstrip("\n") == second.rstrip()


def test_end_shows_the_splits_and_the_worst_classes_first(stdout: int | None) -> None:
    text = plain("".join(training_text([FIRST, SECOND, replace(TRAINED, test=VAL)])))
    assert "validation: top-1 93.8%, balanced accuracy 87.5%, macro F1 0.750 (16 images)" in text
    assert text.count("test: top-1") == 1
    assert text.index("owl") < text.index("dog") < text.index("cat")
    assert "test:" not in plain("".join(training_text([FIRST, TRAINED])))


def test_class_without_images_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    show_in("pipe", monkeypatch)
    rows = "".join(training_text([TRAINED])).splitlines()
    (owl,) = [row for row in rows if row.split()[:1] == ["owl"]]
    assert owl.count("no images") >= 2
    assert "nan" not in "".join(rows).lower()


def test_class_without_predictions_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_in("pipe", monkeypatch)
    rows = "".join(training_text([TRAINED])).splitlines()
    (dog,) = [row for row in rows if row.split()[:1] == ["dog"]]
    assert "no images" not in dog  # it has four; only predictions are missing


def test_many_classes_are_cut_to_the_worst(stdout: int | None) -> None:
    shares = [number / 100 for number in range(100)]
    rows = tuple(ClassMetrics(f"c{n:02}", 3, f1, f1, f1) for n, f1 in enumerate(shares))
    text = plain("".join(training_text([replace(TRAINED, val=replace(VAL, classes=rows))])))
    shown = re.findall(r"^ *(c\d\d) ", text, re.M)
    assert shown == [f"c{n:02}" for n in range(table.MAX_CLASS_ROWS)]
    assert f"... and {100 - table.MAX_CLASS_ROWS} classes with a better F1" in text


def test_plain_terminal_gets_plain_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    show_in("pipe", monkeypatch, encoding="ascii")
    text = "".join(training_text([FIRST, SECOND, named("café 😀")]))
    text.encode("ascii")
    assert "caf\\xe9 \\U0001f600" in text
    scan = replace(SCAN, root="/data/pets", classes=(ClassCount("é", 1, 1, None),))
    assert "\\xe9" in "".join(scan_text(scan))


def test_scan_shows_layout_classes_and_findings(stdout: int | None) -> None:
    text = plain("".join(scan_text(SCAN)))
    lines = text.splitlines()
    assert lines[0] == "/data/pets: train/ and val/"
    (cat,) = [line for line in lines if line.split()[:1] == ["cat"]]
    assert cat.split() == ["cat", "1,200", "30", "-"]
    assert text.index("dog ") < text.index("all ") < text.index("Errors") < text.index("Notes")
    empty = plain("".join(scan_text(replace(SCAN, classes=(), findings=()))))
    assert empty == "/data/pets: train/ and val/\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES | st.sampled_from(HOSTILE), min_size=1, max_size=4))
def test_no_name_steers_a_terminal(names: list[str], stdout: int | None) -> None:
    trained = "".join(training_text([FIRST, SECOND, named(*names)]))
    finding = Finding("error", "x", f"{names[0]!s} is bad.", "", 1, tuple(names), tuple(names))
    classes = tuple(ClassCount(name, 1, 1, None) for name in names)
    scan = "".join(scan_text(Scan(names[0], "folders", classes, (finding,), None)))
    for text in (trained, scan):
        assert is_harmless(plain(text))
        text.encode("utf-8")


@pytest.mark.parametrize("name", ["[red]x[/red]", ":smile:", "a  b", "x" * 300])
def test_names_are_shown_whole_and_as_they_are(name: str, stdout: int | None) -> None:
    assert name in plain("".join(training_text([named(name, "other")])))
    scan = replace(SCAN, classes=(ClassCount(name, 1, 1, None),))
    assert name in plain("".join(scan_text(scan)))


def test_rows_of_a_scan_end_with_the_sums() -> None:
    assert table.scan_rows(SCAN) == [
        ["cat", 1200, 30, None],
        ["dog", 8, 0, None],
        ["all", 1208, 30, 0],
    ]
    with_test = replace(SCAN, classes=(ClassCount("cat", 1, 2, 3), ClassCount("dog", 4, 5, 6)))
    assert table.scan_rows(with_test)[-1] == ["all", 5, 7, 9]
    assert table.scan_rows(replace(SCAN, classes=())) == []
