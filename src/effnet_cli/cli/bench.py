"""`effnet bench`."""

from dataclasses import replace

from effnet_cli.cli.variants import find_variants
from effnet_cli.options import BenchOutputs, BenchTask
from effnet_cli.output.out import open_output
from effnet_cli.system.errors import CHECK_FAILED_STATUS, UsageError


def bench(task: BenchTask, outputs: BenchOutputs, typed: frozenset[str]) -> int:
    """Measure how fast models run on this machine, and recommend one.

    Each model runs on each engine in its own process, and the processes take turns. Models whose
    weights are not installed get random ones: timings do not depend on them, and nothing is
    downloaded.
    """
    from effnet_cli.bench import formats

    if "tolerance" in typed and outputs.compare is None:
        raise UsageError("--tolerance requires --compare.", "Add --compare OLD.json.")
    task = replace(task, variants=tuple(row.name for row in find_variants(task.variants)))
    changes = old = None
    with open_output(outputs, filter(None, [outputs.compare])) as out:
        if outputs.compare is not None:
            old = formats.load_result(outputs.compare)
        from effnet_cli.bench import run, table
        from effnet_cli.bench.records import SLOWER

        result = run.bench(task, out)
        if old is not None:
            changes = list(formats.compare_results(result, old, task.tolerance))
            for line in formats.compare_limits(result, old):
                out.note(line)
        content, blocks = formats.as_json(result, changes), table.blocks(result, changes)
        out.show(outputs.format, content, blocks, csv=formats.csv_lines(result))
        if outputs.html is not None:
            from effnet_cli.bench.page import bench_page

            out.page(bench_page(result, changes), outputs.html)
            out.note(f"Saved {str(outputs.html)!r}.")
    if any(change.verdict == SLOWER for change in changes or ()):
        return CHECK_FAILED_STATUS
    if changes == []:
        return CHECK_FAILED_STATUS  # a check that compared nothing has not passed
    return 1 if any(one.is_failure for one in result.skipped) else 0
