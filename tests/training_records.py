"""Training records and names for the tests of formats and tables."""

import os
from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st

from effnet_cli.datasets.findings import Finding
from effnet_cli.datasets.records import ClassCount, Scan
from effnet_cli.evaluate.records import ClassMetrics, Metrics
from effnet_cli.finetune.records import Epoch, TrainingResult

# Any name of a class or file, including names that are not valid UTF-8.
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
SECOND = Epoch("full", 2, 5, 0.75, 0.25, 0.9375, 0.875, 0.75, False, 12.0, 60.25)
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
TRAINED = TrainingResult(Path("runs/pets-lite0/model.safetensors"), "full", 2, VAL, None, 83.4)
RECORDS = [FIRST, SECOND, TRAINED]


def make_result(*names: str) -> TrainingResult:
    """Create a result for classes with these names."""
    rows = tuple(ClassMetrics(name, 3, 0.5, 0.25, 1 / 3) for name in names)
    return replace(TRAINED, val=replace(VAL, classes=rows))


def is_harmless(text: str) -> bool:
    """Return whether text contains no terminal control characters."""
    return all(c.isprintable() or c in "\n\u200d" for c in text)


SCAN = Scan(
    "/data/pets",
    "train/ and val/",
    (ClassCount("cat", 1200, 30, None), ClassCount("dog", 8, 0, None)),
    (
        Finding("note", "copies", "2 files are copies.", "", 2, ("a.png", "b.png")),
        Finding("error", "broken", "1 file is broken.", "Fix it.", 1, ("c.png",), ("cut off",)),
        Finding("warning", "few", "'dog' has 8 images.", "Add some."),
    ),
    None,
)
