"""Every option, defined once: name, type, default, valid values and help.

The command line is derived from these dataclasses, and Python callers use them as they are.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from effnet_cli.system.errors import UsageError
from effnet_cli.system.fields import REQUIRED, Only, Options, argument, option

Fit = Literal["crop", "pad", "stretch"]
EngineName = Literal["torch", "onnxruntime", "openvino", "litert", "executorch"]
EngineChoice = Literal["auto", EngineName]
# What a model file holds: tensors to build the model from, or a whole model for a runtime.
FileKind = Literal["tensors", "onnx", "openvino", "pt2", "litert", "executorch"]
TargetName = Literal[
    "onnx", "openvino", "torch-export", "aotinductor", "litert", "executorch", "coreml", "hub"
]
ExportPrecision = Literal["fp32", "fp16", "bf16"]
Quantization = Literal["int8"]
EnginePrecision = Literal["fp32", "bf16", "fp16"]  # int8 only exists in exported files
Precision = Literal[EnginePrecision, "int8"]
TrainingPrecision = Literal["auto", "fp32", "bf16", "fp16"]
Augment = Literal["auto", "none", "light", "strong"]
TrainingMethod = Literal["train", "prototype", "knn"]
BenchMode = Literal["inference", "train", "end-to-end"]
Format = Literal["table", "json", "jsonl", "csv"]
TableFormat = Literal["table", "json", "csv"]
ListFormat = Literal["table", "json"]
TrainedOn = Literal["in1k", "in12k", "in21k", "jft"]
Pool = Literal["avg", "gem"]
VectorType = Literal["float32", "float16", "int8"]
GroupBy = Literal["class", "none"]
# What can be asked of an operating point; `threshold` is not asked for but given.
PointMetric = Literal["sensitivity", "specificity", "ppv", "npv", "threshold"]
ErrorKind = Literal[
    "empty", "truncated", "not_an_image", "unsupported_format", "too_large", "unreadable",
    "not_a_file", "missing", "timeout", "crashed",
]  # fmt: skip

MAX_PIXELS = 89_000_000  # pixels in one image; about 270 MB once decoded
MAX_SEED = 2**32 - 1  # NumPy's largest
MAX_TIMEOUT_SECONDS = 86_400.0  # a day; the system's own limit is not the same everywhere
MIN_WINDOW_WIDTH = 1.0  # DICOM PS3.3, C.11.2.1.2.1
MAX_VIEWS = 32  # of one image, as many as `images.views.VIEWS` has
AUTO = {"auto": None}
DICOM_FIELDS = ("window", "frame")  # of ImageOptions
# Fields of FinetuneOptions with a meaning only for the full model, or only where one is trained.
FULL_MODEL_ONLY = frozenset(
    {"epochs", "batch_size", "lr", "freeze", "patience", "minutes", "precision", "compile"}
)
TRAINING_ONLY = FULL_MODEL_ONLY | {"head_only", "weight_decay", "hidden", "augment", "from_scratch"}
EVERYWHERE = ("max_pixels", *DICOM_FIELDS)  # in all commands that read images


def _parse_window(text: str) -> tuple[float, float]:
    return _check_window(text.split(","))


def _check_window(value: Any) -> tuple[float, float]:
    """Convert a window's centre and width, which may be texts or from JSON.

    Raises:
        UsageError: it has other than two numbers, or the width is too small for DICOM's formula.
    """
    with suppress(TypeError, ValueError):
        center, width = map(float, value)
        if math.isfinite(center) and MIN_WINDOW_WIDTH <= width < math.inf:
            return center, width
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    message = f"Invalid --window {text!r}."
    raise UsageError(message, "Use CENTER,WIDTH: two numbers, and a width of at least 1.")


def device_option() -> str:
    return option("auto", "Device to run on", "-d auto|cpu|cuda|cuda:N|mps")


def batch_size_option() -> int | None:
    return option(None, "Batch size", "-b", words=AUTO, min=1)


def workers_option() -> int | None:
    return option(None, "Decoding threads", "-j", words=AUTO, min=1)


def inputs_argument() -> tuple[str, ...]:
    return argument(
        REQUIRED,
        "Images, folders, tables (CSV, JSON, Parquet), archives, URLs, glob patterns, @FILE (a "
        "list of paths), or - (stdin: paths, or one image)",
        "INPUTS",
    )


@dataclass(frozen=True)
class ModelOptions(Options):
    """The model; `model` excludes `variant` and `weights`."""

    section = "Model"

    variant: str | None = option(
        None,
        "Model architecture (see `effnet variants`); finetune: auto compares those on this machine",
        "-V NAME",
        shown="lite0",
    )
    model: Path | None = option(
        None,
        "Model file, exported model, a folder of effnet or timm with one, or hf://OWNER/NAME",
        "-m PATH",
    )
    weights: Path | None = option(
        None, "Weights for --variant, with tensors named as in torchvision or timm", "FILE"
    )
    offline: bool = option(False, "Never access the internet")

    @staticmethod
    def parse(text: str) -> "ModelOptions":
        """Parse a path, which exists or has a folder, else the name of a variant (`b0.ns`)."""
        path = Path(text)
        is_path = path.exists() or path.name != text
        return ModelOptions(model=path) if is_path else ModelOptions(variant=text)


@dataclass(frozen=True)
class EngineOptions(Options):
    """The runtime of the model."""

    section = "Engine"

    device: str = device_option()
    engine: EngineChoice = option("auto", "Engine; auto: one whose predictions match torch", "-e")
    precision: EnginePrecision = option("fp32", "Lower is faster but slightly less accurate", "-p")


@dataclass(frozen=True)
class ImageOptions(Options):
    """How images are decoded and fitted to the input size of the model."""

    section = "Images"

    fit: Fit = option("crop", "How to make images square; published accuracies use crop")
    exact_decode: bool = option(False, "Decode large JPEGs in full instead of at a reduced scale")
    max_pixels: int = option(MAX_PIXELS, "Refuse images with more pixels", min=1)
    views: int = option(
        1, f"Test-time augmentation with N views, 1 to {MAX_VIEWS}", "--tta", min=1, max=MAX_VIEWS
    )
    isolate: bool = option(False, "Decode in separate processes, so a crash affects only one image")
    timeout_s: float | None = option(
        None,
        "Give up on an image after X seconds; implies --isolate",
        "--timeout",
        above=0,
        max=MAX_TIMEOUT_SECONDS,
    )
    window: tuple[float, float] | None = option(
        None,
        "Grey values of DICOM images to show, such as 40,400 for soft tissue in CT",
        "CENTER,WIDTH",
        shown="the window in the file, else all values",
        parse=_parse_window,
    )
    frame: int = option(1, "Frame of DICOM images with several, from 1", min=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None:
            object.__setattr__(self, "window", _check_window(self.window))

    @property
    def dicom_flags(self) -> str:
        """The options for DICOM images that are not the defaults, as they are typed."""
        window = [] if self.window is None else ["--window {:g},{:g}".format(*self.window)]
        return " ".join(window + ([] if self.frame == 1 else [f"--frame {self.frame}"]))


@dataclass(frozen=True)
class RunOptions(Options):
    """How the work on images is divided."""

    section = "Engine"

    batch_size: int | None = batch_size_option()
    workers: int | None = workers_option()


@dataclass(frozen=True)
class PredictOptions(Options):
    """What is predicted for each image, and how the work is divided.

    `keep_crops` adds the input of the model to each result.
    """

    section = "Engine"

    top_k: int = option(5, "Number of classes per image", "-k", min=1, section="Prediction")
    batch_size: int | None = batch_size_option()
    workers: int | None = workers_option()
    unknown_below: float | Literal["auto"] | None = option(
        None,
        "Label images as unknown below probability X; auto: the limits of the model",
        words={"auto": "auto"},
        above=0,
        below=1,
        section="Prediction",
    )
    operating_point: str | None = option(
        None,
        "Decide by a threshold that the model stores, such as sensitivity (see evaluate --at)",
        "NAME",
        section="Prediction",
    )
    keep_crops: bool = False

    @property
    def run(self) -> RunOptions:
        """How the work is divided."""
        return RunOptions(self.batch_size, self.workers)


@dataclass(frozen=True)
class OrganizeOptions(Options):
    """Where to copy or move images by class."""

    section = "Organise"

    folder: Path = option(
        REQUIRED, "Copy images into a folder per class in DIR; never overwrites", "--copy-to DIR"
    )
    moves: bool = option(False, "With --copy-to: move instead of copying", "--move")
    group_by: GroupBy = option("class", "With --copy-to: how to group images into subfolders")


@dataclass(frozen=True)
class LabelOptions(Options):
    """Where the labels of images are: by default, the format and the columns are recognised."""

    section = "Data"

    image_column: str | None = option(
        None, "Column with the paths of images, if a table lists them", "NAME", shown="recognised"
    )
    label_column: str | None = option(None, "Column with the labels", "NAME", shown="recognised")
    split_column: str | None = option(None, "Column with the splits", "NAME", shown="recognised")
    multi_label: bool = option(
        False, "Images may have several labels, or none: each label is learned as a yes or no"
    )
    label_separator: str | None = option(
        None, "With --multi-label: what separates labels in a cell", "TEXT", shown="recognised"
    )
    group_column: str | None = option(
        None, "Column of what images have in common, e.g. the patient: it stays on one side", "NAME"
    )
    label_pattern: str | None = option(
        None,
        "Take labels from paths below the folder: the group of this regular expression, or its "
        "groups named label and split",
        "REGEX",
    )
    group_pattern: str | None = option(
        None, "Take what images have in common from their paths, by a regular expression", "REGEX"
    )


# What an audit knows: it compares classes.
LABEL_FIELDS = tuple(
    name
    for name in LabelOptions.__dataclass_fields__
    if name not in ("multi_label", "label_separator")
)


@dataclass(frozen=True)
class PredictTask(Options):
    """What to predict."""

    inputs: tuple[str, ...] = inputs_argument()
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()
    images: ImageOptions = ImageOptions()
    options: PredictOptions = PredictOptions()
    labels: Annotated[LabelOptions, Only("image_column")] = LabelOptions()
    organize: OrganizeOptions | None = None


@dataclass(frozen=True)
class EmbedOptions(RunOptions):
    """What the vectors of images are, and how the work is divided."""

    section = "Vectors"

    pool: Pool | None = option(
        None,
        "How feature maps become one vector; gem: generalised mean, better for search",
        shown="gem; avg for exported files",
    )


@dataclass(frozen=True)
class VectorOptions(Options):
    """How vectors are stored: by default, all their numbers as float32."""

    section = "Vectors"

    dim: int | None = option(
        None, "Reduce vectors to N numbers by PCA of these images; requires --output", min=1
    )
    projection: Path | None = option(
        None, "Reduce vectors as in an earlier run, by the file that --dim wrote", "FILE"
    )
    dtype: VectorType = option("float32", "Type of the numbers; int8: with a scale per vector")


@dataclass(frozen=True)
class EmbedTask(Options):
    """What to embed."""

    inputs: tuple[str, ...] = inputs_argument()
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()
    images: ImageOptions = ImageOptions()
    options: EmbedOptions = EmbedOptions()
    vectors: VectorOptions = VectorOptions()
    labels: Annotated[LabelOptions, Only("image_column")] = LabelOptions()


def index_option() -> str:
    text = "Index: a name, or the path of its folder"
    name: str = option(REQUIRED, text, "-i NAME", is_required=True)
    return name


def _parse_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        message = f"Invalid date {text!r}."
        raise UsageError(message, "Use YEAR-MONTH-DAY, such as 2026-01-31.") from error


@dataclass(frozen=True)
class IndexTask(Options):
    """What to index."""

    section = "Index"

    inputs: tuple[str, ...] = argument(
        REQUIRED, "Folders, which are searched with their subfolders, and images", "INPUTS"
    )
    index: str = index_option()
    watch: bool = option(False, "Go on, and index new and changed images as they appear")
    allow_empty: bool = option(False, "Accept that a folder has lost all its images")
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()
    images: Annotated[ImageOptions, Only("fit", "exact_decode", *EVERYWHERE)] = ImageOptions()
    options: EmbedOptions = EmbedOptions()


@dataclass(frozen=True)
class MatchOptions(Options):
    """How many matches to find, and among which images of the index."""

    section = "Matches"

    k: int = option(10, "Number of matches for each query", "-k", min=1, max=10_000)
    label: str | None = option(
        None, "Only images whose most probable class is NAME", "--class NAME"
    )
    folder: Path | None = option(None, "Only images below DIR", "DIR")
    since: date | None = option(
        None, "Only images modified on this day or later", "YYYY-MM-DD", parse=_parse_date
    )
    until: date | None = option(
        None, "Only images modified on this day or before", "YYYY-MM-DD", parse=_parse_date
    )


@dataclass(frozen=True)
class IndexName(Options):
    """An index."""

    section = "Index"

    index: str = index_option()


@dataclass(frozen=True)
class ClusterTask(IndexName):
    """How to group the images of an index."""

    clusters: int | None = option(
        None,
        "Number of groups; auto: the square root of half the images",
        words=AUTO,
        min=1,
        max=10_000,
    )
    seed: int = option(0, "Random seed", min=0, max=MAX_SEED)


@dataclass(frozen=True)
class MapTask(IndexName):
    """Which images to place on a map, and where to write it."""

    html: Path = option(
        REQUIRED, "Write the map to FILE", "FILE.html", is_required=True, section="Output"
    )
    seed: int = option(0, "Random seed", min=0, max=MAX_SEED)


@dataclass(frozen=True)
class QueryTask(Options):
    """What to search for."""

    section = "Index"

    queries: tuple[str, ...] = argument(
        REQUIRED, "Images, folders of them, URLs, or words from the name of a class", "QUERIES"
    )
    index: str = index_option()
    matches: MatchOptions = MatchOptions()
    engine: EngineOptions = EngineOptions()
    model: Annotated[ModelOptions, Only("model", "offline")] = ModelOptions()


@dataclass(frozen=True)
class CalibratePairsTask(Options):
    """The pairs to fit a threshold to."""

    section = "Pairs"

    pairs: Path = argument(
        REQUIRED,
        "Table with the columns image1, image2 and same (1 or 0), or a folder with a folder per "
        "class, whose images are paired",
        "PAIRS",
    )
    far: float | None = option(
        None,
        "False accept rate: share of different pairs that may be called the same",
        shown="0.001, or more if there are few different pairs",
        above=0,
        below=1,
    )
    seed: int = option(0, "Random seed of the pairs of class folders", min=0, max=MAX_SEED)
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()
    images: Annotated[ImageOptions, Only("fit", "exact_decode", *EVERYWHERE)] = ImageOptions()
    options: EmbedOptions = EmbedOptions()


@dataclass(frozen=True)
class VerifyPairTask(Options):
    """Two images to compare."""

    section = "Pairs"

    first: str = argument(REQUIRED, "First image", "IMAGE1")
    second: str = argument(REQUIRED, "Second image", "IMAGE2")
    calibration: Path | None = option(
        None, "Decide by the threshold that `search calibrate` wrote", "FILE"
    )
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()
    images: Annotated[ImageOptions, Only("fit", "exact_decode", *EVERYWHERE)] = ImageOptions()
    options: Annotated[EmbedOptions, Only("pool")] = EmbedOptions()


@dataclass(frozen=True)
class DatasetOptions(LabelOptions):
    """How labelled images are read and split."""

    val: Path | None = option(None, "Validation folder, if it has a nonstandard name", "DIR")
    val_fraction: float = option(
        0.2,
        "Fraction of each class to hold out, if there is no validation folder",
        above=0,
        below=1,
    )
    skip_empty: bool = option(False, "Skip classes without images")
    allow_bad: bool = option(False, "Train even if many files are broken")
    allow_leak: bool = option(False, "Train even if splits share images")


@dataclass(frozen=True)
class FinetuneOptions(Options):
    """How to train: first a classifier head on features of the pretrained model, then, for `epochs`
    and unless `head_only`, the full model. Other methods than `train` only fit a classifier.
    """

    section = "Training"

    method: TrainingMethod = option(
        "train",
        "Train a model, or compare features with the mean of each class (prototype) or with "
        "training images (knn): seconds",
    )
    epochs: int | None = option(
        None,
        "Epochs of training the full model; auto: 5 to 12, fewer for many images; stops early if "
        "it does not improve on the head",
        "-n",
        words=AUTO,
        min=1,
    )
    head_only: bool = option(False, "Only train the classifier head: about a minute on a laptop")
    batch_size: int | None = option(None, "Global batch size", "-b", words=AUTO, min=1)
    lr: float | None = option(None, "Peak learning rate of the full model", words=AUTO, above=0)
    weight_decay: float = option(0.05, "AdamW weight decay", min=0)
    hidden: int = option(512, "Width of the hidden layer of the head; 0 for none", min=0, max=16384)
    freeze: int = option(0, "Freeze the first N stages of the backbone (of 9; v2_s: 8)", min=0)
    augment: Augment = option(
        "auto", "Augmentation; auto: what the classifier head tolerates on validation images"
    )
    folds: int | None = option(
        None,
        "First, cross-validate the head on K parts of all images; finds likely label errors",
        "K",
        min=2,
        max=100,
    )
    final: Literal["best", "all"] = option(
        "best",
        "Model to end with; all: also one trained on all images, validation included, in RUN/all",
    )
    balance: bool = option(False, "Treat all classes as equally frequent")
    patience: int | None = option(None, "Stop after N epochs without improvement", min=1)
    minutes: float | None = option(
        None, "Time budget in minutes; stop before an epoch that would exceed it", above=0
    )
    seed: int = option(0, "Random seed", min=0, max=MAX_SEED)
    precision: TrainingPrecision = option(
        "auto", "Precision of training; auto: bf16 on CUDA, else fp32", "-p"
    )
    compile: bool = option(False, "Compile the training step: faster for long runs on a GPU")
    from_scratch: bool = option(False, "Start from random weights", section="Model")

    @property
    def is_trained(self) -> bool:
        """Whether a model is trained at all."""
        return self.method == "train"

    @property
    def has_full_phase(self) -> bool:
        """Whether the full model is trained, too."""
        return self.is_trained and not self.head_only


@dataclass(frozen=True)
class FinetuneTask(Options):
    """What to train on, and where to write the run; `resume` continues a run with its options."""

    section = "Engine"

    root: Path = argument(
        Path(),
        "Folder with a folder per class, or with train/ and val/, or a table of images and labels",
        "DATASET",
        shown="",
    )
    model: ModelOptions = ModelOptions()
    dataset: DatasetOptions = DatasetOptions()
    images: Annotated[ImageOptions, Only(*EVERYWHERE)] = ImageOptions()
    options: FinetuneOptions = FinetuneOptions()
    device: str = device_option()
    workers: int | None = workers_option()
    output: Path | None = option(
        None,
        "New folder for the model and the metrics of the run",
        "-o DIR",
        shown="runs/DATASET-VARIANT",
        section="Output",
    )
    resume: Path | None = option(None, "Continue the run in folder RUN", "RUN", section="Training")


@dataclass(frozen=True)
class ExportOptions(Options):
    """What an exported file contains."""

    section = "Export"

    target: TargetName = option("onnx", "Format, see below", "--to -t", is_required=True, shown="")
    precision: ExportPrecision = option("fp32", "Compute or weight precision", "-p")
    quantize: Quantization | None = option(
        None, "Quantise to 8-bit integers, a quarter of the size; requires --calibrate"
    )
    batch: int | None = option(
        None, "Batch size of the exported model", words={"dynamic": None}, min=1
    )
    include_preprocessing: bool = option(
        False,
        "Include normalisation and softmax or sigmoid: takes pixel values, returns probabilities",
    )
    include_features: bool = option(
        False, "Also output the pooled features, by which predict knows images of another kind"
    )
    feature_maps: bool = option(
        False,
        "Output the feature maps c2 to c5 for a detector instead of predictions; "
        "--include-features adds one vector per image",
    )

    @property
    def output_precision(self) -> Precision:
        """The precision that the exported file computes in."""
        return self.quantize or self.precision


@dataclass(frozen=True)
class ExportTask(Options):
    """What to export, where to, and how to check the result."""

    section = "Check"

    model: ModelOptions = ModelOptions()
    options: ExportOptions = ExportOptions()
    output: Path | None = option(
        None, "Output file or folder", "-o PATH", shown="MODEL.onnx, ...", section="Output"
    )
    calibrate: Path | None = option(
        None,
        "Representative images for calibration: a folder or a dataset",
        "DIR",
        section="Export",
    )
    labels: LabelOptions = LabelOptions()
    check: Path | None = option(
        None,
        "Images on which the exported model must match the original: a folder or a dataset",
        "DIR",
        shown="validation images beside --calibrate, else samples",
    )
    max_drop: float | None = option(
        None,
        "Maximum top-1 drop of int8 on labelled images, in percentage points",
        min=0,
        shown="1",
    )
    force: bool = option(False, "Keep the file even if it fails the check")
    images: Annotated[ImageOptions, Only(*EVERYWHERE)] = ImageOptions()


@dataclass(frozen=True, slots=True)
class Requirement:
    """What an operating point has to reach, such as a sensitivity of 0.95, or its threshold."""

    metric: PointMetric
    value: float

    @staticmethod
    def parse(text: str) -> "Requirement":
        """Parse `sensitivity=0.95`; raise UsageError if it is not valid."""
        name, _, value = text.partition("=")
        for metric in get_args(PointMetric):
            if name == metric and is_share(value):
                return Requirement(metric, float(value))
        raise UsageError(
            f"Invalid --at {text!r}.",
            f"Use NAME=X with one of {', '.join(get_args(PointMetric))}, and X above 0, up to 1.",
        )


def is_share(text: str) -> bool:
    """Return whether a text is a number above 0, up to 1."""
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False


@dataclass(frozen=True)
class EvaluateTask(Options):
    """What to evaluate."""

    section = "Data"

    root: Path = argument(
        REQUIRED,
        "Folder with a folder per class, or with splits, or a table of images and labels",
        "DATA",
    )
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()
    images: Annotated[ImageOptions, Only("fit", "exact_decode", *EVERYWHERE)] = ImageOptions()
    options: Annotated[PredictOptions, Only("batch_size", "workers")] = PredictOptions()
    split: str | None = option(None, "Split to evaluate", "NAME", shown="test, else validation")
    labels: LabelOptions = LabelOptions()
    compare: ModelOptions | None = option(
        None,
        "Second model file or variant to evaluate on the same images",
        "MODEL",
        parse=ModelOptions.parse,
        section="Model",
    )
    calibrate_to: Path | None = option(
        None,
        "Write a copy of the model whose probabilities are calibrated on these images",
        "FILE",
        section="Model",
    )
    at: tuple[Requirement, ...] = option(
        (),
        "Find the threshold that reaches X: sensitivity=X, specificity, ppv or npv; or judge "
        "threshold=X; repeatable",
        "NAME=X",
        parse=Requirement.parse,
        section="Operating points",
    )
    positive: str | None = option(
        None,
        "With --at: the class to find, against all others",
        "CLASS",
        section="Operating points",
    )
    save_to: Path | None = option(
        None,
        "With --at: write a copy of the model that has these operating points",
        "FILE",
        section="Operating points",
    )


@dataclass(frozen=True)
class AuditOptions(Options):
    """How labels and backgrounds are checked."""

    section = "Check"

    folds: int = option(
        5, "Classify each image by a classifier trained on K - 1 parts of K", "K", min=2, max=100
    )
    seed: int = option(0, "Random seed", min=0, max=MAX_SEED)


@dataclass(frozen=True)
class AuditTask(Options):
    """What to audit, and the model whose features tell images apart."""

    section = "Data"

    root: Path = argument(
        REQUIRED,
        "Folder with a folder per class, or with train/ and val/, or a table of images and labels",
        "DATASET",
    )
    model: ModelOptions = ModelOptions()
    dataset: Annotated[DatasetOptions, Only("val", *LABEL_FIELDS)] = DatasetOptions()
    engine: EngineOptions = EngineOptions()
    images: Annotated[ImageOptions, Only(*EVERYWHERE)] = ImageOptions()
    predict: Annotated[PredictOptions, Only("batch_size", "workers")] = PredictOptions()
    options: AuditOptions = AuditOptions()


@dataclass(frozen=True)
class BenchTask(Options):
    """What to measure, and for how long.

    `models` and `variants` are measured however long it takes; if both are empty, those variants
    are measured that fit into `seconds`. Empty `engines` stand for all that are installed, empty
    `batch_sizes` for 1 and the one with the highest throughput.
    """

    section = "Benchmark"

    variants: tuple[str, ...] = option(
        (),
        "Model architectures, separated by commas (see `effnet variants`)",
        "--variant -V NAMES|all",
        shown="those that fit --seconds",
        section="Model",
    )
    models: tuple[Path, ...] = option(
        (),
        "Model file, exported model, folder or hf://OWNER/NAME; repeatable",
        "--model -m PATH",
        section="Model",
    )
    against: tuple[str, ...] = option(
        (), "Compare with torchvision classifiers, such as resnet50", "NAMES", section="Model"
    )
    device: str = device_option()
    engines: tuple[EngineName, ...] = option(
        (),
        "Inference engines, separated by commas",
        "--engine -e NAMES|all",
        words={"all": ()},
        shown="all that are installed",
    )
    precisions: tuple[EnginePrecision, ...] = option(
        ("fp32",),
        "Precisions (fp32, bf16, fp16), separated by commas",
        "--precision -p NAMES",
        shown="fp32",
    )
    batch_sizes: tuple[int, ...] = option(
        (),
        "Batch sizes, separated by commas",
        "--batch-size -b N,N",
        shown="1 and the fastest",
        min=1,
    )
    mode: BenchMode = option(
        "inference", "What to time: inference, a training step, or the whole pipeline"
    )
    image_folder: Path | None = option(
        None, "Folder of images for --mode end-to-end", "--images DIR", shown="samples"
    )
    seconds: float = option(60.0, "Measurement time in seconds, excluding loading", above=0)
    tolerance: float = option(
        0.05, "With --compare: ignore slowdowns up to this fraction", above=0, below=1
    )
    images: Annotated[ImageOptions, Only()] = ImageOptions()


# --- output of the commands ----------------------------------------------------------------------


@dataclass(frozen=True)
class Outputs(Options):
    section = "Output"

    quiet: bool = option(False, "Hide notes, progress and the summary", "-q")


@dataclass(frozen=True)
class PageOutputs(Outputs):
    html: Path | None = option(None, "Also write an HTML page", "FILE")


@dataclass(frozen=True)
class RowOutputs(Outputs):
    format: Format = option("table", "Output format", "-f")


@dataclass(frozen=True)
class QueryOutputs(PageOutputs):
    format: Format = option("table", "Output format", "-f")


@dataclass(frozen=True)
class ClusterOutputs(PageOutputs):
    format: TableFormat = option("table", "Output format", "-f")


@dataclass(frozen=True)
class CalibrationOutputs(PageOutputs):
    format: TableFormat = option("table", "Output format", "-f")
    output: Path | None = option(
        None, "Write the threshold to FILE, for `search verify --calibration`", "-o FILE.json"
    )


@dataclass(frozen=True)
class ListOutputs(Outputs):
    format: ListFormat = option("table", "Output format", "-f")


@dataclass(frozen=True)
class PredictOutputs(PageOutputs):
    format: Format | None = option(
        None, "Output format", "-f", shown="from the suffix of --output, else table"
    )
    outputs: tuple[Path, ...] = option(
        (), "Write the predictions to FILE instead of stdout; repeatable", "--output -o FILE"
    )
    resume: bool = option(False, "Continue an interrupted run with the same --output")
    explain: Path | None = option(None, "Save a Grad-CAM overlay for each image to DIR", "DIR")
    preview: bool = option(False, "Show the images in a terminal with colours")

    @property
    def files(self) -> tuple[Path, ...]:
        """The outputs besides stdout (`-`)."""
        return tuple(path for path in self.outputs if path != Path("-"))

    @property
    def needs_crops(self) -> bool:
        """Whether an output shows the model's input."""
        return self.preview or self.html is not None or self.explain is not None


@dataclass(frozen=True)
class EmbedOutputs(Outputs):
    output: Path | None = option(
        None,
        "Write the vectors to FILE.parquet, FILE.npy (with FILE.jsonl) or FILE.jsonl instead of "
        "stdout",
        "-o FILE",
    )
    resume: bool = option(False, "Continue an interrupted run with the same --output")


@dataclass(frozen=True)
class FinetuneOutputs(Outputs):
    format: Format = option("table", "Output format of the epochs, or of --check", "-f")
    report: bool = option(
        True, "Write report.html into the run", "--report/--no-report", shown="report"
    )
    check: bool = option(False, "Only check the dataset and list its problems", section="Data")


@dataclass(frozen=True)
class EvaluateOutputs(PageOutputs):
    format: TableFormat = option("table", "Output format", "-f")
    explain: bool = option(False, "With --html: draw Grad-CAM overlays on the images")
    fail_under: tuple[str, ...] = option(
        (), "Exit with status 3 if top1 or metric NAME is below X; repeatable", "[NAME=]X"
    )


@dataclass(frozen=True)
class AuditOutputs(PageOutputs):
    format: Format | None = option(
        None, "Output format", "-f", shown="from the suffix of --output, else table"
    )
    output: Path | None = option(None, "Write the result to FILE instead of stdout", "-o FILE")
    fix: Path | None = option(
        None, "Also write every problem with a proposed action to FILE, as CSV", "FILE.csv"
    )


@dataclass(frozen=True)
class BenchOutputs(PageOutputs):
    format: TableFormat = option("table", "Output format", "-f")
    compare: Path | None = option(
        None, "Compare with an earlier result; exit with status 3 if slower", "OLD.json"
    )


@dataclass(frozen=True)
class ShowOptions(Options):
    """Which variants to list."""

    section = "List"

    name: str | None = argument(None, "Describe one variant", "VARIANT")
    all: bool = option(False, "List every variant, not only the best and torchvision's")
    trained_on: TrainedOn | None = option(
        None, "List variants trained on these images; jft: also unlabelled ones", "--trained-on"
    )
    max_gmacs: float | None = option(
        None, "List variants with at most this many billion multiply-adds", "G", above=0
    )
    license: str | None = option(None, "List variants under this licence", "SPDX")


@dataclass(frozen=True)
class ListOptions(Options):
    """Variants or architectures by name."""

    names: tuple[str, ...] = argument(
        (), "Variants, or architectures with all their weights", "VARIANTS", shown="the best"
    )


@dataclass(frozen=True)
class PullOptions(Options):
    """Variants by name."""

    names: tuple[str, ...] = argument(REQUIRED, "Names from `effnet variants`, or all", "VARIANTS")


@dataclass(frozen=True)
class VerifyOptions(Options):
    """Variants by name; by default, all whose weights are installed."""

    names: tuple[str, ...] = argument(
        ("all",), "Names from `effnet variants`, or all", "VARIANTS", shown="all installed"
    )
