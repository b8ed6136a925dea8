"""Notes and progress on stderr."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from effnet_cli.output.text import printable
from effnet_cli.system.reporter import ProgressUnit

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Item = TypeVar("Item")
REDRAW_SECONDS = 0.2
WIPE_LINE = "\r\x1b[2K"


class StderrReporter:
    """Writes notes to stderr and, if it is a terminal, draws progress bars that vanish at the end.

    `is_quiet` hides both; warnings are always shown.
    """

    def __init__(self, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._can_draw = sys.stderr.isatty() and not is_quiet
        self._bar: tuple[Progress, TaskID] | None = None

    def note(self, text: str) -> None:
        """Write one line, above the bar if there is one."""
        if self._bar is not None:
            self._bar[0].console.print(printable(text), markup=False, highlight=False, emoji=False)
        elif not self._is_quiet:
            if self._can_draw:
                self._wipe()
            self.warn(text)

    def warn(self, text: str) -> None:
        """Write one line, even if quiet."""
        with suppress(OSError):  # a closed stderr must not stop the work
            print(printable(text), file=sys.stderr)  # noqa: T201

    def progress(
        self, what: str, done: int, total: int | None, unit: ProgressUnit = "images"
    ) -> None:
        """Draw one bar on the last line, with the rate and the time left."""
        if not self._can_draw:
            return
        if self._bar is None:
            bar = _new_bar(unit)
            bar.start()
            self._bar = bar, bar.add_task("", total=total)
        bar, task = self._bar
        bar.update(task, description=printable(what), completed=done, total=total)
        if done == total:
            self.close()

    def close(self) -> None:
        """Remove the bar, if there is one."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def track(self, items: Iterator[Item], count: Callable[[], int | None]) -> Iterator[Item]:
        """Yield `items` while drawing a bar; `count` is called in a thread to find the total."""
        if not self._can_draw:
            yield from items
            return
        # rich's live display does not work here: rows go to stdout, often the same terminal, while
        # the bar is up. So the bar is one line, drawn while waiting for the next row and wiped
        # before that row is written.
        bar = _new_bar("images", auto_refresh=False)
        task = bar.add_task("", total=None)
        threading.Thread(target=lambda: bar.update(task, total=count()), daemon=True).start()
        drawn_at = time.monotonic()  # work that ends right away shows no bar
        end = object()
        while True:
            is_shown = time.monotonic() - drawn_at > REDRAW_SECONDS
            if is_shown:
                self._draw(bar)
                drawn_at = time.monotonic()
            try:
                item = next(items, end)
            finally:
                if is_shown:
                    self._wipe()
            if item is end:
                return
            bar.advance(task)
            yield item  # type: ignore[misc]  # not `end`

    def _draw(self, bar: "Progress") -> None:
        with bar.console.capture() as capture:
            bar.console.print(bar.get_renderable(), end="")
        sys.stderr.write(capture.get().rstrip("\n"))
        sys.stderr.flush()

    def _wipe(self) -> None:
        sys.stderr.write(WIPE_LINE)
        sys.stderr.flush()


def _new_bar(unit: ProgressUnit, *, auto_refresh: bool = True) -> "Progress":
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class RateColumn(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            return Text(f"{task.speed:.1f} images/s" if task.speed else "")

    columns: dict[ProgressUnit, tuple[progress.ProgressColumn, ...]] = {
        "images": (progress.MofNCompleteColumn(), RateColumn()),
        "bytes": (progress.DownloadColumn(), progress.TransferSpeedColumn()),
        "steps": (progress.MofNCompleteColumn(),),
    }
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        *columns[unit],
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=auto_refresh,
    )
