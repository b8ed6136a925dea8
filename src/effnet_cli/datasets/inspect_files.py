"""Decode every file once: check that it opens, and get its content hash, size and thumbnails."""

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import numpy as np
from PIL import Image

from effnet_cli.datasets.listing import FileList
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.sources import cannot_read, open_regular_file
from effnet_cli.models.variants import HALF
from effnet_cli.options import ImageOptions
from effnet_cli.system.errors import ImageError
from effnet_cli.system.parallel import map_ordered, usable_cores
from effnet_cli.system.reporter import Reporter

Result = TypeVar("Result")

DIGEST_BYTES = 32  # SHA-256
THUMBNAIL_PX = 16
COLOUR_PX = 4  # of the colour thumbnail
CHUNK = 16  # files that a thread takes at once
CHUNKS_PER_THREAD = 4  # finished and waiting; bounds the memory
SCALED_FORMATS = ("JPEG", "MPO")  # may be decoded at a smaller scale
SECONDS_BETWEEN_REPORTS = 0.1
NO_CONTENT = ("missing", "not_a_file", "unreadable")  # kinds of errors
# A JPEG is decoded at the smallest scale that gives at least twice this size. That is enough for a
# thumbnail, and truncated or damaged files fail at every scale.
SCAN_PREPROCESSING = Preprocessing(64, 64, interpolation="bilinear", mean=HALF, std=HALF)
MAYBE_SCALED_PX = 2 * SCAN_PREPROCESSING.resize_px


class FileInspection:
    """What was found in each file of a listing: row `i` describes file `i`.

    `digests` [N,32] are SHA-256 of the bytes (zeros if unreadable), `gray` [N,16,16] and `colour`
    [N,4,4,3] are thumbnails, `shorter_px` and `aspect` (width / height) describe the upright image.
    `faults` has the errors in file order; `kinds` counts them by kind.
    """

    def __init__(self, total: int) -> None:
        self.is_good = np.zeros(total, dtype=np.bool_)
        self.digests = np.zeros((total, DIGEST_BYTES), dtype=np.uint8)
        self.gray = np.zeros((total, THUMBNAIL_PX, THUMBNAIL_PX), dtype=np.uint8)
        self.colour = np.zeros((total, COLOUR_PX, COLOUR_PX, 3), dtype=np.uint8)
        self.shorter_px = np.zeros(total, dtype=np.int32)
        self.aspect = np.zeros(total, dtype=np.float32)
        self.faults: list[tuple[int, ImageError]] = []
        self.kinds: Counter[str] = Counter()

    def inspect(self, index: int, path: str, loader: ImageLoader) -> ImageError | None:
        """Fill row `index`, or return the error if the file cannot be opened."""
        try:
            image = loader.open(path)
            self.digests[index] = np.frombuffer(hash_file(path), dtype=np.uint8)
        except ImageError as error:
            if error.kind not in NO_CONTENT:
                with suppress(ImageError):
                    self.digests[index] = np.frombuffer(hash_file(path), dtype=np.uint8)
            return error.without_traceback()
        size = (THUMBNAIL_PX, THUMBNAIL_PX)
        small = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
        self.gray[index] = np.asarray(small.convert("L"))
        self.colour[index] = np.asarray(small.reduce(THUMBNAIL_PX // COLOUR_PX))
        self.shorter_px[index] = _measure_shorter_side(path, image)
        self.aspect[index] = image.width / image.height
        self.is_good[index] = True
        return None

    def add_fault(self, index: int, fault: ImageError) -> None:
        self.kinds[fault.kind] += 1
        self.faults.append((index, fault))


def inspect_files(
    listing: FileList, images: ImageOptions, *, workers: int | None, reporter: Reporter
) -> FileInspection:
    """Open every file of `listing` in `workers` threads (default: one per core)."""
    loader = ImageLoader(SCAN_PREPROCESSING, images)
    total = len(listing.paths)
    result = FileInspection(total)

    def inspect(index: int) -> ImageError | None:
        return listing.faults.get(index) or result.inspect(index, listing.paths[index], loader)

    reported_at = -np.inf
    for index, fault in enumerate(map_files(inspect, total, workers)):
        if fault is not None:
            result.add_fault(index, fault)
        now = time.monotonic()
        if index + 1 == total or now - reported_at >= SECONDS_BETWEEN_REPORTS:
            reported_at = now
            reporter.progress("Scanning images", index + 1, total)
    return result


def map_files(
    work: Callable[[int], Result], total: int, workers: int | None = None
) -> Iterator[Result]:
    """Yield `work(index)` for `total` files in order, using threads (default: one per core)."""
    workers = workers or usable_cores()
    chunks = (range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK))
    ahead = CHUNKS_PER_THREAD * workers
    done = map_ordered(lambda chunk: [*map(work, chunk)], chunks, workers=workers, ahead=ahead)
    return itertools.chain.from_iterable(done)


def hash_file(path: str) -> bytes:
    """Return the SHA-256 of a regular file's bytes.

    Raises:
        ImageError: the file cannot be read.
    """
    with open_regular_file(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]  # it has readinto
        except OSError as fault:
            raise cannot_read(fault) from fault


def _measure_shorter_side(path: str, image: Image.Image) -> int:
    """Return the stored image's shorter side: `image` may be a JPEG decoded at a smaller scale."""
    shorter = min(image.size)
    if shorter >= MAYBE_SCALED_PX:  # other formats raise at once: they are never scaled
        with suppress(Exception), open_regular_file(path) as file:
            shorter = min(Image.open(file, formats=SCALED_FORMATS).size)
    return shorter
