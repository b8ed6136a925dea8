"""What was measured as text: JSON, CSV, a table, the answer in words, what has changed since."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from effnet_cli.bench.records import SLOWER, BenchResult, Change, Timing
from effnet_cli.bench.statistics import changed
from effnet_cli.models.variants import VARIANTS
from effnet_cli.output.text import csv_line
from effnet_cli.system.errors import UsageError

SCHEMA = 1
KEYS = ("variant", "engine", "device", "precision", "batch_size", "mode")
TIMES = ("p50_ms", "p50_low_ms", "p50_high_ms")
# Times of the fastest network within which a more accurate one is worth a look.
MODERATE = 3.0
MAX_JSON_BYTES = 64 * 2**20


# --- text ---------------------------------------------------------------------------------------


def as_row(timing: Timing) -> dict[str, Any]:
    """The JSON object of one row: flat, with units in the names."""
    row = asdict(timing)
    figures, stages = row.pop("figures"), row.pop("stages")
    low_ms, high_ms = figures.pop("interval_ms")
    names = ("decode_ms", "resize_ms", "network_ms")
    return {
        **{name: row.pop(name) for name in KEYS},
        **figures,
        "p50_low_ms": low_ms,
        "p50_high_ms": high_ms,
        **row,
        **(stages or dict.fromkeys(names)),
    }


def as_json(measured: BenchResult, changes: Sequence[Change] | None = None) -> dict[str, Any]:
    """The whole result, schema 1."""
    content = {
        "schema": SCHEMA,
        "machine": dict(measured.machine),
        "limits": dict(measured.limits),
        "seconds": measured.seconds,
        "results": [as_row(timing) for timing in measured.timings],
        "left_out": [asdict(one) for one in measured.left_out],
        "recommendation": list(recommendation(measured)),
    }
    if changes is not None:
        content["changes"] = [asdict(change) for change in changes]
    return content


def csv_lines(measured: BenchResult) -> Iterator[str]:
    """CSV with a header, a line for each row."""
    rows = [as_row(timing) for timing in measured.timings]
    yield csv_line(rows[0])
    for row in rows:
        yield csv_line("" if value is None else value for value in row.values())


# --- the answer in words ------------------------------------------------------------------------


def recommendation(measured: BenchResult) -> Iterator[str]:
    """Which one to take here, and for what."""
    ours = [t for t in measured.timings if t.variant in VARIANTS or t.weights == "yours"]
    if not ours:
        return
    mode = ours[0].mode
    if mode == "train":
        best = max(ours, key=lambda t: t.figures.images_per_s)
        epoch = 1000 / best.figures.images_per_s
        yield (
            f"To train here: {_named(best)}, {best.figures.images_per_s:,.1f} images/s, "
            f"{epoch:,.0f} s for 1,000 images."
        )
        return
    folder = max(ours, key=lambda t: t.figures.images_per_s)
    single = [t for t in ours if t.batch_size == 1]
    if mode == "inference" and single:
        fastest = min(single, key=lambda t: t.figures.p50_ms)
        yield f"For one image at a time here: {_named(fastest)}, {_ms(fastest)}."
    batch = f", {folder.batch_size} at a time" if folder.batch_size > 1 else ""
    yield f"For folders: {_named(folder)}{batch}, {folder.figures.images_per_s:,.0f} images/s."
    known = [t for t in single if t.top1 is not None]
    if known:
        yield from _accurate(known)


def _accurate(known: Sequence[Timing]) -> Iterator[str]:
    """The most accurate one, and the most accurate one that is not much slower than the fastest."""
    best = max(known, key=lambda t: (t.top1 or 0, -t.figures.p50_ms))
    least_ms = min(t.figures.p50_ms for t in known)
    near = [t for t in known if t.figures.p50_ms <= MODERATE * least_ms]
    both = max(near, key=lambda t: (t.top1 or 0, -t.figures.p50_ms))
    if both.variant != best.variant and both.figures.p50_ms > least_ms:
        times = both.figures.p50_ms / least_ms
        yield (
            f"For both: {_named(both)}, {both.top1:.1f} % top-1, {_ms(both)} "
            f"({times:.1f} times the fastest)."
        )
    yield f"For accuracy: {_named(best)}, {best.top1:.1f} % top-1, {_ms(best)}."


def _named(timing: Timing) -> str:
    precision = "" if timing.precision == "fp32" else f" in {timing.precision}"
    return f"{timing.variant} on {timing.engine}{precision}"


def _ms(timing: Timing) -> str:
    return f"{timing.figures.p50_ms:,.1f} ms"


# --- beside an earlier result -------------------------------------------------------------------


def earlier(path: Path) -> dict[str, Any]:
    """A result that `--format json` wrote.

    Raises:
        UsageError: it is none.
    """
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_JSON_BYTES))
    except OSError as error:
        raise UsageError(
            f"{str(path)!r} cannot be read: {error.strerror}.", "Check the path."
        ) from error
    except (ValueError, RecursionError):  # also what is no UTF-8
        faults = ["it is not JSON"]
    else:
        faults = list(islice(_faults(content), 1))
    for fault in faults:
        raise UsageError(
            f"{str(path)!r} is no result of `effnet bench`: {fault}.",
            "Make one: effnet bench --format json > old.json",
        )
    result: dict[str, Any] = content
    return result


def _faults(content: object) -> Iterator[str]:
    """What keeps it from being a result of schema 1, in words; the first one tells enough."""
    if not isinstance(content, dict) or "schema" not in content:
        yield 'it has no "schema"'
        return
    if content["schema"] != SCHEMA:
        yield f"its schema is {json.dumps(content['schema'])[:40]}, not {SCHEMA}"
    rows, limits = content.get("results"), content.get("limits")
    if not isinstance(rows, list) or not isinstance(limits, dict):
        yield 'its "results" or "limits" are missing'
        return
    for row in rows:
        if not isinstance(row, dict) or not all(isinstance(row.get(k), str | int) for k in KEYS):
            yield f"a row of it lacks one of {', '.join(KEYS)}"
        elif not all(_is_above_zero(row.get(name)) for name in TIMES):
            yield f"a row of it has no time above zero in one of {', '.join(TIMES)}"
    if not all(map(_is_above_zero, limits.values())):
        yield "a limit in it is not above zero"


def _is_above_zero(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def compared(measured: BenchResult, old: Mapping[str, Any], tolerance: float) -> list[Change]:
    """Each row that both have, the new one beside the old one."""
    by_key = {tuple(row[name] for name in KEYS): row for row in old["results"]}
    changes = []
    for timing in measured.timings:
        row = by_key.get(tuple(getattr(timing, name) for name in KEYS))
        if row is None:
            continue
        figures = timing.figures
        ratio, interval, verdict = changed(
            row["p50_ms"],
            (row["p50_low_ms"], row["p50_high_ms"]),
            figures.p50_ms,
            figures.interval_ms,
            tolerance,
        )
        changes.append(
            Change(
                **{name: getattr(timing, name) for name in KEYS},
                old_ms=row["p50_ms"],
                new_ms=figures.p50_ms,
                ratio=ratio,
                interval=interval,
                verdict=verdict,
            )
        )
    return changes


def drift(measured: BenchResult, old: Mapping[str, Any]) -> Iterator[str]:
    """How the machine's own limits have changed: as much as that, all times change with them."""
    for name, value in measured.limits.items():
        if name in old["limits"]:
            yield f"The limit {name} is {value / old['limits'][name]:.2f} times what it was then."


def is_slower(changes: Sequence[Change]) -> bool:
    """Whether something takes longer than before, beyond doubt and tolerance."""
    return any(change.verdict == SLOWER for change in changes)
