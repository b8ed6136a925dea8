"""The presenter that all commands use: results on stdout or in files, everything else on stderr."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from effnet_cli.options import Outputs, PageOutputs
from effnet_cli.output.progress import StderrReporter
from effnet_cli.output.text import escape_csv, escape_json, json_array, json_lines, json_text

if TYPE_CHECKING:
    from effnet_cli.output.tables import Block


class Output(StderrReporter):
    """Writes what a command shows, and is the `Reporter` of its work.

    Tables are colored and fitted to a terminal, plain and whole in a pipe or file. Progress bars
    are removed at the end of the `with` block.
    """

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def table(self, blocks: "Iterable[Block]", path: Path | None = None) -> None:
        """Write text and tables, each block as soon as it is known."""
        from effnet_cli.output.terminal import render

        self._write(render(blocks, is_file=path is not None), path)

    def json(self, value: object) -> None:
        """Write one JSON value."""
        self._write_data([json_text(value, indent=2) + "\n"], escape_json)

    def json_array(self, rows: Iterable[Mapping[str, object]], path: Path | None = None) -> None:
        """Write a JSON array, each row as soon as it is known."""
        self._write_data(json_array(rows), escape_json, path)

    def jsonl(self, rows: Iterable[Mapping[str, object]], path: Path | None = None) -> None:
        """Write JSON lines, each row as soon as it is known."""
        self._write_data(json_lines(rows), escape_json, path)

    def csv(self, lines: Iterable[str], path: Path | None = None) -> None:
        """Write lines of CSV."""
        self._write_data(lines, escape_csv, path)

    def page(self, html: str, path: Path) -> None:
        """Write an HTML page."""
        self._write([html], path)

    def can_draw_images(self) -> bool:
        """Whether stdout is a terminal with enough colors; if not, a note says so."""
        from effnet_cli.output.terminal import can_draw_images

        if not can_draw_images():
            self.note("--preview needs a terminal with colors.")
            return False
        return True

    def _write_data(
        self,
        pieces: Iterable[str],
        escape: Callable[[Iterable[str]], Iterator[str]],
        path: Path | None = None,
    ) -> None:
        is_shown = path is None and sys.stdout.isatty()
        self._write(escape(pieces) if is_shown else pieces, path)

    def _write(self, pieces: Iterable[str], path: Path | None) -> None:
        from effnet_cli.output.writers import write

        self.close()
        write(pieces, path)


def open_output(options: Outputs) -> Output:
    """The presenter for these options.

    Raises:
        UsageError: --html names no file that may be written.
    """
    if isinstance(options, PageOutputs) and options.html is not None:
        from effnet_cli.output.writers import check_page  # imports NumPy

        check_page(options.html)
    return Output(options.quiet)
