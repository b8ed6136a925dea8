"""Batches of crops from the images of a subset, decoded by threads and cached in memory."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.datasets.records import Subset
from effnet_cli.images.augment import Augmentation, augment_image
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.resize import FILTERS
from effnet_cli.system.errors import ImageError
from effnet_cli.system.machine import available_memory_bytes
from effnet_cli.system.parallel import map_ordered
from effnet_cli.system.reporter import Reporter

Crops = npt.NDArray[np.uint8]
Indexes = npt.NDArray[np.intp]
Decoded = TypeVar("Decoded", Image.Image, Crops)

CACHED_MEMORY = 0.25  # fraction of the memory available at the start
# Larger images are shrunk before caching, to a shorter side of this multiple of the crop's side.
# Even a view of a third of the area then need not be enlarged.
CACHED_OVERSAMPLING = 2
BATCHES_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops, uint8 [N,H,W,3], and their indexes in the subset [N], without unreadable images."""

    crops: Crops
    indexes: Indexes


class CacheBudget:
    """The bytes that caches may still use, shared by all loaders."""

    def __init__(self, num_bytes: int | None = None) -> None:
        if num_bytes is None:
            num_bytes = int(CACHED_MEMORY * available_memory_bytes())
        self._left = num_bytes

    def release(self, num_bytes: int) -> None:
        """Give back bytes that were reserved."""
        self._left += num_bytes

    def reserve(self, num_bytes: int) -> bool:
        """Reserve `num_bytes` if they fit, and return whether they do."""
        if num_bytes > self._left:
            return False
        self._left -= num_bytes
        return True


class BatchLoader:
    """Loads the images of a subset as training views or as validation crops.

    `lost` holds the indexes of images that have become unreadable since the scan.
    """

    def __init__(
        self,
        subset: Subset,
        loader: ImageLoader,
        budget: CacheBudget,
        workers: int,
        reporter: Reporter,
    ) -> None:
        self.labels, self.groups = subset.labels, subset.groups
        self._paths, self._loader, self._reporter = subset.paths, loader, reporter
        self._budget, self._workers = budget, workers
        self._images: dict[int, Image.Image] = {}
        self._crops: dict[int, Crops] = {}
        self.lost: set[int] = set()

    def __len__(self) -> int:
        return len(self.labels)

    def forget(self) -> None:
        """Empty the cache."""
        for cache in (self._images, self._crops):
            self._budget.release(sum(map(_num_bytes, cache.values())))
            cache.clear()

    def load_batches(
        self, parts: Iterator[Indexes], augmentation: Augmentation | None
    ) -> Iterator[Batch]:
        """Load a batch for each of `parts`, in order and ahead of use, with threads.

        Without an augmentation, the batches hold validation crops.
        """
        load = partial(self.load_batch, augmentation=augmentation)
        ahead = self._workers + BATCHES_AHEAD
        return map_ordered(load, parts, workers=self._workers, ahead=ahead)

    def load_batch(self, part: Indexes, augmentation: Augmentation | None) -> Batch:
        """Load one batch: the images whose indexes are in `part`."""
        crops: dict[int, Crops] = {}
        for index in map(int, part):
            try:
                crops[index] = self._crop(index, augmentation)
            except ImageError as error:
                self._report_lost(index, error)
        crop_px = (augmentation or self._loader.preprocessing).crop_px
        empty = np.empty((0, crop_px, crop_px, 3), np.uint8)
        stacked = np.stack([*crops.values()]) if crops else empty
        return Batch(stacked, np.array([*crops], dtype=np.intp))

    def _crop(self, index: int, augmentation: Augmentation | None) -> Crops:
        if augmentation is None:
            return self._cached(index, self._crops, self._loader.crop)
        image = self._cached(index, self._images, self._shrink)
        return augment_image(image, self._loader.preprocessing, augmentation, index=index)

    def _cached(
        self, index: int, cache: dict[int, Decoded], prepare: Callable[[Image.Image], Decoded]
    ) -> Decoded:
        value = cache.get(index)
        if value is None:
            value = prepare(self._loader.open(self._paths[index]))
            if self._budget.reserve(_num_bytes(value)):
                cache[index] = value
        return value

    def _shrink(self, image: Image.Image) -> Image.Image:
        preprocessing = self._loader.preprocessing
        factor = CACHED_OVERSAMPLING * preprocessing.crop_px / min(image.size)
        if factor >= 1:
            return image
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return image.resize(size, FILTERS[preprocessing.interpolation], reducing_gap=2.0)

    def _report_lost(self, index: int, error: ImageError) -> None:
        if index not in self.lost:
            self.lost.add(index)
            self._reporter.note(f"Skipped {self._paths[index]}: {error.message}")


def _num_bytes(decoded: Image.Image | Crops) -> int:
    return 3 * math.prod(decoded.size) if isinstance(decoded, Image.Image) else decoded.nbytes


def split_chunks(indexes: Indexes, size: int) -> Iterator[Indexes]:
    """Split `indexes` into chunks of `size`; the last may be smaller."""
    return (indexes[start : start + size] for start in range(0, len(indexes), size))
