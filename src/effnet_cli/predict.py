"""Pictures -> answers: decoding and inference overlap, answers come in order, one bad file is one
bad row.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from effnet_cli import engines
from effnet_cli.checkpoint import ModelCard
from effnet_cli.engines import Engine, Logits, Pixels
from effnet_cli.errors import EffnetError, PictureError, UsageError
from effnet_cli.exported import kind_of
from effnet_cli.images import Found, PictureLoader
from effnet_cli.options import (
    SILENT,
    EngineOptions,
    Listener,
    ModelOptions,
    PictureOptions,
    PredictOptions,
)
from effnet_cli.ordered import in_order, resolve_future
from effnet_cli.weights import resolve

# Chunks of work that each worker may be ahead of the consumer: enough to never wait, few enough to
# bound the memory.
CHUNKS_AHEAD = 4
UNKNOWN = "unknown"  # the label of what is like no class

Result = TypeVar("Result")
# What is made of pictures and their logits (float32 [C] each) or errors, one of each.
Make = Callable[[list[Found], list[Logits | PictureError]], list[Result]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One class for one picture: its rank from 1, its index among the logits, its name, its
    probability (0..1). `unknown` (see `PredictOptions`) has no index and the top probability.
    """

    rank: int
    index: int | None
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a picture has no answer: `kind` is one of `options.FaultKind`, `message` is for a
    person.
    """

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row: the picture's name as it was given, and its answers (best first) or the fault."""

    path: str
    predictions: tuple[Answer, ...] = ()
    error: Fault | None = None

    @property
    def status(self) -> str:
        return "ok" if self.error is None else "error"


class Classifier:
    """Answers what is on pictures; holds one network, loaded at its first use.

    >>> Classifier("lite0")("cat.jpg").predictions[0].label

    Args:
        model: the name of a variant, or which model and weights in full.
        engine: device, engine and precision.
        pictures: how pictures are opened and fitted.
        options: how many answers a picture gets, and how the work is cut.
        listener: hears of downloads and compilations.

    Raises:
        UsageError: no such variant, model file, device or engine.
        EffnetError: weights or engine cannot be had; raised here or at the first use.
    """

    def __init__(
        self,
        model: str | ModelOptions = ModelOptions(),
        engine: EngineOptions = EngineOptions(),
        pictures: PictureOptions = PictureOptions(),
        options: PredictOptions = PredictOptions(),
        listener: Listener = SILENT,
    ) -> None:
        self._options = options
        self._listener = listener
        model = ModelOptions(variant=model) if isinstance(model, str) else model
        # a wish that nothing can fulfil is told before anything is fetched
        self._plan = engines.plan(engine, kind_of(model.model) if model.model else "tensors")
        self._network = resolve(model, listener)
        self._unknown_below = _threshold(options, self._network.card)
        self._name = self._network.variant.name if model.model is None else str(model.model)
        self._loader = PictureLoader(self._network.card.preprocessing, pictures)
        self._loading: Loading | None = None

    @property
    def card(self) -> ModelCard:
        """The network's class names (in the order of `Answer.index`), preprocessing and
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
        export = self.card.export
        return str(export.get("quantize") or export.get("precision") or self._plan.precision)

    def __call__(self, picture: str | Path | bytes) -> Prediction:
        """The answer for one picture: a path, or the bytes of a picture file. A bad picture gives a
        row with `error`.

        Raises:
            EffnetError: the engine cannot be loaded.
        """
        if not isinstance(picture, str | Path | bytes):
            raise TypeError(f"a picture is a path or bytes, not {type(picture).__name__}")
        name = "-" if isinstance(picture, bytes) else str(picture)
        found = Found(name, picture if isinstance(picture, bytes) else name)
        return next(self.predict([found]))

    def predict(
        self, pictures: Iterable[Found], *, are_many: bool | None = None
    ) -> Iterator[Prediction]:
        """One row for each input, in order, as soon as it is known; memory is flat however many
        there are.

        Args:
            pictures: what `images.Finder` finds.
            are_many: whether there are more pictures than cores; `None` looks ahead (which waits
            for a slow source).

        Raises:
            EffnetError: the engine cannot be loaded or used.
        """
        return self._each(
            pictures,
            are_many,
            partial(
                _rows, card=self.card, top_k=self._options.top_k, unknown_below=self._unknown_below
            ),
        )

    def logits(self, pictures: Iterable[Found]) -> Iterator[Logits | PictureError]:
        """The logits of each picture, float32 [C], or why there are none; in order.

        Raises:
            EffnetError: as `predict`.
        """
        return self._each(pictures, None, lambda _, values: values)

    def _each(
        self, pictures: Iterable[Found], are_many: bool | None, make: Make[Result]
    ) -> Iterator[Result]:
        workers = self._options.workers or self._plan.workers
        pictures = iter(pictures)
        if not are_many:
            few = list(itertools.islice(pictures, workers))
            workers = max(1, min(workers, len(few)))
            pictures = itertools.chain(few, pictures)
        if self._loading is None:
            callers = min(workers, self._plan.max_callers(self._network.variant))
            self._loading = Loading(
                lambda: self._plan.load(self._network, callers, self._listener), callers
            )
        size = self._options.batch_size or self._plan.batch_size
        return asked(self._loading, pictures, self._loader, make, size, workers)


class Loading:
    """An engine that is being loaded beside other work; calls wait for it, and for their turn."""

    def __init__(self, load: Callable[[], Engine], callers: int) -> None:
        self._turns = threading.Semaphore(callers)
        self._engine: Future[Engine] = Future()
        threading.Thread(target=resolve_future, args=(self._engine, load), daemon=True).start()

    def __call__(self, pixels: Pixels) -> Logits:
        engine = self._engine.result()
        with self._turns:
            return engine(pixels)


def predict(
    engine: Callable[[Pixels], Logits],
    pictures: Iterator[Found],
    loader: PictureLoader,
    card: ModelCard,
    top_k: int,
    batch_size: int,
    workers: int,
) -> Iterator[Prediction]:
    """Rows for `pictures`, in order; `workers` threads each open `batch_size` pictures and ask the
    engine for them.
    """
    make = partial(_rows, card=card, top_k=top_k, unknown_below=0.0)
    return asked(engine, pictures, loader, make, batch_size, workers)


def asked(
    engine: Callable[[Pixels], Logits],
    pictures: Iterator[Found],
    loader: PictureLoader,
    make: Make[Result],
    batch_size: int,
    workers: int,
) -> Iterator[Result]:
    """What `make` makes of some pictures and their logits, for all of them in order; it is called
    in the threads that open them.
    """

    def answer(chunk: list[Found]) -> list[Result]:
        return make(chunk, _answered(chunk, engine, loader))

    chunks = iter(lambda: list(itertools.islice(pictures, batch_size)), [])
    for rows in in_order(answer, chunks, workers, CHUNKS_AHEAD * workers):
        yield from rows


def _answered(
    chunk: list[Found], engine: Callable[[Pixels], Logits], loader: PictureLoader
) -> list[Logits | PictureError]:
    """The logits of some pictures, or their errors; the good ones in one call of the engine.

    Raises:
        EffnetError: logits are not finite.
    """
    opened = [_opened(found, loader) for found in chunk]
    good = [pixels for pixels in opened if not isinstance(pixels, PictureError)]
    answers = iter(_finite(engine(_stacked(good))) if good else ())
    return [pixels if isinstance(pixels, PictureError) else next(answers) for pixels in opened]


def _rows(
    chunk: list[Found],
    answers: list[Logits | PictureError],
    card: ModelCard,
    top_k: int,
    unknown_below: float,
) -> list[Prediction]:
    good = [values for values in answers if not isinstance(values, PictureError)]
    tops = iter(_top(np.stack(good), card, top_k) if good else ())
    return [
        Prediction(found.name, error=Fault(values.kind, str(values)))
        if isinstance(values, PictureError)
        else Prediction(found.name, _known(next(tops), unknown_below, top_k))
        for found, values in zip(chunk, answers, strict=True)
    ]


def _stacked(pictures: list[Pixels]) -> Pixels:
    """float32 [3,H,W] each -> [N,3,H,W]; one picture, the usual case on a CPU, is not copied."""
    return pictures[0][None] if len(pictures) == 1 else np.stack(pictures)


def _opened(found: Found, loader: PictureLoader) -> Any:
    """The network's input, float32 [3,H,W], or the error."""
    if found.error is not None or found.source is None:
        return found.error
    try:
        return loader.load(found.source)
    except PictureError as error:
        return error


def _threshold(options: PredictOptions, card: ModelCard) -> float:
    """The top probability below which an answer is unknown; 0 for none.

    Raises:
        UsageError: the model brings none.
    """
    if options.unknown_below != "auto":
        return options.unknown_below or 0.0
    if card.unknown_below is None:
        raise UsageError(
            "--unknown-below auto needs a model that brings a threshold; this one has none.",
            "Give a probability, such as --unknown-below 0.5, or a model fine-tuned by effnet.",
        )
    return card.unknown_below


def _known(answers: tuple[Answer, ...], unknown_below: float, top_k: int) -> tuple[Answer, ...]:
    """The answers as they are, or behind one that says that none is good enough."""
    top = answers[0].probability
    if top >= unknown_below:
        return answers
    others = (replace(answer, rank=answer.rank + 1) for answer in answers[: top_k - 1])
    return (Answer(1, None, UNKNOWN, top), *others)


def _finite(logits: Logits) -> Logits:
    if not np.isfinite(logits).all():
        raise EffnetError(
            "The network answers with NaN or infinite values.",
            "Use --precision fp32, or other weights.",
        )
    return logits


def _top(logits: Logits, card: ModelCard, top_k: int) -> list[tuple[Answer, ...]]:
    """The `top_k` most probable classes of each row of `logits`, float32 [N,C]; equal ones in the
    order of classes.
    """
    best = np.array([_best(row, top_k) for row in logits.astype(np.float64)])
    return [
        tuple(
            Answer(rank, int(i), card.classes[i], float(row[i])) for rank, i in enumerate(order, 1)
        )
        for row, order in zip(engines.probabilities(logits, card.temperature), best, strict=True)
    ]


def _best(values: npt.NDArray[np.float64], top_k: int) -> npt.NDArray[np.intp]:
    """The indexes of the `top_k` largest of `values` [C], best first, equal ones in their order."""
    top_k = min(top_k, len(values))
    least = np.partition(values, -top_k)[-top_k]
    candidates = np.flatnonzero(values >= least)
    return candidates[np.argsort(-values[candidates], kind="stable")][:top_k]
