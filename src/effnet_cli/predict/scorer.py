"""Run a model over images, with an engine that is loaded when it is first used."""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from effnet_cli.engines.base import Crops, ModelOutputs
from effnet_cli.engines.registry import EnginePlan
from effnet_cli.images.finder import ImageInput
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.sources import ImageSource
from effnet_cli.models.weights import Model
from effnet_cli.options import ImageOptions, RunOptions
from effnet_cli.predict.pipeline import Finish, Pipeline, load_in_background
from effnet_cli.system.errors import EffnetError, ImageError
from effnet_cli.system.reporter import SILENT, Reporter

Result = TypeVar("Result")


class Scorer:
    """Decodes and scores images with one model.

    Args:
        model: the model.
        plan: the engine that will run it.
        images: how images are decoded and cropped.
        options: batch size and threads.
        reporter: receives notes about compilation.
    """

    def __init__(
        self,
        model: Model,
        plan: EnginePlan,
        images: ImageOptions = ImageOptions(),
        options: RunOptions = RunOptions(),
        reporter: Reporter = SILENT,
    ) -> None:
        self.model, self._plan, self._options, self._reporter = model, plan, options, reporter
        self._load = _new_loader(model.card.preprocessing, images)
        self._score: Callable[[Crops], ModelOutputs] | None = None
        self._loaded_in: int | None = None  # the process

    def run(
        self, inputs: Iterator[ImageInput], finish: Finish[Result], *, has_lookahead: bool = True
    ) -> Iterator[Result]:
        """Yield `finish(image, scored)` for each image, in order; memory use stays constant.

        `finish` gets the crops, scores and features, or the error; it runs in the worker threads.

        Args:
            inputs: the images.
            finish: makes the result of an image.
            has_lookahead: read one input per thread before the first result, so that no more
                threads start than there are images. Use `False` for slow streams.

        Raises:
            EffnetError: the engine cannot be loaded or used.
        """
        workers = self._options.workers or self._plan.workers
        if has_lookahead:
            first = list(itertools.islice(inputs, workers))
            workers = max(1, min(workers, len(first)))
            inputs = itertools.chain(first, inputs)
        if self._loaded_in not in (None, os.getpid()):
            raise EffnetError(
                "This model was used before the process was forked, and its threads are gone.",
                "Create it in the child process.",
            )
        if self._score is None:
            self._loaded_in = os.getpid()
            self._score = load_in_background(
                self._plan, self.model, workers, reporter=self._reporter
            )
        batch_size = self._options.batch_size or self._plan.batch_size
        pipeline = Pipeline(self._score, self._load, batch_size=batch_size, workers=workers)
        return pipeline.run(inputs, finish)

    def load_crop(self, path: str) -> Crops | None:
        """Load what the model sees of an image, uint8 [H,W,3]; `None` if it cannot be decoded."""
        try:
            crop: Crops = self._load(path)[0]
        except ImageError:
            return None
        return crop


def _new_loader(
    preprocessing: Preprocessing, options: ImageOptions
) -> Callable[[ImageSource], Crops]:
    if options.isolate or options.timeout_s is not None:
        from effnet_cli.images.sandbox import SandboxedLoader  # takes 10 ms, and few runs need it

        return SandboxedLoader(preprocessing, options).load
    return ImageLoader(preprocessing, options).load
