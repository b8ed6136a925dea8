"""What a surveyed dataset has to tell: one function for each kind of finding."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.duplicates import Pairs
from effnet_cli.datasets.inspect_files import FileInspection
from effnet_cli.datasets.listing import FileList
from effnet_cli.datasets.records import (
    EXAMPLES,
    SPLITS,
    TEST,
    TRAIN,
    VAL,
    Finding,
)
from effnet_cli.options import DatasetOptions
from effnet_cli.system.text import pluralize, quote_names

BAD_SHARE = 0.01  # of all files that may be broken
BAD_CLASS_SHARE = 0.1  # of the files of one class
FEW_IMAGES = 10  # in training; fewer teach a class badly
IMBALANCE = 10  # times more images in the largest class than in the smallest
SMALL_PX = 32  # shorter side; the networks' inputs are 224 px and more
MIXED_SIZES = 2  # times larger is the largest shorter side than the smallest


@dataclass(slots=True)
class CheckedFiles:
    """A listing and its survey, with the place of each file after the split.

    `kept` [N] are the files to train and validate on. `contents` [N] numbers the bytes of the kept
    files; copies share a number (-1 elsewhere). `conflicts` [N] are files whose bytes lie in
    several classes. `near` [P,2] are pairs of contents that look the same.
    """

    listing: FileList
    survey: FileInspection
    splits: npt.NDArray[np.int8]
    kept: npt.NDArray[np.bool_]
    conflicts: npt.NDArray[np.bool_]
    contents: npt.NDArray[np.intp]
    near: Pairs

    def paths(self, indexes: Iterable[int] | npt.NDArray[np.intp]) -> tuple[str, ...]:
        """Paths of files."""
        return tuple(self.listing.paths[int(index)] for index in indexes)

    def names(self, labels: Iterable[int] | npt.NDArray[np.intp]) -> list[str]:
        """Names of classes."""
        return [self.listing.classes[int(label)] for label in labels]

    def table(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        """The number of `chosen` files [N] in each class and split [C,3]."""
        counts = np.zeros((len(self.listing.classes), len(SPLITS)), dtype=np.intp)
        np.add.at(counts, (self.listing.labels[chosen], self.splits[chosen]), 1)
        return counts


def findings(data: CheckedFiles, options: DatasetOptions) -> Iterator[Finding]:
    """All findings about classes and images."""
    counts = data.table(data.kept)
    yield from _class_number(data)
    yield from _broken_files(data, options)
    yield from _no_good_images(data, counts)
    yield from _label_conflicts(data)
    yield from _leaks(data, options)
    yield from _empty_sides(data, counts)
    yield from _missing_classes(data)
    yield from _near_leaks(data)
    yield from _few_images(data, counts)
    yield from _imbalance(data, counts)
    yield from _similar_names(data.listing.classes)
    yield from _copies(data)
    yield from _sizes(data)


# --- classes -----------------------------------------------------------------------------------


def _class_number(data: CheckedFiles) -> Iterator[Finding]:
    classes = data.listing.classes
    if not classes:
        yield Finding(
            "error", "no_classes", "No class has training images.", "Add classes with images."
        )
    elif len(classes) == 1:
        yield Finding(
            "error",
            "one_class",
            f"There is one class only, {quote_names(classes)}: nothing can be told apart.",
            "Add a second class beside it, e.g. a folder called other with images of anything "
            f"else{_or_its_folders(data)}.",
        )


def _or_its_folders(data: CheckedFiles) -> str:
    """What else to try if the only class holds folders, which may be the classes."""
    if not any(finding.kind == "nested" for finding in data.listing.findings):
        return ""
    path, name = data.listing.paths[0], data.listing.names[0]
    folder = path.removesuffix(name) + data.listing.classes[0]
    return f", or give {folder!r} if the folders in it are the classes"


def _no_good_images(data: CheckedFiles, counts: npt.NDArray[np.intp]) -> Iterator[Finding]:
    listed = data.table(np.ones(len(data.kept), dtype=np.bool_))
    labels = np.flatnonzero(
        (counts[:, TRAIN] + _undivided(data, counts) == 0) & (listed[:, TRAIN] > 0)
    )
    if len(labels):
        yield Finding(
            "error",
            "no_good_images",
            f"{pluralize(len(labels), 'class', 'classes')} without a usable training image: "
            f"{quote_names(data.names(labels))}.",
            "Add images, or take the class out.",
            len(labels),
        )


def _undivided(data: CheckedFiles, counts: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Images that the automatic split took from training [C]."""
    return counts[:, VAL] * data.listing.is_automatic


def _empty_sides(data: CheckedFiles, counts: npt.NDArray[np.intp]) -> Iterator[Finding]:
    if data.listing.is_automatic:
        labels = np.flatnonzero((counts[:, VAL] == 0) & (counts[:, TRAIN] > 0))
        if len(labels):
            yield Finding(
                "error",
                "cannot_split",
                f"{pluralize(len(labels), 'class', 'classes')} with one image only, which cannot "
                f"be both in training and in validation: {quote_names(data.names(labels))}.",
                "Add images, or name a folder of validation images with --val.",
                len(labels),
            )
    elif not counts[:, VAL].any():
        yield Finding(
            "error",
            "empty_val",
            "Validation has no usable image.",
            "Add images, or name another folder with --val.",
        )


def _missing_classes(data: CheckedFiles) -> Iterator[Finding]:
    listed = data.table(~data.conflicts)
    splits = [VAL, TEST] if not data.listing.is_automatic else [TEST]
    for split in splits:
        labels = np.flatnonzero((listed[:, split] == 0) & (listed[:, TRAIN] > 0))
        if len(labels) and listed[:, split].any():
            yield Finding(
                "warning",
                f"missing_in_{SPLITS[split]}",
                f"{pluralize(len(labels), 'class', 'classes')} without an image in "
                f"{SPLITS[split]}: {quote_names(data.names(labels))}.",
                "Add some, or nothing will be known about them.",
                len(labels),
            )


def _few_images(data: CheckedFiles, counts: npt.NDArray[np.intp]) -> Iterator[Finding]:
    train = counts[:, TRAIN]
    labels = np.flatnonzero((train > 0) & (train < FEW_IMAGES))
    if len(labels):
        yield Finding(
            "warning",
            "few_images",
            f"{pluralize(len(labels), 'class', 'classes')} with fewer than {FEW_IMAGES} training "
            f"images: {quote_names(data.names(labels))}.",
            "Add images: with so few, what is learned depends on chance.",
            len(labels),
        )


def _imbalance(data: CheckedFiles, counts: npt.NDArray[np.intp]) -> Iterator[Finding]:
    train = counts[:, TRAIN]
    filled = np.flatnonzero(train)
    if not len(filled):
        return
    least = filled[np.argmin(train[filled])]
    most = np.argmax(train)
    if train[most] >= IMBALANCE * train[least]:
        large, small = data.names([int(most), int(least)])
        yield Finding(
            "warning",
            "imbalance",
            f"Class '{large}' has {pluralize(train[most], 'training image')}, "
            f"class '{small}' {train[least]:,}.",
            "Use --balance, and look at balanced accuracy and the recall of each class.",
        )


def _similar_names(classes: Sequence[str]) -> Iterator[Finding]:
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(_plain(name), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if groups:
        shown = "; ".join(quote_names(names) for names in groups[:EXAMPLES])
        yield Finding(
            "warning",
            "similar_names",
            f"Classes with nearly the same name are kept apart: {shown}.",
            "Move their images into one folder if they mean the same.",
            len(groups),
        )


def _plain(name: str) -> str:
    """What is left of a name when case, the encoding of accents and separators do not count; a
    minus at the start does.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"(?<=.)[\s_-]+", " ", re.sub(r"^[\s_]+(?=.)", "", folded)).rstrip()


# --- files -------------------------------------------------------------------------------------


def _broken_files(data: CheckedFiles, options: DatasetOptions) -> Iterator[Finding]:
    bad = ~data.survey.is_good
    number, total = int(bad.sum()), len(bad)
    if not number:
        return
    listed = data.table(np.ones(total, dtype=np.bool_)).sum(axis=1)
    broken = data.table(bad).sum(axis=1)
    worst = np.flatnonzero(broken > BAD_CLASS_SHARE * listed)
    is_refused = (number > BAD_SHARE * total or len(worst) > 0) and not options.allow_bad
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(data.survey.kinds.items()))
    classes = f"; over 10 % of {quote_names(data.names(worst))}" if len(worst) else ""
    yield Finding(
        "error" if is_refused else "warning",
        "broken_files",
        f"{number:,} of {pluralize(total, 'image')} cannot be opened ({kinds}{classes}).",
        "Mend or delete them, or leave them out with --allow-bad."
        if is_refused
        else "They are left out of training, and count as wrong answers in validation.",
        number,
        data.paths(index for index, _ in data.survey.faults),
        tuple(error.message for _, error in data.survey.faults),
    )


def _label_conflicts(data: CheckedFiles) -> Iterator[Finding]:
    indexes = np.flatnonzero(data.conflicts)
    if len(indexes):
        digests = data.survey.digests[indexes]
        together = indexes[np.lexsort(digests.T[::-1])]
        yield Finding(
            "warning",
            "label_conflict",
            f"{pluralize(len(indexes), 'file')} whose very same image lies in more than one class, "
            "as a copy or a link, left out.",
            "Keep each image in the class it shows.",
            len(indexes),
            data.paths(together[:EXAMPLES]),
        )


def _leaks(data: CheckedFiles, options: DatasetOptions) -> Iterator[Finding]:
    for one, other in ((TRAIN, VAL), (TRAIN, TEST), (VAL, TEST)):
        shared = np.intersect1d(_in_split(data, one), _in_split(data, other))
        if not len(shared):
            continue
        pairs = [
            _file(data, number, split) for number in shared[:EXAMPLES] for split in (one, other)
        ]
        is_refused = one == TRAIN and not options.allow_leak
        yield Finding(
            "error" if is_refused else "warning",
            "leak",
            f"{pluralize(len(shared), 'image')} both in {SPLITS[one]} and in {SPLITS[other]}.",
            f"Delete them from {SPLITS[one]}, or keep them with --allow-leak: "
            f"the result on {SPLITS[other]} is then too good."
            if is_refused
            else f"The result on {SPLITS[other]} is too good.",
            len(shared),
            data.paths(pairs),
        )


def _in_split(data: CheckedFiles, split: int) -> npt.NDArray[np.intp]:
    """The different contents of a split."""
    return np.unique(data.contents[data.kept & (data.splits == split)])


def _file(data: CheckedFiles, content: int, split: int) -> int:
    """The first file with this content in this split."""
    return int(np.argmax(data.kept & (data.contents == content) & (data.splits == split)))


def _near_leaks(data: CheckedFiles) -> Iterator[Finding]:
    train = _in_split(data, TRAIN)
    for split in (VAL, TEST):
        held_out = _in_split(data, split)
        straight = np.isin(data.near[:, 0], train) & np.isin(data.near[:, 1], held_out)
        turned = np.isin(data.near[:, 1], train) & np.isin(data.near[:, 0], held_out)
        pairs = np.concatenate([data.near[straight], data.near[turned][:, ::-1]])
        if len(pairs):
            files = [
                _file(data, number, place)
                for pair in pairs[:EXAMPLES]
                for number, place in zip(pair, (TRAIN, split), strict=True)
            ]
            yield Finding(
                "warning",
                "near_leak",
                f"{pluralize(len(pairs), 'pair')} of images in train and {SPLITS[split]} look "
                "nearly the same.",
                "Keep such images on one side, or the result is too good.",
                len(pairs),
                data.paths(files),
            )


def _copies(data: CheckedFiles) -> Iterator[Finding]:
    indexes = np.flatnonzero(data.kept)
    places = data.contents[indexes] * len(SPLITS) + data.splits[indexes]
    _, first = np.unique(places, return_index=True)
    extra = np.delete(indexes, first)
    if len(extra):
        yield Finding(
            "note",
            "copies",
            f"{pluralize(len(extra), 'image')} exactly like another one of the same class; kept.",
            "",
            len(extra),
            data.paths(extra[:EXAMPLES]),
        )


def _sizes(data: CheckedFiles) -> Iterator[Finding]:
    sides = data.survey.shorter_px[data.kept]
    if not len(sides):
        return
    least, middle, most = int(sides.min()), int(np.median(sides)), int(sides.max())
    words = f"shorter sides of {least:,} to {most:,} px (median {middle:,} px)"
    if most >= MIXED_SIZES * least:
        yield Finding("note", "mixed_sizes", f"The images differ in size: {words}.")
    small = int((sides < SMALL_PX).sum())
    if small:
        message = f"{pluralize(small, 'image')} with a shorter side below {SMALL_PX} px; {words}."
        yield Finding("note", "small_images", message, count=small)
