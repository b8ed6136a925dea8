"""The HTML page of benchmark results."""

from collections.abc import Sequence

from effnet_cli.bench import table
from effnet_cli.bench.records import BenchResult, Change, Timing
from effnet_cli.output.charts import latency_chart
from effnet_cli.output.html import PAGES, grid


def bench_page(result: BenchResult, changes: Sequence[Change] | None) -> str:
    """Render the recommendation, the chart, all figures and the changes since an earlier result."""
    return PAGES.get_template("bench.html").render(
        title="Benchmark",
        summary=list(table.recommendation(result)),
        chart=latency_chart(chart_points(result)),
        figures=table.timings_table(result),
        changes=None if changes is None else table.changes_table(changes),
        machine=list(table.machine_lines(result)),
        skipped=result.skipped,
        grid=grid,
    )


def chart_points(result: BenchResult) -> list[tuple[str, float, float]]:
    """Return each model's name, milliseconds per image, and published top-1 accuracy in %.

    The time is for batch size 1 on the model's fastest engine.
    """
    best: dict[str, Timing] = {}
    for timing in result.timings:
        if timing.batch_size == 1 and timing.top1 is not None and timing.mode != "train":
            before = best.setdefault(timing.variant, timing)
            if timing.p50_ms < before.p50_ms:
                best[timing.variant] = timing
    return [(name, t.p50_ms, float(t.top1 or 0)) for name, t in best.items()]
