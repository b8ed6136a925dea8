"""The presenter that all commands use: results on stdout or in files, everything else on stderr."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from effnet_cli.options import Format, Outputs, PageOutputs
from effnet_cli.output.progress import StderrReporter
from effnet_cli.output.text import escape_csv, escape_json, json_array, json_lines, json_text
from effnet_cli.system.errors import UsageError

if TYPE_CHECKING:
    from effnet_cli.output.tables import Block

Escape = Callable[[Iterable[str]], Iterator[str]]


class Output(StderrReporter):
    """Writes what a command shows, and is the `Reporter` of its work.

    Tables are coloured and fitted to the width of a terminal, but plain and complete in a pipe or a
    file. Progress bars are removed at the end of the `with` block.
    """

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def table(self, blocks: "Iterable[Block]", path: Path | None = None) -> None:
        """Write text and tables, each block as soon as it is known."""
        from effnet_cli.output.terminal import render

        self._write(render(blocks, is_file=path is not None), path)

    def show(
        self, format_: Format, value: object, blocks: "Iterable[Block]", csv: Iterable[str] = ()
    ) -> None:
        """Write a result: `value` as JSON, `blocks` as a table, or the lines of `csv`."""
        if format_ == "json":
            self.json(value)
        elif format_ == "csv":
            self._write(csv, None, escape_csv)
        else:
            self.table(blocks)

    def json(self, value: object, path: Path | None = None) -> None:
        """Write one JSON value."""
        self._write([json_text(value, indent=2) + "\n"], path, escape_json)

    def rows(
        self,
        format_: Format,
        rows: Iterable[Mapping[str, object]],
        *,
        csv: Iterable[str],
        blocks: "Iterable[Block]",
        path: Path | None = None,
    ) -> None:
        """Write each row as soon as it is known; only the iterable of this format is consumed."""
        if format_ == "table":
            self.table(blocks, path)
        elif format_ == "csv":
            self._write(csv, path, escape_csv)
        else:
            encode = json_array if format_ == "json" else json_lines
            self._write(encode(rows), path, escape_json)

    def page(self, html: str, path: Path) -> None:
        """Write an HTML page."""
        self._write([html], path)

    def can_draw_images(self) -> bool:
        """Return whether stdout is a terminal with enough colours; if not, write a note."""
        from effnet_cli.output.terminal import can_draw_images

        can_draw = can_draw_images()
        if not can_draw:
            self.note("--preview requires a terminal with colours.")
        return can_draw

    def _write(
        self, pieces: Iterable[str], path: Path | None, escape: Escape | None = None
    ) -> None:
        """Write to a file or to stdout; if that is a terminal, `escape` makes the text safe."""
        from effnet_cli.output.writers import write

        self.close()
        is_shown = path is None and sys.stdout.isatty()
        write(escape(pieces) if escape and is_shown else pieces, path)


def open_output(options: Outputs, inputs: Iterable[Path] = ()) -> Output:
    """Create the presenter for these options, in a run that reads `inputs`.

    Raises:
        UsageError: --html does not name a file that may be written.
    """
    if isinstance(options, PageOutputs) and options.html is not None:
        from effnet_cli.output import writers  # imports Pillow

        if str(options.html) == writers.STDOUT:
            raise UsageError(
                "--html requires a file path; stdout carries the results.", "Use --html FILE.html."
            )
        writers.check_output(options.html, "--html")
        writers.check_not_read(options.html, inputs)
    return Output(options.quiet)
