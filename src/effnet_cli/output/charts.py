"""Draw charts as inline SVG that follows the colours of the page."""

import io
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from markupsafe import Markup

from effnet_cli.output.text import printable

XY = Sequence[tuple[float, float]]

MATPLOTLIB_VARIABLE = "MPLCONFIGDIR"  # the folder of its cache
# Placeholders for the colours of the page, which follow the reader's light or dark scheme.
INK, SOFT, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"
COLOURS = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", ACCENT: "var(--accent)"}


def latency_chart(points: Sequence[tuple[str, float, float]]) -> Markup | None:
    """Plot top-1 against latency on a logarithmic scale; `points` are (name, ms, top-1 in %)."""
    if len(points) < 2:
        return None
    axes = _axes((9.0, 4.8), "milliseconds for one image", "top-1, %")
    _, front_ms, front_top1 = zip(*_front(points), strict=True)
    axes.plot(front_ms, front_top1, color=ACCENT, linewidth=1.5, alpha=0.5)
    axes.scatter([p[1] for p in points], [p[2] for p in points], color=ACCENT, s=36, zorder=3)
    style = {"textcoords": "offset points", "color": INK, "parse_math": False}
    for name, ms, top1 in points:
        axes.annotate(printable(name), (ms, top1), xytext=(7, -11), **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.1, y=0.12)
    return _svg(axes, "Accuracy against latency")


def curve_chart(
    epochs: Sequence[Mapping[str, Any]], score: str = "top1", label: str = "top-1, %"
) -> Markup | None:
    """Plot a validation score by epoch, one line per phase."""
    if len(epochs) < 2:
        return None
    axes = _axes((9.0, 3.4), "epoch", label)
    shares = [100 * row[score] for row in epochs]
    places = range(1, len(shares) + 1)
    heads = sum(row["phase"] == "head" for row in epochs)
    axes.plot(places[:heads], shares[:heads], color=SOFT, marker="o", linewidth=1.5)
    axes.plot(places[heads:], shares[heads:], color=ACCENT, marker="o", linewidth=1.5)
    spans = ("classifier head", 0, heads, SOFT), ("full model", heads, len(shares), ACCENT)
    for name, start, end, colour in spans:
        if start < end:
            at = (places[start], shares[start])
            axes.annotate(name, at, xytext=(8, 6), textcoords="offset points", color=colour)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 100))
    for line in axes.lines:
        line.set_clip_on(False)  # do not clip markers at the edge
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _svg(axes, "Training")


def reliability_chart(bins: Sequence[Mapping[str, Any]]) -> Markup:
    """Plot accuracy against the top probability.

    The keys of each bin are the fields of `CalibrationBin`; bins without accuracy are left out.
    """
    axes = _axes((7.0, 4.4), "top probability, %", "accuracy, %")
    filled = [one for one in bins if one["accuracy"] is not None]
    total = sum(one["images"] for one in filled)
    middles = [100 * (one["low"] + one["high"]) / 2 for one in filled]
    width = 100 / len(bins)
    axes.bar(middles, [100 * one["confidence"] for one in filled], width * 0.9, color=LINE)
    heights = [100 * one["accuracy"] for one in filled]
    sizes = [20 + 700 * one["images"] / total for one in filled]
    axes.plot(middles, heights, color=ACCENT, linewidth=1.5)
    axes.scatter(middles, heights, s=sizes, color=ACCENT, alpha=0.85, zorder=3)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 105)
    return _svg(axes, "Reliability")


def class_curves_chart(
    roc: XY, precision_recall: XY, *, roc_marks: XY = (), precision_marks: XY = ()
) -> Markup:
    """Plot the ROC and the precision-recall curve of a class side by side, with marked points.

    All values are 0..1.
    """
    figure = _figure_class()((9.0, 4.0))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, bottom=0.13, right=0.98, top=0.97)
    _style(left, "1 - specificity (false positive rate)", "sensitivity")
    _style(right, "recall (sensitivity)", "precision (PPV)")
    left.plot((0, 1), (0, 1), color=LINE, linewidth=1.5)  # chance
    for axes, curve, marks in ((left, roc, roc_marks), (right, precision_recall, precision_marks)):
        axes.plot(*zip(*curve, strict=True), color=ACCENT, linewidth=1.5, clip_on=False)
        for x, y in marks:
            axes.scatter([x], [y], s=50, color=INK, zorder=3, clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
    return _svg(left, "ROC and precision-recall curves")


def roc_chart(roc: XY, marks: XY = ()) -> Markup:
    """Plot the true accept rate against the false accept rate, 0..1, on a logarithmic scale."""
    axes = _axes((9.0, 4.0), "false accept rate", "true accept rate")
    axes.plot(*zip(*roc, strict=True), color=ACCENT, linewidth=1.5)
    for x, y in marks:
        axes.scatter([x], [y], s=50, color=INK, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 1)
    return _svg(axes, "ROC curve")


def _axes(inches: tuple[float, float], x_label: str, y_label: str) -> Any:
    """Create empty axes without frame and ticks."""
    figure = _figure_class()(inches, layout="constrained")
    axes = figure.add_subplot()
    _style(axes, x_label, y_label)
    return axes


def _style(axes: Any, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=SOFT)
    axes.set_ylabel(y_label, color=SOFT)
    axes.set_axisbelow(True)
    axes.grid(color=LINE, linewidth=0.8)
    axes.tick_params(which="both", colors=SOFT, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _figure_class() -> Any:
    """Import matplotlib, which takes half a second."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    before = os.environ.get(MATPLOTLIB_VARIABLE)
    figure = import_module("matplotlib.figure").Figure
    after = os.environ.get(MATPLOTLIB_VARIABLE)
    if after is not None and after != before:
        # its folder cannot be written: it has made a temporary one, needed only by the import
        shutil.rmtree(after, ignore_errors=True)
    return figure


def _front(points: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Return the Pareto front, fastest first: points that no other beats in both values."""
    front: list[tuple[str, float, float]] = []
    for point in sorted(points, key=lambda p: (p[1], -p[2])):
        if not front or point[2] > front[-1][2]:
            front.append(point)
    return front


def _svg(axes: Any, title: str) -> Markup:
    """Return inline SVG in which text stays text and the colours are those of the page."""
    buffer = io.StringIO()
    matplotlib: Any = import_module("matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        axes.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, name in COLOURS.items():
        svg = svg.replace(colour, name)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    return Markup(svg)  # noqa: S704 (matplotlib escapes text)
