"""Times images end to end.

Decoding, resizing and inference are timed one after the other. The throughput is that of `predict`,
where they overlap.
"""

import itertools
import time
from typing import Any

import numpy as np

from effnet_cli.engines.registry import EnginePlan
from effnet_cli.images.finder import ImageInput
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.weights import Model
from effnet_cli.options import ImageOptions
from effnet_cli.predict.pipeline import Pipeline, load_in_background
from effnet_cli.predict.ranking import Ranking

STAGES = ("decode_ms", "resize_ms", "model_ms")
TURN_IMAGES = 64  # the most images that go through `predict` in one turn


class StagesCaller:
    """A `worker.Caller`; each call processes the next image of `paths`, in a single thread."""

    def __init__(
        self, model: Model, plan: EnginePlan, *, paths: tuple[str, ...], options: ImageOptions
    ) -> None:
        self._loader = ImageLoader(model.card.preprocessing, options)
        self._ranking = Ranking(model.card, top_k=1)
        self._engine = plan.load(model)
        self.precision = self._engine.precision
        score = load_in_background(plan, model, plan.workers)
        self._pipeline = Pipeline(score, self._loader.load, workers=plan.workers)
        self._turn_images = min(TURN_IMAGES, len(paths))
        self._next = itertools.cycle(paths)
        self._times: list[list[float]] = []

    def time_ms(self, batch_size: int) -> float:
        """See `worker.Caller`."""
        moments = [time.perf_counter_ns()]
        image = self._loader.open(next(self._next))
        moments.append(time.perf_counter_ns())
        crop = self._loader.crop(image)
        moments.append(time.perf_counter_ns())
        self._engine(crop[None])
        moments.append(time.perf_counter_ns())
        self._times.append([(b - a) / 1e6 for a, b in itertools.pairwise(moments)])
        return sum(self._times[-1])

    def medians_ms(self) -> dict[str, Any]:
        """Return the median of each of `STAGES` over all calls so far."""
        return dict(zip(STAGES, np.median(self._times, axis=0).tolist(), strict=True))

    def throughput(self) -> tuple[int, float]:
        """Run some images through `predict`; return their number and the seconds they took."""
        paths = itertools.islice(self._next, self._turn_images)
        started = time.perf_counter()
        results = list(self._pipeline.run((ImageInput(p, p) for p in paths), self._ranking))
        return len(results), time.perf_counter() - started
