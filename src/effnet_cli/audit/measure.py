"""Open each image once more and measure it: features, border, brightness, contrast, sharpness."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from effnet_cli.engines.base import Crops
from effnet_cli.images.finder import ImageInput
from effnet_cli.models.familiarity import Features
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.pipeline import ScoredImage
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.reporter import Reporter

Indexes = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float32]

GRID = 16  # cells per side of a crop; its border is their outermost ring
IS_BORDER = np.pad(np.zeros((GRID - 2, GRID - 2), np.bool_), 1, constant_values=True)
GRAY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in JPEG


class Look(NamedTuple):
    """What is measured in the crop of one image.

    `features` are those of the model, float32 [D]; `border` has the mean colours of the cells along
    the border, float32 [180]. `brightness` and `contrast` are mean and standard deviation of the
    gray values, 0..255. `sharpness` is the variance of the Laplacian as a share of the contrast's.
    """

    features: Features
    border: Floats
    brightness: float
    contrast: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class Looks:
    """The looks of N images: `files` [N] are their indexes in the listing, and the other fields
    have a row per image. `faults` has the files that could not be opened again.
    """

    files: Indexes
    features: Features
    border: Floats
    brightness: Floats
    contrast: Floats
    sharpness: Floats
    faults: tuple[tuple[int, ImageError], ...]


def measure_images(
    classifier: Classifier, paths: Sequence[str], files: Indexes, *, reporter: Reporter
) -> Looks:
    """Measure the images `files` [N] of `paths`.

    Raises:
        UsageError: the model does not output its features.
        EffnetError: the engine cannot be loaded or used.
    """
    rows: list[Look] = []
    places: list[int] = []
    faults: list[tuple[int, ImageError]] = []
    for file, look in zip(files.tolist(), _run(classifier, paths, files), strict=True):
        if isinstance(look, ImageError):
            faults.append((file, look))
        else:
            places.append(file)
            rows.append(look)
        reporter.progress("Features", len(places) + len(faults), len(files))
    return Looks(
        files=np.array(places, np.intp),
        features=np.array([row.features for row in rows], np.float32),
        border=np.array([row.border for row in rows], np.float32),
        brightness=np.array([row.brightness for row in rows], np.float32),
        contrast=np.array([row.contrast for row in rows], np.float32),
        sharpness=np.array([row.sharpness for row in rows], np.float32),
        faults=tuple(faults),
    )


def _run(
    classifier: Classifier, paths: Sequence[str], files: Indexes
) -> Iterator[Look | ImageError]:
    def finish(_: ImageInput, scored: ScoredImage | ImageError) -> Look | ImageError:
        if isinstance(scored, ImageError):
            return scored
        if scored.features is None:
            raise UsageError(
                f"The model {classifier.name} does not output its features.",
                "Use the model that it was exported from, or export it with --include-features.",
            )
        return Look(scored.features, *_look_at(scored.crops[0]))

    names = (paths[file] for file in files.tolist())
    return classifier.run((ImageInput(name, name) for name in names), finish)


def _look_at(crop: Crops) -> tuple[Floats, float, float, float]:
    """Return border, brightness, contrast and sharpness of a crop, uint8 [H,W,3]."""
    pixels = crop.astype(np.float32)
    rows, columns = (np.linspace(0, side, GRID + 1).astype(int)[:-1] for side in crop.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0), columns, axis=1)
    area = np.add.reduceat(np.ones(crop.shape[0]), rows)[:, None]
    area = area * np.add.reduceat(np.ones(crop.shape[1]), columns)
    border = (sums / area[..., None])[IS_BORDER].astype(np.float32).reshape(-1)
    gray = pixels @ GRAY_WEIGHTS
    center = gray[1:-1, 1:-1]
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    variance = float(gray.var())
    sharpness = float((4 * center - around).var()) / max(variance, 1.0)
    return border, float(gray.mean()), variance**0.5, sharpness
