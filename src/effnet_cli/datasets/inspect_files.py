"""Decode every file once: whether it opens, its content hash, its size, and a thumbnail."""

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.datasets.listing import FileList
from effnet_cli.datasets.records import MAX_EXAMPLES
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
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
CHUNKS_AHEAD = 4  # per thread; bounds the memory
SCALED_FORMATS = ("JPEG", "MPO")  # may be decoded at a smaller scale
SECONDS_BETWEEN_REPORTS = 0.1
NO_CONTENT = ("missing", "not_a_file", "unreadable")  # kinds of errors
# JPEG is decoded at the smallest scale of at least twice this: enough for a thumbnail, and
# truncated or damaged files fail at every scale.
SCAN_PREPROCESSING = Preprocessing(
    resize_px=64, crop_px=64, interpolation="bilinear", mean=HALF, std=HALF
)
MAYBE_SCALED_PX = 2 * SCAN_PREPROCESSING.resize_px


@dataclass(slots=True)
class FileInspection:
    """What was found in each file of a listing; row `i` is file `i`.

    `digests` [N,32] are SHA-256 of the bytes (zeros if unreadable), `gray` [N,16,16] and `colour`
    [N,4,4,3] thumbnails, `shorter_px` and `aspect` (width / height) of the upright image. `faults`
    has the first few errors in the order of files, `kinds` counts them all.
    """

    is_good: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint8]
    gray: npt.NDArray[np.uint8]
    colour: npt.NDArray[np.uint8]
    shorter_px: npt.NDArray[np.int32]
    aspect: npt.NDArray[np.float32]
    faults: list[tuple[int, ImageError]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    @classmethod
    def empty(cls, total: int) -> "FileInspection":
        return cls(
            is_good=np.zeros(total, dtype=np.bool_),
            digests=np.zeros((total, DIGEST_BYTES), dtype=np.uint8),
            gray=np.zeros((total, THUMBNAIL_PX, THUMBNAIL_PX), dtype=np.uint8),
            colour=np.zeros((total, COLOUR_PX, COLOUR_PX, 3), dtype=np.uint8),
            shorter_px=np.zeros(total, dtype=np.int32),
            aspect=np.zeros(total, dtype=np.float32),
        )

    def add_fault(self, index: int, fault: ImageError) -> None:
        self.kinds[fault.kind] += 1
        if len(self.faults) < MAX_EXAMPLES:
            self.faults.append((index, fault))


def inspect_files(
    listing: FileList, images: ImageOptions, *, workers: int | None, reporter: Reporter
) -> FileInspection:
    """Open every file of `listing` in `workers` threads (default: one per core)."""
    loader = ImageLoader(SCAN_PREPROCESSING, images)
    total = len(listing.paths)
    result = FileInspection.empty(total)

    def inspect(index: int) -> ImageError | None:
        return listing.faults.get(index) or _inspect(
            listing.paths[index], index, loader=loader, result=result
        )

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
    """`work(index)` for each of `total` files, in order, in `workers` threads (default: one per
    core).
    """
    workers = workers or usable_cores()
    indexes = iter(range(total))
    chunks = iter(lambda: list(itertools.islice(indexes, CHUNK)), [])
    done = map_ordered(
        lambda chunk: list(map(work, chunk)), chunks, workers=workers, ahead=CHUNKS_AHEAD * workers
    )
    return itertools.chain.from_iterable(done)


def _inspect(
    path: str, index: int, *, loader: ImageLoader, result: FileInspection
) -> ImageError | None:
    """Fill row `index` of `result`; the error if the file cannot be opened."""
    try:
        image = loader.open(path)
        result.digests[index] = np.frombuffer(hash_file(path), dtype=np.uint8)
    except ImageError as fault:
        if fault.kind not in NO_CONTENT:
            with suppress(ImageError):
                result.digests[index] = np.frombuffer(hash_file(path), dtype=np.uint8)
        return fault.without_traceback()
    small = image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR, reducing_gap=3.0)
    result.gray[index] = np.asarray(small.convert("L"))
    result.colour[index] = np.asarray(small.reduce(THUMBNAIL_PX // COLOUR_PX))
    result.shorter_px[index] = _measure_shorter_side(path, image)
    result.aspect[index] = image.width / image.height
    result.is_good[index] = True
    return None


def hash_file(path: str) -> bytes:
    """SHA-256 of a regular file's bytes.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        with Path(path).open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as fault:
        raise ImageError(
            "unreadable", f"The file cannot be read: {fault.strerror}.", "Check the disk."
        ) from fault


def _measure_shorter_side(path: str, image: Image.Image) -> int:
    """The shorter side of the stored image; `image` may be a JPEG decoded at a smaller scale."""
    shorter = min(image.size)
    if shorter >= MAYBE_SCALED_PX:  # other formats are refused at once: they are never scaled
        with suppress(Exception), Image.open(path, formats=SCALED_FORMATS) as stored:
            shorter = min(stored.size)
    return shorter
