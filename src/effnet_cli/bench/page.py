"""The page of `effnet bench`."""

from collections.abc import Sequence

from effnet_cli.bench import formats as bench_rows
from effnet_cli.bench.records import Change, Measured
from effnet_cli.output.charts import latency_chart
from effnet_cli.output.html import PAGES, grid


def bench_page(measured: Measured, changes: Sequence[Change] | None) -> str:
    """What `effnet bench` has measured: the answer, the chart, the figures."""
    return PAGES.get_template("bench.html").render(
        title="How fast is it here?",
        answer=list(bench_rows.recommendation(measured)),
        chart=latency_chart(bench_rows.chart_points(measured)),
        figures=bench_rows.table(measured),
        changes=None if changes is None else bench_rows.changes_table(changes),
        machine=list(bench_rows.machine_lines(measured)),
        left_out=measured.left_out,
        grid=grid,
    )
