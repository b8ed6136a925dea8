"""The HTML page of an evaluation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from effnet_cli.evaluate import label_table, table
from effnet_cli.evaluate.records import Evaluation, LabelEvaluation, LabelledPrediction
from effnet_cli.images.thumbnails import encode_thumbnail, make_thumbnail
from effnet_cli.output.charts import class_curves_chart, reliability_chart
from effnet_cli.output.html import MAX_ROWS, PAGES, base64_text, grid, sortable

SHOWN_PX = 160  # longer side of a thumbnail
# Takes a path and a class; returns the image with a Grad-CAM overlay, uint8 [H,W,3], or `None` if
# it cannot be opened.
Overlay = Callable[[str, str], npt.NDArray[np.uint8] | None]
MAX_SHOWN_IMAGES = 60  # in a gallery
MAX_SHOWN_CLASSES = 40  # in the confusion matrix
MAX_SHOWN_CURVES = 6  # classes
MAX_CONFUSED = 12  # pairs of classes


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: its heading, a sentence about it, and its HTML."""

    heading: str
    note: str
    content: Markup


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
    """Return the HTML page of an evaluation.

    Args:
        overlay: draws a Grad-CAM overlay on an image.
        summary: lines to add to the summary at the top.
        sections: sections to insert before the table of classes.
        settings: names and values to add to the settings at the end.
        commands: shell commands to show at the end.
    """
    confused, failed = table.confused_table(found), table.failed_table(found)
    has_matrix = found.confusion and 2 <= len(found.classes) <= MAX_SHOWN_CLASSES
    mistake_note = "" if overlay is None else "Red: what the prediction is based on (Grad-CAM)."
    label_note = "Sorted by the model's probability for the label, lowest first."
    return PAGES.get_template("evaluation.html").render(
        title=title,
        summary=[*table.headline(found), *summary],
        figures=table.metrics_table(found),
        points=[
            (table.point_table(point), table.describe_images(point))
            for point in found.operating_points
        ],
        warnings=list(table.warnings(found)),
        sections=sections,
        classes=sortable(table.classes_table(found)),
        matrix=found.confusion if has_matrix else None,
        confused=replace(confused, rows=confused.rows[:MAX_CONFUSED]),
        curves=list(_curves(found)),
        reliability=reliability_chart([asdict(one) for one in found.calibration]),
        galleries=[
            ("Most confident mistakes", mistake_note, _gallery(found.mistakes, overlay)),
            ("Likely label errors", label_note, _gallery(found.label_errors or (), overlay)),
        ],
        failed=replace(failed, rows=failed.rows[:MAX_ROWS]),
        choices=[*table.settings(found), *settings],
        commands=commands,
        grid=grid,
    )


def _curves(found: Evaluation) -> Iterator[tuple[str, Markup]]:
    """Yield the name and the chart of the classes with the lowest AUROC, after the positive one."""
    points = found.operating_points
    drawn = [row for row in found.ranking if row.auroc is not None and row.roc]
    drawn.sort(key=lambda row: (all(row.name != point.positive for point in points), row.auroc))
    for row in drawn[:MAX_SHOWN_CURVES]:
        own = [point for point in points if point.positive == row.name]
        chart = class_curves_chart(
            row.roc,
            row.precision_recall,
            roc_marks=[(1 - p.specificity.value, p.sensitivity.value) for p in own],
            precision_marks=[(p.sensitivity.value, p.ppv.value) for p in own if p.ppv],
        )
        areas = f"AUROC {row.auroc:.3f}, average precision {row.average_precision:.3f}"
        yield f"{row.name}: {areas}", chart


def _gallery(
    rows: Sequence[LabelledPrediction], overlay: Overlay | None
) -> Iterator[tuple[LabelledPrediction, Markup]]:
    """Yield the first rows with base64 thumbnails, empty for images that cannot be opened."""
    for row in rows[:MAX_SHOWN_IMAGES]:
        pixels = overlay and overlay(row.path, row.prediction)
        if pixels is None:
            content = make_thumbnail(row.path, SHOWN_PX)
        else:
            content = encode_thumbnail(pixels, SHOWN_PX)
        yield row, base64_text(content)


def label_page(
    found: LabelEvaluation,
    *,
    title: str = "Evaluation",
    summary: Sequence[str] = (),
    sections: Sequence[Section] = (),
    settings: Sequence[tuple[str, str]] = (),
    commands: Sequence[str] = (),
) -> str:
    """Return the HTML page of a model that gives an image several labels; takes the same as
    `evaluation_page`.
    """
    confused, failed = label_table.confused_table(found), label_table.failed_table(found)
    return PAGES.get_template("labels.html").render(
        title=title,
        summary=[*label_table.headline(found), *summary],
        figures=label_table.figures_table(found),
        sections=sections,
        labels=label_table.label_table(found, limit=MAX_ROWS),
        confused=replace(confused, rows=confused.rows[:MAX_CONFUSED]),
        mistakes=[
            (one, base64_text(make_thumbnail(one.path, SHOWN_PX)))
            for one in found.mistakes[:MAX_SHOWN_IMAGES]
        ],
        failed=replace(failed, rows=failed.rows[:MAX_ROWS]),
        choices=[*label_table.settings(found), *settings],
        commands=commands,
        grid=grid,
    )
