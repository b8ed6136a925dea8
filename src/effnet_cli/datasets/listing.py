"""Turn a source of labelled files, in any format, into one list of files."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.findings import Counters, Finding, error, note
from effnet_cli.datasets.groups import GroupNumbers
from effnet_cli.datasets.label_sets import LabelSets, split_labels
from effnet_cli.datasets.paths import Paths
from effnet_cli.datasets.split import SPLITS, TRAIN, VAL
from effnet_cli.system.errors import ImageError
from effnet_cli.system.text import pluralize, quote_names


class LayoutError(Exception):
    """The files of a dataset cannot be listed. The scan ends with this one finding."""

    def __init__(self, kind: str, message: str, hint: str, paths: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.finding = error(kind, message, hint, paths=tuple(paths))


class LabelledFile(NamedTuple):
    """A file and the name of its class. `error` is set if it is not a regular file. `group` names
    what it has in common with others, which stay on the same side of a split.
    """

    path: str
    label: str
    error: ImageError | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class Files:
    """Labelled files. `labels` [N] are indexes into `classes`, of which some may have no file.

    `groups` [N] are numbers of the groups, -1 for none. `faults` has the errors of entries that are
    not regular files, by index.
    """

    classes: Sequence[str]
    paths: Paths
    labels: npt.NDArray[np.int32]
    groups: npt.NDArray[np.int32]
    faults: dict[int, ImageError]

    def find_unknown(self, classes: Sequence[str]) -> list[str]:
        """Return the classes of these files that are not among `classes`, in order."""
        return sorted({self.classes[label] for label in np.unique(self.labels)}.difference(classes))

    def select(self, classes: Sequence[str]) -> "Files":
        """Return the files of `classes`, numbered by these."""
        if list(classes) == list(self.classes):
            return self
        indexes = {name: index for index, name in enumerate(classes)}
        numbers = np.array([indexes.get(name, -1) for name in self.classes], dtype=np.int32)
        labels = numbers[self.labels]
        kept = np.flatnonzero(labels >= 0)
        places = {int(old): new for new, old in enumerate(kept)} if self.faults else {}
        faults = {places[old]: fault for old, fault in self.faults.items() if old in places}
        return Files(
            classes,
            self.paths.take(kept),
            labels[kept],
            groups=self.groups[kept],
            faults=faults,
        )

    def extend(self, other: "Files") -> "Files":
        """Return these files and `other` files of the same classes."""
        faults = {len(self.paths) + index: fault for index, fault in other.faults.items()}
        return Files(
            self.classes,
            self.paths + other.paths,
            np.concatenate([self.labels, other.labels]),
            groups=np.concatenate([self.groups, other.groups]),
            faults=self.faults | faults,
        )


# A finding about counted items: level, kind, noun, what follows it, hint.
CountedFinding = tuple[Callable[..., Finding], str, str, str, str]


@dataclass(slots=True, kw_only=True)
class Source:
    """A dataset in some format, whose splits are read on demand.

    `layout` describes it, e.g. `train/ and val/`. A source without splits has TRAIN only.
    """

    counted: ClassVar[tuple[CountedFinding, ...]] = ()
    layout: str
    has_splits: bool
    splits: set[int]
    notes: list[Finding] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)

    def read(self, split: int) -> tuple[list[str], Iterable[LabelledFile]]:
        """Return the classes of a split, including those without files, and its files.

        Raises:
            LayoutError: the files cannot be listed.
        """
        raise NotImplementedError

    def findings(self) -> Iterable[Finding]:
        """Yield the notes, and findings for what was counted so far."""
        yield from self.notes
        for make, kind, noun, what, hint in self.counted:
            count, examples = self.counters[kind].count, self.counters[kind].examples
            if count:
                message = f"{pluralize(count, noun)} {what}"
                yield make(kind, message, hint, count=count, paths=tuple(examples))


def read_files(source: Source, split: int, groups: GroupNumbers) -> Files:
    """Read a split. Its files are not kept as objects, since there may be millions.

    Raises:
        LayoutError: the files cannot be listed.
    """
    classes, files = source.read(split)
    indexes = {name: index for index, name in enumerate(classes)}
    labels, numbers, faults = array("i"), array("i"), {}

    def take(file: LabelledFile) -> str:
        if file.error is not None:
            faults[len(labels)] = file.error
        labels.append(indexes[file.label])
        numbers.append(groups.number_of(file))
        return file.path

    paths = Paths(map(take, files))
    return Files(
        classes,
        paths,
        np.array(labels, dtype=np.int32),
        groups=np.array(numbers, dtype=np.int32),
        faults=faults,
    )


@dataclass(slots=True)
class FileList:
    """Every file of a dataset with its class (an index of `classes`), split (of SPLITS) and group
    (a number, -1 for none).

    `faults` has the errors of entries that are not regular files, by index. `is_automatic` says
    that validation has yet to be split off from the training images. With `label_sets`, images have
    several labels or none, and `labels` are indexes of the sets.
    """

    layout: str
    classes: list[str]
    paths: Paths
    labels: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int8]
    groups: npt.NDArray[np.int32]
    is_automatic: bool
    label_sets: LabelSets | None = None
    findings: list[Finding] = field(default_factory=list)
    faults: dict[int, ImageError] = field(default_factory=dict)


def number_label_sets(
    parts: Sequence[Files], classes: Sequence[str]
) -> tuple[Files, LabelSets, list[int]]:
    """Return the files of all parts, which have texts of labels as classes, the sets that their
    labels are then indexes of, and the numbers of files of each part. Images with labels other than
    `classes` are left out.
    """
    indexes = {name: index for index, name in enumerate(classes)}
    keys = sorted({part.classes[label] for part in parts for label in np.unique(part.labels)})
    known = [key for key in keys if all(name in indexes for name in split_labels(key))]
    targets = np.zeros((len(known), len(classes)), dtype=np.bool_)
    for row, key in enumerate(known):
        targets[row, [indexes[name] for name in split_labels(key)]] = True
    chosen = [part.select(known) for part in parts]
    sizes = [len(part.paths) for part in chosen]
    return reduce(Files.extend, chosen), LabelSets(targets), sizes


def list_labels(files: Files) -> list[str]:
    """Return all labels of files that have texts of labels as classes, in order."""
    used = (files.classes[label] for label in np.unique(files.labels))
    return sorted({name for key in used for name in split_labels(key)})


def list_files(
    source: Source, groups: GroupNumbers, *, skip_empty: bool, is_multi_label: bool = False
) -> FileList:
    """Read all splits. The training images define the classes.

    Raises:
        LayoutError: there is no training split, or the files cannot be listed.
    """
    if source.splits and TRAIN not in source.splits:
        names = quote_names([SPLITS[split] for split in sorted(source.splits)])
        hint = "Name the split of the training images 'train'."
        raise LayoutError("no_train", f"The dataset has no 'train' split, only {names}.", hint)
    if is_multi_label:
        return _list_multi_label(source, groups)
    train = read_files(source, TRAIN, groups)
    is_filled = np.bincount(train.labels, minlength=len(train.classes)) > 0
    empty = [name for name, filled in zip(train.classes, is_filled, strict=True) if not filled]
    classes = [name for name in train.classes if not skip_empty or name not in set(empty)]
    findings = [*_empty_classes(empty, skip_empty)]
    parts, splits = [train.select(classes)], [TRAIN]
    for split in sorted(source.splits - {TRAIN}):
        held_out = read_files(source, split, groups)
        findings += _unknown_classes(held_out.find_unknown(train.classes), SPLITS[split])
        parts.append(held_out.select(classes))
        splits.append(split)
    files = reduce(Files.extend, parts)
    return FileList(
        layout=source.layout,
        classes=classes,
        paths=files.paths,
        labels=files.labels,
        splits=np.repeat(np.array(splits, np.int8), [len(part.paths) for part in parts]),
        groups=files.groups,
        is_automatic=VAL not in source.splits,
        findings=[*source.findings(), *groups.findings(), *findings],
        faults=files.faults,
    )


def _list_multi_label(source: Source, groups: GroupNumbers) -> FileList:
    splits = sorted(source.splits)
    parts = [read_files(source, split, groups) for split in splits]
    classes = list_labels(parts[splits.index(TRAIN)])
    findings: list[Finding] = []
    for split, part in zip(splits, parts, strict=True):
        unknown = sorted(set(list_labels(part)).difference(classes))
        findings += _unknown_classes(unknown, SPLITS[split])
    files, label_sets, kept = number_label_sets(parts, classes)
    return FileList(
        layout=f"{source.layout}, several labels for an image",
        classes=classes,
        paths=files.paths,
        labels=files.labels,
        splits=np.repeat(np.array(splits, np.int8), kept),
        groups=files.groups,
        is_automatic=VAL not in source.splits,
        label_sets=label_sets,
        findings=[*source.findings(), *groups.findings(), *findings],
        faults=files.faults,
    )


def _empty_classes(names: list[str], is_skipped: bool) -> Iterable[Finding]:
    count = pluralize(len(names), "class has", "classes have")
    message = f"{count} no images: {quote_names(names)}."
    if names and is_skipped:
        yield note("empty_class", f"{message} Skipped.", count=len(names))
    elif names:
        yield error("empty_class", message, "Add images, or use --skip-empty.", count=len(names))


def _unknown_classes(names: list[str], split: str) -> Iterable[Finding]:
    if names:
        count = pluralize(len(names), "class", "classes")
        message = f"Split {split} has {count} without training images: {quote_names(names)}."
        hint = f"Add training images, or remove them from {split}."
        yield error(f"unknown_in_{split}", message, hint, count=len(names))
