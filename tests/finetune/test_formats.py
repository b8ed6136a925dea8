"""A training and a scan as text: rows that programs read, tables and words that people read."""

import csv
import io
import json
import math
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from effnet_cli.datasets import ClassCount, Finding, Scan
from effnet_cli.evaluate.records import ClassMetrics, Metrics
from effnet_cli.finetune import Epoch, TrainingResult, formats
from effnet_cli.output import console

# Any text that a class or a file may be called, bytes that are no UTF-8 included.
NAMES = st.binary(max_size=20).map(os.fsdecode) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)
HOSTILE = [
    "[red]x[/red]",
    "\x1b[31m",
    "a\nb",
    "\u202egpj",
    os.fsdecode(b"\xff"),
    "=cmd()",
    ":smile:",
]

FIRST = Epoch("head", 1, 8, 1.25, 0.5, 0.875, 0.75, 0.625, True, 1234.5, 2.5)
SECOND = Epoch("network", 2, 5, 0.75, 0.25, 0.9375, 0.875, 0.75, False, 12.0, 60.25)
VAL = Metrics(
    16,
    1,
    0.25,
    0.9375,
    0.875,
    0.75,
    (
        ClassMetrics("cat", 12, 1.0, 0.5, 2 / 3),
        ClassMetrics("dog", 4, 0.0, None, 0.0),
        ClassMetrics("owl", 0, None, None, None),
    ),
)
TRAINED = TrainingResult(Path("runs/pets-lite0/model.safetensors"), "network", 2, VAL, None, 83.4)
RECORDS = [FIRST, SECOND, TRAINED]


def named(*names: str) -> TrainingResult:
    rows = tuple(ClassMetrics(name, 3, 0.5, 0.25, 1 / 3) for name in names)
    return replace(TRAINED, val=replace(VAL, classes=rows))


def is_harmless(text: str) -> bool:
    """Whether nothing in it steers a terminal."""
    return all(c.isprintable() or c in "\n\u200d" for c in text)


# --- rows -----------------------------------------------------------------------------------------


def test_row_of_an_epoch_has_its_fields() -> None:
    assert formats.as_row(FIRST) == {
        "row": "epoch",
        "phase": "head",
        "epoch": 1,
        "epochs": 8,
        "loss": 1.25,
        "val_loss": 0.5,
        "top1": 0.875,
        "balanced_accuracy": 0.75,
        "macro_f1": 0.625,
        "is_best": True,
        "images_per_s": 1234.5,
        "seconds": 2.5,
    }


def test_row_of_the_end_has_the_model_and_the_metrics() -> None:
    row = formats.as_row(replace(TRAINED, test=VAL))
    assert row["row"] == "trained"
    assert row["model"] == "runs/pets-lite0/model.safetensors"
    assert (row["phase"], row["epoch"], row["seconds"]) == ("network", 2, 83.4)
    assert row["val"] == row["test"] == asdict(VAL)
    assert formats.as_row(TRAINED)["test"] is None


@given(
    st.lists(
        st.sampled_from([FIRST, SECOND]) | st.lists(NAMES, min_size=1).map(lambda n: named(*n)),
        max_size=4,
    )
)
def test_json_gives_everything_back(records: list[Epoch | TrainingResult]) -> None:
    wanted = json.loads(json.dumps([formats.as_row(record) for record in records]))
    lines = list(formats.ENCODERS["jsonl"](records))
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    assert [json.loads(line.encode("utf-8")) for line in lines] == wanted
    assert json.loads("".join(formats.ENCODERS["json"](records)).encode("utf-8")) == wanted


@pytest.mark.parametrize("format_", ["json", "jsonl"])
def test_nan_is_never_written(format_: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        list(formats.ENCODERS[format_]([replace(FIRST, val_loss=math.nan)]))


def test_csv_has_a_line_for_each_epoch() -> None:
    text = "".join(formats.ENCODERS["csv"](RECORDS))
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert header == [field.name for field in fields(Epoch)]
    assert len(lines) == 2
    assert lines[0] == [str(value) for value in asdict(FIRST).values()]
    assert text.count("\n") == 3


def test_csv_lines_come_as_epochs_do() -> None:
    taken: list[Epoch | TrainingResult] = []

    def records() -> Iterator[Epoch | TrainingResult]:
        for record in RECORDS:
            taken.append(record)
            yield record

    lines = formats.ENCODERS["csv"](records())
    assert next(lines).startswith("phase,epoch,")
    assert next(lines).startswith("head,1,8,")
    assert taken == [FIRST]
    assert next(lines).startswith("network,2,5,")
    assert list(lines) == []


def test_last_record_is_remembered() -> None:
    last: list[Any] = []
    assert list(formats.remembered(iter(RECORDS), last)) == RECORDS
    assert last == [TRAINED]
    assert list(formats.remembered(iter([]), last)) == []


def test_farewell_names_the_file_the_epoch_and_the_command() -> None:
    words = "\n".join(formats.farewell(TRAINED))
    assert words.startswith("runs/pets-lite0/model.safetensors holds epoch 2 of the whole network")
    assert "(83 s of training)" in words
    for command in ("predict IMAGE", "evaluate FOLDER", "export --to onnx"):
        assert f"  effnet {command} --model runs/pets-lite0" in words.splitlines()
    assert "classifier" in next(formats.farewell(replace(TRAINED, phase="head")))


@given(NAMES.filter(lambda name: name not in ("", ".", "..") and not set(name) & {"/", "\0"}))
def test_farewells_command_can_be_pasted(name: str) -> None:
    for command in formats.commands(Path("runs") / name):
        assert shlex.split(command)[-2:] == ["--model", f"runs/{name}"]


# --- a dataset's scan -----------------------------------------------------------------------------

SCAN = Scan(
    "/data/pets",
    "train/ and val/",
    (ClassCount("cat", 1200, 30, None), ClassCount("dog", 8, 0, None)),
    (
        Finding("note", "copies", "2 files are copies.", "", 2, ("a.png", "b.png")),
        Finding("error", "broken", "1 file is broken.", "Mend it.", 1, ("c.png",), ("cut off",)),
        Finding("warning", "few", "'dog' has 8 images.", "Add some."),
    ),
    None,
)


def test_rows_of_a_scan_end_with_the_sums() -> None:
    assert formats.scan_rows(SCAN) == [
        ["cat", 1200, 30, None],
        ["dog", 8, 0, None],
        ["all", 1208, 30, 0],
    ]
    with_test = replace(SCAN, classes=(ClassCount("cat", 1, 2, 3), ClassCount("dog", 4, 5, 6)))
    assert formats.scan_rows(with_test)[-1] == ["all", 5, 7, 9]
    assert formats.scan_rows(replace(SCAN, classes=())) == []


def test_findings_come_gravest_first_with_their_paths() -> None:
    assert "".join(formats.findings_text(SCAN)).splitlines() == [
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
    assert list(formats.findings_text(replace(SCAN, findings=()))) == []


# --- in a terminal and in a pipe ------------------------------------------------------------------


@pytest.fixture(params=["pipe", 20, 40, 72, 200], ids=str)
def stdout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The terminal's columns, or None in a pipe."""
    return show_in(request.param, monkeypatch)


def show_in(kind: Any, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> int | None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", file)
    options: dict[str, Any] = {"force_terminal": False}
    if kind != "pipe":
        options = {"force_terminal": True, "width": kind, "color_system": "standard"}
    shown = Console(file=file, **options)
    monkeypatch.setattr(console, "_terminal", lambda: shown)
    return None if kind == "pipe" else kind


def plain(text: str) -> str:
    """`text` without rich's colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_epochs_stream_under_one_header(stdout: int | None) -> None:
    pieces = console.training_text(iter([FIRST, SECOND]))
    assert next(pieces) == console.TRAINING_COLUMNS + "\n"
    first, second = next(pieces), next(pieces)
    assert plain(first).split() == [
        "head", "1/8", "1.250", "0.500", "87.5%", "0.625", "1,234.5", "2.5", "best"
    ]  # fmt: skip
    assert plain(second).split()[:2] == ["network", "2/5"]
    assert "best" not in second
    assert list(pieces) == []
    assert ("\x1b" in first) == (stdout is not None)


@pytest.mark.parametrize("kind", ["pipe", 200])
def test_columns_stand_under_their_names(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    show_in(kind, monkeypatch)
    header, first, second = map(plain, console.training_text(iter([FIRST, SECOND])))
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
    text = plain("".join(console.training_text([FIRST, SECOND, replace(TRAINED, test=VAL)])))
    assert "validation: top-1 93.8%, balanced accuracy 87.5%, macro F1 0.750 (16 images)" in text
    assert text.count("test: top-1") == 1
    assert text.index("owl") < text.index("dog") < text.index("cat")
    assert "test:" not in plain("".join(console.training_text([FIRST, TRAINED])))


def test_class_without_images_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    show_in("pipe", monkeypatch)
    rows = "".join(console.training_text([TRAINED])).splitlines()
    (owl,) = [row for row in rows if row.split()[:1] == ["owl"]]
    assert owl.count("no images") >= 2
    assert "nan" not in "".join(rows).lower()


def test_class_that_is_never_answered_has_images_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_in("pipe", monkeypatch)
    rows = "".join(console.training_text([TRAINED])).splitlines()
    (dog,) = [row for row in rows if row.split()[:1] == ["dog"]]
    assert "no images" not in dog  # it has four; what it lacks are answers


def test_many_classes_are_cut_to_the_worst(stdout: int | None) -> None:
    shares = [number / 100 for number in range(100)]
    rows = tuple(ClassMetrics(f"c{n:02}", 3, f1, f1, f1) for n, f1 in enumerate(shares))
    text = plain("".join(console.training_text([replace(TRAINED, val=replace(VAL, classes=rows))])))
    shown = re.findall(r"^ *(c\d\d) ", text, re.M)
    assert shown == [f"c{n:02}" for n in range(console.MAX_CLASS_ROWS)]
    assert f"... and {100 - console.MAX_CLASS_ROWS} classes with a better F1" in text


@pytest.mark.parametrize("count", [1, 2, 5, 60, 200])
def test_curve_has_its_bounds_and_a_column_an_epoch(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_in("pipe", monkeypatch)
    epochs = [replace(FIRST, top1=0.2 + 0.6 * n / max(1, count - 1)) for n in range(count)]
    text = "".join(console.training_text([*epochs, TRAINED]))
    lines = [line for line in text.splitlines() if "█" in line]
    if count == 1:
        assert lines == []
        return
    assert len(lines) == console.CURVE_ROWS
    assert lines[0].split()[0] == "80.0%"
    assert lines[-1].split()[0] == "20.0%"
    shown = min(count, console.CURVE_WIDTH)
    assert lines[0].count("█") >= 1
    if count <= console.CURVE_WIDTH:
        assert lines[-1].count("█") == shown
    assert max(line.count("█") for line in lines) == shown
    heights = [sum(line[8 + x : 9 + x] == "█" for line in lines) for x in range(shown)]
    assert heights == sorted(heights)


@pytest.mark.parametrize("top1", [0.0, 0.5, 1.0])
def test_epochs_of_one_height_draw_no_curve(top1: float, monkeypatch: pytest.MonkeyPatch) -> None:
    show_in("pipe", monkeypatch)
    text = "".join(console.training_text([replace(FIRST, top1=top1)] * 3 + [TRAINED]))
    assert "█" not in text
    assert text.count(f"{top1:.1%}") >= 3


def test_plain_terminal_gets_plain_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    show_in("pipe", monkeypatch, encoding="ascii")
    text = "".join(console.training_text([FIRST, SECOND, named("café 😀")]))
    text.encode("ascii")
    assert "##" in text
    assert "caf\\xe9 \\U0001f600" in text
    scan = replace(SCAN, root="/data/pets", classes=(ClassCount("é", 1, 1, None),))
    assert "\\xe9" in "".join(console.scan_text(scan))


def test_scan_shows_layout_classes_and_findings(stdout: int | None) -> None:
    text = plain("".join(console.scan_text(SCAN)))
    lines = text.splitlines()
    assert lines[0] == "/data/pets: train/ and val/"
    (cat,) = [line for line in lines if line.split()[:1] == ["cat"]]
    assert cat.split() == ["cat", "1,200", "30", "-"]
    assert text.index("dog ") < text.index("all ") < text.index("Errors") < text.index("Notes")
    empty = plain("".join(console.scan_text(replace(SCAN, classes=(), findings=()))))
    assert empty == "/data/pets: train/ and val/\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES | st.sampled_from(HOSTILE), min_size=1, max_size=4))
def test_no_name_steers_a_terminal(names: list[str], stdout: int | None) -> None:
    trained = "".join(console.training_text([FIRST, SECOND, named(*names)]))
    finding = Finding("error", "x", f"{names[0]!s} is bad.", "", 1, tuple(names), tuple(names))
    classes = tuple(ClassCount(name, 1, 1, None) for name in names)
    scan = "".join(console.scan_text(Scan(names[0], "folders", classes, (finding,), None)))
    for text in (trained, scan):
        assert is_harmless(plain(text))
        text.encode("utf-8")


@pytest.mark.parametrize("name", ["[red]x[/red]", ":smile:", "a  b", "x" * 300])
def test_names_are_shown_whole_and_as_they_are(name: str, stdout: int | None) -> None:
    assert name in plain("".join(console.training_text([named(name, "other")])))
    scan = replace(SCAN, classes=(ClassCount(name, 1, 1, None),))
    assert name in plain("".join(console.scan_text(scan)))
