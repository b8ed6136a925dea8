"""Decode and score images in threads: decoding and inference overlap, results keep the order."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from effnet_cli.engines.base import Crops, Engine, Scores, ScoresAre
from effnet_cli.images.finder import ImageInput
from effnet_cli.images.sources import ImageSource
from effnet_cli.system.errors import EffnetError, ImageError
from effnet_cli.system.parallel import map_ordered, resolve_future

# Chunks that each worker may be ahead of the consumer: enough to never wait, few enough to bound
# the memory.
CHUNKS_AHEAD = 4

Result = TypeVar("Result")


class Loader(Protocol):
    """Decodes images, in this process or in a sandbox."""

    def load(self, source: ImageSource) -> Crops:
        """See `ImageLoader.crops`."""


class Scorer(Protocol):
    """The part of an `Engine` that classification needs."""

    @property
    def scores_are(self) -> ScoresAre: ...

    def __call__(self, crops: Crops) -> Scores: ...


class ScoredImage(NamedTuple):
    """The crops of an image, uint8 [V,H,W,3], and the mean of their scores, float32 [C]."""

    crops: Crops
    scores: Scores


class BackgroundEngine:
    """An engine that loads in a thread beside other work; at most `max_callers` use it at once."""

    def __init__(self, load: Callable[[], Engine], max_callers: int) -> None:
        self._turns = threading.Semaphore(max_callers)
        self._engine: Future[Engine] = Future()
        threading.Thread(target=resolve_future, args=(self._engine, load), daemon=True).start()

    @property
    def scores_are(self) -> ScoresAre:
        return self._engine.result().scores_are

    def __call__(self, crops: Crops) -> Scores:
        engine = self._engine.result()
        with self._turns:
            return engine(crops)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`workers` threads, each of which decodes `batch_size` images and scores them in one call."""

    engine: Scorer
    loader: Loader
    batch_size: int = 1
    workers: int = 1

    def run(
        self,
        inputs: Iterator[ImageInput],
        finish: Callable[[ImageInput, ScoredImage | ImageError], Result],
    ) -> Iterator[Result]:
        """`finish(input, scored)` for every input, in order; memory stays flat.

        Args:
            inputs: consumed as results are.
            finish: called in the worker threads.

        Raises:
            EffnetError: the engine fails, or its scores are not finite.
        """

        def process(chunk: list[ImageInput]) -> list[Result]:
            return [finish(*pair) for pair in zip(chunk, self._score(chunk), strict=True)]

        chunks = iter(lambda: list(itertools.islice(inputs, self.batch_size)), [])
        for results in map_ordered(process, chunks, self.workers, CHUNKS_AHEAD * self.workers):
            yield from results

    def _score(self, chunk: list[ImageInput]) -> Iterator[ScoredImage | ImageError]:
        loaded = [self._load(one) for one in chunk]
        crops = [one for one in loaded if not isinstance(one, ImageError)]
        scores = iter(_check_finite(self.engine(_stack(crops))) if crops else ())
        for one in loaded:
            if isinstance(one, ImageError):
                yield one
            else:
                yield ScoredImage(one, _mean([next(scores) for _ in one]))

    def _load(self, one: ImageInput) -> Crops | ImageError:
        if one.source is None:
            return one.error or ImageError("missing", "File not found.", "Check the path.")
        try:
            return self.loader.load(one.source)
        except ImageError as error:
            return error.without_traceback()


def _stack(crops: list[Crops]) -> Crops:
    """All crops, uint8 [N,H,W,3]; those of a single image, the usual case on a CPU, not copied."""
    return crops[0] if len(crops) == 1 else np.concatenate(crops)


def _mean(scores: list[Scores]) -> Scores:
    """The mean over the views, float32 [C]; of one view its very bits."""
    return scores[0] if len(scores) == 1 else np.mean(scores, axis=0, dtype=np.float32)


def _check_finite(scores: Scores) -> Scores:
    if not np.isfinite(scores).all():
        raise EffnetError(
            "The model returned NaN or infinite scores.", "Use --precision fp32, or other weights."
        )
    return scores
