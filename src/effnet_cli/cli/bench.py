"""`effnet bench`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from effnet_cli.cli.app import app
from effnet_cli.cli.options import (
    BenchFormatOption,
    DeviceOption,
    HtmlOption,
    QuietOption,
    positive,
    share,
)
from effnet_cli.cli.out import (
    CHECK_FAILED_STATUS,
    named,
    new_reporter,
    show_blocks,
    show_data,
    show_json,
)
from effnet_cli.options import BenchMode, BenchTask, EngineChoice, EnginePrecision, Precision
from effnet_cli.system.errors import UsageError

if TYPE_CHECKING:
    from effnet_cli.output.progress import PlainReporter


def _listed(text: str | None, known: Iterable[str] | None, what: str) -> tuple[str, ...]:
    """What stands between commas; nothing for `None` and for `all`.

    Raises:
        UsageError: it is not among what is known.
    """
    names = () if text in (None, "all") else tuple(str(text).split(","))
    for name in names:
        if known is not None and name not in known:
            raise UsageError(f"{name!r} is no {what}.", f"Use one of {', '.join(known)}.")
    return names


def _batch_sizes(text: str | None) -> tuple[int, ...]:
    """Whole numbers from 1 with commas between them.

    Raises:
        UsageError: one is none.
    """
    names = _listed(text, None, "")
    for name in names:
        if not name.isdecimal() or int(name) < 1:
            raise UsageError(f"{name!r} is no batch size.", "Use whole numbers: --batch-size 1,32")
    return tuple(map(int, names))


BenchVariantsOption = Annotated[
    str | None,
    typer.Option(
        "--variant",
        "-V",
        metavar="NAMES|all",
        show_default="those that fit the time",
        help="Networks with commas between them, see `effnet variants`.",
    ),
]
BenchModelsOption = Annotated[
    list[Path] | None, typer.Option("--model", "-m", help="A model file or an export; repeatable.")
]
AgainstOption = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="NAMES",
        show_default=False,
        help="Classifiers of torchvision to measure beside them, such as resnet50.",
    ),
]
EnginesOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        "-e",
        metavar="NAMES|all",
        show_default="all that are installed",
        help="What runs them.",
    ),
]
PrecisionsOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        "-p",
        metavar="NAMES",
        show_default="fp32",
        help="What they compute in: fp32, bf16, fp16.",
    ),
]
BatchSizesOption = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="N,N",
        show_default="1 and the best",
        help="Images in one call.",
    ),
]
ModeOption = Annotated[
    BenchMode,
    typer.Option("--mode", help="The network alone, a training step, or files to answers."),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--images", show_default="samples", help="Images for end-to-end."),
]
SecondsOption = Annotated[
    float,
    typer.Option(
        "--seconds", metavar="S", parser=positive, help="Time to measure, besides loading."
    ),
]
CompareOption = Annotated[
    Path | None,
    typer.Option("--compare", metavar="OLD.json", help="Say what got faster or slower since."),
]
ToleranceOption = Annotated[
    float,
    typer.Option(
        "--tolerance", metavar="X", parser=share, help="A slowdown up to this share is none."
    ),
]


@app.command()
def bench(
    variant: BenchVariantsOption = None,
    model: BenchModelsOption = None,
    against: AgainstOption = None,
    device: DeviceOption = BenchTask.device,
    engine: EnginesOption = None,
    precision: PrecisionsOption = None,
    batch_size: BatchSizesOption = None,
    mode: ModeOption = BenchTask.mode,
    images: ImagesOption = BenchTask.image_folder,
    seconds: SecondsOption = BenchTask.seconds,
    compare: CompareOption = None,
    tolerance: ToleranceOption = BenchTask.tolerance,
    format_: BenchFormatOption = "table",
    html: HtmlOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure how fast networks run here, and say which one to take.

    Each network runs on each engine in a process of its own, and they take turns. Networks whose
    weights are not here get random ones: times do not depend on them, and nothing is downloaded.
    """
    task = BenchTask(
        tuple(row.name for row in named(variant.split(","))) if variant else (),
        tuple(model or ()),
        _listed(against, None, ""),
        device,
        _listed(engine, [name for name in get_args(EngineChoice) if name != "auto"], "engine"),
        tuple(
            cast("EnginePrecision", p) for p in _listed(precision, get_args(Precision), "precision")
        )
        or BenchTask.precisions,
        _batch_sizes(batch_size),
        mode,
        images,
        seconds,
        tolerance,
    )
    raise typer.Exit(_bench(task, compare, format_, html, new_reporter(quiet)))


def _bench(
    task: BenchTask,
    compare: Path | None,
    format_: str,
    html: Path | None,
    reporter: "PlainReporter",
) -> int:
    """Measure, and write the figures; the exit status."""
    from effnet_cli.bench import formats
    from effnet_cli.output.writers import check_not_read, write

    if html is not None and compare is not None:
        check_not_read(html, [compare])
    old = None if compare is None else formats.load_result(compare)
    from effnet_cli.bench.records import SLOWER
    from effnet_cli.bench.run import bench

    try:
        result = bench(task, reporter)
    finally:
        reporter.close()
    changes = None
    if old is not None:
        changes = formats.compare_results(result, old, task.tolerance)
        for line in formats.compare_limits(result, old):
            reporter.note(line)
    if format_ == "json":
        show_json(formats.as_json(result, changes))
    elif format_ == "csv":
        show_data(formats.csv_lines(result), "csv")
    else:
        from effnet_cli.bench.table import blocks

        show_blocks(blocks(result, changes))
    if html is not None:
        from effnet_cli.bench.page import bench_page

        write([bench_page(result, changes)], html)
        reporter.note(f"{html} is written.")
    if any(change.verdict == SLOWER for change in changes or ()):
        return CHECK_FAILED_STATUS
    return 1 if any(one.is_failure for one in result.skipped) else 0
