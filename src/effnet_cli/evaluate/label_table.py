"""Show the figures of models that give an image several labels."""

from collections.abc import Iterator
from dataclasses import replace

from effnet_cli.evaluate.metrics import LABEL_METRICS
from effnet_cli.evaluate.records import LabelEvaluation, LabelMetrics, LabelRow
from effnet_cli.output.tables import Block, Table
from effnet_cli.system.text import pluralize

MAX_LABEL_ROWS = 40
MAX_SHOWN_ROWS = 10  # of each table of examples; JSON and the page have more


def describe_labels(metrics: LabelMetrics) -> str:
    """Return the main figures in a sentence."""
    return (
        f"mAP {metrics.mean_average_precision:.1%}, macro F1 {metrics.macro_f1:.3f}, micro F1 "
        f"{metrics.micro_f1:.3f}, all labels right {metrics.exact:.1%} "
        f"({pluralize(metrics.images, 'image')})"
    )


def label_table(metrics: LabelMetrics, limit: int | None = MAX_LABEL_ROWS) -> Table:
    """Return a table of the labels, the worst average precision first."""
    rows = sorted(metrics.labels, key=lambda row: row.average_precision or 0.0)
    columns = (
        "label",
        "images",
        "avg. precision",
        "AUROC",
        "recall",
        "precision",
        "F1",
        "threshold",
    )
    return Table(columns, [_cells(row) for row in rows[:limit]])


def _cells(row: LabelRow) -> tuple[str | int | None, ...]:
    areas = (None if v is None else f"{v:.3f}" for v in (row.average_precision, row.auroc))
    shares = (None if v is None else f"{v:.1%}" for v in (row.recall, row.precision, row.f1))
    return row.name, row.images, *areas, *shares, f"{row.threshold:.3f}"


def blocks(found: LabelEvaluation) -> Iterator[Block]:
    """Yield the metrics, the labels, and the mistakes and failures."""
    yield from headline(found)
    yield figures_table(found)
    yield label_table(found)
    for table in (confused_table(found), mistakes_table(found), failed_table(found)):
        if table.rows:
            yield replace(table, rows=table.rows[:MAX_SHOWN_ROWS])


def headline(found: LabelEvaluation) -> Iterator[str]:
    """Yield the main figures, and notes on failed images."""
    low, high = found.exact_interval
    over = f" over {pluralize(found.groups, 'group')}" if found.groups else ""
    yield (
        f"{found.model} gives exactly the right labels to {found.exact:.1%} of "
        f"{pluralize(found.images, 'image')} (95 % interval{over} {low:.1%} to {high:.1%})."
    )
    if found.failed:
        verb = "counts" if found.failed == 1 else "count"
        yield f"{pluralize(found.failed, 'image')} could not be opened and {verb} as wrong."


def figures_table(found: LabelEvaluation) -> Table:
    """Return a table of the figures of all labels together."""
    rows = [(one.label, format(getattr(found, one.name), one.format)) for one in LABEL_METRICS]
    return Table(("figure", "value"), rows)


def confused_table(found: LabelEvaluation) -> Table:
    """Return a table of labels that were given instead of others."""
    rows = [(one.missed, one.given, one.images) for one in found.confused]
    return Table(("missed", "given instead", "images"), rows, title="Most confused labels")


def mistakes_table(found: LabelEvaluation) -> Table:
    """Return a table of the images with the most surprising mistakes."""
    rows = [
        (one.path, ", ".join(one.missed), ", ".join(one.wrong), f"{one.probability:.1%}")
        for one in found.mistakes
    ]
    columns = ("image", "missed", "wrong", "probability")
    return Table(columns, rows, title="Most surprising mistakes")


def failed_table(found: LabelEvaluation) -> Table:
    """Return a table of the images that could not be opened."""
    rows = [(one.path, one.label, f"{one.kind}: {one.message}") for one in found.failures]
    return Table(("image", "labels", "error"), rows, title="Could not be opened")


def settings(found: LabelEvaluation) -> Iterator[tuple[str, str]]:
    """Yield the names and values of what was evaluated."""
    yield "data", found.data
    yield "split", found.split or "all images"
    yield "model", found.model
    yield "engine", f"{found.engine}, {found.precision}"
