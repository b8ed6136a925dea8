"""Decode and score images in threads: decoding and inference overlap, and results stay in order."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from effnet_cli.engines.base import Crops, Engine, ModelOutputs, Scores
from effnet_cli.engines.registry import EnginePlan
from effnet_cli.images.finder import ImageInput
from effnet_cli.images.sources import ImageSource
from effnet_cli.models.familiarity import Features
from effnet_cli.models.weights import Model
from effnet_cli.system.errors import EffnetError, ImageError
from effnet_cli.system.parallel import map_ordered, resolve_future, start_daemon
from effnet_cli.system.reporter import SILENT, Reporter

# Chunks that each worker may be ahead of the consumer: enough that it never waits, few enough to
# bound memory use.
CHUNKS_AHEAD = 4

Result = TypeVar("Result")


class ScoredImage(NamedTuple):
    """The crops of an image, uint8 [V,H,W,3], the mean of their scores, float32 [C], and that of
    their features, float32 [D], if the model outputs them.
    """

    crops: Crops
    scores: Scores
    features: Features | None = None


Finish = Callable[[ImageInput, ScoredImage | ImageError], Result]


def load_in_background(
    plan: EnginePlan, model: Model, workers: int, reporter: Reporter = SILENT
) -> Callable[[Crops], ModelOutputs]:
    """Load an engine in a background thread; return a function with which `workers` threads score
    crops, no more of them at once than the plan allows for the model.
    """
    callers = min(workers, plan.max_callers(model.variant))
    turns = threading.Semaphore(callers)
    engine: Future[Engine] = Future()

    def load() -> Engine:
        return plan.load(model, callers, reporter)

    start_daemon(partial(resolve_future, engine, load))

    def score(crops: Crops) -> ModelOutputs:
        loaded = engine.result()
        with turns:
            return loaded(crops)

    return score


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Runs `workers` threads. Each decodes `batch_size` images with `load` (see
    `ImageLoader.load`) and scores them in one call to `score`.
    """

    score: Callable[[Crops], ModelOutputs]
    load: Callable[[ImageSource], Crops]
    batch_size: int = 1
    workers: int = 1

    def run(self, inputs: Iterator[ImageInput], finish: Finish[Result]) -> Iterator[Result]:
        """Yield `finish(input, scored)` for every input, in order; memory use stays constant.

        `inputs` are only read as results are consumed, and `finish` runs in the worker threads.
        Raises `EffnetError` if the engine fails or its scores are not finite.
        """

        def process(chunk: list[ImageInput]) -> list[Result]:
            return [finish(*pair) for pair in zip(chunk, self._score(chunk), strict=True)]

        chunks = iter(lambda: list(itertools.islice(inputs, self.batch_size)), [])
        ahead = CHUNKS_AHEAD * self.workers
        for results in map_ordered(process, chunks, workers=self.workers, ahead=ahead):
            yield from results

    def _score(self, chunk: list[ImageInput]) -> Iterator[ScoredImage | ImageError]:
        loaded = [self._load(one) for one in chunk]
        crops = [one for one in loaded if not isinstance(one, ImageError)]
        outputs = [rows for rows in self._score_crops(crops) if rows is not None] if crops else []
        end = 0
        for one in loaded:
            if isinstance(one, ImageError):
                yield one
            else:
                views = slice(end, end := end + len(one))
                yield ScoredImage(one, *(_mean(rows[views]) for rows in outputs))

    def _load(self, one: ImageInput) -> Crops | ImageError:
        if one.source is None:
            return one.error or ImageError("missing", "No such file.", "Check the path.")
        try:
            return self.load(one.source)
        except ImageError as error:
            return error.without_traceback()

    def _score_crops(self, crops: list[Crops]) -> ModelOutputs:
        """Score crops; those of a single image (usual on a CPU) are not copied."""
        outputs = self.score(crops[0] if len(crops) == 1 else np.concatenate(crops))
        if not np.isfinite(outputs.scores).all():
            raise EffnetError(
                "The model returned NaN or infinite scores.",
                "Use --precision fp32, or other weights.",
            )
        return outputs


def _mean(views: Scores) -> Scores:
    """Return the mean over the views, float32 [C]; a single view is returned bit for bit."""
    mean: Scores = views[0] if len(views) == 1 else views.mean(axis=0, dtype=np.float32)
    return mean
