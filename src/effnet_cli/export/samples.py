"""The images that an export is calibrated on and held against: a person's, else the samples."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.labelled import LabelledImages, load_labelled
from effnet_cli.datasets.records import SPLIT_BY_NAME, TRAIN, VAL
from effnet_cli.datasets.saved_split import AMBIGUOUS, Places, locate_images
from effnet_cli.engines.base import Crops
from effnet_cli.images.finder import Finder
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.samples import sample_images_dir
from effnet_cli.images.views import VIEWS
from effnet_cli.models.card import ModelCard
from effnet_cli.options import ImageOptions
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.reporter import SILENT, Reporter

MIN_VIEWS = 32  # images that every export is compared on
MAX_CHECKED = 2_000  # of a person's images; their answers are compared one by one
MAX_CALIBRATION = 128  # more of them change no answer


@dataclass(frozen=True, slots=True)
class LabelledCrop:
    """One crop, uint8 [1,H,W,3], and the class it is labelled with."""

    crop: Crops
    label: int | None


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images by path, each with the class of its folder if all of them have one."""

    name: str
    paths: tuple[str, ...]
    labels: tuple[int, ...] | None

    @property
    def views(self) -> int:
        """The looks at all of them together: at least `MIN_VIEWS`."""
        return max(len(self.paths), MIN_VIEWS)

    def looked_at(
        self, card: ModelCard, options: ImageOptions, reporter: Reporter, what: str
    ) -> Iterator[LabelledCrop]:
        """Each image as `predict` would show it to the network; where there are few, also parts
        and mirror images of them. Those that cannot be opened are left out, and told.

        Raises:
            UsageError: none can be opened.
        """
        loader = ImageLoader(card.preprocessing, options)
        faults: dict[int, ImageError] = {}
        good = 0
        for view, index in product(VIEWS, range(len(self.paths))):
            if index in faults or (good >= MIN_VIEWS and view is not VIEWS[0]):
                continue
            reporter.progress(what, good, self.views)
            try:
                image = loader.open(self.paths[index])
            except ImageError as error:
                faults[index] = error.without_traceback()
                reporter.note(f"{self.paths[index]!r} is left out: {error}")
                continue
            label = None if self.labels is None else self.labels[index]
            yield LabelledCrop(loader.crop(view.apply(image))[None], label)
            good += 1
        reporter.progress(what, self.views, self.views)
        if not good:
            raise UsageError(f"No image in {self.name!r} can be opened.", "Name other ones.")


def samples() -> ImageSet:
    """The images that come with effnet."""
    paths = tuple(str(found.source) for found in Finder([str(sample_images_dir())]) if found.source)
    return ImageSet("the sample images", paths, None)


def choose_images(
    calibrate: Path | None,
    check: Path | None,
    card: ModelCard,
    options: ImageOptions = ImageOptions(),
    reporter: Reporter = SILENT,
    model: Path | None = None,
) -> tuple[ImageSet | None, ImageSet]:
    """The images to calibrate with, and those to compare on: without `check` the validation
    images beside the former, else those that are not used for it, else the samples.

    Raises:
        UsageError: a folder is missing or holds no image.
    """
    to_check = None

    def locate(data: LabelledImages) -> Places | None:
        return locate_images(data, card, model, images=options, reporter=reporter)

    if check is not None:
        to_check = _parts(check, card, locate)[1] or _found(check, str(check), card)
    if calibrate is None:
        return None, _spread(to_check or samples(), MAX_CHECKED)
    found, validation = _parts(calibrate, card, locate)
    learning = _spread(found, MAX_CALIBRATION)
    if to_check is None:
        others = _without(found, learning)
        same = replace(found, name=f"{found.name}, the same images")
        to_check = validation or (others if others.paths else same)
    return learning, _spread(to_check, MAX_CHECKED)


def _parts(
    root: Path, card: ModelCard, locate: Callable[[LabelledImages], Places | None]
) -> tuple[ImageSet, ImageSet | None]:
    """The images to calibrate with, and those to compare on where `root` has folders for both, or
    where the training of the model has split it.
    """
    train, validation = _split(root, TRAIN) or root, _split(root, VAL)
    if validation is not None:
        return _found(train, str(root), card), _found(validation, str(validation), card)
    data = _labelled(train)
    places = None if data is None else locate(data)
    if data is None or places is None or not (places == TRAIN).any():
        return _found(train, str(root), card), None
    others = np.isin(places, (TRAIN, AMBIGUOUS), invert=True)
    learning = _of_labelled(data, places == TRAIN, f"the training images of {root}", card)
    return learning, (
        _of_labelled(data, others, f"the images of {root} that its training had set aside", card)
        if others.any()
        else None
    )


def _labelled(root: Path) -> LabelledImages | None:
    try:
        return load_labelled(root)
    except UsageError:  # images without classes
        return None


def _of_labelled(
    data: LabelledImages, chosen: npt.NDArray[np.bool_], name: str, card: ModelCard
) -> ImageSet:
    indexes = [card.classes.index(name) for name in data.classes if name in card.classes]
    has_labels = len(indexes) == len(data.classes)
    labels = tuple(indexes[label] for label in data.labels[chosen]) if has_labels else None
    return ImageSet(name, tuple(data.paths.take(np.flatnonzero(chosen))), labels)


def _split(root: Path, split: int) -> Path | None:
    """The folder of a split with one of the usual names, if `root` has train beside it."""
    if not root.is_dir():
        return None
    roles = {
        SPLIT_BY_NAME.get(entry.name.lower()): entry for entry in root.iterdir() if entry.is_dir()
    }
    return roles.get(split) if TRAIN in roles else None


def _found(folder: Path, name: str, card: ModelCard) -> ImageSet:
    if not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is no folder of images.", "Name a folder.")
    paths = tuple(str(found.source) for found in Finder([str(folder)]) if found.source)
    if not paths:
        raise UsageError(f"There is no image in {str(folder)!r}.", "Name a folder of images.")
    indexes = {name: index for index, name in enumerate(card.classes)}
    labels = [indexes.get(Path(path).relative_to(folder).parts[0]) for path in paths]
    known = tuple(label for label in labels if label is not None)
    return ImageSet(name, paths, known if len(known) == len(paths) else None)


def _spread(images: ImageSet, most: int) -> ImageSet:
    """At most so many, drawn by a fixed lot, in their order."""
    if len(images.paths) <= most:
        return images
    drawn = random.Random(0).sample(range(len(images.paths)), most)  # noqa: S311 (no secret)
    return _those(images, sorted(drawn))


def _without(images: ImageSet, others: ImageSet) -> ImageSet:
    used = set(others.paths)
    return _those(images, [i for i, path in enumerate(images.paths) if path not in used])


def _those(images: ImageSet, indexes: list[int]) -> ImageSet:
    labels = images.labels
    return ImageSet(
        images.name,
        tuple(images.paths[i] for i in indexes),
        None if labels is None else tuple(labels[i] for i in indexes),
    )
