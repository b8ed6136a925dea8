"""Collect what the HTML gallery shows, row by row, in bounded memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from effnet_cli.images.thumbnails import encode_thumbnail, shrink_thumbnail
from effnet_cli.predict.records import NO_LABEL, ErrorInfo, Prediction, ResultRow
from effnet_cli.system.text import shorten

# Browsers scroll 2,000 images smoothly, and email accepts 15 MB (base64 adds a third).
MAX_IMAGES = 2_000
MAX_IMAGE_BYTES = 10_000_000
# Up to FEW_IMAGES are shown sharp on any screen; beyond that, all of them become small.
FEW_IMAGES, SHARP_PX, SMALL_PX = 200, 320, 160
# The lowest probability of each confidence band; `unknown` is a band of its own.
BANDS = (0.9, 0.5, 0.0)
UNKNOWN_BAND = len(BANDS)
MAX_PREDICTIONS = 5  # of one image
MAX_FAILED = 200  # paths of one kind of error
MAX_PATH_CHARS, MAX_LABEL_CHARS = 400, 120  # so that no name or message fills the page


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image: predictions (best first), confidence band index, and crop and overlay JPEGs."""

    path: str
    predictions: tuple[Prediction, ...]
    band: int
    image: bytes | None
    overlay: bytes | None

    @property
    def size_bytes(self) -> int:
        return len(self.image or b"") + len(self.overlay or b"")

    def shrink(self, side_px: int) -> "GalleryImage":
        """Return a copy whose JPEGs are at most `side_px` pixels on each side."""
        image, overlay = (
            one and shrink_thumbnail(one, side_px) for one in (self.image, self.overlay)
        )
        return replace(self, image=image, overlay=overlay)


@dataclass(slots=True)
class Gallery:
    """Collects rows; `settings` are the names and values to show."""

    model: str
    engine: str
    settings: Sequence[tuple[str, str]] = ()
    images: list[GalleryImage] = field(default_factory=list)
    # image counts (shown or not) by class, by band and by kind of error
    classes: Counter[str] = field(default_factory=Counter)
    bands: Counter[int] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    # the paths of the first failed images, by kind of error and message
    failed_paths: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    _side_px: int = SHARP_PX
    _image_bytes: int = 0
    is_full: bool = False

    @property
    def succeeded(self) -> int:
        """Images with predictions, unknown ones included."""
        return self.bands.total()

    def add(self, row: ResultRow) -> None:
        """Collect one row."""
        if row.result.error is not None:
            self._add_failure(row.result.path, row.result.error)
            return
        result = row.result
        known = [one for one in result.predictions if one.index is not None]
        band = UNKNOWN_BAND
        if known and (result.is_multi_label or result.predictions[0].index is not None):
            band = next(band for band, least in enumerate(BANDS) if known[0].probability >= least)
        if band != UNKNOWN_BAND:
            labels = known if result.is_multi_label else known[:1]
            self.classes.update(shorten(one.label, MAX_LABEL_CHARS) for one in labels)
        self.bands[band] += 1
        if not self.is_full:
            self._add_image(row, band)

    def _add_failure(self, path: str, error: ErrorInfo) -> None:
        self.failed[error.kind] += 1
        if self.failed[error.kind] <= MAX_FAILED:
            message = shorten(error.message, MAX_PATH_CHARS)
            paths = self.failed_paths.setdefault(error.kind, {}).setdefault(message, [])
            paths.append(shorten(path, MAX_PATH_CHARS))

    def _add_image(self, row: ResultRow, band: int) -> None:
        """Keep an image if it fits; after the first that does not, keep none, to avoid gaps."""
        if len(self.images) == FEW_IMAGES and self._side_px == SHARP_PX:
            self._side_px = SMALL_PX
            self.images = [image.shrink(SMALL_PX) for image in self.images]
            self._image_bytes = sum(image.size_bytes for image in self.images)
        image = _gallery_image(row, band, side_px=self._side_px)
        self._image_bytes += image.size_bytes
        self.is_full = self._image_bytes > MAX_IMAGE_BYTES
        if not self.is_full:
            self.images.append(image)
            self.is_full = len(self.images) == MAX_IMAGES


def _gallery_image(row: ResultRow, band: int, *, side_px: int) -> GalleryImage:
    result, overlay = row.result, row.overlay.pixels if row.overlay else None
    return GalleryImage(
        shorten(result.path, MAX_PATH_CHARS),
        tuple(
            replace(one, label=shorten(one.label, MAX_LABEL_CHARS))
            for one in result.predictions[: None if result.is_multi_label else MAX_PREDICTIONS]
        )
        or (Prediction(1, None, NO_LABEL, probability=0.0),),
        band,
        image=_encode(result.crop, side_px),
        overlay=_encode(overlay, side_px),
    )


def _encode(pixels: npt.NDArray[np.uint8] | None, side_px: int) -> bytes | None:
    return None if pixels is None else encode_thumbnail(pixels, side_px)
