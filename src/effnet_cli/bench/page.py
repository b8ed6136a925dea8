"""The page of `effnet bench`."""

from collections.abc import Sequence

from effnet_cli.bench import table
from effnet_cli.bench.formats import recommendation
from effnet_cli.bench.records import BenchResult, Change
from effnet_cli.output.charts import latency_chart
from effnet_cli.output.html import PAGES, grid


def bench_page(measured: BenchResult, changes: Sequence[Change] | None) -> str:
    """What `effnet bench` has measured: the answer, the chart, the figures."""
    return PAGES.get_template("bench.html").render(
        title="How fast is it here?",
        answer=list(recommendation(measured)),
        chart=latency_chart(table.chart_points(measured)),
        figures=table.figures_table(measured),
        changes=None if changes is None else table.changes_table(changes),
        machine=list(table.machine_lines(measured)),
        left_out=measured.left_out,
        grid=grid,
    )
