"""The command line: options and their texts; `main` is the one edge where errors become text."""

import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, cast, get_args

import typer

from effnet_cli import __version__
from effnet_cli.errors import EffnetError, OutputClosed, UsageError
from effnet_cli.options import (
    Augment,
    BenchMode,
    BenchTask,
    DatasetOptions,
    EngineChoice,
    EngineOptions,
    EvaluateTask,
    ExportOptions,
    ExportPrecision,
    ExportTask,
    FinetuneOptions,
    FinetuneTask,
    Fit,
    Format,
    ModelOptions,
    PictureOptions,
    Precision,
    PredictOptions,
    Quantization,
    TargetName,
    TrainingPrecision,
)
from effnet_cli.targets import TARGETS
from effnet_cli.variants import DEFAULT_VARIANT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import DataclassInstance

    from effnet_cli.finetune import Epoch, Trained
    from effnet_cli.predict import Prediction
    from effnet_cli.rows import Speaker
    from effnet_cli.variants import Variant

DEBUG_VARIABLE = "EFFNET_DEBUG"
CHECK_FAILED_STATUS = 3  # something that was to hold does not
SIGNAL_STATUS = 128  # plus the number of the signal that ended a program is its exit status

ListFormat = Literal["table", "json"]

# Plain help: rich's panels would double the time to the first line.
app = typer.Typer(
    name="effnet",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
weights_app = typer.Typer(
    rich_markup_mode=None,
    help="List, fetch, check and locate pretrained weights.",
)
app.add_typer(weights_app, name="weights")


# --- options ----------------------------------------------------------------------------------


def _count(text: str | int) -> int:
    """A whole number from 1 (a default comes as the number that it is)."""
    text = str(text)
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is not a whole number from 1.")
    return int(text)


def _auto_or_count(text: str) -> int | None:
    """`auto` (None) or a whole number from 1."""
    return None if text == "auto" else _count(text)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"effnet {__version__}")  # noqa: T201
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
]
InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUTS",
        help="Pictures, folders, glob patterns, @LIST (a file of paths), "
        "or - (stdin: paths, or one picture).",
        show_default=False,
    ),
]
VariantOption = Annotated[
    str | None,
    typer.Option(
        "--variant", "-V", help="The network, see `effnet variants`.", show_default=DEFAULT_VARIANT
    ),
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", "-m", help="A model file, or the folder that holds it.")
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights", help="A file with weights for --variant, in torchvision's or timm's naming."
    ),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Open no connection.")]
DeviceOption = Annotated[
    str, typer.Option("--device", "-d", metavar="auto|cpu|cuda|cuda:N|mps", help="Where it runs.")
]
EngineOption = Annotated[
    EngineChoice,
    typer.Option("--engine", "-e", help="What runs it; auto answers as torch does in fp32."),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", "-p", help="Below fp32, answers come faster and differ a little."),
]
FitOption = Annotated[
    Fit,
    typer.Option(
        "--fit", help="How a picture fills the square; the weights were evaluated with crop."
    ),
]
ExactDecodeOption = Annotated[
    bool,
    typer.Option(
        "--exact-decode", help="Decode large JPEGs in full, not at the scale that is needed."
    ),
]
MaxPixelsOption = Annotated[
    int, typer.Option("--max-pixels", metavar="N", parser=_count, help="Refuse larger pictures.")
]
TopKOption = Annotated[
    int,
    typer.Option("--top-k", "-k", metavar="N", parser=_count, help="Answers for each picture."),
]
UnknownOption = Annotated[
    str | None,
    typer.Option(
        "--unknown-below",
        metavar="auto|P",
        help="Answer `unknown` below this probability; auto: as the model was validated.",
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="auto|N",
        parser=_auto_or_count,
        show_default="auto",
        help="Pictures in one call of the network.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        metavar="auto|N",
        parser=_auto_or_count,
        show_default="auto",
        help="Threads that decode pictures.",
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
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notes, progress or summary on stderr.")
]
ListFormatOption = Annotated[ListFormat, typer.Option("--format", "-f", help="How it is written.")]
NamesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="VARIANTS", help="Names from `effnet variants`, or all.", show_default=False
    ),
]
VariantArgument = Annotated[
    str | None, typer.Argument(metavar="VARIANT", help="One to explain.", show_default=False)
]
VerifiedNamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="VARIANTS", help="Names, or all that are here.", show_default="all"),
]


# --- options of finetune ------------------------------------------------------------------------


def _share(text: str | float) -> float:
    """A number between 0 and 1."""
    with suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise typer.BadParameter(f"{text!r} is not a number between 0 and 1.")


def _auto_or_share(text: str | None) -> float | Literal["auto"] | None:
    """A number between 0 and 1, or `auto`."""
    if text is None:
        return None
    return "auto" if text == "auto" else _share(text)


def _positive(text: str | float) -> float:
    """A number above 0."""
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise typer.BadParameter(f"{text!r} is not a number above 0.")


def _auto_or_positive(text: str | float) -> float | None:
    """`auto` (None) or a number above 0."""
    return None if text == "auto" else _positive(text)


def _from_zero(text: str | float) -> float:
    """A number from 0."""
    return 0.0 if str(text) in ("0", "0.0") else _positive(text)


def _whole(text: str | int) -> int:
    """A whole number from 0."""
    return 0 if str(text) == "0" else _count(text)


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
        "--epochs", "-n", metavar="N", parser=_count, help="Passes of the whole network's training."
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
        parser=_auto_or_count,
        show_default="auto",
        help="Pictures in one update, over all processes.",
    ),
]
LrOption = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="auto|X",
        parser=_auto_or_positive,
        show_default="auto",
        help="Peak learning rate of the whole network.",
    ),
]
WeightDecayOption = Annotated[
    float, typer.Option("--weight-decay", metavar="X", parser=_from_zero, help="Of AdamW.")
]
HiddenOption = Annotated[
    int,
    typer.Option(
        "--hidden",
        metavar="N",
        parser=_whole,
        help="Width of the layer before the last one; 0 for none.",
    ),
]
FreezeOption = Annotated[
    int,
    typer.Option(
        "--freeze",
        metavar="N",
        parser=_whole,
        help="Leave the first N of the backbone's stages (of 9; v2: 8) as they are.",
    ),
]
AugmentOption = Annotated[
    Augment, typer.Option("--augment", help="How far training views depart from the pictures.")
]
BalanceOption = Annotated[
    bool, typer.Option("--balance", help="Weigh classes as if all had equally many pictures.")
]
PatienceOption = Annotated[
    int | None,
    typer.Option(
        "--patience", metavar="N", parser=_count, help="End after N epochs without a better one."
    ),
]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        "--minutes", metavar="X", parser=_positive, help="Begin no epoch that would end later."
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
        parser=_share,
        help="Share of each class for validation, where there is no folder for it.",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", parser=_whole, help="Of all that is drawn by chance.")
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
    bool, typer.Option("--skip-empty", help="Leave out classes without a picture.")
]
AllowBadOption = Annotated[
    bool, typer.Option("--allow-bad", help="Train although many files are broken.")
]
AllowLeakOption = Annotated[
    bool, typer.Option("--allow-leak", help="Train although splits share pictures.")
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


# --- options of export --------------------------------------------------------------------------


def _open_or_count(text: str) -> int | None:
    """`dynamic` (None) or a whole number from 1."""
    return None if text == "dynamic" else _count(text)


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
    typer.Option("--calibrate", metavar="DIR", help="Typical pictures; a dataset's, if there is."),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="dynamic|N",
        parser=_open_or_count,
        show_default="dynamic",
        help="Pictures in one call of the file.",
    ),
]
IncludePreprocessingOption = Annotated[
    bool,
    typer.Option(
        "--include-preprocessing",
        help="The file takes bytes and gives probabilities; its caller only resizes.",
    ),
]
CheckPicturesOption = Annotated[
    Path | None,
    typer.Option(
        "--check",
        metavar="DIR",
        show_default="the validation pictures beside --calibrate, else samples",
        help="Pictures on which the file must answer as the network does.",
    ),
]
MaxDropOption = Annotated[
    float,
    typer.Option(
        "--max-drop",
        metavar="X",
        parser=_from_zero,
        help="Points of top-1 that int8 may lose on labelled pictures.",
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

# --- options of evaluate ------------------------------------------------------------------------

LIMITS = ("top1", "top5", "balanced_accuracy", "macro_f1", "auroc")


def _limits(texts: list[str] | None) -> dict[str, float]:
    """Figures and the least that each must reach: `0.9` (top-1), `macro_f1=0.8`.

    Raises:
        UsageError: a name or a number is none.
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
                f"--fail-under {part!r} is no limit.",
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
    bool, typer.Option("--explain", help="Show on the page's pictures what speaks for the answers.")
]
CompareModelOption = Annotated[
    str | None,
    typer.Option(
        "--compare", metavar="MODEL", help="A second model file or variant for the same pictures."
    ),
]

# --- options of bench ---------------------------------------------------------------------------


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
        help="Pictures in one call.",
    ),
]
ModeOption = Annotated[
    BenchMode,
    typer.Option("--mode", help="The network alone, a training step, or files to answers."),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--images", show_default="samples", help="Pictures for end-to-end."),
]
SecondsOption = Annotated[
    float,
    typer.Option(
        "--seconds", metavar="S", parser=_positive, help="Time to measure, besides loading."
    ),
]
CompareOption = Annotated[
    Path | None,
    typer.Option("--compare", metavar="OLD.json", help="Say what got faster or slower since."),
]
ToleranceOption = Annotated[
    float,
    typer.Option(
        "--tolerance", metavar="X", parser=_share, help="A slowdown up to this share is none."
    ),
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write one page to look at.")
]
BenchFormatOption = Annotated[
    Literal["table", "json", "csv"],
    typer.Option("--format", "-f", help="How the figures are written."),
]

# Lines that the help does not fold (`\b`).
TARGETS_HELP = "\b\nTargets:\n" + "\n".join(
    f"  {name:<13} {row.suffix:<12} {row.use}" for name, row in TARGETS.items()
)


# --- commands ---------------------------------------------------------------------------------


@app.callback()
def effnet(version: VersionOption = False) -> None:
    """Image classification with EfficientNet: what is on these pictures?

    Try `effnet predict cat.jpg`: the default variant answers without any download.
    """


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

    speaker, tally, finder = _speaker(quiet), rows.Tally(), Finder(inputs)
    classifier = Classifier(
        ModelOptions(variant, model, weights, offline),
        EngineOptions(device, engine, precision),
        PictureOptions(fit, exact_decode, max_pixels),
        PredictOptions(top_k, batch_size, workers, _auto_or_share(unknown_below)),
        speaker,
    )
    # from here on the engine loads, while what draws tables is imported
    answers = tally.count(classifier.predict(finder, are_many=finder.is_slow or None))
    encode = _encoder(rows.chosen_format(format_, output))
    rows.write(encode(speaker.track(answers, finder.total)), output)
    speaker.note(tally.summary(finder))
    raise typer.Exit(1 if tally.failed else 0)


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
    max_pixels: MaxPixelsOption = PictureOptions.max_pixels,
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
    network; the best epoch by validation is kept. The pictures are looked at before: --check does
    only that.
    """
    task = FinetuneTask(
        root or Path(),
        ModelOptions(variant, model, weights, offline),
        DatasetOptions(val, val_fraction, seed, skip_empty, allow_bad, allow_leak),
        PictureOptions(max_pixels=max_pixels),
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
        raise typer.Exit(_check_dataset(task, format_, _speaker(quiet)))
    _train(task, _typed(context), format_, report, _speaker(quiet))


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
    fit: FitOption = PictureOptions.fit,
    exact_decode: ExactDecodeOption = PictureOptions.exact_decode,
    max_pixels: MaxPixelsOption = PictureOptions.max_pixels,
    batch_size: BatchSizeOption = PredictOptions.batch_size,
    workers: WorkersOption = PredictOptions.workers,
    format_: BenchFormatOption = "table",
    html: HtmlOption = None,
    explain: ExplainOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say how good a model is on labelled pictures, and where it errs.

    Classes are matched by name; for the pretrained networks folders may also be called by WordNet
    id or index. Pictures that cannot be opened count as wrong.
    """
    task = EvaluateTask(
        root,
        ModelOptions(variant, model, weights, offline),
        EngineOptions(device, engine, precision),
        PictureOptions(fit, exact_decode, max_pixels),
        PredictOptions(batch_size=batch_size, workers=workers),
        split,
        None if compare is None else _model_named(compare, offline),
    )
    raise typer.Exit(_evaluate(task, _limits(fail_under), format_, html, explain, _speaker(quiet)))


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
    check: CheckPicturesOption = ExportTask.check,
    max_drop: MaxDropOption = ExportTask.max_drop,
    force: ForceOption = ExportTask.force,
    max_pixels: MaxPixelsOption = PictureOptions.max_pixels,
    format_: ListFormatOption = "table",
    quiet: QuietOption = False,
) -> None:
    """Write a network as a file for another runtime.

    The file carries class names and preprocessing, and is run on real pictures before it gets its
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
        PictureOptions(max_pixels=max_pixels),
    )
    raise typer.Exit(_export(task, format_, _speaker(quiet)))


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
    images: ImagesOption = BenchTask.images,
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
        tuple(row.name for row in _named(variant.split(","))) if variant else (),
        tuple(model or ()),
        _listed(against, None, ""),
        device,
        _listed(engine, [name for name in get_args(EngineChoice) if name != "auto"], "engine"),
        tuple(cast("Precision", p) for p in _listed(precision, get_args(Precision), "precision"))
        or BenchTask.precisions,
        _batch_sizes(batch_size),
        mode,
        images,
        seconds,
        tolerance,
    )
    raise typer.Exit(_bench(task, compare, format_, html, _speaker(quiet)))


@app.command()
def variants(name: VariantArgument = None, format_: ListFormatOption = "table") -> None:
    """List the networks, or explain one of them.

    The list has resolution, size, published accuracy and whether the weights are here; VARIANT
    shows the stages of one, and how scaling makes it from the smallest.
    """
    if name is not None:
        _explain(name, format_)
        return
    from effnet_cli import listings

    _print_listing(listings.variants(), format_)


@weights_app.command("list")
def list_weights(format_: ListFormatOption = "table") -> None:
    """List where the weights of each network are, or would be."""
    from effnet_cli import listings

    _print_listing(listings.weights(), format_)


@weights_app.command("pull")
def pull_weights(
    names: NamesArgument, offline: OfflineOption = False, quiet: QuietOption = False
) -> None:
    """Fetch weights that are not here, into the folder in which torch keeps them."""
    from effnet_cli import weights

    speaker = _speaker(quiet)
    for row in _named(names):
        path = weights.obtain(row, offline=offline, listener=speaker)
        speaker.note(f"{row.name}: {path}")


@weights_app.command("verify")
def verify_weights(names: VerifiedNamesArgument = None) -> None:
    """Compute the digests of weights anew and compare them with the published ones."""
    from effnet_cli import listings, rows

    names = names or ["all"]
    is_all = names == ["all"]  # then what is not here is no fault
    verdicts = [v for v in listings.verified(_named(names)) if v.is_here or not is_all]
    for verdict in verdicts:
        rows.write_stdout(f"{verdict.variant}: {verdict.verdict}\n")
    raise typer.Exit(0 if all(verdict.is_intact for verdict in verdicts) else 1)


@weights_app.command("path")
def path_of_weights(names: NamesArgument) -> None:
    """Print the paths of weights that are here; fails for those that are not."""
    from effnet_cli import rows, weights

    for row in _named(names):
        rows.write_stdout(f"{weights.obtain(row, offline=True)}\n")


@app.command()
def doctor(format_: ListFormatOption = "table", quiet: QuietOption = False) -> None:
    """Look at versions, engines, caches and weights; say what does not work, and what mends it."""
    from effnet_cli import rows
    from effnet_cli.doctor import examined, is_well

    speaker = _speaker(quiet)
    try:
        findings = list(examined(speaker))
    finally:
        speaker.close()
    if format_ == "json":
        rows.write_stdout(rows.json_text([asdict(one) for one in findings], indent=2) + "\n")
    else:
        from effnet_cli.console import signs_text

        rows.write(signs_text(findings), None)
    for one in findings:
        if one.status == "broken":
            speaker.note(f"{one.name}: {one.detail}. Mend it: {one.mend}")
    raise typer.Exit(0 if is_well(findings) else 1)


def _check_dataset(task: FinetuneTask, format_: Format, speaker: "Speaker") -> int:
    """Write what is found in a dataset; the exit status."""
    from effnet_cli import rows
    from effnet_cli.dataset import scan

    try:
        found = scan(task.root, task.dataset, task.pictures, speaker, task.workers)
    finally:
        speaker.close()
    if format_ != "table":
        rows.write_stdout(rows.json_text(found.to_json(), indent=2) + "\n")
    else:
        from effnet_cli.console import scan_text

        rows.write(scan_text(found), None)
    return 0 if found.dataset is not None else UsageError.exit_status


def _export(task: ExportTask, format_: ListFormat, speaker: "Speaker") -> int:
    """Export, and write how it compares; the exit status."""
    from effnet_cli import export_rows, rows
    from effnet_cli.export import export

    try:
        exported = export(task, speaker)
    finally:
        speaker.close()
    if format_ == "json":
        rows.write_stdout(rows.json_text(export_rows.as_row(exported), indent=2) + "\n")
    elif exported.forms:
        from effnet_cli.console import listing_text

        rows.write(listing_text(*export_rows.table(exported)), None)
    for line in export_rows.farewell(exported):
        speaker.note(line)
    return 0 if exported.objection is None else CHECK_FAILED_STATUS


def _model_named(text: str, offline: bool) -> ModelOptions:
    """A model file, or the name of a variant."""
    from effnet_cli.variants import find

    if Path(text).exists():
        return ModelOptions(model=Path(text))
    return ModelOptions(find(text).name, offline=offline)


def _evaluate(
    task: EvaluateTask,
    limits: dict[str, float],
    format_: str,
    html: Path | None,
    has_overlays: bool,
    speaker: "Speaker",
) -> int:
    """Judge, and write the figures; the exit status."""
    from effnet_cli import evaluation_rows, rows
    from effnet_cli.evaluate import evaluate, limits_broken

    overlay = None
    if has_overlays:
        if html is None:
            raise UsageError("--explain draws into a page.", "Add --html FILE.")
        from effnet_cli.explain import Explainer

        overlay = Explainer(task.model, task.pictures).overlay
    try:
        found = evaluate(task, speaker)
    finally:
        speaker.close()
    if format_ == "json":
        rows.write_stdout(rows.json_text(evaluation_rows.as_json(found), indent=2) + "\n")
    elif format_ == "csv":
        rows.write(evaluation_rows.csv_lines(found), None)
    else:
        from effnet_cli.console import evaluation_text

        rows.write(evaluation_text(found), None)
    if html is not None:
        from effnet_cli.report import evaluation_page

        rows.write([evaluation_page(found, overlay)], html)
        speaker.note(f"{html} is written.")
    broken = list(limits_broken(found, limits))
    for line in broken:
        speaker.note(f"It does not hold: {line}.")
    if broken:
        return CHECK_FAILED_STATUS
    return 1 if found.failed else 0


def _bench(
    task: BenchTask, compare: Path | None, format_: str, html: Path | None, speaker: "Speaker"
) -> int:
    """Measure, and write the figures; the exit status."""
    from effnet_cli import bench_rows, rows

    old = None if compare is None else bench_rows.earlier(compare)
    from effnet_cli.bench.run import bench

    try:
        measured = bench(task, speaker)
    finally:
        speaker.close()
    changes = None
    if old is not None:
        changes = bench_rows.compared(measured, old, task.tolerance)
        for line in bench_rows.drift(measured, old):
            speaker.note(line)
    if format_ == "json":
        rows.write_stdout(rows.json_text(bench_rows.as_json(measured, changes), indent=2) + "\n")
    elif format_ == "csv":
        rows.write(bench_rows.csv_lines(measured), None)
    else:
        from effnet_cli.console import bench_text

        rows.write(bench_text(measured, changes), None)
    if html is not None:
        from effnet_cli.report import bench_page

        rows.write([bench_page(measured, changes)], html)
        speaker.note(f"{html} is written.")
    if changes is not None and bench_rows.is_slower(changes):
        return CHECK_FAILED_STATUS
    return 1 if any(one.is_fault for one in measured.left_out) else 0


def _explain(name: str, format_: ListFormat) -> None:
    """Write what a variant consists of."""
    from effnet_cli import rows
    from effnet_cli.anatomy import explained

    anatomy = explained(name)
    if format_ == "json":
        rows.write_stdout(rows.json_text(asdict(anatomy), indent=2) + "\n")
        return
    from effnet_cli.console import anatomy_text

    rows.write(anatomy_text(anatomy), None)


def _report(task: FinetuneTask, folder: Path, speaker: "Speaker") -> None:
    """Judge the model of a run on its validation pictures, and write the page about it."""
    from effnet_cli import rows
    from effnet_cli.evaluate import evaluate, validation_of
    from effnet_cli.report import REPORT_FILE_NAME, run_page

    try:
        found = evaluate(validation_of(task, folder))
        rows.write([run_page(found, folder)], folder / REPORT_FILE_NAME)
    except EffnetError as error:  # the model is there all the same
        speaker.note(f"There is no report: {error.message}")
    else:
        speaker.note(f"{folder / REPORT_FILE_NAME} shows how good it is, and where it errs.")
    finally:
        speaker.close()


def _train(
    task: FinetuneTask,
    typed: frozenset[str],
    format_: Format,
    has_report: bool,
    speaker: "Speaker",
) -> None:
    """Train, and write the epochs as they come."""
    from effnet_cli import rows, training_rows
    from effnet_cli.finetune import Epoch, Trained, finetune, resumed

    if task.resume is not None:
        task = resumed(task, typed)
    encode = training_rows.ENCODERS.get(format_) or _training_table()
    records: list[Epoch | Trained] = []
    try:
        rows.write(encode(training_rows.remembered(finetune(task, speaker), records)), None)
    finally:
        speaker.close()
    if records and isinstance(records[-1], Trained):
        if has_report:
            _report(task, records[-1].model.parent, speaker)
        for line in training_rows.farewell(records[-1]):
            speaker.note(line)


def _training_table() -> "Callable[[Iterable[Epoch | Trained]], Iterator[str]]":
    from effnet_cli.console import training_text

    return training_text


def _typed(context: typer.Context) -> frozenset[str]:
    """The names of the parameters that stand on the command line."""
    sources = ((name, context.get_parameter_source(name)) for name in context.params)
    return frozenset(
        name.rstrip("_") for name, source in sources if source and source.name == "COMMANDLINE"
    )


# --- what the commands share ------------------------------------------------------------------


def _speaker(quiet: bool) -> "Speaker":
    """Bars for a person at a terminal, plain lines for everyone else."""
    if sys.stderr.isatty():
        from effnet_cli.console import Screen

        return Screen(quiet)
    from effnet_cli.rows import Speaker

    return Speaker(quiet)


def _encoder(format_: Format) -> "Callable[[Iterable[Prediction]], Iterator[str]]":
    """What makes text of predictions; only the table needs rich."""
    if format_ == "table":
        from effnet_cli.console import table_text

        return table_text
    from effnet_cli.rows import ENCODERS

    return ENCODERS[format_]


def _print_listing(records: Iterable["DataclassInstance"], format_: ListFormat) -> None:
    from effnet_cli import rows

    listed = [asdict(record) for record in records]
    if format_ == "json":
        rows.write_stdout(rows.json_text(listed, indent=2) + "\n")
        return
    from effnet_cli.console import listing_text

    columns = [name.replace("_", " ") for name in listed[0]]
    rows.write(listing_text(columns, [list(record.values()) for record in listed]), None)


def _named(names: list[str]) -> "list[Variant]":
    """The variants that were named; `all` is every one."""
    from effnet_cli.variants import VARIANTS, find

    return list(VARIANTS.values()) if names == ["all"] else [find(name) for name in names]


# --- the edge ---------------------------------------------------------------------------------


class _Terminated(BaseException):
    """SIGTERM, so that what is half done is cleaned up on the way out."""


def main() -> NoReturn:
    """Run the command line and end the process; the one place where errors become text."""
    for name in ("stdin", "stdout", "stderr"):  # a shell can close them (`>&-`)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (open to the end)
    signal.signal(signal.SIGTERM, _raise_terminated)
    if not os.environ.get(DEBUG_VARIABLE):
        warnings.simplefilter("ignore")  # libraries' warnings are for programmers
    status = _run()
    try:
        sys.stdout.flush()
    except OSError:
        status = status or 1
    with suppress(OSError):  # words that nobody can hear change no answer
        sys.stderr.flush()
    # Threads may be inside a decoder or a runtime; the ordinary exit would tear it down under them.
    os._exit(status)


def _raise_terminated(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _run() -> int:
    """Run the command; its exit status."""
    try:
        return app(sys.argv[1:] or ["--help"], prog_name="effnet", standalone_mode=False) or 0
    except EffnetError as error:
        _show(error.message, error.hint)
        return error.exit_status
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        # Typer puts choices on lines of their own, and words of a library before them
        message = " ".join(error.format_message().split()).replace("Value error, ", "")
        _show(message, f"See `{context.command_path if context else 'effnet'} -h`.")
        return UsageError.exit_status
    except (OutputClosed, BrokenPipeError):
        return SIGNAL_STATUS + signal.SIGPIPE
    except (typer.Abort, KeyboardInterrupt):
        return SIGNAL_STATUS + signal.SIGINT
    except _Terminated:
        return SIGNAL_STATUS + signal.SIGTERM
    except OSError as error:
        if error.errno != errno.ENOSPC:
            traceback.print_exc()
        else:  # the help, on a full disk
            _show("Standard output cannot be written: there is no room.", "Make room.")
        return 1
    except Exception:  # ours to mend: whoever meets it needs the traceback to tell us
        traceback.print_exc()
        return 1


def _show(message: str, hint: str) -> None:
    from effnet_cli.rows import printable

    with suppress(OSError):
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        lines = [f"Error: {message}", hint]
        for line in "\n".join(lines).split("\n"):  # a refused dataset has a line for each fault
            print(printable(line), file=sys.stderr)  # noqa: T201
