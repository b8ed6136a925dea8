"""Formats benchmark results as text and tables."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence

from effnet_cli.bench.records import COPY, BenchResult, Change, Timing, TimingKey
from effnet_cli.models.variants import VARIANTS
from effnet_cli.options import BenchMode
from effnet_cli.output.tables import Block, Table

# A model is a good trade-off up to this multiple of the fastest model's time.
MODERATE = 3.0


def blocks(result: BenchResult, changes: Sequence[Change] | None) -> Iterator[Block]:
    """Yield the recommendation, the timings, the machine, what was skipped and what changed."""
    yield from recommendation(result)
    yield timings_table(result, TERMINAL_COLUMNS[result.timings[0].mode])
    yield from (f"{name}: {value}" for name, value in machine_lines(result))
    for one in result.skipped:
        yield f"skipped: {one.variant}{f' on {one.engine}' if one.engine else ''}: {one.reason}"
    if changes:
        yield changes_table(changes)
    elif changes is not None:
        yield "The earlier result contains none of these timings."


# --- recommendation -------------------------------------------------------------------------------


def recommendation(result: BenchResult) -> Iterator[str]:
    """Yield recommended models for this machine, by speed and by accuracy."""
    ours = [t for t in result.timings if t.variant in VARIANTS or t.weights == "yours"]
    if not ours:
        return
    mode, busiest = ours[0].mode, max(ours, key=lambda t: t.images_per_s)
    rate = busiest.images_per_s
    if mode == "train":
        yield (
            f"Fastest training: {_name(busiest)}, {rate:,.1f} images/s, {1000 / rate:,.0f} s per "
            "1,000 images."
        )
        return
    single = [t for t in ours if t.batch_size == 1]
    if mode == "inference" and single:
        fastest = min(single, key=lambda t: t.p50_ms)
        yield f"Lowest latency: {_name(fastest)}, {_ms(fastest)} per image."
    batch = f", batch size {busiest.batch_size}" if busiest.batch_size > 1 else ""
    yield f"Highest throughput: {_name(busiest)}{batch}, {rate:,.0f} images/s."
    known = [t for t in single if t.top1 is not None]
    if known:
        yield from _accurate(known)


def _accurate(known: Sequence[Timing]) -> Iterator[str]:
    """Yield the most accurate model, preceded by the best trade-off if there is a separate one.

    The trade-off is the most accurate model that is not much slower than the fastest.
    """
    least_ms = min(t.p50_ms for t in known)
    near = [t for t in known if t.p50_ms <= MODERATE * least_ms]
    best, balanced = (max(ts, key=lambda t: (t.top1 or 0, -t.p50_ms)) for ts in (known, near))
    if balanced.variant != best.variant and balanced.p50_ms > least_ms:
        yield (
            f"Best trade-off: {_name(balanced)}, {balanced.top1:.1f} % top-1, {_ms(balanced)} "
            f"({balanced.p50_ms / least_ms:.1f} times the fastest)."
        )
    yield f"Most accurate: {_name(best)}, {best.top1:.1f} % top-1, {_ms(best)}."


def _name(timing: Timing) -> str:
    return f"{timing.variant} on {_engine(timing)}"


def _ms(timing: Timing) -> str:
    return f"{timing.p50_ms:,.1f} ms"


# --- tables ---------------------------------------------------------------------------------------

TIMING_COLUMNS: Mapping[str, Callable[[Timing], object]] = {
    "model": lambda t: t.variant,
    "top-1": lambda t: _number(t.top1, ".1f"),
    "engine": lambda t: _engine(t),
    "batch": lambda t: t.batch_size,
    "ms": lambda t: _number(t.p50_ms, ".2f"),
    "p5": lambda t: _number(t.p5_ms, ".2f"),
    "p90": lambda t: _number(t.p90_ms, ".2f"),
    "p99": lambda t: _number(t.p99_ms, ".2f"),
    "images/s": lambda t: _number(t.images_per_s, ",.1f"),
    "decode": lambda t: _number(t.decode_ms, ".2f"),
    "resize": lambda t: _number(t.resize_ms, ".2f"),
    "inference": lambda t: _number(t.model_ms, ".2f"),
    "of peak": lambda t: _number(t.share_of_peak, ".0%"),
    "of copy": lambda t: _number(t.share_of_bandwidth, ".0%"),
    "MB": lambda t: _number(t.device_memory_mb or t.peak_memory_mb, ",.0f"),
    "load ms": lambda t: _number(t.load_ms, ",.0f"),
    "cold ms": lambda t: _number(t.cold_ms, ",.0f"),
    "spread": lambda t: _number(t.spread, ".0%"),
    "verdict": lambda t: t.verdict.partition(" ")[0],
}
TERMINAL_COLUMNS: Mapping[BenchMode, tuple[str, ...]] = {  # they fit into 80 characters
    "inference": ("model", "top-1", "engine", "batch", "ms", "images/s", "MB", "verdict"),
    "train": ("model", "engine", "batch", "ms", "images/s", "MB", "verdict"),
    "end-to-end": ("model", "engine", "ms", "decode", "resize", "inference", "images/s"),
}
CHANGE_COLUMNS: Mapping[str, Callable[[Change], object]] = {
    "model": lambda c: c.variant,
    "engine": lambda c: _engine(c),
    "batch": lambda c: c.batch_size,
    "old ms": lambda c: f"{c.old_ms:.2f}",
    "new ms": lambda c: f"{c.new_ms:.2f}",
    "ratio": lambda c: f"{c.ratio:.3f}",
    "interval": lambda c: f"{c.interval[0]:.3f} to {c.interval[1]:.3f}",
    "verdict": lambda c: c.verdict,
}


def timings_table(result: BenchResult, names: Container[str] | None = None) -> Table:
    """Return the columns called `names`, or all if `None`, without those that have no figures."""
    columns = {
        name: [cell(timing) for timing in result.timings]
        for name, cell in TIMING_COLUMNS.items()
        if names is None or name in names
    }
    known = {name: cells for name, cells in columns.items() if set(cells) != {None}}
    return Table(tuple(known), list(zip(*known.values(), strict=True)))


def changes_table(changes: Sequence[Change]) -> Table:
    """Return a table of the old and new medians side by side."""
    rows = [[cell(change) for cell in CHANGE_COLUMNS.values()] for change in changes]
    return Table(tuple(CHANGE_COLUMNS), rows)


def _engine(key: TimingKey) -> str:
    return key.engine if key.precision == "fp32" else f"{key.engine} {key.precision}"


def _number(value: float | None, format_: str) -> str | None:
    return None if value is None else format(value, format_)


# --- the machine ----------------------------------------------------------------------------------


def machine_lines(result: BenchResult) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each fact about the machine and its limits."""
    machine = result.machine
    yield "processor", "{cpu}, {cores} cores, {memory_gb:g} GB".format_map(machine)
    yield "instruction sets", ", ".join(machine["instruction_sets"])
    if machine["gpu"] is not None:
        yield "GPU", f"{machine['gpu']['name']}, driver {machine['gpu']['driver']}"
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    yield "versions", f"effnet {machine['effnet']}, Python {machine['python']}, {libraries}"
    yield "system", machine["os"]
    for name, value in result.limits.items():
        unit = "GB" if name == COPY else "billion multiply-adds"
        yield f"limit, {name}", f"{value:,.0f} {unit} per second"
