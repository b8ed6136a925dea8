"""`effnet predict`."""

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from effnet_cli.options import Format, PredictOutputs, PredictTask
from effnet_cli.output.out import Output, open_output

if TYPE_CHECKING:
    from effnet_cli.predict.records import ResultRow


def predict(task: PredictTask, outputs: PredictOutputs) -> int:
    """Classify images.

    Prints one row per image, in the order given; a broken file gets a row with an error and does
    not stop the others.
    """
    from effnet_cli.output.writers import choose_format  # imports Pillow, which `--help` avoids
    from effnet_cli.predict.formats import from_row
    from effnet_cli.predict.run import start_run
    from effnet_cli.predict.validate import validate

    validate(task, outputs)
    with open_output(outputs) as out:
        with start_run(task, outputs, out) as run:
            rows = out.track(run.rows(), run.count)
            if run.journal is None:
                format_ = choose_format(outputs.format, None)
                _write(out, rows, format_, has_preview=outputs.preview)
            else:
                deque(rows, maxlen=0)
                for path in outputs.files:
                    format_ = choose_format(outputs.format, path)
                    _write(out, map(from_row, run.journal.rows()), format_, path=path)
            if run.gallery and outputs.html:
                from effnet_cli.predict.page import gallery_page

                out.page(gallery_page(run.gallery), outputs.html)
        for line in run.notes():
            out.note(line)
    return 1 if run.has_failed else 0


def _write(
    out: Output,
    rows: "Iterable[ResultRow]",
    format_: Format,
    *,
    path: Path | None = None,
    has_preview: bool = False,
) -> None:
    from effnet_cli.predict import formats, table

    is_drawn = format_ == "table" and has_preview and out.can_draw_images()
    blocks = table.preview_blocks(rows) if is_drawn else table.blocks(rows)
    contents, csv = map(formats.to_row, rows), formats.csv_lines(rows)
    out.rows(format_, contents, csv=csv, blocks=blocks, path=path)
