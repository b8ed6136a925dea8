"""Tables and lines that show a run or the scan of a dataset."""

from collections.abc import Iterable, Iterator

from effnet_cli.datasets.findings import Finding
from effnet_cli.datasets.records import Scan
from effnet_cli.evaluate.label_table import describe_labels, label_table
from effnet_cli.evaluate.metrics import share_interval
from effnet_cli.evaluate.records import ClassMetrics, LabelMetrics, Metrics
from effnet_cli.finetune.records import AllImagesResult, Epoch, TrainingRecord, TrainingResult
from effnet_cli.output.tables import Block, Line, Styled, Table

TRAINING_COLUMNS = "  phase    epoch    loss  val loss   top-1  macro F1    images/s  seconds"
LABEL_COLUMNS = TRAINING_COLUMNS.replace("  top-1", "    mAP")
MAX_CLASS_ROWS = 40
FINDING_TITLES = {"error": "Errors", "warning": "Warnings", "note": "Notes"}


def blocks(records: Iterable[TrainingRecord]) -> Iterator[Block]:
    """Yield a line as soon as each epoch ends, and the metrics and classes at the end."""
    is_first = True
    for record in records:
        if isinstance(record, TrainingResult):
            yield from _result_blocks(record)
            continue
        if isinstance(record, AllImagesResult):
            if record.test is not None:
                yield from _split_blocks("test, trained on all images", record.test)
            continue
        if is_first:
            yield TRAINING_COLUMNS if record.top1 is not None else LABEL_COLUMNS
            is_first = False
        yield _epoch_line(record)


def _main_score(epoch: Epoch) -> float:
    return epoch.mean_average_precision or 0.0 if epoch.top1 is None else epoch.top1


def _epoch_line(epoch: Epoch) -> Line:
    return Line(
        (
            f"  {epoch.phase:<8}{f'{epoch.epoch}/{epoch.epochs}':>6}",
            f"{epoch.loss:8.3f}{epoch.val_loss:10.3f}",
            Styled(f"{_main_score(epoch):8.1%}", "bold green" if epoch.is_best else ""),
            f"{epoch.macro_f1:10.3f}{epoch.images_per_s:12,.1f}{epoch.seconds:9.1f}",
            "  best" if epoch.is_best else "",
        )
    )


def _result_blocks(result: TrainingResult) -> Iterator[Block]:
    yield from _split_blocks("validation", result.val)
    if result.test:
        yield from _split_blocks("test", result.test)


def _split_blocks(name: str, metrics: Metrics | LabelMetrics) -> Iterator[Block]:
    yield ""
    if isinstance(metrics, LabelMetrics):
        yield f"{name}: {describe_labels(metrics)}"
        yield label_table(metrics)
        return
    low, high = share_interval(round(metrics.top1 * metrics.images), metrics.images)
    yield (
        f"{name}: top-1 {metrics.top1:.1%} (95 % interval {low:.1%} to {high:.1%}), balanced "
        f"accuracy {metrics.balanced_accuracy:.1%}, macro F1 {metrics.macro_f1:.3f} "
        f"({metrics.images:,} images)"
    )
    classes = sorted(metrics.classes, key=lambda row: -1.0 if row.f1 is None else row.f1)
    shown = classes[:MAX_CLASS_ROWS]
    yield Table(("class", "images", "recall", "precision", "F1"), [*map(_class_cells, shown)])
    if len(shown) < len(classes):
        yield f"... and {len(classes) - len(shown):,} classes with a better F1"


def _class_cells(row: ClassMetrics) -> tuple[str | int, ...]:
    missing = "no predictions" if row.images else "no images"
    shares = (row.recall, row.precision, row.f1)
    return row.name, row.images, *(missing if s is None else f"{s:.1%}" for s in shares)


def scan_blocks(scan: Scan) -> Iterator[Block]:
    """Yield the layout of a dataset, its classes, and the findings."""
    yield f"{scan.root}: {scan.layout}"
    if scan.classes:
        yield Table(("class", "train", "validation", "test"), scan_rows(scan))
    yield from findings_blocks(scan)


def scan_rows(scan: Scan) -> list[list[object]]:
    """Return the number of images of each class in each split, and the totals."""
    rows: list[list[object]] = [[row.name, row.train, row.val, row.test] for row in scan.classes]
    sums = [sum(count or 0 for count in column) for column in list(zip(*rows, strict=True))[1:]]
    return [*rows, ["all", *sums]] if rows else rows


def findings_blocks(scan: Scan) -> Iterator[Block]:
    """Yield the findings, errors first, each with its first paths."""
    for level, title in FINDING_TITLES.items():
        findings = [finding for finding in scan.findings if finding.level == level]
        if findings:
            yield title
        for finding in findings:
            yield from _finding_blocks(finding)


def _finding_blocks(finding: Finding) -> Iterator[str]:
    yield f"  {finding.message} {finding.hint}".rstrip()
    reasons = finding.reasons or ("",) * len(finding.paths)
    for path, reason in zip(finding.paths, reasons, strict=True):
        yield f"    {path}{f': {reason}' if reason else ''}"
