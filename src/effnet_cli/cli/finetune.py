"""`effnet finetune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_cli.cli.app import app
from effnet_cli.cli.options import (
    DeviceOption,
    MaxPixelsOption,
    ModelOption,
    OfflineOption,
    QuietOption,
    VariantOption,
    WeightsOption,
    WorkersOption,
    auto_or_count,
    auto_or_positive,
    count,
    from_zero,
    positive,
    share,
    whole,
)
from effnet_cli.cli.out import new_reporter, show_blocks, show_data, show_json
from effnet_cli.options import (
    Augment,
    DatasetOptions,
    EngineOptions,
    FinetuneOptions,
    FinetuneTask,
    Format,
    ImageOptions,
    ModelOptions,
    TrainingPrecision,
)
from effnet_cli.system.errors import EffnetError, UsageError

if TYPE_CHECKING:
    from effnet_cli.output.progress import PlainReporter

DatasetArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="DATASET",
        help="A folder of class folders, one with train/ and val/, or a CSV: path,label[,split].",
        show_default=False,
    ),
]
EpochsOption = Annotated[
    int,
    typer.Option(
        "--epochs", "-n", metavar="N", parser=count, help="Passes of the whole network's training."
    ),
]
HeadOnlyOption = Annotated[
    bool, typer.Option("--head-only", help="Train the classifier alone: a minute on a laptop.")
]
TrainingBatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="auto|N",
        parser=auto_or_count,
        show_default="auto",
        help="Images in one update, over all processes.",
    ),
]
LrOption = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="auto|X",
        parser=auto_or_positive,
        show_default="auto",
        help="Peak learning rate of the whole network.",
    ),
]
WeightDecayOption = Annotated[
    float, typer.Option("--weight-decay", metavar="X", parser=from_zero, help="Of AdamW.")
]
HiddenOption = Annotated[
    int,
    typer.Option(
        "--hidden",
        metavar="N",
        parser=whole,
        help="Width of the layer before the last one; 0 for none.",
    ),
]
FreezeOption = Annotated[
    int,
    typer.Option(
        "--freeze",
        metavar="N",
        parser=whole,
        help="Leave the first N of the backbone's stages (of 9; v2: 8) as they are.",
    ),
]
AugmentOption = Annotated[
    Augment, typer.Option("--augment", help="How far training views depart from the images.")
]
BalanceOption = Annotated[
    bool, typer.Option("--balance", help="Weigh classes as if all had equally many images.")
]
PatienceOption = Annotated[
    int | None,
    typer.Option(
        "--patience", metavar="N", parser=count, help="End after N epochs without a better one."
    ),
]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        "--minutes", metavar="X", parser=positive, help="Begin no epoch that would end later."
    ),
]
ValOption = Annotated[
    Path | None, typer.Option("--val", help="The validation folder, if its name is not usual.")
]
ValFractionOption = Annotated[
    float,
    typer.Option(
        "--val-fraction",
        metavar="X",
        parser=share,
        help="Share of each class for validation, where there is no folder for it.",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", parser=whole, help="Of all that is drawn by chance.")
]
TrainingPrecisionOption = Annotated[
    TrainingPrecision,
    typer.Option(
        "--precision", "-p", help="What training computes in; auto: bf16 on CUDA, else fp32."
    ),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the training step: pays on long GPU runs.")
]
FromScratchOption = Annotated[
    bool, typer.Option("--from-scratch", help="Start with untrained weights.")
]
SkipEmptyOption = Annotated[
    bool, typer.Option("--skip-empty", help="Leave out classes without an image.")
]
AllowBadOption = Annotated[
    bool, typer.Option("--allow-bad", help="Train although many files are broken.")
]
AllowLeakOption = Annotated[
    bool, typer.Option("--allow-leak", help="Train although splits share images.")
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Only look at the dataset, and say what is wrong with it.")
]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        show_default="runs/DATASET-VARIANT",
        help="A new folder for the model file and the records.",
    ),
]
ResumeOption = Annotated[
    Path | None, typer.Option("--resume", metavar="RUN", help="Go on with the run in this folder.")
]
ReportOption = Annotated[
    bool, typer.Option("--report/--no-report", help="At the end write report.html into the run.")
]
TrainingFormatOption = Annotated[
    Format, typer.Option("--format", "-f", help="How the epochs, or the check, are written.")
]


@app.command()
def finetune(
    context: typer.Context,
    root: DatasetArgument = None,
    variant: VariantOption = ModelOptions.variant,
    model: ModelOption = ModelOptions.model,
    weights: WeightsOption = ModelOptions.weights,
    offline: OfflineOption = ModelOptions.offline,
    from_scratch: FromScratchOption = FinetuneOptions.from_scratch,
    epochs: EpochsOption = FinetuneOptions.epochs,
    head_only: HeadOnlyOption = FinetuneOptions.head_only,
    hidden: HiddenOption = FinetuneOptions.hidden,
    freeze: FreezeOption = FinetuneOptions.freeze,
    batch_size: TrainingBatchOption = FinetuneOptions.batch_size,
    lr: LrOption = FinetuneOptions.lr,
    weight_decay: WeightDecayOption = FinetuneOptions.weight_decay,
    augment: AugmentOption = FinetuneOptions.augment,
    balance: BalanceOption = FinetuneOptions.balance,
    patience: PatienceOption = FinetuneOptions.patience,
    minutes: MinutesOption = FinetuneOptions.minutes,
    seed: SeedOption = FinetuneOptions.seed,
    precision: TrainingPrecisionOption = FinetuneOptions.precision,
    compile_: CompileOption = FinetuneOptions.compile,
    val: ValOption = DatasetOptions.val,
    val_fraction: ValFractionOption = DatasetOptions.val_fraction,
    skip_empty: SkipEmptyOption = DatasetOptions.skip_empty,
    allow_bad: AllowBadOption = DatasetOptions.allow_bad,
    allow_leak: AllowLeakOption = DatasetOptions.allow_leak,
    check: CheckOption = False,
    max_pixels: MaxPixelsOption = ImageOptions.max_pixels,
    device: DeviceOption = EngineOptions.device,
    workers: WorkersOption = FinetuneTask.workers,
    output: RunOption = FinetuneTask.output,
    resume: ResumeOption = FinetuneTask.resume,
    report: ReportOption = True,
    format_: TrainingFormatOption = "table",
    quiet: QuietOption = False,
) -> None:
    """Learn the classes of a dataset.

    First a classifier on the features of the pretrained network, then, for --epochs, the whole
    network; the best epoch by validation is kept. The images are looked at before: --check does
    only that.
    """
    task = FinetuneTask(
        root or Path(),
        ModelOptions(variant, model, weights, offline),
        DatasetOptions(val, val_fraction, skip_empty, allow_bad, allow_leak),
        ImageOptions(max_pixels=max_pixels),
        FinetuneOptions(
            epochs,
            head_only,
            batch_size,
            lr,
            weight_decay,
            hidden,
            freeze,
            augment,
            balance,
            patience,
            minutes,
            seed,
            precision,
            compile_,
            from_scratch,
        ),
        device,
        workers,
        output,
        resume,
    )
    if root is None and resume is None:
        raise UsageError(
            "There is no dataset to learn from.", "Name one: effnet finetune ./dataset"
        )
    if check:
        raise typer.Exit(_check_dataset(task, format_, new_reporter(quiet)))
    _train(task, _typed(context), format_, report, new_reporter(quiet))


def _check_dataset(task: FinetuneTask, format_: Format, reporter: "PlainReporter") -> int:
    """Write what is found in a dataset; the exit status."""
    from effnet_cli.datasets import scan

    try:
        found = scan(
            task.root,
            task.dataset,
            seed=task.options.seed,
            images=task.images,
            workers=task.workers,
            reporter=reporter,
        )
    finally:
        reporter.close()
    if format_ != "table":
        show_json(found.to_json())
    else:
        from effnet_cli.finetune.table import scan_blocks

        show_blocks(scan_blocks(found))
    return 0 if found.dataset is not None else UsageError.exit_status


def _report(task: FinetuneTask, folder: Path, reporter: "PlainReporter") -> None:
    """Evaluate the model of a run on its validation images, and write the report."""
    from dataclasses import replace

    from effnet_cli.evaluate.run import evaluate, validation_task
    from effnet_cli.finetune.page import report_page
    from effnet_cli.finetune.records import REPORT_FILE_NAME
    from effnet_cli.output.writers import write

    try:
        found = replace(evaluate(validation_task(task, folder)), data=str(task.root))
        write([report_page(found, folder)], folder / REPORT_FILE_NAME)
    except EffnetError as error:  # the model is there all the same
        reporter.note(f"Cannot write the report: {error.message}")
    else:
        reporter.note(f"Saved the report to {folder / REPORT_FILE_NAME}")
    finally:
        reporter.close()


def _train(
    task: FinetuneTask,
    typed: frozenset[str],
    format_: Format,
    has_report: bool,
    reporter: "PlainReporter",
) -> None:
    """Train, and write the epochs as they come."""
    from effnet_cli.finetune import formats
    from effnet_cli.finetune.records import Epoch, TrainingResult
    from effnet_cli.finetune.run import finetune
    from effnet_cli.finetune.run_dir import restore_task
    from effnet_cli.finetune.table import blocks

    if task.resume is not None:
        task = restore_task(task, typed)
    records: list[Epoch | TrainingResult] = []
    passing = formats.keep_last(finetune(task, reporter), records)
    try:
        if format_ == "table":
            show_blocks(blocks(passing))
        else:
            show_data(formats.ENCODERS[format_](passing), format_)
    finally:
        reporter.close()
    if records and isinstance(records[-1], TrainingResult):
        if has_report:
            _report(task, records[-1].model.parent, reporter)
        for line in formats.describe_result(records[-1]):
            reporter.note(line)


def _typed(context: typer.Context) -> frozenset[str]:
    """The names of the parameters that stand on the command line."""
    sources = ((name, context.get_parameter_source(name)) for name in context.params)
    return frozenset(
        name.rstrip("_") for name, source in sources if source and source.name == "COMMANDLINE"
    )
