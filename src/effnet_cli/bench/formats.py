"""Formats benchmark results as JSON and CSV, and compares them with earlier ones."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from effnet_cli.bench.records import BenchResult, Change, Median, TimingKey
from effnet_cli.bench.statistics import compare_medians
from effnet_cli.bench.table import recommendation
from effnet_cli.output.text import csv_line
from effnet_cli.system.errors import UsageError

BENCH_SCHEMA = 1
KEYS = tuple(field.name for field in fields(TimingKey))
MEDIAN_KEYS = ("p50_ms", "p50_low_ms", "p50_high_ms")
MAX_RESULT_BYTES = 64 * 2**20


def as_json(result: BenchResult, changes: Sequence[Change] | None = None) -> dict[str, Any]:
    """Return all results as a JSON object, schema 1."""
    content = {"schema": BENCH_SCHEMA, **asdict(result)}
    content["results"] = content.pop("timings")
    content["recommendation"] = list(recommendation(result))
    if changes is not None:
        content["changes"] = [asdict(one) for one in changes]
    return content


def csv_lines(result: BenchResult) -> Iterator[str]:
    """Yield a CSV header and a line for each timing."""
    rows = list(map(asdict, result.timings))
    yield csv_line(rows[0])
    yield from (csv_line(row.values()) for row in rows)


# --- earlier results ------------------------------------------------------------------------------


def load_result(path: Path) -> dict[str, Any]:
    """Load results saved with `--format json`; UsageError if the file holds anything else."""
    try:
        with path.open("rb") as file:
            content: dict[str, Any] = json.loads(file.read(MAX_RESULT_BYTES))
        problem = next(_problems(content), None)
    except OSError as error:
        raise UsageError(
            f"Cannot read {str(path)!r}: {error.strerror}.", "Check the path."
        ) from error
    except (ValueError, RecursionError):  # ValueError is also raised for invalid UTF-8
        problem = "it is not JSON"
    if problem is not None:
        raise UsageError(
            f"{str(path)!r} is not an `effnet bench` result: {problem}.",
            "Create one: effnet bench --format json > old.json",
        )
    return content


def _problems(content: object) -> Iterator[str]:
    """Yield the reasons why `content` is not a benchmark result of this schema."""
    if not isinstance(content, dict) or "schema" not in content:
        yield 'it has no "schema"'
        return
    if content["schema"] != BENCH_SCHEMA:
        yield f"its schema is {json.dumps(content['schema'])[:40]}, not {BENCH_SCHEMA}"
    rows, limits = content.get("results"), content.get("limits")
    if not isinstance(rows, list) or not isinstance(limits, dict):
        yield 'it lacks "results" or "limits"'
        return
    for row in rows:
        if not isinstance(row, dict) or not all(isinstance(row.get(k), str | int) for k in KEYS):
            yield f"a row lacks one of {', '.join(KEYS)}"
        elif not all(_is_positive(row.get(name)) for name in MEDIAN_KEYS):
            yield f"a row has no positive time in one of {', '.join(MEDIAN_KEYS)}"
    if not all(map(_is_positive, limits.values())):
        yield "a limit is not positive"


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def compare_results(
    result: BenchResult, old: Mapping[str, Any], tolerance: float
) -> Iterator[Change]:
    """Yield the change in each timing that both results contain."""
    earlier = {tuple(row[name] for name in KEYS): row for row in old["results"]}
    for timing in result.timings:
        key = {name: getattr(timing, name) for name in KEYS}
        row = earlier.get(tuple(key.values()))
        if row is not None:
            median = Median(*(row[name] for name in MEDIAN_KEYS))
            ratio, interval, verdict = compare_medians(median, timing.median, tolerance)
            yield Change(
                **key,
                old_ms=median.ms,
                new_ms=timing.p50_ms,
                ratio=ratio,
                interval=interval,
                verdict=verdict,
            )


def compare_limits(result: BenchResult, old: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs in the machine, which changes the speed of all models."""
    for name in ("cpu", "cores", "gpu"):
        before, now = old["machine"].get(name), result.machine.get(name)
        if before != now:
            yield f"The earlier result is from another machine: {name} {before}, now {now}"
    for name, value in result.limits.items():
        if name in old["limits"]:
            yield f"Limit {name}: {value / old['limits'][name]:.2f} times the earlier value"
