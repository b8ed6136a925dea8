"""End to end: an image's way through decoding, resizing and the network, one after the other in
one thread; and the throughput of `predict`, where they overlap.
"""

import itertools
import time
from collections.abc import Iterator

import numpy as np

from effnet_cli.engines import EnginePlan
from effnet_cli.images.finder import ImageInput
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.weights import Model
from effnet_cli.options import ImageOptions
from effnet_cli.predict.classifier import Loading, predict

TURN_IMAGES = 64  # that go through `predict` in one turn, at most


class StagesCaller:
    """A `Caller` whose calls are images in turn, one in each call; all of them can be opened."""

    def __init__(
        self, network: Model, plan: EnginePlan, paths: tuple[str, ...], options: ImageOptions
    ) -> None:
        self._loader = ImageLoader(network.card.preprocessing, options)
        self._card, self._workers = network.card, plan.workers
        self._engine = plan.load(network)
        self.precision = self._engine.precision
        callers = min(self._workers, plan.max_callers(network.variant))
        self._shared = Loading(lambda: plan.load(network, callers), callers)
        self._paths = paths
        self._next = itertools.cycle(paths)
        self._stages: list[tuple[float, float, float]] = []

    def times_ms(self, batch_size: int, calls: int) -> list[float]:
        """See `Caller`."""
        return [self._one(next(self._next)) for _ in range(calls)]

    def medians_ms(self) -> tuple[float, float, float]:
        """Decoding, resizing and network."""
        decode, resize, network = np.median(np.array(self._stages), axis=0)
        return float(decode), float(resize), float(network)

    def throughput(self) -> tuple[int, float]:
        """Images that went through `predict`, and the seconds they took."""
        paths = list(itertools.islice(self._next, min(TURN_IMAGES, len(self._paths))))
        found: Iterator[ImageInput] = iter([ImageInput(path, path) for path in paths])
        started = time.perf_counter()
        rows = list(predict(self._shared, found, self._loader, self._card, 1, 1, self._workers))
        return len(rows), time.perf_counter() - started

    def _one(self, path: str) -> float:
        times = [time.perf_counter_ns()]
        image = self._loader.open(path)
        times.append(time.perf_counter_ns())
        crop = self._loader.fit(image)
        times.append(time.perf_counter_ns())
        self._engine(crop[None])
        times.append(time.perf_counter_ns())
        decode, resize, network = ((b - a) / 1e6 for a, b in itertools.pairwise(times))
        self._stages.append((decode, resize, network))
        return decode + resize + network
