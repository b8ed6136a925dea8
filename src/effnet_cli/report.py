"""Records as one HTML page: nothing is loaded from anywhere, and what came from outside is text."""

import base64
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from effnet_cli import bench_rows, evaluation_rows, training_rows
from effnet_cli.bench.records import Change, Measured
from effnet_cli.checkpoint import MODEL_FILE_NAME, read_card
from effnet_cli.evaluate import Evaluation, Judged
from effnet_cli.images.thumbnails import thumbnail, thumbnail_of
from effnet_cli.rows import printable

# Colours of a chart, which the page's style sheet replaces: they follow the reader's scheme.
INK, SOFT, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"
COLOURS = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", ACCENT: "var(--accent)"}
CHART_INCHES = (9.0, 4.8)
REPORT_FILE_NAME, METRICS_FILE_NAME = "report.html", "metrics.jsonl"  # in a run's folder
THUMBNAIL_PX = 160
# Pixels of a picture, uint8 [H,W,3], with what speaks for a class; `None` if it cannot be opened.
Overlay = Callable[[str, str], npt.NDArray[np.uint8] | None]
MAX_PICTURES = 60  # in a gallery
MAX_ROWS = 1_000  # in a table
MAX_MATRIX_CLASSES = 40
MAX_CONFUSED = 12  # pairs of classes
GOOD, BAD = ("stable", "faster"), ("unstable", "slower")

_PAGES = Environment(
    loader=PackageLoader("effnet_cli"),
    autoescape=True,
    finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def bench_page(measured: Measured, changes: Sequence[Change] | None) -> str:
    """What `effnet bench` has measured: the answer, the chart, the figures."""
    return _PAGES.get_template("bench.html").render(
        title="How fast is it here?",
        answer=list(bench_rows.recommendation(measured)),
        chart=_latency_chart(bench_rows.chart_points(measured)),
        figures=bench_rows.table(measured),
        changes=None if changes is None else bench_rows.changes_table(changes),
        machine=list(bench_rows.machine_lines(measured)),
        left_out=measured.left_out,
        grid=_grid,
    )


def evaluation_page(found: Evaluation, overlay: Overlay | None = None) -> str:
    """How good a model is on labelled pictures, and where it errs; `overlay` draws into the
    pictures what speaks for a class.
    """
    return _evaluation_page("How good is it?", found, None, (), (), overlay=overlay)


def run_page(found: Evaluation, folder: Path) -> str:
    """What came of a training: how good its model is on the validation pictures."""
    lines = (folder / METRICS_FILE_NAME).read_text("ascii").splitlines()
    epochs = [json.loads(line) for line in lines]
    card = read_card(folder / MODEL_FILE_NAME)
    choices = [(name.replace("_", " "), str(value)) for name, value in card.options.items()]
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
    choices.append(("training pictures", f"{about['train']:,}"))
    commands = list(training_rows.commands(folder))
    return _evaluation_page(
        "What the training has come to", found, _curve_chart(epochs), choices, commands, more
    )


def _evaluation_page(
    title: str,
    found: Evaluation,
    curve: Markup | None,
    choices: Sequence[tuple[str, str]],
    commands: Sequence[str],
    more: Sequence[str] = (),
    overlay: Overlay | None = None,
) -> str:
    sections = dict(evaluation_rows.sections(found))
    failed, confused = sections["Could not be opened"], sections["Confused most often"]
    label_note = "Sorted by how little the model believes in the label."
    mistake_note = "" if overlay is None else "Red is what speaks for the answer (Grad-CAM)."
    return _PAGES.get_template("evaluation.html").render(
        title=title,
        answer=[*evaluation_rows.answer(found), *more],
        curve=curve,
        classes=_sortable(*evaluation_rows.classes_table(found)),
        matrix=_matrix(found),
        confused=(confused[0], confused[1][:MAX_CONFUSED]) if found.confused else None,
        reliability=_reliability_chart(found),
        galleries=[
            ("Most confident mistakes", mistake_note, _gallery(found.mistakes, overlay)),
            (
                "Labels that are likely wrong",
                label_note,
                _gallery(found.label_errors or (), overlay),
            ),
        ],
        failed=(failed[0], failed[1][:MAX_ROWS]) if found.failed else None,
        choices=[*evaluation_rows.choices(found), *choices],
        commands=commands,
        grid=_grid,
    )


def _gallery(rows: Sequence[Judged], overlay: Overlay | None) -> list[dict[str, str]]:
    """What is shown of some pictures, their thumbnails in base64."""
    shown = []
    for one in rows[:MAX_PICTURES]:
        drawn = None if overlay is None else overlay(one.path, one.answer)
        content = thumbnail(one.path, THUMBNAIL_PX)
        if drawn is not None:
            content = thumbnail_of(drawn, THUMBNAIL_PX)
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


def _sortable(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> dict[str, Any]:
    """A table whose rows know their place by each column: a page needs no script to sort it."""
    rows = rows[:MAX_ROWS]
    places = []
    for column in range(len(columns)):
        keys = [_sort_key(row[column]) for row in rows]
        order = sorted(range(len(rows)), key=keys.__getitem__)
        places.append({row: place for place, row in enumerate(order)})
    cells = [
        ([_shown(cell) for cell in row], [place[number] for place in places])
        for number, row in enumerate(rows)
    ]
    return {"columns": columns, "rows": cells}


def _sort_key(cell: object) -> tuple[int, float, str]:
    """What is missing first, then numbers and shares, then text."""
    if cell is None:
        return 0, 0.0, ""
    try:
        return 1, float(str(cell).replace(",", "").removesuffix("%")), ""
    except ValueError:
        return 2, 0.0, str(cell)


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


def _grid(content: tuple[Sequence[str], Sequence[Sequence[object]]]) -> Markup:
    """A table; text stands on the left, numbers on the right."""
    columns, rows = content
    texts = [any(_is_text(row[i]) for row in rows) for i in range(len(columns))]
    cells = [
        [(_shown(cell), _kind(cell, is_text)) for cell, is_text in zip(row, texts, strict=True)]
        for row in rows
    ]
    page = _PAGES.get_template("grid.html")
    return Markup(page.render(columns=list(zip(columns, texts, strict=True)), rows=cells))  # noqa: S704


def _is_text(cell: object) -> bool:
    return isinstance(cell, str) and not cell[:1].isdigit()


def _shown(cell: object) -> str:
    if cell is None:
        return "–"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _kind(cell: object, is_text: bool) -> str:
    words = ["text"] if is_text else []
    if isinstance(cell, str):
        words += ["good"] if cell.startswith(GOOD) else []
        words += ["bad"] if cell.startswith(BAD) else []
    return " ".join(words)


# --- charts -------------------------------------------------------------------------------------


def _latency_chart(points: Sequence[tuple[str, float, float]]) -> Markup | None:
    """Top-1 in percent against milliseconds, on a scale of logarithms."""
    if len(points) < 2:
        return None
    figure = Figure(CHART_INCHES, layout="constrained")
    axes: Any = figure.add_subplot()
    front = _front(points)
    axes.plot([p[1] for p in front], [p[2] for p in front], color=ACCENT, linewidth=1.5, alpha=0.5)
    axes.scatter([p[1] for p in points], [p[2] for p in points], color=ACCENT, s=36, zorder=3)
    for name, ms, top1 in points:
        axes.annotate(
            printable(name),
            (ms, top1),
            xytext=(7, -11),
            textcoords="offset points",
            color=INK,
            parse_math=False,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.1, y=0.12)
    axes.set_xlabel("milliseconds for one picture", color=SOFT)
    axes.set_ylabel("top-1, %", color=SOFT)
    _plain(axes)
    return _svg(figure, "Accuracy against latency")


def _curve_chart(epochs: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Top-1 on validation, epoch by epoch, the phases in two strokes."""
    if len(epochs) < 2:
        return None
    figure = Figure((9.0, 3.4), layout="constrained")
    axes: Any = figure.add_subplot()
    shares = [100 * row["top1"] for row in epochs]
    places = range(1, len(shares) + 1)
    heads = sum(row["phase"] == "head" for row in epochs)
    axes.plot(places[:heads], shares[:heads], color=SOFT, marker="o", linewidth=1.5)
    axes.plot(places[heads:], shares[heads:], color=ACCENT, marker="o", linewidth=1.5)
    for name, place, colour in (("classifier", 0, SOFT), ("whole network", heads, ACCENT)):
        if place < len(shares) and (name != "classifier" or heads):
            at = (places[place], shares[place])
            axes.annotate(name, at, xytext=(8, 6), textcoords="offset points", color=colour)
    axes.set_xlabel("epoch", color=SOFT)
    axes.set_ylabel("top-1, %", color=SOFT)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _plain(axes)
    return _svg(figure, "Training")


def _reliability_chart(found: Evaluation) -> Markup:
    """The share of right answers against the top probability."""
    figure = Figure((7.0, 4.4), layout="constrained")
    axes: Any = figure.add_subplot()
    filled = [one for one in found.bins if one.accuracy is not None]
    answered = sum(one.pictures for one in filled)
    middles = [100 * (one.low + one.high) / 2 for one in filled]
    width = 100 / len(found.bins)
    axes.bar(middles, [100 * (one.confidence or 0) for one in filled], width * 0.9, color=LINE)
    heights = [100 * (one.accuracy or 0) for one in filled]
    sizes = [20 + 700 * one.pictures / answered for one in filled]
    axes.plot(middles, heights, color=ACCENT, linewidth=1.5)
    axes.scatter(middles, heights, s=sizes, color=ACCENT, alpha=0.85, zorder=3)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 105)
    axes.set_xlabel("top probability, %", color=SOFT)
    axes.set_ylabel("right answers, %", color=SOFT)
    _plain(axes)
    return _svg(figure, "Reliability")


def _plain(axes: Any) -> None:
    """Only what carries a meaning is drawn."""
    axes.set_axisbelow(True)
    axes.grid(color=LINE, linewidth=0.8)
    axes.tick_params(which="both", colors=SOFT, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _front(points: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Those that no other point beats in both, the fastest first."""
    front: list[tuple[str, float, float]] = []
    for point in sorted(points, key=lambda p: (p[1], -p[2])):
        if not front or point[2] > front[-1][2]:
            front.append(point)
    return front


def _svg(figure: Figure, title: str) -> Markup:
    """A chart to stand in a page: text stays text, colours are the page's."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for colour, name in COLOURS.items():
        drawn = drawn.replace(colour, name)
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = drawn.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    return Markup(drawn)  # noqa: S704 (matplotlib escapes what it writes as text)
