"""Tables of runs and scans, in a terminal and in a pipe."""

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
from training_records import (
    FIRST,
    HOSTILE,
    NAMES,
    SCAN,
    SECOND,
    TRAINED,
    VAL,
    is_harmless,
    make_result,
)


def render_training(records: Iterable[Epoch | TrainingResult]) -> Iterator[str]:
    return terminal.render(table.blocks(records))


def render_scan(scan: Scan) -> Iterator[str]:
    return terminal.render(table.scan_blocks(scan))


def test_findings_are_listed_by_severity_with_their_paths() -> None:
    assert list(table.findings_blocks(SCAN)) == [
        "Errors",
        "  1 file is broken. Fix it.",
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
    """Replace stdout; the value is the terminal width, or `None` for a pipe."""
    return set_stdout(request.param, monkeypatch)


def set_stdout(kind: Any, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> int | None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", file)
    options: dict[str, Any] = {"force_terminal": False}
    if kind != "pipe":
        options = {"force_terminal": True, "width": kind, "color_system": "standard"}
    console = Console(file=file, **options)
    monkeypatch.setattr(terminal, "_stdout", lambda: console)
    return None if kind == "pipe" else kind


def strip_colours(text: str) -> str:
    """Remove colour codes from `text`."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_epochs_stream_under_one_header(stdout: int | None) -> None:
    pieces = render_training(iter([FIRST, SECOND]))
    assert next(pieces) == table.TRAINING_COLUMNS + "\n"
    first, second = next(pieces), next(pieces)
    assert strip_colours(first).split() == [
        "head", "1/8", "1.250", "0.500", "87.5%", "0.625", "1,234.5", "2.5", "best"
    ]  # fmt: skip
    assert strip_colours(second).split()[:2] == ["full", "2/5"]
    assert "best" not in second
    assert list(pieces) == []
    assert ("\x1b" in first) == (stdout is not None)


@pytest.mark.parametrize("kind", ["pipe", 200])
def test_cells_align_with_their_headers(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    set_stdout(kind, monkeypatch)
    header, first, second = map(strip_colours, render_training(iter([FIRST, SECOND])))
    cells = {
        "loss": "1.250",
        "val loss": "0.500",
        "top-1": "87.5%",
        "macro F1": "0.625",
        "images/s": "1,234.5",
        "seconds": "2.5",
    }
    for name, cell in cells.items():
        assert header.index(name) + len(name) == first.index(cell) + len(cell), name
    assert second.rstrip("\n") == second.rstrip()


def test_result_shows_splits_and_the_worst_classes_first(stdout: int | None) -> None:
    text = strip_colours("".join(render_training([FIRST, SECOND, replace(TRAINED, test=VAL)])))
    assert (
        "validation: top-1 93.8% (95 % interval 71.7% to 98.9%), balanced accuracy 87.5%, "
        "macro F1 0.750 (16 images)"
    ) in text
    assert text.count("test: top-1") == 1
    assert text.index("owl") < text.index("dog") < text.index("cat")
    assert "test:" not in strip_colours("".join(render_training([FIRST, TRAINED])))


def test_class_without_images_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    set_stdout("pipe", monkeypatch)
    rows = "".join(render_training([TRAINED])).splitlines()
    (owl,) = [row for row in rows if row.split()[:1] == ["owl"]]
    assert owl.count("no images") >= 2
    assert "nan" not in "".join(rows).lower()


def test_class_without_predictions_is_not_marked_as_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_stdout("pipe", monkeypatch)
    rows = "".join(render_training([TRAINED])).splitlines()
    (dog,) = [row for row in rows if row.split()[:1] == ["dog"]]
    assert "no images" not in dog  # it has four; only predictions are missing


def test_only_the_worst_of_many_classes_are_shown(stdout: int | None) -> None:
    f1s = [number / 100 for number in range(100)]
    rows = tuple(ClassMetrics(f"c{n:02}", 3, f1, f1, f1) for n, f1 in enumerate(f1s))
    text = strip_colours(
        "".join(render_training([replace(TRAINED, val=replace(VAL, classes=rows))]))
    )
    shown = re.findall(r"^ *(c\d\d) ", text, re.M)
    assert shown == [f"c{n:02}" for n in range(table.MAX_CLASS_ROWS)]
    assert f"... and {100 - table.MAX_CLASS_ROWS} classes with a better F1" in text


def test_ascii_output_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    set_stdout("pipe", monkeypatch, encoding="ascii")
    text = "".join(render_training([FIRST, SECOND, make_result("café 😀")]))
    text.encode("ascii")
    assert "caf\\xe9 \\U0001f600" in text
    scan = replace(SCAN, root="/data/pets", classes=(ClassCount("é", 1, 1, None),))
    assert "\\xe9" in "".join(render_scan(scan))


def test_scan_shows_layout_classes_and_findings(stdout: int | None) -> None:
    text = strip_colours("".join(render_scan(SCAN)))
    lines = text.splitlines()
    assert lines[0] == "/data/pets: train/ and val/"
    (cat,) = [line for line in lines if line.split()[:1] == ["cat"]]
    assert cat.split() == ["cat", "1,200", "30", "-"]
    assert text.index("dog ") < text.index("all ") < text.index("Errors") < text.index("Notes")
    empty = strip_colours("".join(render_scan(replace(SCAN, classes=(), findings=()))))
    assert empty == "/data/pets: train/ and val/\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES | st.sampled_from(HOSTILE), min_size=1, max_size=4))
def test_names_cannot_control_a_terminal(names: list[str], stdout: int | None) -> None:
    trained = "".join(render_training([FIRST, SECOND, make_result(*names)]))
    finding = Finding("error", "x", f"{names[0]!s} is bad.", "", 1, tuple(names), tuple(names))
    classes = tuple(ClassCount(name, 1, 1, None) for name in names)
    scan = "".join(render_scan(Scan(names[0], "folders", classes, (finding,), None)))
    for text in (trained, scan):
        assert is_harmless(strip_colours(text))
        text.encode("utf-8")


@pytest.mark.parametrize("name", ["[red]x[/red]", ":smile:", "a  b", "x" * 300])
def test_names_are_shown_unchanged(name: str, stdout: int | None) -> None:
    assert name in strip_colours("".join(render_training([make_result(name, "other")])))
    scan = replace(SCAN, classes=(ClassCount(name, 1, 1, None),))
    assert name in strip_colours("".join(render_scan(scan)))


def test_scan_rows_end_with_totals() -> None:
    assert table.scan_rows(SCAN) == [
        ["cat", 1200, 30, None],
        ["dog", 8, 0, None],
        ["all", 1208, 30, 0],
    ]
    with_test = replace(SCAN, classes=(ClassCount("cat", 1, 2, 3), ClassCount("dog", 4, 5, 6)))
    assert table.scan_rows(with_test)[-1] == ["all", 5, 7, 9]
    assert table.scan_rows(replace(SCAN, classes=())) == []
