"""`effnet doctor`."""

from dataclasses import asdict

import typer

from effnet_cli.cli.app import app
from effnet_cli.cli.options import ListFormatOption, QuietOption
from effnet_cli.cli.out import new_reporter, show_blocks, show_json


@app.command()
def doctor(format_: ListFormatOption = "table", quiet: QuietOption = False) -> None:
    """Look at versions, engines, caches and weights; say what does not work, and what mends it."""
    from effnet_cli.engines.doctor import all_ok, run_checks

    reporter = new_reporter(quiet)
    try:
        findings = list(run_checks(reporter))
    finally:
        reporter.close()
    if format_ == "json":
        show_json([asdict(one) for one in findings])
    else:
        from effnet_cli.output.tables import Table

        columns = ("area", "name", "status", "detail", "fix")
        show_blocks(
            [Table(columns, [(f.area, f.name, f.status, f.detail, f.mend) for f in findings])]
        )
    for one in findings:
        if one.status == "broken":
            reporter.note(f"{one.name}: {one.detail}. Mend it: {one.mend}")
    raise typer.Exit(0 if all_ok(findings) else 1)
