"""Pictures -> answers: decoding and inference overlap, answers come in order, one bad file is one
bad row.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effnet_cli import engines
from effnet_cli.checkpoint import ModelCard
from effnet_cli.engines import Engine, Logits, Pixels
from effnet_cli.errors import EffnetError, PictureError
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


@dataclass(frozen=True, slots=True)
class Answer:
    """One class for one picture: its rank from 1, its index among the logits, its name, its
    probability (0..1).
    """

    rank: int
    index: int
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
        self._loader = PictureLoader(self._network.card.preprocessing, pictures)
        self._engine: Loading | None = None

    @property
    def card(self) -> ModelCard:
        """The network's class names (in the order of `Answer.index`), preprocessing and
        temperature.
        """
        return self._network.card

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
        workers = self._options.workers or self._plan.workers
        pictures = iter(pictures)
        if not are_many:
            few = list(itertools.islice(pictures, workers))
            workers = max(1, min(workers, len(few)))
            pictures = itertools.chain(few, pictures)
        if self._engine is None:
            callers = min(workers, self._plan.max_callers(self._network.variant))
            self._engine = Loading(
                lambda: self._plan.load(self._network, callers, self._listener), callers
            )
        size = self._options.batch_size or self._plan.batch_size
        return predict(
            self._engine, pictures, self._loader, self.card, self._options.top_k, size, workers
        )


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

    def answer(chunk: list[Found]) -> list[Prediction]:
        return _answered(chunk, engine, loader, card, top_k)

    chunks = iter(lambda: list(itertools.islice(pictures, batch_size)), [])
    for rows in in_order(answer, chunks, workers, CHUNKS_AHEAD * workers):
        yield from rows


def _answered(
    chunk: list[Found],
    engine: Callable[[Pixels], Logits],
    loader: PictureLoader,
    card: ModelCard,
    top_k: int,
) -> list[Prediction]:
    """The rows of some pictures, the good ones in one call of the engine."""
    opened = [_opened(found, loader) for found in chunk]
    good = [pixels for pixels in opened if not isinstance(pixels, PictureError)]
    answers = iter(_top(engine(_stacked(good)), card, top_k) if good else ())
    return [
        Prediction(found.name, error=Fault(pixels.kind, str(pixels)))
        if isinstance(pixels, PictureError)
        else Prediction(found.name, next(answers))
        for found, pixels in zip(chunk, opened, strict=True)
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


def _top(logits: Logits, card: ModelCard, top_k: int) -> list[tuple[Answer, ...]]:
    """The `top_k` most probable classes of each row of `logits`, float32 [N,C]; equal ones in the
    order of classes.
    """
    if not np.isfinite(logits).all():
        raise EffnetError(
            "The network answers with NaN or infinite values.",
            "Use --precision fp32, or other weights.",
        )
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
