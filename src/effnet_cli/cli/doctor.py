"""`effnet doctor`."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from effnet_cli.options import ListOutputs
from effnet_cli.output.out import open_output
from effnet_cli.output.tables import Table

if TYPE_CHECKING:
    from effnet_cli.engines.doctor import CheckResult


def doctor(outputs: ListOutputs) -> int:
    """Check the installation and suggest fixes.

    Checks the versions of libraries, the engines, the cache and the weights.
    """
    from effnet_cli.engines import doctor as checks

    with open_output(outputs) as out:
        results = list(checks.run_checks(out))
        out.show(outputs.format, list(map(asdict, results)), _blocks(results))
        for result in results:
            if result.status == "broken":
                out.note(f"{result.name}: {result.detail}. To fix it: {result.fix}")
    return 0 if checks.is_healthy(results) else 1


def _blocks(results: "list[CheckResult]") -> Iterator[Table]:
    """Yield a table for each area."""
    for area, group in groupby(results, key=attrgetter("area")):
        rows = [(one.name, one.status, one.detail, one.fix) for one in group]
        yield Table(("name", "status", "detail", "fix"), rows, area.capitalize(), is_wrapped=True)
