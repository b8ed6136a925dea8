"""A benchmark as text and tables."""

from collections.abc import Iterator, Sequence

from effnet_cli.bench.formats import recommendation
from effnet_cli.bench.records import COPY, BenchResult, Change, Timing
from effnet_cli.output.tables import Block, Table


def blocks(measured: BenchResult, changes: Sequence[Change] | None) -> Iterator[Block]:
    """The recommendation, the figures, the machine, what was left out and what has changed."""
    yield from recommendation(measured)
    yield figures_table(measured)
    yield from notes(measured)
    if changes:
        yield changes_table(changes)
    elif changes is not None:
        yield "Nothing in the earlier result was measured again."


def figures_table(measured: BenchResult) -> Table:
    """All timings, the fastest first within each variant."""
    mode = measured.timings[0].mode
    columns = ["network", "top-1", "engine", "batch", "ms a call", "p5", "p90", "p99"]
    columns += ["images/s"]
    if mode == "end-to-end":
        columns += ["decode", "resize", "network ms"]
    else:
        columns += ["of peak", "of copy"]
    columns += ["MB", "load ms", "cold ms", "verdict"]
    return Table(columns, [_cells(timing) for timing in measured.timings])


def _cells(timing: Timing) -> list[object]:
    figures, stages = timing.figures, timing.stages
    engine = timing.engine if timing.precision == "fp32" else f"{timing.engine} {timing.precision}"
    parts = [_share(timing.share_of_peak), _share(timing.share_of_bandwidth)]
    if stages is not None:
        parts = [f"{v:.2f}" for v in (stages.decode_ms, stages.resize_ms, stages.network_ms)]
    memory = timing.device_memory_mb or timing.peak_memory_mb
    return [
        timing.variant,
        None if timing.top1 is None else f"{timing.top1:.1f}",
        engine,
        timing.batch_size,
        *(f"{v:.2f}" for v in (figures.p50_ms, figures.p5_ms, figures.p90_ms, figures.p99_ms)),
        f"{figures.images_per_s:,.1f}",
        *parts,
        None if memory is None else f"{memory:,.0f}",
        f"{timing.load_ms:,.0f}",
        f"{timing.cold_ms:,.0f}",
        figures.verdict,
    ]


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def notes(measured: BenchResult) -> Iterator[str]:
    """What it was measured on, against which limits, and what is missing."""
    for name, value in machine_lines(measured):
        yield f"{name}: {value}"
    for one in measured.left_out:
        yield f"left out: {one.variant}{f' on {one.engine}' if one.engine else ''}: {one.reason}"


def machine_lines(measured: BenchResult) -> Iterator[tuple[str, str]]:
    """What it was measured on, and the limits that were measured there."""
    machine = measured.machine
    memory = "" if machine["memory_gb"] is None else f", {machine['memory_gb']:g} GB"
    yield "processor", f"{machine['cpu']}, {machine['cores']} cores{memory}"
    yield "instruction sets", ", ".join(machine["instruction_sets"])
    if machine["gpu"] is not None:
        yield "GPU", f"{machine['gpu']['name']}, driver {machine['gpu']['driver']}"
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    yield "versions", f"effnet {machine['effnet']}, Python {machine['python']}, {libraries}"
    yield "system", machine["os"]
    for name, value in measured.limits.items():
        what = "gigabytes" if name == COPY else "billion multiply-adds"
        yield f"limit, {name}", f"{value:,.0f} {what} a second"


def chart_points(measured: BenchResult) -> list[tuple[str, float, float]]:
    """Name, milliseconds for one image on its fastest engine, and published top-1 in percent."""
    best: dict[str, Timing] = {}
    for timing in measured.timings:
        if timing.batch_size != 1 or timing.top1 is None or timing.mode == "train":
            continue
        before = best.get(timing.variant)
        if before is None or timing.figures.p50_ms < before.figures.p50_ms:
            best[timing.variant] = timing
    return [(name, t.figures.p50_ms, float(t.top1 or 0)) for name, t in best.items()]


def changes_table(changes: Sequence[Change]) -> Table:
    """Each change against the earlier result."""
    columns = "network", "engine", "batch", "old ms", "new ms", "ratio", "95 % interval", "verdict"
    rows = [
        (
            change.variant,
            change.engine if change.precision == "fp32" else f"{change.engine} {change.precision}",
            change.batch_size,
            f"{change.old_ms:.2f}",
            f"{change.new_ms:.2f}",
            f"{change.ratio:.3f}",
            f"{change.interval[0]:.3f} to {change.interval[1]:.3f}",
            change.verdict,
        )
        for change in changes
    ]
    return Table(columns, rows)
