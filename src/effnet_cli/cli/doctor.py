"""`effnet doctor`."""

from dataclasses import asdict

import typer

from effnet_cli.cli.app import app
from effnet_cli.cli.options import ListFormatOption, QuietOption
from effnet_cli.cli.out import new_reporter, show_blocks, show_json


@app.command()
def doctor(format_: ListFormatOption = "table", quiet: QuietOption = False) -> None:
    """Check the installation (libraries, engines, cache, weights) and suggest fixes."""
    from effnet_cli.engines import doctor as checks

    reporter = new_reporter(quiet)
    try:
        results = list(checks.run_checks(reporter))
    finally:
        reporter.close()
    if format_ == "json":
        show_json([asdict(result) for result in results])
    else:
        from effnet_cli.output.tables import Table

        show_blocks(
            Table(checks.TABLE_COLUMNS, rows, title, is_wrapped=True)
            for title, rows in checks.to_rows(results)
        )
    for result in results:
        if result.status == "broken":
            reporter.note(f"{result.name}: {result.detail}. To fix it: {result.fix}")
    raise typer.Exit(0 if checks.is_healthy(results) else 1)
