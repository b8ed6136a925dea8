"""What a person at a terminal sees: tables, bars, progress. The only room that knows rich."""

import io
import itertools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from effnet_cli.bench import formats as bench_rows
from effnet_cli.bench.records import BenchResult, Change
from effnet_cli.datasets import Scan
from effnet_cli.engines.doctor import CheckResult
from effnet_cli.evaluate import formats as evaluation_rows
from effnet_cli.evaluate.records import Evaluation
from effnet_cli.finetune.formats import findings_text, scan_rows
from effnet_cli.models import summary_table as anatomy_rows
from effnet_cli.output.text import PlainReporter, label_text, printable
from effnet_cli.predict.classifier import ImageResult
from effnet_cli.system.reporter import ProgressUnit

if TYPE_CHECKING:  # their own imports need torch
    import numpy as np
    import numpy.typing as npt

    from effnet_cli.evaluate.records import ClassMetrics
    from effnet_cli.finetune import Epoch, TrainingResult
    from effnet_cli.models.summary import ModelSummary

HANDFUL = 12  # images that are shown as one table; more of them stream, a line each
BAR_WIDTH = 20
PREVIEW_PX = 28  # columns of a preview, which has half as many lines
PREVIEW_GAP = 2
BARS_FROM_WIDTH = 72  # columns of the terminal; narrower ones have room for the words only
LABEL_WIDTH = 30
REDRAW_SECONDS = 0.2
WIPE_LINE = "\r\x1b[2K"
WIDE = 10_000  # columns of a "terminal" that wraps nothing


# --- predictions -------------------------------------------------------------------------------


def table_text(predictions: Iterable[ImageResult]) -> Iterator[str]:
    """A table for a handful of images; for more, a line each as soon as it is known."""
    predictions = iter(predictions)
    handful = list(itertools.islice(predictions, HANDFUL + 1))
    if not handful:
        return
    if len(handful) <= HANDFUL:
        yield _rendered(_table(handful, _terminal().width))
        return
    for prediction in itertools.chain(handful, predictions):
        yield _rendered(_line(prediction))


def has_colours() -> bool:
    """Whether stdout is a terminal that shows images as coloured blocks."""
    terminal = _terminal()
    has_many = terminal.color_system not in (None, "standard")
    return terminal.is_terminal and has_many and not terminal.no_color


def preview_text(predictions: Iterable[ImageResult]) -> Iterator[str]:
    """A table for each image, and what the network saw of it beside the answers."""
    left = _terminal().width - PREVIEW_PX - PREVIEW_GAP
    for prediction in predictions:
        page = Table.grid(padding=(0, PREVIEW_GAP))
        shown = Text() if prediction.crop is None else _blocks(prediction.crop)
        page.add_row(shown, _table([prediction], left))
        yield _rendered(page)


def _blocks(crop: "npt.NDArray[np.uint8]") -> Text:
    """Pixels, uint8 [H,W,3], as half blocks: each character shows two, one above the other."""
    step = len(crop) / PREVIEW_PX
    places = [int((number + 0.5) * step) for number in range(PREVIEW_PX)]
    small = crop[places][:, places]
    lines = []
    for above, below in zip(small[::2], small[1::2], strict=True):
        line = Text()
        for top, bottom in zip(above.tolist(), below.tolist(), strict=True):
            line.append("▀", f"rgb({','.join(map(str, top))}) on rgb({','.join(map(str, bottom))})")
        lines.append(line)
    return Text("\n").join(lines)


@cache
def _terminal() -> Console:
    """What is known of stdout; asked once, not for every line that streams."""
    return Console()


def _rendered(content: Table | Text, *, is_folded: bool = True) -> str:
    """What rich makes of it for stdout: with colour, and folded to its width, in a terminal; plain
    and whole elsewhere.
    """
    terminal = _terminal()
    buffer = io.StringIO()  # rich writes nothing to stdout itself, so that no error escapes there
    if terminal.is_terminal:
        page = Console(
            file=buffer, force_terminal=True, width=terminal.width if is_folded else WIDE
        )
    else:
        page = Console(file=buffer, width=WIDE, color_system=None)
    page.print(content, highlight=False, markup=False, emoji=False)
    text = "\n".join(line.rstrip() for line in buffer.getvalue().split("\n"))
    encoding = terminal.encoding
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _table(predictions: Sequence[ImageResult], width: int) -> Table:
    """Images and their answers, in so many columns of a terminal."""
    has_bars = not _terminal().is_terminal or width >= BARS_FROM_WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Image", overflow="fold", min_width=8)
    table.add_column("Class", overflow="fold", min_width=8)
    if has_bars:
        table.add_column("", no_wrap=True, min_width=BAR_WIDTH)
    table.add_column("Probability" if has_bars else "%", justify="right", no_wrap=True)
    for prediction in predictions:
        name = Text(printable(prediction.path), style="bold")
        if prediction.error is not None:
            message = f"{prediction.error.kind}: {printable(prediction.error.message)}"
            table.add_row(name, Text(message, style="red"))
        for answer in prediction.predictions:
            style = "green" if answer.rank == 1 else "dim"
            bar = [Text(_bar(answer.probability), style=style)] if has_bars else []
            table.add_row(
                name if answer.rank == 1 else "",
                Text(printable(label_text(answer)), style="" if answer.rank == 1 else "dim"),
                *bar,
                f"{answer.probability:.1%}",
            )
        table.add_section()
    return table


def _bar(share: float) -> str:
    """A bar of BAR_WIDTH cells in steps of an eighth, or of `#` where the terminal has no such
    characters.
    """
    eighths = round(share * BAR_WIDTH * 8)
    full, part = divmod(eighths, 8)
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        return "#" * full
    return "█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")


def _line(prediction: ImageResult) -> Text:
    """One image on one line; the columns of fixed width come first, so that lines can stream."""
    name = printable(prediction.path)
    if prediction.error is not None:
        fault = f"{prediction.error.kind}: {printable(prediction.error.message)}"
        return Text.assemble(("  error  ", "red"), (name, "bold"), "  ", (fault, "red"))
    best = prediction.predictions[0]
    label = printable(label_text(best))
    return Text.assemble(
        (f"{best.probability:7.1%}", "green"), f"  {label:<{LABEL_WIDTH}}  ", (name, "bold")
    )


# --- other tables ------------------------------------------------------------------------------


def listing_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A plain table; numbers stand on the right."""
    rows = [list(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        is_number = all(_is_number(row[index]) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    yield _rendered(table, is_folded=False)  # paths and numbers are there to be copied


def _is_number(value: object) -> bool:
    """Whether it is a number, or text that begins and ends like one."""
    if isinstance(value, str):
        return value[:1].isdigit() and (value[-1].isdigit() or value.endswith("%"))
    return isinstance(value, int | float | None)


def _cell(value: object) -> Text:
    if value is None:
        return Text("-")
    return Text(f"{value:,}" if isinstance(value, int) else printable(str(value)))


def signs_text(signs: Iterable[CheckResult]) -> Iterator[str]:
    """What the doctor has found."""
    columns = ("area", "name", "status", "what is there", "what mends it")
    cells = [(f.area, f.name, f.status, f.detail, f.mend) for f in signs]
    yield from listing_text(columns, cells)


# --- training ----------------------------------------------------------------------------------

TRAINING_COLUMNS = "  phase    epoch    loss  val loss   top-1  macro F1  images/s  seconds"
CURVE_ROWS = 8
CURVE_WIDTH = 60
MAX_CLASS_ROWS = 40
MAX_SHOWN = 10  # rows of what is wrong; JSON and the page have more


def training_text(records: "Iterable[Any]") -> Iterator[str]:
    """A line for each epoch as soon as it is over; at the end the curve and the classes."""
    top1s: list[float] = []
    for record in records:
        if hasattr(record, "model"):
            yield from _end_text(record, top1s)
            continue
        if not top1s:
            yield TRAINING_COLUMNS + "\n"
        top1s.append(record.top1)
        yield _rendered(_epoch_line(record))


def scan_text(scan: Scan) -> Iterator[str]:
    """A dataset's layout, its classes, and what was found in it."""
    yield f"{printable(scan.root)}: {scan.layout}\n"
    if scan.classes:
        yield from listing_text(("class", "train", "validation", "test"), scan_rows(scan))
    yield from findings_text(scan)


def _epoch_line(epoch: "Epoch") -> Text:
    return Text.assemble(
        f"  {epoch.phase:<8}{f'{epoch.epoch}/{epoch.epochs}':>6}",
        f"{epoch.loss:8.3f}{epoch.val_loss:10.3f}",
        (f"{epoch.top1:8.1%}", "bold green" if epoch.is_best else ""),
        f"{epoch.macro_f1:10.3f}{epoch.images_per_s:12,.1f}{epoch.seconds:9.1f}",
        "  best" if epoch.is_best else "",
    )


def _end_text(trained: "TrainingResult", top1s: list[float]) -> Iterator[str]:
    if len(set(top1s)) > 1:  # one height is no curve
        yield "\n" + "".join(f"{line}\n" for line in _curve(top1s))
    splits = [("validation", trained.val)] + ([("test", trained.test)] if trained.test else [])
    for name, metrics in splits:
        yield (
            f"\n{name}: top-1 {metrics.top1:.1%}, balanced accuracy"
            f" {metrics.balanced_accuracy:.1%}, macro F1 {metrics.macro_f1:.3f}"
            f" ({metrics.images:,} images)\n"
        )
        classes = sorted(metrics.classes, key=lambda row: -1.0 if row.f1 is None else row.f1)
        shown = classes[:MAX_CLASS_ROWS]
        yield from listing_text(
            ("class", "images", "recall", "precision", "F1"),
            [_class_cells(c) for c in shown],
        )
        if len(shown) < len(classes):
            yield f"... and {len(classes) - len(shown):,} classes with a better F1\n"


def _class_cells(row: "ClassMetrics") -> tuple[str | int, ...]:
    missing = "no answers" if row.images else "no images"
    shares = (row.recall, row.precision, row.f1)
    return row.name, row.images, *(missing if s is None else f"{s:.1%}" for s in shares)


def _curve(values: Sequence[float]) -> Iterator[str]:
    """Validation's top-1, epoch by epoch, as columns of blocks."""
    low, high = min(values), max(values)
    span = max(high - low, 0.01)
    columns = list(values)[-CURVE_WIDTH:]
    block = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    for row in range(CURVE_ROWS, 0, -1):
        edge = low + span * (row - 1) / CURVE_ROWS
        bars = "".join(block if value >= edge - 1e-12 else " " for value in columns)
        label = f"{high:7.1%}" if row == CURVE_ROWS else f"{low:7.1%}" if row == 1 else " " * 7
        yield f"{label} {bars}".rstrip()


# --- evaluation ---------------------------------------------------------------------------------


def evaluation_text(found: Evaluation) -> Iterator[str]:
    """The answer first, then the classes, what is confused, and where to look."""
    for line in evaluation_rows.answer(found):
        yield f"{printable(line)}\n"
    classes = evaluation_rows.classes_table(found)
    shown = classes[1][:MAX_CLASS_ROWS]
    yield from listing_text(classes[0], shown)
    if len(shown) < len(classes[1]):
        yield f"... and {len(classes[1]) - len(shown):,} classes with a better F1\n"
    for title, (columns, rows) in evaluation_rows.sections(found):
        if rows:
            yield f"\n{title}\n"
            yield from listing_text(columns, rows[:MAX_SHOWN])


# --- measurements ------------------------------------------------------------------------------

CHART_ROWS, CHART_WIDTH = 12, 64


def bench_text(measured: BenchResult, changes: Sequence[Change] | None) -> Iterator[str]:
    """The answer first, then the figures, the chart, what has changed and what was left out."""
    for line in bench_rows.recommendation(measured):
        yield f"{line}\n"
    yield from listing_text(*bench_rows.table(measured))
    yield from chart_text(bench_rows.chart_points(measured))
    for line in bench_rows.notes(measured):
        yield f"{printable(line)}\n"
    if changes:
        yield from listing_text(*bench_rows.changes_table(changes))
    elif changes is not None:
        yield "Nothing in the earlier result was measured again.\n"


def anatomy_text(anatomy: "ModelSummary") -> Iterator[str]:
    """The stages of a variant, and how scaling makes it."""
    for line in anatomy_rows.headline(anatomy):
        yield f"{line}\n"
    yield from listing_text(*anatomy_rows.table(anatomy))
    for line in anatomy_rows.scaling(anatomy):
        yield f"{line}\n"


def chart_text(points: Sequence[tuple[str, float, float]]) -> Iterator[str]:
    """Accuracy against latency, a mark for each network: name, milliseconds (on a scale of
    logarithms), top-1 in percent.
    """
    if len({(ms, top1) for _, ms, top1 in points}) < 2:
        return
    times, shares = [math.log(ms) for _, ms, _ in points], [top1 for _, _, top1 in points]
    (left, right), (low, high) = (min(times), max(times)), (min(shares), max(shares))
    grid = [[" "] * CHART_WIDTH for _ in range(CHART_ROWS)]
    is_utf = (sys.stdout.encoding or "").lower().startswith("utf")
    widest = max(len(printable(name)) for name, _, _ in points) + 2
    for (name, _, top1), at in zip(points, times, strict=True):
        column = round((at - left) / (right - left or 1) * (CHART_WIDTH - widest))
        row = round((high - top1) / (high - low or 1) * (CHART_ROWS - 1))
        text = ("•" if is_utf else "*") + printable(name)
        while any(cell != " " for cell in grid[row][column : column + len(text) + 1]):
            row += 1 if row < CHART_ROWS - 1 else 1 - CHART_ROWS  # beside one that is as good
        grid[row][column : column + len(text)] = list(text)
    yield "  top-1\n"
    for number, cells in enumerate(grid):
        share = {0: f"{high:6.1f}%", CHART_ROWS - 1: f"{low:6.1f}%"}.get(number, " " * 7)
        yield f"{share} | {''.join(cells)}".rstrip() + "\n"
    ends = f"{math.exp(left):.1f} ms", f"{math.exp(right):.1f} ms for one image"
    yield " " * 8 + "+" + "-" * CHART_WIDTH + "\n"
    yield " " * 10 + ends[0] + ends[1].rjust(CHART_WIDTH - len(ends[0])) + "\n"


# --- progress ----------------------------------------------------------------------------------


class TerminalReporter(PlainReporter):
    """A `PlainReporter` for a terminal: progress bars with rate and time left, which
    vanish at the end.
    """

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet)
        self._stderr = Console(stderr=True)
        self._bar: tuple[Progress, TaskID] | None = None

    def note(self, text: str) -> None:
        """One line, in the place of a bar that may be there."""
        if self._bar is not None:
            self._bar[0].console.print(Text(printable(text)))
            return
        if not self._quiet:
            sys.stderr.write(WIPE_LINE)
        super().note(text)

    def progress(
        self, what: str, done: int, total: int | None, unit: ProgressUnit = "images"
    ) -> None:
        """One bar on the last line, with rate and time left."""
        if self._quiet:
            return
        if self._bar is None:
            rate: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), _RateColumn())
            if unit == "bytes":
                rate = (DownloadColumn(), TransferSpeedColumn())
            elif unit == "steps":
                rate = (MofNCompleteColumn(),)
            words = TextColumn("{task.description}", markup=False)
            left = TimeRemainingColumn()
            bar = Progress(words, BarColumn(), *rate, left, console=self._stderr, transient=True)
            bar.start()
            self._bar = bar, bar.add_task("", total=total)
        bar, task = self._bar
        bar.update(task, description=printable(what), completed=done, total=total)
        if done == total:
            self.close()

    def close(self) -> None:
        """End a bar that may be there."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def track(
        self, predictions: Iterator[ImageResult], count: Callable[[], int | None]
    ) -> Iterator[ImageResult]:
        """`predictions`, with a bar on stderr; `count` runs beside them to find out how many there
        are.
        """
        return predictions if self._quiet else self._tracked(predictions, count)

    def _tracked(
        self, predictions: Iterator[ImageResult], count: Callable[[], int | None]
    ) -> Iterator[ImageResult]:
        # Not rich's live display: rows go to stdout, often the same terminal, while the bar is up.
        # So it is one line, drawn while the next row is waited for and wiped before that row is
        # written.
        bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            auto_refresh=False,
        )
        task = bar.add_task("", total=None)
        threading.Thread(target=lambda: bar.update(task, total=count()), daemon=True).start()
        drawn_at = time.monotonic()  # nothing is shown for work that is over at once
        while True:
            is_shown = time.monotonic() - drawn_at > REDRAW_SECONDS
            if is_shown:
                self._draw(bar)
                drawn_at = time.monotonic()
            try:
                prediction = next(predictions, None)
            finally:
                if is_shown:
                    self._wipe()
            if prediction is None:
                return
            bar.advance(task)
            yield prediction

    def _draw(self, bar: Progress) -> None:
        with self._stderr.capture() as capture:
            self._stderr.print(bar.get_renderable(), end="")
        sys.stderr.write(capture.get().rstrip("\n"))
        sys.stderr.flush()

    def _wipe(self) -> None:
        sys.stderr.write(WIPE_LINE)
        sys.stderr.flush()


class _RateColumn(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")
