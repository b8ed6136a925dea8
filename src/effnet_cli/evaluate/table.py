"""Show an evaluation as text and tables."""

from collections.abc import Iterator
from dataclasses import replace

from effnet_cli.evaluate import label_table
from effnet_cli.evaluate.metrics import METRICS
from effnet_cli.evaluate.operating_points import needed_images
from effnet_cli.evaluate.records import Evaluation, LabelEvaluation
from effnet_cli.models.operating_point import OperatingPoint, Share
from effnet_cli.output.tables import Block, Table
from effnet_cli.system.text import pluralize

MAX_CLASSES_SHOWN = 40
SHARE_LABELS = {
    "sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "npv": "NPV",
}  # fmt: skip
# What each of them is a share of.
COUNTED = {
    "sensitivity": "positive images",
    "specificity": "negative images",
    "ppv": "images called positive",
    "npv": "images called negative",
}
MAX_EXAMPLES = 10  # rows of each table of examples; JSON and the page have more


def blocks(found: Evaluation | LabelEvaluation) -> Iterator[Block]:
    """Yield the metrics, the classes, and the mistakes and failures."""
    if isinstance(found, LabelEvaluation):
        yield from label_table.blocks(found)
        return
    yield from headline(found)
    yield metrics_table(found)
    for point in found.operating_points:
        yield point_table(point)
        yield describe_images(point)
    classes = classes_table(found)
    yield replace(classes, rows=classes.rows[:MAX_CLASSES_SHOWN])
    if len(classes.rows) > MAX_CLASSES_SHOWN:
        yield f"... and {len(classes.rows) - MAX_CLASSES_SHOWN:,} classes with a better F1"
    for table in (confused_table(found), *mistake_tables(found), failed_table(found)):
        if table.rows:
            yield replace(table, rows=table.rows[:MAX_EXAMPLES])


def headline(found: Evaluation) -> Iterator[str]:
    """Yield the accuracy, the comparison, and notes on failed and skipped images."""
    low, high = found.top1_interval
    over = f" over {pluralize(found.groups, 'group')}" if found.groups else ""
    largest = max(row.images for row in found.classes) / found.images
    yield (
        f"{found.model} classifies {found.top1:.1%} of {pluralize(found.images, 'image')} "
        f"correctly (95 % interval{over} {low:.1%} to {high:.1%}); always predicting the largest "
        f"class: {largest:.1%}."
    )
    if (other := found.comparison) is not None:
        low, high = other.interval
        verdict = "not significant" if low <= 0 <= high else "significant"
        yield (
            f"{other.name}: {other.top1:.1%}; difference {100 * other.difference:+.1f} points "
            f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f}), {verdict}."
        )
    if found.failed:
        verb = "counts" if found.failed == 1 else "count"
        yield f"{pluralize(found.failed, 'image')} could not be opened and {verb} as wrong."
    if found.unlabelled:
        yield f"Skipped {pluralize(found.unlabelled, 'image')} of unknown classes."


def metrics_table(found: Evaluation) -> Table:
    """Return a table of all metrics that have a value, with their intervals."""
    rows = []
    for metric in METRICS:
        value = getattr(found, metric.name)
        low, high = getattr(found, f"{metric.name}_interval", (None, None))
        interval = "" if low is None else f"{low:{metric.format}} to {high:{metric.format}}"
        if value is not None:
            rows.append((metric.label, format(value, metric.format), interval))
    return Table(("metric", "value", "95 % interval"), rows)


def point_table(point: OperatingPoint) -> Table:
    """Return a table of what an operating point reaches, with the counts of images."""
    rows = []
    for name, label in SHARE_LABELS.items():
        share: Share | None = getattr(point, name)
        if share is not None:
            low, high = share.interval
            asked = f"at least {point.asked:.15g}" if name == point.metric else ""
            if asked and not point.is_assured:
                asked += ", not assured"
            images = f"{share.right:,} of {share.images:,}"
            rows.append((label, f"{share.value:.1%}", f"{low:.1%} to {high:.1%}", images, asked))
    return Table(
        ("figure", "value", "95 % interval", "images", "asked"),
        rows,
        title=f"Operating point {point.name}: {point.positive!r} from a probability of "
        f"{point.threshold:.15g}",
    )


def describe_images(point: OperatingPoint) -> str:
    """Return a sentence about the images with which an operating point was found."""
    failed = point.failed_positives + point.failed_negatives
    wrong = f", {failed:,} of them wrong because they could not be opened" if failed else ""
    return (
        f"{pluralize(point.positives, 'positive image')} and {point.negatives:,} negative{wrong}: "
        f"{point.true_positives:,} TP, {point.false_positives:,} FP, {point.true_negatives:,} TN, "
        f"{point.false_negatives:,} FN. PPV and NPV are for a prevalence of {point.prevalence:.1%}."
    )


def warnings(found: Evaluation) -> Iterator[str]:
    """Yield a warning for each operating point that may not reach what was asked."""
    for point in found.operating_points:
        share = point.asked_share
        if share is None or point.is_assured:
            continue
        low, high = share.interval
        text = (
            f"Too little evidence for {point.name}: the 95 % interval, {low:.1%} to {high:.1%}, "
            f"begins below {point.asked:.15g}"
        )
        needed = needed_images(point.asked)
        if needed is None:
            text += "; no number of images can assure 1"
        elif share.images < needed:
            text += f"; at least {needed:,} {COUNTED[point.metric]} are needed"
        yield f"{text}."


def classes_table(found: Evaluation) -> Table:
    """Return a table of every class that has images or predictions, worst first."""
    pairs = zip(found.classes, found.ranking, strict=True)
    known = [(row, rank) for row, rank in pairs if row.images or row.precision is not None]
    known.sort(key=lambda pair: -1.0 if pair[0].f1 is None else pair[0].f1)
    cells = [
        (
            *(row.name, row.images),
            *map(_share, (row.recall, row.precision, row.f1)),
            *map(_score, (rank.auroc, rank.average_precision)),
        )
        for row, rank in known
    ]
    return Table(("class", "images", "recall", "precision", "F1", "AUROC", "avg. precision"), cells)


def confused_table(found: Evaluation) -> Table:
    """Return a table of class pairs, most often confused first."""
    cells = [(one.label, one.prediction, one.images) for one in found.confused]
    return Table(("class", "predicted as", "images"), cells, title="Most confused classes")


def mistake_tables(found: Evaluation) -> Iterator[Table]:
    """Yield a table of wrong predictions and one of labels that are likely wrong."""
    columns = ("image", "label", "prediction", "probability", "of label")
    groups = {"Most confident mistakes": found.mistakes, "Likely label errors": found.label_errors}
    for title, rows in groups.items():
        cells = [
            (r.path, r.label, r.prediction, _share(r.probability), _share(r.label_probability))
            for r in rows or ()
        ]
        yield Table(columns, cells, title=title)


def failed_table(found: Evaluation) -> Table:
    """Return a table of the images that could not be opened."""
    cells = [(one.path, one.label, f"{one.kind}: {one.message}") for one in found.failures]
    return Table(("image", "class", "reason"), cells, title="Could not be opened")


def settings(found: Evaluation) -> Iterator[tuple[str, str]]:
    """Yield names and values: what was evaluated, how, and how the classes were matched."""
    split = "" if found.split is None else f", split {found.split}"
    yield "images", f"{found.data}{split}"
    yield "model", found.model
    yield "engine", f"{found.engine}, {found.precision}"
    yield "temperature", f"{found.temperature:.3f}"
    yield "classes matched by", found.matching
    for unknown in found.unknown_classes:
        hint = f", nearest: {', '.join(unknown.near)}" if unknown.near else ""
        yield "unknown class", f"{unknown.label}{hint}"
    for merged in found.merged_classes:
        yield "merged folders", f"{merged.label}: {', '.join(merged.folders)}"
    if found.unused_classes:
        yield "classes without images", f"{len(found.unused_classes):,}"


def _score(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"
