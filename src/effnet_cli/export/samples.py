"""Chooses and loads the images for calibrating and comparing an export."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.labelled import LabelledImages, load_labelled
from effnet_cli.datasets.saved_split import AMBIGUOUS, locate_images
from effnet_cli.datasets.split import SPLIT_BY_NAME, SPLITS, TRAIN, VAL
from effnet_cli.engines.base import Crops
from effnet_cli.images.finder import Finder
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.samples import sample_images_dir
from effnet_cli.images.views import VIEWS
from effnet_cli.models.card import ModelCard
from effnet_cli.options import ExportTask, ImageOptions, LabelOptions
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.reporter import SILENT, Reporter

MIN_VIEWS = 32  # the fewest views to calibrate or compare on
MAX_COMPARED = 2_000  # images
MAX_CALIBRATION = 128  # images; more do not change the result


@dataclass(frozen=True, slots=True)
class LabelledCrop:
    """One crop, uint8 [1,H,W,3], and its class index if known."""

    crop: Crops
    label: int | None


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Image paths, and their class indexes if all are known."""

    name: str
    paths: tuple[str, ...]
    labels: tuple[int, ...] | None = None

    @property
    def num_views(self) -> int:
        return max(len(self.paths), MIN_VIEWS)

    def load(
        self, card: ModelCard, options: ImageOptions, *, reporter: Reporter, step: str
    ) -> Iterator[LabelledCrop]:
        """Yield each image as `predict` loads it; skip those that cannot be opened, with a note.

        If there are fewer than `MIN_VIEWS`, add mirrored views and parts of the images.

        Raises:
            UsageError: no image can be opened.
        """
        loader = ImageLoader(card.preprocessing, options)
        failed: set[int] = set()
        loaded = 0
        for view, index in product(VIEWS, range(len(self.paths))):
            if index in failed or (loaded >= MIN_VIEWS and view is not VIEWS[0]):
                continue
            reporter.progress(step, loaded, self.num_views)
            try:
                image = loader.open(self.paths[index])
            except ImageError as error:
                failed.add(index)
                reporter.note(f"Skipping {self.paths[index]!r}: {error}")
                continue
            label = None if self.labels is None else self.labels[index]
            yield LabelledCrop(loader.crop(view.apply(image))[None], label)
            loaded += 1
        reporter.progress(step, self.num_views, self.num_views)
        if not loaded:
            raise UsageError(
                f"No image in {self.name!r} can be opened.", "Choose different images."
            )

    def limit(self, most: int) -> "ImageSet":
        """Return at most `most` images, chosen at random with a fixed seed, in order."""
        if len(self.paths) <= most:
            return self
        chosen = random.Random(0).sample(range(len(self.paths)), most)  # noqa: S311 (no secret)
        return self._select(sorted(chosen))

    def exclude(self, others: "ImageSet") -> "ImageSet":
        used = set(others.paths)
        return self._select(i for i, path in enumerate(self.paths) if path not in used)

    def _select(self, indexes: Iterable[int]) -> "ImageSet":
        chosen = list(indexes)
        labels = None if self.labels is None else tuple(self.labels[i] for i in chosen)
        return ImageSet(self.name, tuple(self.paths[i] for i in chosen), labels)


def sample_images() -> ImageSet:
    """Return the images that come with effnet."""
    return ImageSet("the sample images", _find_images(sample_images_dir()))


def choose_images(
    task: ExportTask, card: ModelCard, reporter: Reporter = SILENT
) -> tuple[ImageSet | None, ImageSet]:
    """Return the images to calibrate on (`None` without `task.calibrate`) and to compare on.

    The images to compare on come from `task.check`. Otherwise they are the validation images that
    belong to `task.calibrate`, else its images not used for calibration, else the calibration
    images. Without either folder they are the sample images.

    Raises:
        UsageError: a folder is missing or has no image.
    """
    compared = None
    if task.check is not None:
        _, validation = _find_parts(task.check, task, card, reporter=reporter)
        compared = validation or _read_images(
            task.check, str(task.check), card, options=task.labels
        )
    if task.calibrate is None:
        return None, (compared or sample_images()).limit(MAX_COMPARED)
    train, validation = _find_parts(task.calibrate, task, card, reporter=reporter)
    calibration = train.limit(MAX_CALIBRATION)
    if compared is None:
        rest = train.exclude(calibration)
        same = replace(train, name=f"{train.name} (the calibration images)")
        compared = validation or (rest if rest.paths else same)
    return calibration, compared.limit(MAX_COMPARED)


def _find_parts(
    root: Path, task: ExportTask, card: ModelCard, *, reporter: Reporter
) -> tuple[ImageSet, ImageSet | None]:
    """Return the images in `root` to calibrate on and, if known, separate ones to compare on.

    These are known if `root` has a training and a validation folder, or if the model was trained
    on only some of its images.
    """
    train, validation = _find_split(root, TRAIN) or root, _find_split(root, VAL)
    if validation is not None:
        compared = _read_images(validation, str(validation), card, options=task.labels)
        return _read_images(train, str(root), card, options=task.labels), compared
    parts = [_read_labelled(root, task.labels, SPLITS[split]) for split in (TRAIN, VAL)]
    if None not in parts:  # a table, an archive, or folders under other names
        train_set, validation_set = (
            _select_labelled(part, np.ones(len(part.labels), dtype=np.bool_), card, name=str(root))
            for part in parts
            if part is not None
        )
        return train_set, validation_set
    data = _read_labelled(train, task.labels) if card.dataset else None
    if data is not None:
        places = locate_images(data, card, task.model.model, images=task.images, reporter=reporter)
        if places is not None and (places == TRAIN).any():
            name = f"the training images of {root}"
            trained = _select_labelled(data, places == TRAIN, card, name=name)
            name = f"the images of {root} that the model was not trained on"
            is_new = np.isin(places, (TRAIN, AMBIGUOUS), invert=True)
            rest = _select_labelled(data, is_new, card, name=name)
            return trained, rest if rest.paths else None
    return _read_images(train, str(root), card, options=task.labels), None


def _find_split(root: Path, split: int) -> Path | None:
    """Find the folder of a split by its usual names, provided `root` has a training folder."""
    if not root.is_dir():
        return None
    folders = {SPLIT_BY_NAME.get(one.name.lower()): one for one in root.iterdir() if one.is_dir()}
    return folders.get(split) if TRAIN in folders else None


def _read_labelled(
    root: Path, options: LabelOptions, split: str | None = None
) -> LabelledImages | None:
    try:
        return load_labelled(root, split, options)
    except UsageError:  # images without classes, or no such split
        return None


def _select_labelled(
    data: LabelledImages, is_chosen: npt.NDArray[np.bool_], card: ModelCard, *, name: str
) -> ImageSet:
    paths = tuple(data.paths.take(np.flatnonzero(is_chosen)))
    if data.label_sets is not None or not set(data.classes) <= set(card.classes):
        return ImageSet(name, paths)
    indexes = [card.classes.index(label) for label in data.classes]
    return ImageSet(name, paths, tuple(indexes[label] for label in data.labels[is_chosen]))


def _read_images(folder: Path, name: str, card: ModelCard, *, options: LabelOptions) -> ImageSet:
    """Read all images below a folder, with labels if its subfolders are named after classes; or
    those of another dataset.
    """
    if not folder.is_dir():
        data = load_labelled(folder, options=options)
        return _select_labelled(data, np.ones(len(data.labels), dtype=np.bool_), card, name=name)
    paths = _find_images(folder)
    if not paths:
        raise UsageError(f"No images found in {str(folder)!r}.", "Use a folder of images.")
    indexes = {name: index for index, name in enumerate(card.classes)}
    labels = [indexes.get(Path(path).relative_to(folder).parts[0]) for path in paths]
    known = tuple(label for label in labels if label is not None)
    return ImageSet(name, paths, known if len(known) == len(paths) else None)


def _find_images(folder: Path) -> tuple[str, ...]:
    return tuple(str(found.source) for found in Finder([str(folder)]) if found.source)
