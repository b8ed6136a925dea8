"""What `predict` yields: one result per image."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NO_LABEL = "no label"  # of several


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of one image.

    `rank` starts at 1. `index` is the class's position in the scores, or `None` for `unknown`.
    `probability` is 0..1.
    """

    rank: int
    index: int | None
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an image is positive at an operating point called `name`.

    It is if `probability`, that of the class `label`, is `threshold` or more.
    """

    name: str
    label: str
    threshold: float
    probability: float
    is_positive: bool


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why an image has no predictions: `kind` is one of `options.ErrorKind`."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The predictions for one image, best first, or the error. If it `is_multi_label`, these are
    all its labels, and may be none.

    With an operating point, the first prediction is the decision, whatever its probability: the
    positive class, or the best other one. `path` is the input as given. `crop` is what the model
    saw, uint8 [H,W,3], if it was kept (`PredictOptions.keep_crops`).
    """

    path: str
    predictions: tuple[Prediction, ...] = ()
    error: ErrorInfo | None = None
    crop: npt.NDArray[np.uint8] | None = None
    operating_point: Decision | None = None
    is_multi_label: bool = False

    @property
    def best_label(self) -> str:
        """The best class or label; `no label` if an image has none of several."""
        return self.predictions[0].label if self.predictions else NO_LABEL

    @property
    def labels(self) -> list[str]:
        """The best class, or all labels of several."""
        labels = [one.label for one in self.predictions] or [self.best_label]
        return labels if self.is_multi_label else labels[:1]

    @property
    def status(self) -> str:
        """`ok` or `error`."""
        return "ok" if self.error is None else "error"


@dataclass(frozen=True, slots=True)
class Overlay:
    """A saved Grad-CAM overlay; `pixels`, uint8 [H,W,3], is `None` in a row that was read back."""

    path: str
    pixels: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """Where an image was copied or moved to."""

    path: str
    is_moved: bool


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One row of a run: a result, and the overlay and copy of its image, if any."""

    result: ImageResult
    overlay: Overlay | None = None
    placed: PlacedFile | None = None
