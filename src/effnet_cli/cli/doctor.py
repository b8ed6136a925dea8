"""`effnet doctor`."""

from dataclasses import asdict

from effnet_cli.options import ListOutputs
from effnet_cli.output.out import open_output
from effnet_cli.output.tables import Table


def doctor(outputs: ListOutputs) -> int:
    """Check the installation and suggest fixes.

    Checks the versions of libraries, the engines, the cache and the weights.
    """
    from effnet_cli.engines import doctor as checks

    with open_output(outputs) as out:
        results = list(checks.run_checks(out))
        if outputs.format == "json":
            out.json([asdict(result) for result in results])
        else:
            out.table(
                Table(checks.TABLE_COLUMNS, rows, title, is_wrapped=True)
                for title, rows in checks.to_rows(results)
            )
        for result in results:
            if result.status == "broken":
                out.note(f"{result.name}: {result.detail}. To fix it: {result.fix}")
    return 0 if checks.is_healthy(results) else 1
