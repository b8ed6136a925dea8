"""`effnet predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_cli.cli.app import app
from effnet_cli.cli.arguments import (
    BatchSizeOption,
    DeviceOption,
    EngineOption,
    ExactDecodeOption,
    FitOption,
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
)
from effnet_cli.cli.showing import new_speaker
from effnet_cli.options import EngineOptions, Format, ModelOptions, PictureOptions, PredictOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from effnet_cli.predict import Prediction

InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUTS",
        help="Pictures, folders, glob patterns, @LIST (a file of paths), "
        "or - (stdin: paths, or one picture).",
        show_default=False,
    ),
]
TopKOption = Annotated[
    int,
    typer.Option("--top-k", "-k", metavar="N", parser=count, help="Answers for each picture."),
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
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write the answers to this file, whole or not at all."),
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
    fit: FitOption = PictureOptions.fit,
    exact_decode: ExactDecodeOption = PictureOptions.exact_decode,
    max_pixels: MaxPixelsOption = PictureOptions.max_pixels,
    top_k: TopKOption = PredictOptions.top_k,
    batch_size: BatchSizeOption = PredictOptions.batch_size,
    workers: WorkersOption = PredictOptions.workers,
    unknown_below: UnknownOption = None,
    format_: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Say what is on pictures.

    One row for each picture, in the order given; a broken file has a row that says so, and stops
    no other.
    """
    from effnet_cli import rows
    from effnet_cli.images import Finder
    from effnet_cli.predict import Classifier

    speaker, tally, finder = new_speaker(quiet), rows.Tally(), Finder(inputs)
    classifier = Classifier(
        ModelOptions(variant, model, weights, offline),
        EngineOptions(device, engine, precision),
        PictureOptions(fit, exact_decode, max_pixels),
        PredictOptions(top_k, batch_size, workers, auto_or_share(unknown_below)),
        speaker,
    )
    # from here on the engine loads, while what draws tables is imported
    answers = tally.count(classifier.predict(finder, are_many=finder.is_slow or None))
    encode = _encoder(rows.chosen_format(format_, output))
    rows.write(encode(speaker.track(answers, finder.total)), output)
    speaker.note(tally.summary(finder))
    raise typer.Exit(1 if tally.failed else 0)


def _encoder(format_: Format) -> "Callable[[Iterable[Prediction]], Iterator[str]]":
    """What makes text of predictions; only the table needs rich."""
    if format_ == "table":
        from effnet_cli.console import table_text

        return table_text
    from effnet_cli.rows import ENCODERS

    return ENCODERS[format_]
