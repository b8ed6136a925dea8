"""The names and defaults that several rooms share. A default is written once, here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Fit = Literal["crop", "pad", "stretch"]
EngineName = Literal["torch", "onnxruntime", "openvino", "litert", "executorch"]
EngineChoice = Literal["auto", EngineName]
# What a network's file holds: tensors to build it from, or a whole network for a runtime.
FileKind = Literal["tensors", "onnx", "openvino", "pt2", "litert", "executorch"]
TargetName = Literal[
    "onnx", "openvino", "torch-export", "aotinductor", "litert", "executorch", "coreml"
]
ExportPrecision = Literal["fp32", "fp16", "bf16"]
Quantization = Literal["int8"]
EnginePrecision = Literal["fp32", "bf16", "fp16"]  # int8 is what an exported file is
Precision = Literal[EnginePrecision, "int8"]
TrainingPrecision = Literal["auto", "fp32", "bf16", "fp16"]
Augment = Literal["none", "light", "strong"]
BenchMode = Literal["inference", "train", "end-to-end"]
Format = Literal["table", "json", "jsonl", "csv"]
GroupBy = Literal["class", "none"]
ErrorKind = Literal[
    "empty",
    "truncated",
    "not_an_image",
    "unsupported_format",
    "too_large",
    "unreadable",
    "not_a_file",
    "missing",
    "timeout",
    "crashed",
]

MAX_PIXELS = 89_000_000  # pixels in one image; about 270 MB once decoded
MAX_VIEWS = 32  # looks at one image, as many as `images.VIEWS` has


@dataclass(frozen=True)
class ModelOptions:
    """Which network answers, and with which weights.

    `model` is a model file (or the folder that holds it) and excludes `variant` and `weights`;
    `weights` replaces the published weights of `variant`; `offline` forbids every connection.
    """

    variant: str | None = None
    model: Path | None = None
    weights: Path | None = None
    offline: bool = False


@dataclass(frozen=True)
class EngineOptions:
    """What runs the network; `auto` picks by what is here, and only what answers like torch in
    fp32.

    `device` is `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
    """

    device: str = "auto"
    engine: EngineChoice = "auto"
    precision: EnginePrecision = "fp32"


@dataclass(frozen=True)
class ImageOptions:
    """How images are opened and fitted to the network's square input.

    `views` is the number of looks at each image (`images.VIEWS`), whose logits are averaged.
    `isolate` opens images in processes of their own, which a crash of a decoder ends in the place
    of this one; `timeout_s` is the time that an image may take, and isolates them too. `offline`
    fetches none from an address.
    """

    fit: Fit = "crop"
    exact_decode: bool = False
    max_pixels: int = MAX_PIXELS
    views: int = 1
    isolate: bool = False
    timeout_s: float | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.views <= MAX_VIEWS:
            raise ValueError(f"{self.views!r} views are not between 1 and {MAX_VIEWS}")


@dataclass(frozen=True)
class PredictOptions:
    """How many answers an image gets, and how the work is cut; `None` is `auto`.

    An answer is `unknown` where the top probability is below `unknown_below` (0..1); `auto` is the
    threshold that the model brings, `None` calls nothing unknown. Below `threshold` there is no
    answer at all, and the row says why. `keep_crops` gives each row what the network saw.
    """

    top_k: int = 5
    batch_size: int | None = None
    workers: int | None = None
    unknown_below: float | Literal["auto"] | None = None
    keep_crops: bool = False

    def __post_init__(self) -> None:
        for value in (self.top_k, self.batch_size, self.workers):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{value!r} is not a whole number from 1")


@dataclass(frozen=True)
class OrganizeOptions:
    """Where images are copied, or moved, once they have an answer: into `folder`, with a folder
    for each class in it unless `group_by` is `none`.
    """

    folder: Path
    moves: bool = False
    group_by: GroupBy = "class"


@dataclass(frozen=True)
class DatasetOptions:
    """How a folder or a CSV of labelled images is read and split.

    `val` names the validation folder where the usual names are not used; `val_fraction` is the
    share of each class that is set aside where there is none. `skip_empty` leaves out classes
    without an image, `allow_bad` and `allow_leak` train in spite of many broken files or of
    images that training and validation share.
    """

    val: Path | None = None
    val_fraction: float = 0.2
    skip_empty: bool = False
    allow_bad: bool = False
    allow_leak: bool = False


@dataclass(frozen=True)
class FinetuneOptions:
    """How a network learns new classes.

    First a classifier is trained on the features of the pretrained network, then, for `epochs`
    passes over the images, the whole network (not with `head_only`). `batch_size` (images in
    one update, over all processes), `lr` (the peak) and `weight_decay` are AdamW's for the whole
    network; `None` is auto. `hidden` is the width of a layer before the last one, 0 for none.
    `freeze` leaves the first stages of the backbone (of nine) as they are. `balance` weighs classes
    as if all had equally many images. `patience` ends the training after so many epochs without a
    better one, `minutes` before an epoch that would end later. `from_scratch` starts with untrained
    weights.
    """

    epochs: int = 5
    head_only: bool = False
    batch_size: int | None = None
    lr: float | None = None
    weight_decay: float = 0.05
    hidden: int = 512
    freeze: int = 0
    augment: Augment = "strong"
    balance: bool = False
    patience: int | None = None
    minutes: float | None = None
    seed: int = 0
    precision: TrainingPrecision = "auto"
    compile: bool = False
    from_scratch: bool = False


@dataclass(frozen=True)
class FinetuneTask:
    """What to train on which images, and where the result goes.

    `output` is the run's folder, `None` for a new one below `runs`; `resume` is the folder of a run
    to go on with, whose own options then hold. `device` and `workers` are as in `predict`.
    """

    root: Path
    model: ModelOptions = ModelOptions()
    dataset: DatasetOptions = DatasetOptions()
    images: ImageOptions = ImageOptions()
    options: FinetuneOptions = FinetuneOptions()
    device: str = "auto"
    workers: int | None = None
    output: Path | None = None
    resume: Path | None = None


@dataclass(frozen=True)
class ExportOptions:
    """What an exported file is to be.

    `batch` fixes the number of images in a call, `None` leaves it open. `quantize` needs images
    to calibrate with. `include_preprocessing` puts normalisation and softmax into the file, which
    then takes bytes and gives probabilities.
    """

    target: TargetName = "onnx"
    precision: ExportPrecision = "fp32"
    quantize: Quantization | None = None
    batch: int | None = None
    include_preprocessing: bool = False


@dataclass(frozen=True)
class ExportTask:
    """What to export, where to, and what it is held against.

    `output` is a file, `None` for one named after the network in the current folder. `calibrate`
    and `check` are folders of images, perhaps in class folders or in `train` and `val`.
    `max_drop` is the loss of top-1, in percentage points, that is accepted of a quantised network;
    `force` keeps what does not hold.
    """

    model: ModelOptions = ModelOptions()
    options: ExportOptions = ExportOptions()
    output: Path | None = None
    calibrate: Path | None = None
    check: Path | None = None
    max_drop: float = 1.0
    force: bool = False
    images: ImageOptions = ImageOptions()


@dataclass(frozen=True)
class EvaluateTask:
    """What to judge on which labelled images.

    `split` is the name of a split where the images are in splits; `None` takes test, else
    validation. `compare` is a second model for the same images.
    """

    root: Path
    model: ModelOptions = ModelOptions()
    engine: EngineOptions = EngineOptions()
    images: ImageOptions = ImageOptions()
    options: PredictOptions = PredictOptions()
    split: str | None = None
    compare: ModelOptions | None = None


@dataclass(frozen=True)
class BenchTask:
    """What to measure, and for how long.

    `variants` and `models` are measured whatever it takes; without any it is the variants that fit
    the time. `against` are classifiers of torchvision by name. No `engines` means every one that is
    installed, no `batch_sizes` one image and the size with the highest throughput. `image_folder`
    is the folder for `end-to-end`; `None` for the sample images. `seconds` is the time to measure,
    besides loading. `tolerance` is the slowdown against an earlier result that is none (0.05 is
    5 %).
    """

    variants: tuple[str, ...] = ()
    models: tuple[Path, ...] = ()
    against: tuple[str, ...] = ()
    device: str = "auto"
    engines: tuple[str, ...] = ()
    precisions: tuple[EnginePrecision, ...] = ("fp32",)
    batch_sizes: tuple[int, ...] = ()
    mode: BenchMode = "inference"
    image_folder: Path | None = None
    seconds: float = 60.0
    tolerance: float = 0.05
    images: ImageOptions = ImageOptions()
