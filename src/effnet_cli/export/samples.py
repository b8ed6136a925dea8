"""The pictures that an export is calibrated on and held against: a person's, else the samples."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from effnet_cli.datasets.divided import divided
from effnet_cli.datasets.listing import ROLE_OF
from effnet_cli.datasets.records import TRAIN, VAL, Subset
from effnet_cli.engines import Pixels
from effnet_cli.images import VIEWS, Finder, PictureLoader
from effnet_cli.images.samples import samples_folder
from effnet_cli.models.checkpoint import ModelCard
from effnet_cli.options import SILENT, Listener, PictureOptions
from effnet_cli.system.errors import PictureError, UsageError

MIN_VIEWS = 32  # pictures that every export is compared on
MAX_CHECKED = 2_000  # of a person's pictures; their answers are compared one by one
MAX_CALIBRATION = 128  # more of them change no answer


@dataclass(frozen=True, slots=True)
class Looked:
    """One picture for the network, float32 [1,3,H,W], and the class it is labelled with."""

    pixels: Pixels
    label: int | None


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Pictures by path, each with the class of its folder if all of them have one."""

    name: str
    paths: tuple[str, ...]
    labels: tuple[int, ...] | None

    @property
    def views(self) -> int:
        """The looks at all of them together: at least `MIN_VIEWS`."""
        return max(len(self.paths), MIN_VIEWS)

    def looked_at(
        self, card: ModelCard, options: PictureOptions, listener: Listener, what: str
    ) -> Iterator[Looked]:
        """Each picture as `predict` would show it to the network; where there are few, also parts
        and mirror images of them. Those that cannot be opened are left out, and told.

        Raises:
            UsageError: none can be opened.
        """
        loader = PictureLoader(card.preprocessing, options)
        faults: dict[int, PictureError] = {}
        good = 0
        for view, index in product(VIEWS, range(len(self.paths))):
            if index in faults or (good >= MIN_VIEWS and view is not VIEWS[0]):
                continue
            listener.progress(what, good, self.views)
            try:
                image = loader.open(self.paths[index])
            except PictureError as error:
                faults[index] = error.kept()
                listener.note(f"{self.paths[index]!r} is left out: {error}")
                continue
            pixels = loader.normalise(loader.fit(view.of(image)))
            yield Looked(pixels[None], self.labels[index] if self.labels is not None else None)
            good += 1
        listener.progress(what, self.views, self.views)
        if not good:
            raise UsageError(f"No picture in {self.name!r} can be opened.", "Name other ones.")


def samples() -> PictureSet:
    """The pictures that come with effnet."""
    paths = tuple(str(found.source) for found in Finder([str(samples_folder())]) if found.source)
    return PictureSet("the sample pictures", paths, None)


def chosen(
    calibrate: Path | None,
    check: Path | None,
    card: ModelCard,
    options: PictureOptions = PictureOptions(),
    listener: Listener = SILENT,
) -> tuple[PictureSet | None, PictureSet]:
    """The pictures to calibrate with, and those to compare on: without `check` the validation
    pictures beside the former, else those that are not used for it, else the samples.

    Raises:
        UsageError: a folder is missing or holds no picture.
    """
    to_check = None
    if check is not None:
        to_check = _parts(check, card, options, listener)[1] or _found(check, str(check), card)
    if calibrate is None:
        return None, _spread(to_check or samples(), MAX_CHECKED)
    found, validation = _parts(calibrate, card, options, listener)
    learning = _spread(found, MAX_CALIBRATION)
    if to_check is None:
        others = _without(found, learning)
        same = replace(found, name=f"{found.name}, the same pictures")
        to_check = validation or (others if others.paths else same)
    return learning, _spread(to_check, MAX_CHECKED)


def _parts(
    root: Path, card: ModelCard, options: PictureOptions, listener: Listener
) -> tuple[PictureSet, PictureSet | None]:
    """The pictures to learn from, and those for validation where `root` has folders for both, or
    where the network's training has divided it.
    """
    validation = _split(root, VAL)
    if validation is not None:
        train = _split(root, TRAIN) or root
        return _found(train, str(root), card), _found(validation, str(validation), card)
    found = divided(root, card, options, listener)
    if found is None:
        return _found(_split(root, TRAIN) or root, str(root), card), None
    return (
        _of_subset(found.train, f"the training pictures of {root}"),
        _of_subset(found.val, f"the pictures of {root} that its training had set aside"),
    )


def _of_subset(subset: Subset, name: str) -> PictureSet:
    return PictureSet(name, tuple(subset.paths), tuple(map(int, subset.labels)))


def _split(root: Path, split: int) -> Path | None:
    """The folder of a split with one of the usual names, if `root` has train beside it."""
    if not root.is_dir():
        return None
    roles = {ROLE_OF.get(entry.name.lower()): entry for entry in root.iterdir() if entry.is_dir()}
    return roles.get(split) if TRAIN in roles else None


def _found(folder: Path, name: str, card: ModelCard) -> PictureSet:
    if not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is no folder of pictures.", "Name a folder.")
    paths = tuple(str(found.source) for found in Finder([str(folder)]) if found.source)
    if not paths:
        raise UsageError(f"There is no picture in {str(folder)!r}.", "Name a folder of pictures.")
    indexes = {name: index for index, name in enumerate(card.classes)}
    labels = [indexes.get(Path(path).relative_to(folder).parts[0]) for path in paths]
    known = tuple(label for label in labels if label is not None)
    return PictureSet(name, paths, known if len(known) == len(paths) else None)


def _spread(pictures: PictureSet, most: int) -> PictureSet:
    """At most so many, drawn by a fixed lot, in their order."""
    if len(pictures.paths) <= most:
        return pictures
    drawn = random.Random(0).sample(range(len(pictures.paths)), most)  # noqa: S311 (no secret)
    return _those(pictures, sorted(drawn))


def _without(pictures: PictureSet, others: PictureSet) -> PictureSet:
    used = set(others.paths)
    return _those(pictures, [i for i, path in enumerate(pictures.paths) if path not in used])


def _those(pictures: PictureSet, indexes: list[int]) -> PictureSet:
    labels = pictures.labels
    return PictureSet(
        pictures.name,
        tuple(pictures.paths[i] for i in indexes),
        None if labels is None else tuple(labels[i] for i in indexes),
    )
