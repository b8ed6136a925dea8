"""From a dataset's images to the batches that the network learns from, decoded once where memory
allows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.datasets import Subset
from effnet_cli.images.augment import Augmentation, augment_image
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.resize import FILTERS
from effnet_cli.system.errors import ImageError
from effnet_cli.system.machine import available_memory_bytes
from effnet_cli.system.parallel import map_ordered
from effnet_cli.system.reporter import Reporter

Crops = npt.NDArray[np.uint8]
Indexes = npt.NDArray[np.intp]

# Decoded images may take this share of the memory that is free at the start.
MEMORY_SHARE = 0.25
# Larger images are kept at this many times the network's input per side: a view of a third of
# the area still has a pixel for each of its own.
KEPT_OVERSAMPLING = 2
# Batches that wait for the network.
BATCHES_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """Images: uint8 [N,H,W,3], and their indexes in the subset [N]. Those that cannot be opened
    any more are left out.
    """

    crops: Crops
    indexes: Indexes


class Memory:
    """Bytes that may still be kept; shared by all that keep images."""

    def __init__(self, num_bytes: int | None = None) -> None:
        if num_bytes is None:
            num_bytes = int(available_memory_bytes() * MEMORY_SHARE)
        self._left = num_bytes

    def takes(self, num_bytes: int) -> bool:
        """Whether there is room; if so it is taken."""
        if num_bytes > self._left:
            return False
        self._left -= num_bytes
        return True


class SubsetImages:
    """The images of one subset, as training views and as the squares that validation sees."""

    def __init__(
        self,
        subset: Subset,
        loader: ImageLoader,
        memory: Memory,
        workers: int,
        reporter: Reporter,
    ) -> None:
        self.labels = subset.labels
        self._paths, self._loader, self._reporter = subset.paths, loader, reporter
        self._memory, self._workers = memory, workers
        self._images: dict[int, Image.Image] = {}
        self._squares: dict[int, Crops] = {}
        self.lost: set[int] = set()

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, parts: Iterator[Indexes], views: Augmentation | None) -> Iterator[Batch]:
        """A batch for each of `parts`, in order, made by threads beside the network's work.

        Without `views` the squares are those that validation sees.
        """
        make = partial(self.batch, views=views)
        return map_ordered(make, parts, self._workers, self._workers + BATCHES_AHEAD)

    def batch(self, part: Indexes, views: Augmentation | None) -> Batch:
        """The images at the indexes `part`; see `batches`."""
        crops: list[Crops] = []
        good: list[int] = []
        for index in map(int, part):
            try:
                crops.append(self._crop(index) if views is None else self._view(index, views))
                good.append(index)
            except ImageError as error:
                self._lose(index, error)
        crop_px = (views or self._loader.preprocessing).crop_px
        stacked = np.stack(crops) if crops else np.empty((0, crop_px, crop_px, 3), np.uint8)
        return Batch(stacked, np.array(good, dtype=np.intp))

    def _view(self, index: int, views: Augmentation) -> Crops:
        return augment_image(self._image(index), self._loader.preprocessing, views, index)

    def _image(self, index: int) -> Image.Image:
        image = self._images.get(index)
        if image is None:
            image = self._reduced(self._loader.open(self._paths[index]))
            if self._memory.takes(3 * image.width * image.height):
                self._images[index] = image
        return image

    def _reduced(self, image: Image.Image) -> Image.Image:
        preprocessing = self._loader.preprocessing
        limit = KEPT_OVERSAMPLING * preprocessing.crop_px
        factor = limit / min(image.size)
        if factor >= 1:
            return image
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return image.resize(size, FILTERS[preprocessing.interpolation], reducing_gap=2.0)

    def _crop(self, index: int) -> Crops:
        crop = self._squares.get(index)
        if crop is None:
            crop = self._loader.crop(self._loader.open(self._paths[index]))
            if self._memory.takes(crop.nbytes):
                self._squares[index] = crop
        return crop

    def _lose(self, index: int, error: ImageError) -> None:
        if index not in self.lost:
            self.lost.add(index)
            self._reporter.note(f"Left out: {self._paths[index]}: {error.message}")


def chunks(indexes: Indexes, size: int) -> Iterator[Indexes]:
    """`indexes` in pieces of `size`; the last may be smaller."""
    return (indexes[start : start + size] for start in range(0, len(indexes), size))
