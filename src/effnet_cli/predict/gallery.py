"""What the HTML gallery shows, collected row by row in bounded memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from effnet_cli.images.thumbnails import encode_thumbnail, make_thumbnail, shrink_thumbnail
from effnet_cli.predict.records import ErrorInfo, Prediction, ResultRow

# A browser scrolls 2,000 images with ease, and mail takes 15 MB (base64 adds a third).
MAX_IMAGES = 2_000
MAX_IMAGE_BYTES = 10_000_000
# Few images are sharp on any screen; with more than that, all become small.
FEW_IMAGES, SHARP_PX, SMALL_PX = 200, 320, 160
# Bands of confidence by their least probability; `unknown` is a band of its own.
BANDS = (0.9, 0.5, 0.0)
UNKNOWN_BAND = len(BANDS)
MAX_PREDICTIONS = 5  # of one image
MAX_FAILED = 200  # paths of one kind of error
MAX_PATH_CHARS, MAX_LABEL_CHARS = 400, 120  # so that no name or message fills the page


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image: its predictions, best first, and JPEGs of its crop and Grad-CAM overlay."""

    path: str
    predictions: tuple[Prediction, ...]
    image: bytes | None
    overlay: bytes | None

    @property
    def band(self) -> int:
        """The index of its band of confidence."""
        return _band(self.predictions[0])

    @property
    def size_bytes(self) -> int:
        return len(self.image or b"") + len(self.overlay or b"")

    def shrink(self, side_px: int) -> "GalleryImage":
        """The same with JPEGs of at most `side_px` a side."""
        image, overlay = (
            one and shrink_thumbnail(one, side_px) for one in (self.image, self.overlay)
        )
        return replace(self, image=image, overlay=overlay)


@dataclass(slots=True)
class Failures:
    """The images with one kind of error: how many, and the first paths for each message."""

    count: int = 0
    paths: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: str, error: ErrorInfo) -> None:
        """Count one more, and keep its path while there is room."""
        self.count += 1
        if self.count <= MAX_FAILED:
            message = shorten(error.message, MAX_PATH_CHARS)
            self.paths.setdefault(message, []).append(shorten(path, MAX_PATH_CHARS))


class Gallery:
    """Collects rows; `settings` are names and values to show."""

    def __init__(self, model: str, engine: str, settings: Sequence[tuple[str, str]] = ()) -> None:
        self.model, self.engine, self.settings = model, engine, settings
        self.images: list[GalleryImage] = []
        self.failed: dict[str, Failures] = {}
        # of all images with predictions, shown or not
        self.classes: Counter[str] = Counter()
        self.bands: Counter[int] = Counter()
        self._side_px = SHARP_PX
        self._image_bytes = 0
        self._is_full = False

    def add(self, row: ResultRow) -> None:
        """Collect one row."""
        result = row.result
        if result.error is not None:
            self.failed.setdefault(result.error.kind, Failures()).add(result.path, result.error)
            return
        best = result.predictions[0]
        self.bands[_band(best)] += 1
        if best.index is not None:
            self.classes[shorten(best.label, MAX_LABEL_CHARS)] += 1
        if len(self.images) == FEW_IMAGES and self._side_px == SHARP_PX:
            self._shrink()
        if not self._is_full:
            self._add_image(row)

    @property
    def succeeded(self) -> int:
        """Images with predictions, unknown ones included."""
        return self.bands.total()

    def _add_image(self, row: ResultRow) -> None:
        """Keep an image; from the first one that does not fit none is kept, so that there are no
        gaps.
        """
        image = _gallery_image(row, self._side_px)
        self._image_bytes += image.size_bytes
        self._is_full = self._image_bytes > MAX_IMAGE_BYTES
        if not self._is_full:
            self.images.append(image)
            self._is_full = len(self.images) == MAX_IMAGES

    def _shrink(self) -> None:
        self._side_px = SMALL_PX
        self.images = [image.shrink(SMALL_PX) for image in self.images]
        self._image_bytes = sum(image.size_bytes for image in self.images)


def shorten(text: str, max_chars: int) -> str:
    """`text` cut in its first half: the end of a path says most."""
    start = max_chars // 4
    return text if len(text) <= max_chars else f"{text[:start]}…{text[1 - max_chars + start :]}"


def _band(best: Prediction) -> int:
    if best.index is None:
        return UNKNOWN_BAND
    return next(band for band, least in enumerate(BANDS) if best.probability >= least)


def _gallery_image(row: ResultRow, side_px: int) -> GalleryImage:
    result, overlay = row.result, row.overlay.pixels if row.overlay else None
    return GalleryImage(
        shorten(result.path, MAX_PATH_CHARS),
        tuple(
            replace(one, label=shorten(one.label, MAX_LABEL_CHARS))
            for one in result.predictions[:MAX_PREDICTIONS]
        ),
        image=_encode(result.crop, side_px) or make_thumbnail(result.path, side_px),
        overlay=_encode(overlay, side_px),
    )


def _encode(pixels: npt.NDArray[np.uint8] | None, side_px: int) -> bytes | None:
    return None if pixels is None else encode_thumbnail(pixels, side_px)
