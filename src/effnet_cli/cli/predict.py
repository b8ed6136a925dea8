"""`effnet predict`."""

from pathlib import Path
from typing import Annotated

import typer

from effnet_cli.cli.answering import Answering, Wish
from effnet_cli.cli.app import app
from effnet_cli.cli.options import (
    BatchSizeOption,
    DeviceOption,
    EngineOption,
    ExactDecodeOption,
    FitOption,
    HtmlOption,
    MaxPixelsOption,
    ModelOption,
    OfflineOption,
    PrecisionOption,
    QuietOption,
    VariantOption,
    WeightsOption,
    WorkersOption,
    auto_or_share,
    count,
    positive,
)
from effnet_cli.cli.out import new_reporter
from effnet_cli.options import (
    MAX_VIEWS,
    EngineOptions,
    Format,
    GroupBy,
    ImageOptions,
    ModelOptions,
    OrganizeOptions,
    PredictOptions,
)

STDOUT = "-"


def _views(text: str | int) -> int:
    """A number of looks at an image."""
    if count(text) > MAX_VIEWS:
        raise typer.BadParameter(f"{text!r} is more than {MAX_VIEWS} looks.")
    return count(text)


InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUTS",
        help="Images, folders, addresses, glob patterns, @LIST (a file of paths), "
        "or - (stdin: paths, or one image).",
        show_default=False,
    ),
]
TopKOption = Annotated[
    int,
    typer.Option("--top-k", "-k", metavar="N", parser=count, help="Answers for each image."),
]
UnknownOption = Annotated[
    str | None,
    typer.Option(
        "--unknown-below",
        metavar="auto|P",
        help="Answer `unknown` below this probability; auto: as the model was validated.",
    ),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        "-f",
        show_default="from the name of --output, else table",
        help="How the answers are written.",
    ),
]
OutputsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the answers to this file, whole or not at all; repeatable.",
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on where a run with this --output was interrupted.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="S",
        parser=positive,
        help="Give up an image after so many seconds; isolates too.",
    ),
]
IsolateOption = Annotated[
    bool,
    typer.Option("--isolate", help="Decode in processes of their own, which may crash."),
]
ViewsOption = Annotated[
    int,
    typer.Option(
        "--tta",
        metavar="N",
        parser=_views,
        help=f"Average the answers for N looks at each image (1 to {MAX_VIEWS}).",
    ),
]
ExplainOption = Annotated[
    Path | None,
    typer.Option(
        "--explain",
        metavar="DIR",
        help="Write each image with what speaks for its answer (Grad-CAM).",
    ),
]
PreviewOption = Annotated[
    bool, typer.Option("--preview", help="Show the images, in a terminal with colours.")
]
CopyOption = Annotated[
    Path | None,
    typer.Option(
        "--copy-to",
        metavar="DIR",
        help="Copy images into a folder for each class; replaces none.",
    ),
]
MoveOption = Annotated[bool, typer.Option("--move", help="With --copy-to: move them instead.")]
GroupByOption = Annotated[
    GroupBy, typer.Option("--group-by", help="With --copy-to: the folders in DIR.")
]


@app.command()
def predict(
    inputs: InputsArgument,
    variant: VariantOption = ModelOptions.variant,
    model: ModelOption = ModelOptions.model,
    weights: WeightsOption = ModelOptions.weights,
    offline: OfflineOption = ModelOptions.offline,
    device: DeviceOption = EngineOptions.device,
    engine: EngineOption = EngineOptions.engine,
    precision: PrecisionOption = EngineOptions.precision,
    fit: FitOption = ImageOptions.fit,
    tta: ViewsOption = ImageOptions.views,
    exact_decode: ExactDecodeOption = ImageOptions.exact_decode,
    max_pixels: MaxPixelsOption = ImageOptions.max_pixels,
    timeout: TimeoutOption = ImageOptions.timeout_s,
    isolate: IsolateOption = ImageOptions.isolate,
    top_k: TopKOption = PredictOptions.top_k,
    batch_size: BatchSizeOption = PredictOptions.batch_size,
    workers: WorkersOption = PredictOptions.workers,
    unknown_below: UnknownOption = None,
    format_: FormatOption = None,
    output: OutputsOption = None,
    resume: ResumeOption = False,
    html: HtmlOption = None,
    explain: ExplainOption = None,
    preview: PreviewOption = False,
    copy_to: CopyOption = None,
    move: MoveOption = OrganizeOptions.moves,
    group_by: GroupByOption = OrganizeOptions.group_by,
    quiet: QuietOption = False,
) -> None:
    """Say what is on images.

    One row for each image, in the order given; a broken file has a row that says so, and stops
    no other.
    """
    wish = Wish(
        format_,
        tuple(path for path in output or () if str(path) != STDOUT),
        resume,
        html,
        explain,
        preview,
        copy_to,
        move,
        group_by,
    )
    wish.check()
    options = PredictOptions(
        top_k, batch_size, workers, auto_or_share(unknown_below), wish.needs_crops
    )
    answering = Answering(
        inputs,
        ModelOptions(variant, model, weights, offline),
        EngineOptions(device, engine, precision),
        ImageOptions(fit, exact_decode, max_pixels, tta, isolate, timeout, offline),
        options,
        wish,
    )
    raise typer.Exit(answering(new_reporter(quiet)))
