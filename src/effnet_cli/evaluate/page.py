"""The pages of an evaluation and of a training's run."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from effnet_cli.evaluate import table
from effnet_cli.evaluate.records import Evaluation, LabelledPrediction
from effnet_cli.finetune.formats import commands
from effnet_cli.images.thumbnails import encode_thumbnail, make_thumbnail
from effnet_cli.models.checkpoint import MODEL_FILE_NAME, read_card
from effnet_cli.output.charts import curve_chart, reliability_chart
from effnet_cli.output.html import MAX_ROWS, PAGES, grid, sortable

REPORT_FILE_NAME, METRICS_FILE_NAME = "report.html", "metrics.jsonl"  # in a run's folder
SHOWN_PX = 160  # of a thumbnail
# From a path and a class to an image with a Grad-CAM overlay, uint8 [H,W,3]; `None` if it cannot be
# opened.
Overlay = Callable[[str, str], npt.NDArray[np.uint8] | None]
MAX_SHOWN_IMAGES = 60  # in a gallery
MAX_SHOWN_CLASSES = 40  # in the confusion matrix
MAX_CONFUSED = 12  # pairs of classes
CURVE_NOTE = (
    "Top-1 on the validation images after each epoch: first the classifier alone, then the whole "
    "model."
)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: its heading, a sentence about it, and its HTML."""

    heading: str
    note: str
    content: Markup


def run_page(found: Evaluation, folder: Path) -> str:
    """What came of a training: how good its model is on the validation images."""
    lines = (folder / METRICS_FILE_NAME).read_text("ascii").splitlines()
    epochs = [json.loads(line) for line in lines]
    card = read_card(folder / MODEL_FILE_NAME)
    choices = [(name.replace("_", " "), _in_words(v, name)) for name, v in card.options.items()]
    heads = [row["top1"] for row in epochs if row["phase"] == "head"]
    more = []
    if heads and len(heads) < len(epochs):
        more.append(f"The classifier alone, before the whole network learned: {max(heads):.1%}.")
    if card.unknown_below is not None:
        more.append(
            f"Answers with a probability from {card.unknown_below:.1%} were right in 95 % of cases;"
            " --unknown-below auto calls the others unknown."
        )
    about = card.dataset
    choices.append(("training images", f"{about['train']:,}"))
    curve = curve_chart(epochs)
    sections = [] if curve is None else [Section("Training", CURVE_NOTE, curve)]
    return evaluation_page(
        found,
        title="What the training has come to",
        summary=more,
        sections=sections,
        settings=choices,
        commands=list(commands(folder)),
    )


def _in_words(value: object, name: str) -> str:
    """An option's value as it is typed, or would be."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "no limit" if name in ("patience", "minutes") else "auto"
    return str(value)


def evaluation_page(
    found: Evaluation,
    *,
    title: str = "Evaluation",
    overlay: Overlay | None = None,
    summary: Sequence[str] = (),
    sections: Sequence[Section] = (),
    settings: Sequence[tuple[str, str]] = (),
    commands: Sequence[str] = (),
) -> str:
    """The HTML page of an evaluation.

    Args:
        overlay: draws a Grad-CAM overlay into the images.
        summary: lines to add to the summary at the top.
        sections: sections to insert before the table of classes.
        settings: names and values to add to the settings at the end.
        commands: shell commands to show at the end.
    """
    confused, failed = table.confused_table(found), table.failed_table(found)
    has_matrix = found.confusion and 2 <= len(found.per_class) <= MAX_SHOWN_CLASSES
    mistake_note = "" if overlay is None else "Red: what the prediction is based on (Grad-CAM)."
    label_note = "Sorted by the model's probability for the label, lowest first."
    return PAGES.get_template("evaluation.html").render(
        title=title,
        answer=[*table.headline(found), *summary],
        figures=table.figures_table(found),
        sections=sections,
        classes=sortable(table.classes_table(found)),
        matrix=found.confusion if has_matrix else None,
        confused=replace(confused, rows=confused.rows[:MAX_CONFUSED]),
        reliability=reliability_chart(found.calibration),
        galleries=[
            ("Most confident mistakes", mistake_note, _gallery(found.mistakes, overlay)),
            ("Likely label errors", label_note, _gallery(found.label_errors or (), overlay)),
        ],
        failed=replace(failed, rows=failed.rows[:MAX_ROWS]),
        choices=[*table.settings(found), *settings],
        commands=commands,
        grid=grid,
    )


def _gallery(
    rows: Sequence[LabelledPrediction], overlay: Overlay | None
) -> Iterator[tuple[LabelledPrediction, str]]:
    """Some images with their thumbnails in base64, which are empty if they cannot be opened."""
    for row in rows[:MAX_SHOWN_IMAGES]:
        pixels = overlay and overlay(row.path, row.prediction)
        if pixels is None:
            content = make_thumbnail(row.path, SHOWN_PX)
        else:
            content = encode_thumbnail(pixels, SHOWN_PX)
        yield row, base64.b64encode(content or b"").decode()
