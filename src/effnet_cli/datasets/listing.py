"""Turn a source of labelled files, in any format, into one list of files."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.findings import Counters, Finding, error, note
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
    """A file and the name of its class. `error` is set if it is not a regular file."""

    path: str
    label: str
    error: ImageError | None = None


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

    def read(self, split: int) -> tuple[list[str], list[LabelledFile]]:
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


@dataclass(slots=True)
class FileList:
    """Every file of a dataset with its class (an index of `classes`) and split (of SPLITS).

    `faults` has the errors of entries that are not regular files, by index. `is_automatic` says
    that validation has yet to be split off from the training images.
    """

    layout: str
    classes: list[str]
    paths: Paths
    labels: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int8]
    is_automatic: bool
    findings: list[Finding] = field(default_factory=list)
    faults: dict[int, ImageError] = field(default_factory=dict)


def list_files(source: Source, *, skip_empty: bool) -> FileList:
    """Read all splits. The training images define the classes.

    Raises:
        LayoutError: there is no training split, or the files cannot be listed.
    """
    if source.splits and TRAIN not in source.splits:
        names = quote_names([SPLITS[split] for split in sorted(source.splits)])
        hint = "Name the split of the training images 'train'."
        raise LayoutError("no_train", f"The dataset has no 'train' split, only {names}.", hint)
    all_classes, train = source.read(TRAIN)
    filled = {file.label for file in train}
    classes = [name for name in all_classes if name in filled or not skip_empty]
    indexes = {name: index for index, name in enumerate(classes)}
    findings = [*_empty_classes([n for n in all_classes if n not in filled], skip_empty)]
    files = [(TRAIN, file) for file in train]
    for split in sorted(source.splits - {TRAIN}):
        held_out = source.read(split)[1]
        unknown = {file.label for file in held_out}.difference(all_classes)
        findings += _unknown_classes(sorted(unknown), SPLITS[split])
        files += [(split, file) for file in held_out if file.label in indexes]
    return FileList(
        layout=source.layout,
        classes=classes,
        paths=Paths(file.path for _, file in files),
        labels=np.array([indexes[file.label] for _, file in files], dtype=np.int32),
        splits=np.array([split for split, _ in files], dtype=np.int8),
        is_automatic=VAL not in source.splits,
        findings=[*source.findings(), *findings],
        faults={index: file.error for index, (_, file) in enumerate(files) if file.error},
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
