"""The pages of an evaluation and of a training's run."""

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from effnet_cli.evaluate import formats
from effnet_cli.evaluate.run import Evaluation, LabelledPrediction
from effnet_cli.finetune.formats import commands
from effnet_cli.images.thumbnails import make_thumbnail, thumbnail_from_pixels
from effnet_cli.models.checkpoint import MODEL_FILE_NAME, read_card
from effnet_cli.output.charts import curve_chart, reliability_chart
from effnet_cli.output.html import MAX_ROWS, PAGES, grid, sortable

REPORT_FILE_NAME, METRICS_FILE_NAME = "report.html", "metrics.jsonl"  # in a run's folder
THUMBNAIL_PX = 160
# Pixels of an image, uint8 [H,W,3], with what speaks for a class; `None` if it cannot be opened.
Overlay = Callable[[str, str], npt.NDArray[np.uint8] | None]
MAX_IMAGES = 60  # in a gallery
MAX_MATRIX_CLASSES = 40
MAX_CONFUSED = 12  # pairs of classes


def evaluation_page(found: Evaluation, overlay: Overlay | None = None) -> str:
    """How good a model is on labelled images, and where it errs; `overlay` draws into the
    images what speaks for a class.
    """
    return _evaluation_page("How good is it?", found, None, (), (), overlay=overlay)


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
    next_commands = list(commands(folder))
    return _evaluation_page(
        "What the training has come to", found, curve_chart(epochs), choices, next_commands, more
    )


def _in_words(value: object, name: str) -> str:
    """An option's value as it is typed, or would be."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "no limit" if name in ("patience", "minutes") else "auto"
    return str(value)


def _evaluation_page(
    title: str,
    found: Evaluation,
    curve: Markup | None,
    choices: Sequence[tuple[str, str]],
    commands: Sequence[str],
    more: Sequence[str] = (),
    overlay: Overlay | None = None,
) -> str:
    sections = dict(formats.sections(found))
    failed, confused = sections["Could not be opened"], sections["ConfusedPair most often"]
    label_note = "Sorted by how little the model believes in the label."
    mistake_note = "" if overlay is None else "Red is what speaks for the answer (Grad-CAM)."
    return PAGES.get_template("evaluation.html").render(
        title=title,
        answer=[*formats.answer(found), *more],
        curve=curve,
        classes=sortable(*formats.classes_table(found)),
        matrix=_matrix(found),
        confused=(confused[0], confused[1][:MAX_CONFUSED]) if found.confused else None,
        reliability=reliability_chart(found),
        galleries=[
            ("Most confident mistakes", mistake_note, _gallery(found.mistakes, overlay)),
            (
                "Labels that are likely wrong",
                label_note,
                _gallery(found.label_errors or (), overlay),
            ),
        ],
        failed=(failed[0], failed[1][:MAX_ROWS]) if found.failed else None,
        choices=[*formats.choices(found), *choices],
        commands=commands,
        grid=grid,
    )


def _gallery(rows: Sequence[LabelledPrediction], overlay: Overlay | None) -> list[dict[str, str]]:
    """What is shown of some images, their thumbnails in base64."""
    shown = []
    for one in rows[:MAX_IMAGES]:
        drawn = None if overlay is None else overlay(one.path, one.answer)
        content = make_thumbnail(one.path, THUMBNAIL_PX)
        if drawn is not None:
            content = thumbnail_from_pixels(drawn, THUMBNAIL_PX)
        shown.append(
            {
                "path": one.path,
                "label": one.label,
                "answer": one.answer,
                "probability": f"{one.probability:.1%}",
                "label_probability": f"{one.label_probability:.1%}",
                "image": base64.b64encode(content).decode() if content else "",
            }
        )
    return shown


def _matrix(found: Evaluation) -> dict[str, Any] | None:
    """The confusion matrix of a handful of classes: counts, and shares of their row in percent."""
    if found.confusion is None or not 2 <= len(found.classes) <= MAX_MATRIX_CLASSES:
        return None
    rows = []
    for index, (name, counts) in enumerate(zip(found.classes, found.confusion, strict=True)):
        total = sum(counts) or 1
        cells = [(n, round(100 * n / total), place == index) for place, n in enumerate(counts)]
        rows.append((name, cells))
    return {"names": found.classes, "rows": rows}
