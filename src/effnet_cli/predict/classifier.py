"""Images -> answers: decoding and inference overlap, answers come in order, one bad file is one
bad row.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from effnet_cli import engines
from effnet_cli.engines import Crops, Engine, Scores, ScoresAre
from effnet_cli.images.finder import ImageInput
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.sources import ImageSource
from effnet_cli.models.card import ModelCard
from effnet_cli.models.export_file import file_kind
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import EngineOptions, ImageOptions, ModelOptions, PredictOptions
from effnet_cli.system.errors import EffnetError, ImageError, UsageError
from effnet_cli.system.parallel import map_ordered, resolve_future
from effnet_cli.system.reporter import SILENT, Reporter

# Chunks of work that each worker may be ahead of the consumer: enough to never wait, few enough to
# bound the memory.
CHUNKS_AHEAD = 4
UNKNOWN = "unknown"  # the label of what is like no class

Result = TypeVar("Result")


class Loader(Protocol):
    """Opens images: in this process, or in others."""

    def crops(self, source: ImageSource) -> Crops:
        """See `ImageLoader.crops`."""


class Scorer(Protocol):
    """The part of an `Engine` that classification needs."""

    @property
    def scores_are(self) -> ScoresAre: ...

    def __call__(self, crops: Crops) -> Scores: ...


class ImageScores(NamedTuple):
    """The crops of an image, uint8 [V,H,W,3], and the mean of their scores, float32 [C]."""

    crops: Crops
    scores: Scores


# Makes one result of each image and its scores.
Make = Callable[[list[ImageInput], list[ImageScores | ImageError], ScoresAre], list[Result]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class for one image: its rank from 1, its index among the logits, its name, its
    probability (0..1). `unknown`, and no label at all (see `PredictOptions`), have no index and the
    top probability.
    """

    rank: int
    index: int | None
    label: str | None
    probability: float


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why an image has no answer: `kind` is one of `options.FaultKind`, `message` is for a
    person.
    """

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One row: the image's name as it was given, and its answers (best first) or the fault.

    `reason` says why the first answer has no label; `crop` is what the network saw, uint8
    [H,W,3], where it was asked for, and `overlay` the same with what speaks for the best class
    reddened; `explained` is the file with both. `filed` is where a copy of the image lies, or the
    image itself if it `is_moved`.
    """

    path: str
    predictions: tuple[Prediction, ...] = ()
    error: ErrorInfo | None = None
    reason: str | None = None
    crop: npt.NDArray[np.uint8] | None = None
    overlay: npt.NDArray[np.uint8] | None = None
    explained: str | None = None
    filed: str | None = None
    is_moved: bool = False

    @property
    def status(self) -> str:
        return "ok" if self.error is None else "error"


class Classifier:
    """Answers what is on images; holds one network, loaded at its first use.

    >>> Classifier("lite0")("cat.jpg").predictions[0].label

    Args:
        model: the name of a variant, or which model and weights in full.
        engine: device, engine and precision.
        images: how images are opened and fitted.
        options: how many answers an image gets, and how the work is cut.
        listener: hears of downloads and compilations.

    Raises:
        UsageError: no such variant, model file, device or engine.
        EffnetError: weights or engine cannot be had; raised here or at the first use.
    """

    def __init__(
        self,
        model: str | ModelOptions = ModelOptions(),
        engine: EngineOptions = EngineOptions(),
        images: ImageOptions = ImageOptions(),
        options: PredictOptions = PredictOptions(),
        reporter: Reporter = SILENT,
    ) -> None:
        self._options = options
        self._reporter = reporter
        model = ModelOptions(variant=model) if isinstance(model, str) else model
        # a wish that nothing can fulfil is told before anything is fetched
        self._plan = engines.plan_engine(
            engine, file_kind(model.model) if model.model else "tensors"
        )
        self._network = resolve_model(model, reporter)
        self._least = _least(options, self._network.card)
        self._name = self._network.variant.name if model.model is None else str(model.model)
        self._loader = _loader(self._network.card.preprocessing, images)
        self._loading: Loading | None = None

    @property
    def card(self) -> ModelCard:
        """The network's class names (in the order of `Prediction.index`), preprocessing and
        temperature.
        """
        return self._network.card

    @property
    def name(self) -> str:
        """The variant, or the model file as it was given."""
        return self._name

    @property
    def engine(self) -> str:
        """What runs the network."""
        return self._plan.engine

    @property
    def precision(self) -> str:
        """What the network computes in, as far as that is known before it is loaded."""
        return self.card.precision or self._plan.precision

    @property
    def digest(self) -> str:
        """The SHA-256 of the file with the weights, hexadecimal."""
        return self._network.sha256

    def __call__(self, image: str | Path | bytes) -> ImageResult:
        """The answer for one image: a path, or the bytes of an image file. A bad image gives a
        row with `error`.

        Raises:
            EffnetError: the engine cannot be loaded.
        """
        if not isinstance(image, str | Path | bytes):
            raise TypeError(f"an image is a path or bytes, not {type(image).__name__}")
        name = "-" if isinstance(image, bytes) else str(image)
        found = ImageInput(name, image if isinstance(image, bytes) else name)
        return next(self.predict([found]))

    def predict(
        self, images: Iterable[ImageInput], *, are_many: bool | None = None
    ) -> Iterator[ImageResult]:
        """One row for each input, in order, as soon as it is known; memory is flat however many
        there are.

        Args:
            images: what `images.Finder` finds.
            are_many: whether there are more images than cores; `None` looks ahead (which waits
            for a slow source).

        Raises:
            EffnetError: the engine cannot be loaded or used.
        """
        return self._each(
            images,
            are_many,
            partial(_rows, card=self.card, options=self._options, least=self._least),
        )

    @property
    def scores_are(self) -> ScoresAre:
        """What `scores` yields."""
        return engines.scores_of(self.card)

    def scores(self, images: Iterable[ImageInput]) -> Iterator[Scores | ImageError]:
        """The scores of each image, float32 [C], or why there are none; in order.

        Raises:
            EffnetError: as `predict`.
        """

        def scores_only(_: object, opened: list[ImageScores | ImageError], __: object) -> list[Any]:
            return [one.scores if isinstance(one, ImageScores) else one for one in opened]

        return self._each(images, None, scores_only)

    def _each(
        self, images: Iterable[ImageInput], are_many: bool | None, make: Make[Result]
    ) -> Iterator[Result]:
        workers = self._options.workers or self._plan.workers
        images = iter(images)
        if not are_many:
            few = list(itertools.islice(images, workers))
            workers = max(1, min(workers, len(few)))
            images = itertools.chain(few, images)
        if self._loading is None:
            callers = min(workers, self._plan.max_callers(self._network.variant))
            self._loading = Loading(
                lambda: self._plan.load(self._network, callers, self._reporter), callers
            )
        size = self._options.batch_size or self._plan.batch_size
        return asked(self._loading, images, self._loader, make, size, workers)


class Loading:
    """An engine that is being loaded beside other work; calls wait for it, and for their turn."""

    def __init__(self, load: Callable[[], Engine], callers: int) -> None:
        self._turns = threading.Semaphore(callers)
        self._engine: Future[Engine] = Future()
        threading.Thread(target=resolve_future, args=(self._engine, load), daemon=True).start()

    @property
    def scores_are(self) -> ScoresAre:
        return self._engine.result().scores_are

    def __call__(self, crops: Crops) -> Scores:
        engine = self._engine.result()
        with self._turns:
            return engine(crops)


def predict(
    engine: Scorer,
    images: Iterator[ImageInput],
    loader: Loader,
    card: ModelCard,
    top_k: int,
    batch_size: int,
    workers: int,
) -> Iterator[ImageResult]:
    """Rows for `images`, in order; `workers` threads each open `batch_size` images and ask the
    engine for them.
    """
    make = partial(_rows, card=card, options=PredictOptions(top_k), least=0.0)
    return asked(engine, images, loader, make, batch_size, workers)


def asked(
    engine: Scorer,
    images: Iterator[ImageInput],
    loader: Loader,
    make: Make[Result],
    batch_size: int,
    workers: int,
) -> Iterator[Result]:
    """What `make` makes of some images and their scores, for all of them in order; it is called
    in the threads that open them.
    """

    def answer(chunk: list[ImageInput]) -> list[Result]:
        return make(chunk, _looked_at(chunk, engine, loader), engine.scores_are)

    chunks = iter(lambda: list(itertools.islice(images, batch_size)), [])
    for rows in map_ordered(answer, chunks, workers, CHUNKS_AHEAD * workers):
        yield from rows


def _looked_at(
    chunk: list[ImageInput], engine: Scorer, loader: Loader
) -> list[ImageScores | ImageError]:
    """What came of some images, or their errors; the good ones in one call of the engine.

    Raises:
        EffnetError: scores are not finite.
    """
    opened = [_opened(found, loader) for found in chunk]
    good = [crops for crops in opened if not isinstance(crops, ImageError)]
    answers = iter(_finite(engine(_stack(good))) if good else ())
    return [
        crops
        if isinstance(crops, ImageError)
        else ImageScores(crops, _averaged([next(answers) for _ in crops]))
        for crops in opened
    ]


def _rows(
    chunk: list[ImageInput],
    looked: list[ImageScores | ImageError],
    scores_are: ScoresAre,
    card: ModelCard,
    options: PredictOptions,
    least: float,
) -> list[ImageResult]:
    good = [one.scores for one in looked if isinstance(one, ImageScores)]
    tops = iter(_top(np.stack(good), scores_are, card, options.top_k) if good else ())
    return [
        _judged(found.name, next(tops), one.crops[0], options, least)
        if isinstance(one, ImageScores)
        else ImageResult(found.name, error=ErrorInfo(one.kind, str(one)))
        for found, one in zip(chunk, looked, strict=True)
    ]


def _averaged(scores: list[Scores]) -> Scores:
    """The mean over the views, float32 [C]; the only view, bit for bit."""
    return scores[0] if len(scores) == 1 else np.mean(scores, axis=0, dtype=np.float32)


def _stack(crops: list[Crops]) -> Crops:
    """The crops of all images, uint8 [N,H,W,3]; a single image's, the usual case on a CPU, are not
    copied.
    """
    return crops[0] if len(crops) == 1 else np.concatenate(crops)


def _loader(preprocessing: Preprocessing, options: ImageOptions) -> Loader:
    if options.isolate or options.timeout_s is not None:
        from effnet_cli.images.sandbox import SandboxedLoader  # 10 ms that few need

        return SandboxedLoader(preprocessing, options)
    return ImageLoader(preprocessing, options)


def _opened(found: ImageInput, loader: Loader) -> Crops | ImageError:
    """What the network sees of an image, uint8 [V,H,W,3], or the error."""
    if found.source is None:
        return found.error or ImageError("missing", "There is no such file.", "Check the path.")
    try:
        return loader.crops(found.source)
    except ImageError as error:
        return error.without_traceback()


def _least(options: PredictOptions, card: ModelCard) -> float:
    """The top probability below which an answer is unknown, or none; 0 takes every one.

    Raises:
        UsageError: the model brings none, or there are two.
    """
    if options.threshold is not None:
        if options.unknown_below is not None:
            raise UsageError(
                "--threshold and --unknown-below say two things about the same answers.",
                "Use one of them.",
            )
        return options.threshold
    if options.unknown_below != "auto":
        return options.unknown_below or 0.0
    if card.unknown_below is None:
        raise UsageError(
            "--unknown-below auto needs a model that brings a threshold; this one has none.",
            "Give a probability, such as --unknown-below 0.5, or a model fine-tuned by effnet.",
        )
    return card.unknown_below


def _judged(
    name: str,
    answers: tuple[Prediction, ...],
    crop: npt.NDArray[np.uint8],
    options: PredictOptions,
    least: float,
) -> ImageResult:
    """The row with the answers as they are, or behind one that says that none is good enough."""
    best = answers[0]
    reason = None
    if best.probability < least:
        label = UNKNOWN if options.threshold is None else None
        if label is None:
            reason = (
                f"The best answer, {best.label!r} with {best.probability:.4g}, is below the "
                f"threshold of {least:g}."
            )
        others = (replace(a, rank=a.rank + 1) for a in answers[: options.top_k - 1])
        answers = (Prediction(1, None, label, best.probability), *others)
    return ImageResult(name, answers, reason=reason, crop=crop if options.keep_crops else None)


def _finite(scores: Scores) -> Scores:
    if not np.isfinite(scores).all():
        raise EffnetError(
            "The network answers with NaN or infinite values.",
            "Use --precision fp32, or other weights.",
        )
    return scores


def _top(
    scores: Scores, scores_are: ScoresAre, card: ModelCard, top_k: int
) -> list[tuple[Prediction, ...]]:
    """The `top_k` most probable classes of each row of `scores`, float32 [N,C]; equal ones in the
    order of classes.
    """
    best = np.array([_best(row, top_k) for row in scores.astype(np.float64)])
    probabilities = engines.to_probabilities(scores, scores_are, card.temperature)
    return [
        tuple(
            Prediction(rank, int(i), card.classes[i], float(row[i]))
            for rank, i in enumerate(order, 1)
        )
        for row, order in zip(probabilities, best, strict=True)
    ]


def _best(values: npt.NDArray[np.float64], top_k: int) -> npt.NDArray[np.intp]:
    """The indexes of the `top_k` largest of `values` [C], best first, equal ones in their order."""
    top_k = min(top_k, len(values))
    least = np.partition(values, -top_k)[-top_k]
    candidates = np.flatnonzero(values >= least)
    return candidates[np.argsort(-values[candidates], kind="stable")][:top_k]
