"""`effnet audit`."""

from pathlib import Path
from typing import TYPE_CHECKING

from effnet_cli.options import AuditOutputs, AuditTask
from effnet_cli.output.out import Output, open_output
from effnet_cli.system.errors import UsageError

if TYPE_CHECKING:
    from effnet_cli.audit.records import Audit


def audit(task: AuditTask, outputs: AuditOutputs) -> int:
    """Find what is wrong with a labelled dataset, and propose what to do. Changes no file.

    Lists broken files, copies, leaks, likely wrong labels, outliers, odd images and classes that
    look alike. Findings are no failure: the exit status is 0.
    """
    _check_outputs(task, outputs)
    with open_output(outputs, [task.root]) as out:
        from effnet_cli.audit import formats, run

        found = run.audit(task, out)
        _show(found, outputs, out)
        if outputs.fix is not None:
            out.rows("csv", (), csv=formats.csv_lines(found), blocks=(), path=outputs.fix)
            out.note(f"Saved {str(outputs.fix)!r}.")
        if outputs.html is not None:
            from effnet_cli.audit.page import audit_page

            out.page(audit_page(found, out), outputs.html)
            out.note(f"Saved {str(outputs.html)!r}.")
    return 0


def _check_outputs(task: AuditTask, outputs: AuditOutputs) -> None:
    """Raise `UsageError` if an output would overwrite an input, an image or another output."""
    from effnet_cli.output.writers import check_not_read, check_output, choose_format

    choose_format(outputs.format, outputs.output)
    files: dict[Path, str] = {}
    for option in ("output", "fix", "html"):
        path = getattr(outputs, option)
        if path is None:
            continue
        check_output(path, f"--{option}")
        check_not_read(path, [task.root])
        if path.resolve() in files:
            raise UsageError(
                f"{str(path)!r} is used for two outputs.", "Use a different file for each."
            )
        files[path.resolve()] = option


def _show(found: "Audit", outputs: AuditOutputs, out: Output) -> None:
    from effnet_cli.audit import formats, table
    from effnet_cli.output.writers import choose_format

    format_, path = choose_format(outputs.format, outputs.output), outputs.output
    if format_ == "json":
        out.json(formats.as_json(found), path)
    else:
        rows = map(formats.to_row, found.problems)
        blocks = table.blocks(found)
        out.rows(format_, rows, csv=formats.csv_lines(found), blocks=blocks, path=path)
