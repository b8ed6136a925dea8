"""What a page of images and answers shows, collected as the answers pass."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from effnet_cli.images.thumbnails import encode_thumbnail, make_thumbnail, shrink_thumbnail
from effnet_cli.predict.records import ErrorInfo, ImageResult, Prediction

# What one page can carry: a browser scrolls 2,000 images with ease, and mail takes 15 MB (the
# images' bytes grow by a third as text).
MAX_IMAGES = 2_000
MAX_IMAGE_BYTES = 10_000_000
# Few images are sharp on any screen; as soon as there are more, all become small.
FEW_IMAGES, SHARP_PX, SMALL_PX = 200, 320, 160
# Certainty in steps: the least probability of each; what has no class is a step of its own.
STEPS = (0.9, 0.5, 0.0)
NO_CLASS = len(STEPS)
MAX_ANSWERS = 5  # of one image
MAX_FAILED = 200  # paths of one kind of failure
MAX_PATH, MAX_LABEL = 400, 120  # characters, so that no name (or message) fills the page


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image of the page: its answers, best first, and JPEGs of what the network saw and of
    what speaks for the best answer.
    """

    path: str
    answers: tuple[Prediction, ...]
    image: bytes | None
    overlay: bytes | None

    @property
    def step(self) -> int:
        """How sure the best answer is: its place in `STEPS`, or `NO_CLASS`."""
        return _step(self.answers[0])

    @property
    def size_bytes(self) -> int:
        return len(self.image or b"") + len(self.overlay or b"")

    def smaller(self, side_px: int) -> "GalleryImage":
        """The same with JPEGs of at most `side_px` a side."""
        image, overlay = (
            one and shrink_thumbnail(one, side_px) for one in (self.image, self.overlay)
        )
        return replace(self, image=image, overlay=overlay)


@dataclass(slots=True)
class Failures:
    """The images without an answer, for one reason: how many, and the first paths behind each
    message.
    """

    number: int = 0
    paths: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: str, message: str) -> None:
        """Count one more, and keep its path while there is room."""
        self.number += 1
        if self.number <= MAX_FAILED:
            self.paths.setdefault(cut(message, MAX_PATH), []).append(cut(path, MAX_PATH))


class Gallery:
    """Collects what the page shows; memory is bounded however many images there are.

    Args:
        model: the variant, or the model file.
        engine: what runs it, in words.
        choices: what else was chosen, as names and values.
    """

    def __init__(self, model: str, engine: str, choices: Sequence[tuple[str, str]] = ()) -> None:
        self.model, self.engine, self.choices = model, engine, choices
        self.images: list[GalleryImage] = []
        self.failed: dict[str, Failures] = {}
        # of all that have an answer, shown or not
        self.classes: Counter[str] = Counter()
        self.steps: Counter[int] = Counter()
        self._side_px = SHARP_PX
        self._image_bytes = 0
        self._is_full = False

    def watch(self, predictions: Iterable[ImageResult]) -> Iterator[ImageResult]:
        """The same rows; what the page shows of each is taken while it passes."""
        for prediction in predictions:
            if prediction.error is None:
                self._answered(prediction)
            else:
                self._failed(prediction.path, prediction.error)
            yield prediction

    @property
    def answered(self) -> int:
        """Images with an answer, those without a class among them."""
        return self.steps.total()

    def _failed(self, path: str, fault: ErrorInfo) -> None:
        self.failed.setdefault(fault.kind, Failures()).add(path, fault.message)

    def _answered(self, prediction: ImageResult) -> None:
        best = prediction.predictions[0]
        self.steps[_step(best)] += 1
        if best.index is not None:
            self.classes[cut(best.label, MAX_LABEL)] += 1
        if len(self.images) == FEW_IMAGES and self._side_px == SHARP_PX:
            self._shrink()
        if not self._is_full:
            self._show(prediction)

    def _show(self, prediction: ImageResult) -> None:
        """Keep an image; the page is full from the first one that does not fit, so that what is
        shown has no gaps.
        """
        image = _image(prediction, self._side_px)
        self._image_bytes += image.size_bytes
        self._is_full = self._image_bytes > MAX_IMAGE_BYTES
        if not self._is_full:
            self.images.append(image)
            self._is_full = len(self.images) == MAX_IMAGES

    def _shrink(self) -> None:
        self._side_px = SMALL_PX
        self.images = [one.smaller(SMALL_PX) for one in self.images]
        self._image_bytes = sum(one.size_bytes for one in self.images)


def cut(text: str, size: int) -> str:
    """`text` of at most `size` characters: a path tells most at its end."""
    return text if len(text) <= size else f"{text[: size // 4]}…{text[1 - size + size // 4 :]}"


def _step(best: Prediction) -> int:
    if best.index is None:
        return NO_CLASS
    return next(step for step, least in enumerate(STEPS) if best.probability >= least)


def _image(prediction: ImageResult, side_px: int) -> GalleryImage:
    answers = prediction.predictions[:MAX_ANSWERS]
    return GalleryImage(
        cut(prediction.path, MAX_PATH),
        tuple(replace(one, label=cut(one.label, MAX_LABEL)) for one in answers),
        _small(prediction.crop, side_px) or make_thumbnail(prediction.path, side_px),
        _small(prediction.overlay, side_px),
    )


def _small(crop: npt.NDArray[np.uint8] | None, side_px: int) -> bytes | None:
    return None if crop is None else encode_thumbnail(crop, side_px)
