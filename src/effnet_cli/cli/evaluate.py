"""`effnet evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_cli.cli.app import app
from effnet_cli.cli.options import (
    BatchSizeOption,
    BenchFormatOption,
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
)
from effnet_cli.cli.out import CHECK_FAILED_STATUS, new_reporter, show_blocks, show_data, show_json
from effnet_cli.evaluate.figures import LIMITS
from effnet_cli.options import (
    EngineOptions,
    EvaluateTask,
    ImageOptions,
    ModelOptions,
    PredictOptions,
)
from effnet_cli.system.errors import UsageError

if TYPE_CHECKING:
    from effnet_cli.output.progress import PlainReporter


def _limits(texts: list[str] | None) -> dict[str, float]:
    """The least value of some figures: `0.9` (top1), `macro_f1=0.8`.

    Raises:
        UsageError: a name or a value is invalid.
    """
    limits = {}
    for part in ",".join(texts or []).split(",") if texts else ():
        name, _, value = part.rpartition("=")
        name = name or "top1"
        try:
            limit = float(value)
        except ValueError:
            limit = -1.0
        if name not in LIMITS or not 0 <= limit <= 1:
            raise UsageError(
                f"Invalid --fail-under {part!r}.",
                f"Use a share such as 0.9, or NAME=SHARE with one of {', '.join(LIMITS)}.",
            )
        limits[name] = limit
    return limits


LabelledArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders, one with splits, or a CSV: path,label[,split].",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split", show_default="test, else val", help="Which split, where there are some."
    ),
]
FailUnderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-under",
        metavar="[NAME=]SHARE",
        help="Exit with 3 where top1 (or another figure) is lower; repeatable.",
    ),
]
ExplainOption = Annotated[
    bool, typer.Option("--explain", help="Show on the page's images what speaks for the answers.")
]
CompareModelOption = Annotated[
    str | None,
    typer.Option(
        "--compare", metavar="MODEL", help="A second model file or variant for the same images."
    ),
]


@app.command()
def evaluate(
    root: LabelledArgument,
    variant: VariantOption = ModelOptions.variant,
    model: ModelOption = ModelOptions.model,
    weights: WeightsOption = ModelOptions.weights,
    offline: OfflineOption = ModelOptions.offline,
    device: DeviceOption = EngineOptions.device,
    engine: EngineOption = EngineOptions.engine,
    precision: PrecisionOption = EngineOptions.precision,
    split: SplitOption = EvaluateTask.split,
    compare: CompareModelOption = None,
    fail_under: FailUnderOption = None,
    fit: FitOption = ImageOptions.fit,
    exact_decode: ExactDecodeOption = ImageOptions.exact_decode,
    max_pixels: MaxPixelsOption = ImageOptions.max_pixels,
    batch_size: BatchSizeOption = PredictOptions.batch_size,
    workers: WorkersOption = PredictOptions.workers,
    format_: BenchFormatOption = "table",
    html: HtmlOption = None,
    explain: ExplainOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say how good a model is on labelled images, and where it errs.

    Classes are matched by name; for the pretrained networks folders may also be called by WordNet
    id or index. Images that cannot be opened count as wrong.
    """
    task = EvaluateTask(
        root,
        ModelOptions(variant, model, weights, offline),
        EngineOptions(device, engine, precision),
        ImageOptions(fit, exact_decode, max_pixels),
        PredictOptions(batch_size=batch_size, workers=workers),
        split,
        None if compare is None else _model_named(compare, offline),
    )
    raise typer.Exit(
        _evaluate(task, _limits(fail_under), format_, html, explain, new_reporter(quiet))
    )


def _evaluate(
    task: EvaluateTask,
    limits: dict[str, float],
    format_: str,
    html: Path | None,
    has_overlays: bool,
    reporter: "PlainReporter",
) -> int:
    """Judge, and write the figures; the exit status."""
    from effnet_cli.evaluate import formats
    from effnet_cli.evaluate.figures import check_limits
    from effnet_cli.evaluate.run import evaluate
    from effnet_cli.output.writers import check_not_read, write

    if html is not None:
        check_not_read(html, [task.root])
    overlay = None
    if has_overlays:
        if html is None:
            raise UsageError("--explain draws into a page.", "Add --html FILE.")
        from effnet_cli.predict.gradcam import Explainer

        overlay = Explainer(task.model, task.images).overlay
    try:
        found = evaluate(task, reporter)
    finally:
        reporter.close()
    if format_ == "json":
        show_json(formats.as_json(found))
    elif format_ == "csv":
        show_data(formats.csv_lines(found), "csv")
    else:
        from effnet_cli.evaluate.table import blocks

        show_blocks(blocks(found))
    if html is not None:
        from effnet_cli.evaluate.page import evaluation_page

        write([evaluation_page(found, overlay=overlay)], html)
        reporter.note(f"{html} is written.")
    broken = list(check_limits(found, limits))
    for line in broken:
        reporter.note(f"Check failed: {line}.")
    if broken:
        return CHECK_FAILED_STATUS
    return 1 if found.failures else 0


def _model_named(text: str, offline: bool) -> ModelOptions:
    """A model file, or the name of a variant."""
    from effnet_cli.models.variants import find_variant

    if Path(text).exists():
        return ModelOptions(model=Path(text))
    return ModelOptions(find_variant(text).name, offline=offline)
