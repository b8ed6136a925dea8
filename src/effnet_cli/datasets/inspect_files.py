"""Every file fully decoded once: which cannot be opened, and what tells copies."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.datasets.listing import FileList
from effnet_cli.datasets.records import EXAMPLES
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
COLOUR_PX = 4  # how finely colour is kept beside the gray thumbnail
CHUNK = 16  # files that a thread takes at once
CHUNKS_AHEAD = 4  # chunks that each thread may be ahead: bounds the memory
SCALED_FORMATS = ("JPEG", "MPO")  # those that are decoded smaller
READ_BYTES = 1 << 20
SECONDS_BETWEEN_REPORTS = 0.1
# JPEG is decoded at the smallest scale of at least twice this: enough for a thumbnail, and cut or
# damaged files fail at every scale.
_SMALL = Preprocessing(resize_px=64, crop_px=64, interpolation="bilinear", mean=HALF, std=HALF)
_MAYBE_SCALED_PX = 2 * _SMALL.resize_px


@dataclass(slots=True)
class FileInspection:
    """What each file of a listing is; row `i` is file `i`.

    `digests` [N,32] are SHA-256 of the bytes (zeros where they cannot be read), `gray` [N,16,16]
    and `colour` [N,4,4,3] thumbnails, `shorter_px` and `aspect` (width / height) of the upright
    image. `faults` has the first few errors, in the order of files; `kinds` counts them all.
    """

    is_good: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint8]
    gray: npt.NDArray[np.uint8]
    colour: npt.NDArray[np.uint8]
    shorter_px: npt.NDArray[np.int32]
    aspect: npt.NDArray[np.float32]
    faults: list[tuple[int, ImageError]] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)


class _Seen(NamedTuple):
    """One decoded image."""

    digest: bytes
    gray: npt.NDArray[np.uint8]
    colour: npt.NDArray[np.uint8]
    shorter_px: int
    aspect: float


class _Unseen(NamedTuple):
    """One file that is no image."""

    digest: bytes
    error: ImageError


def inspect_files(
    listing: FileList, images: ImageOptions, *, reporter: Reporter, workers: int | None
) -> FileInspection:
    """Open every file of `listing`, by `workers` threads (default: one a core)."""
    loader = ImageLoader(_SMALL, images)
    total = len(listing.paths)

    def look(index: int) -> _Seen | _Unseen:
        return _look(listing.paths[index], listing.faults.get(index), loader)

    result = _blank(total)
    report = _reporter(reporter, total)
    for index, one in enumerate(map_files(look, total, workers)):
        _store(result, index, one)
        report(index + 1)
    return result


def map_files(
    work: Callable[[int], Result], total: int, workers: int | None = None
) -> Iterator[Result]:
    """`work(index)` for each of `total` files, in order, by `workers` threads (default: one a
    core).
    """

    def work_on(indexes: list[int]) -> list[Result]:
        return [work(index) for index in indexes]

    places = iter(range(total))
    chunks = iter(lambda: list(itertools.islice(places, CHUNK)), [])
    workers = workers or usable_cores()
    done = map_ordered(work_on, chunks, workers, CHUNKS_AHEAD * workers)
    return itertools.chain.from_iterable(done)


def _reporter(reporter: Reporter, total: int) -> Callable[[int], None]:
    """Tells the listener how far the scan is, not for each of thousands of files."""
    last = -np.inf

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= SECONDS_BETWEEN_REPORTS:
            last = now
            reporter.progress("Scanning images", done, total)

    return report


def _blank(total: int) -> FileInspection:
    return FileInspection(
        np.zeros(total, dtype=np.bool_),
        np.zeros((total, DIGEST_BYTES), dtype=np.uint8),
        np.zeros((total, THUMBNAIL_PX, THUMBNAIL_PX), dtype=np.uint8),
        np.zeros((total, COLOUR_PX, COLOUR_PX, 3), dtype=np.uint8),
        np.zeros(total, dtype=np.int32),
        np.zeros(total, dtype=np.float32),
    )


def _store(result: FileInspection, index: int, one: _Seen | _Unseen) -> None:
    result.digests[index] = np.frombuffer(one.digest, dtype=np.uint8)
    if isinstance(one, _Unseen):
        result.kinds[one.error.kind] = result.kinds.get(one.error.kind, 0) + 1
        if len(result.faults) < EXAMPLES:
            result.faults.append((index, one.error))
        return
    result.is_good[index] = True
    result.gray[index] = one.gray
    result.colour[index] = one.colour
    result.shorter_px[index] = one.shorter_px
    result.aspect[index] = one.aspect


def _look(path: str, fault: ImageError | None, loader: ImageLoader) -> _Seen | _Unseen:
    if fault is not None:
        return _Unseen(bytes(DIGEST_BYTES), fault)
    try:
        image = loader.open(path)
        digest = hash_file(path)
    except ImageError as error:
        is_file = error.kind not in ("missing", "not_a_file", "unreadable")
        digest = bytes(DIGEST_BYTES)
        with suppress(ImageError):
            digest = hash_file(path) if is_file else digest
        return _Unseen(digest, error.without_traceback())
    small = image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return _Seen(
        digest,
        np.asarray(small.convert("L")),
        np.asarray(small.reduce(THUMBNAIL_PX // COLOUR_PX)),
        _shorter_px(path, image),
        image.width / image.height,
    )


def hash_file(path: str) -> bytes:
    """SHA-256 of a regular file's bytes."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb", buffering=0) as file:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise ImageError(
            "unreadable", f"The file cannot be read: {error.strerror}.", "Check the disk."
        ) from error
    return digest.digest()


def _shorter_px(path: str, image: Image.Image) -> int:
    """The shorter side of the image as it is stored; `image` may be a JPEG decoded smaller."""
    shorter = min(image.size)
    if shorter >= _MAYBE_SCALED_PX:  # anything but a JPEG is refused at once, and as it is stored
        with suppress(Exception), Image.open(path, formats=SCALED_FORMATS) as stored:
            shorter = min(stored.size)
    return shorter
