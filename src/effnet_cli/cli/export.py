"""`effnet export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_cli.cli.app import app
from effnet_cli.cli.options import (
    ListFormat,
    ListFormatOption,
    MaxPixelsOption,
    ModelOption,
    OfflineOption,
    QuietOption,
    VariantOption,
    WeightsOption,
    count,
    from_zero,
)
from effnet_cli.cli.out import CHECK_FAILED_STATUS, new_reporter, show_blocks, show_json
from effnet_cli.export.targets import TARGETS
from effnet_cli.options import (
    ExportOptions,
    ExportPrecision,
    ExportTask,
    ImageOptions,
    ModelOptions,
    Quantization,
    TargetName,
)

if TYPE_CHECKING:
    from effnet_cli.output.progress import PlainReporter


def _open_or_count(text: str) -> int | None:
    """`dynamic` (None) or a whole number from 1."""
    return None if text == "dynamic" else count(text)


TargetOption = Annotated[
    TargetName, typer.Option("--to", "-t", help="What to write, see below.", show_default=False)
]
ExportPrecisionOption = Annotated[
    ExportPrecision,
    typer.Option("--precision", "-p", help="What the file computes in, or stores its weights in."),
]
QuantizeOption = Annotated[
    Quantization | None,
    typer.Option("--quantize", help="8-bit integers: a quarter of the size; needs --calibrate."),
]
CalibrateOption = Annotated[
    Path | None,
    typer.Option("--calibrate", metavar="DIR", help="Typical images; a dataset's, if there is."),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="dynamic|N",
        parser=_open_or_count,
        show_default="dynamic",
        help="Images in one call of the file.",
    ),
]
IncludePreprocessingOption = Annotated[
    bool,
    typer.Option(
        "--include-preprocessing",
        help="The file takes bytes and gives probabilities; its caller only resizes.",
    ),
]
CheckImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--check",
        metavar="DIR",
        show_default="the validation images beside --calibrate, else samples",
        help="Images on which the file must answer as the network does.",
    ),
]
MaxDropOption = Annotated[
    float,
    typer.Option(
        "--max-drop",
        metavar="X",
        parser=from_zero,
        help="Points of top-1 that int8 may lose on labelled images.",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Keep a file that does not answer as it should.")
]
ExportOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", show_default="NAME.onnx, ...", help="The file, or the folder for it."
    ),
]
TARGETS_HELP = "\b\nTargets:\n" + "\n".join(
    f"  {name:<13} {row.suffix:<12} {row.use}" for name, row in TARGETS.items()
)


@app.command(epilog=TARGETS_HELP)
def export(
    to: TargetOption,
    variant: VariantOption = ModelOptions.variant,
    model: ModelOption = ModelOptions.model,
    weights: WeightsOption = ModelOptions.weights,
    offline: OfflineOption = ModelOptions.offline,
    output: ExportOutputOption = ExportTask.output,
    precision: ExportPrecisionOption = ExportOptions.precision,
    quantize: QuantizeOption = ExportOptions.quantize,
    calibrate: CalibrateOption = ExportTask.calibrate,
    batch: BatchOption = ExportOptions.batch,
    include_preprocessing: IncludePreprocessingOption = ExportOptions.include_preprocessing,
    check: CheckImagesOption = ExportTask.check,
    max_drop: MaxDropOption = ExportTask.max_drop,
    force: ForceOption = ExportTask.force,
    max_pixels: MaxPixelsOption = ImageOptions.max_pixels,
    format_: ListFormatOption = "table",
    quiet: QuietOption = False,
) -> None:
    """Write a network as a file for another runtime.

    The file carries class names and preprocessing, and is run on real images before it gets its
    name: one that answers differently from the network is refused (exit status 3).
    """
    task = ExportTask(
        ModelOptions(variant, model, weights, offline),
        ExportOptions(to, precision, quantize, batch, include_preprocessing),
        output,
        calibrate,
        check,
        max_drop,
        force,
        ImageOptions(max_pixels=max_pixels),
    )
    raise typer.Exit(_export(task, format_, new_reporter(quiet)))


def _export(task: ExportTask, format_: ListFormat, reporter: "PlainReporter") -> int:
    """Export, and write how it compares; the exit status."""
    from effnet_cli.export import formats
    from effnet_cli.export.run import export

    try:
        exported = export(task, reporter)
    finally:
        reporter.close()
    if format_ == "json":
        show_json(formats.as_row(exported))
    elif exported.forms:
        from effnet_cli.output.tables import Table

        show_blocks([Table(*formats.table(exported))])
    for line in formats.farewell(exported):
        reporter.note(line)
    return 0 if exported.objection is None else CHECK_FAILED_STATUS
