"""The checks of a scanned dataset, one function each."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.duplicates import Pairs
from effnet_cli.datasets.inspect_files import FileInspection
from effnet_cli.datasets.listing import FileList
from effnet_cli.datasets.records import (
    MAX_EXAMPLES,
    SPLITS,
    TEST,
    TRAIN,
    VAL,
    Finding,
    error,
    note,
    warning,
)
from effnet_cli.options import DatasetOptions
from effnet_cli.system.text import pluralize, quote_names

MAX_BROKEN = 0.01  # fraction of all files
MAX_BROKEN_IN_CLASS = 0.1  # fraction of a class
FEW_IMAGES = 10  # training images of a class
IMBALANCE = 10  # largest / smallest class
SMALL_PX = 32  # shorter side; model inputs are 224 px and more
MIXED_SIZES = 2  # largest / smallest shorter side

Indexes = Iterable[int] | npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class CheckedFiles:
    """A listing and its inspection, with copies and splits.

    `kept` [N] are the files to train and validate on, `conflicts` [N] those whose content is in
    several classes. `contents` [N] numbers the different contents of the kept files (-1
    elsewhere); `first` [K] is a file of each, `earlier` [K] its split in an earlier part of the
    run (-1 if new), and `near` [P,2] are the pairs of near-duplicates among them.
    """

    listing: FileList
    inspection: FileInspection
    splits: npt.NDArray[np.int8]
    kept: Mask
    conflicts: Mask
    contents: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]
    near: Pairs
    earlier: npt.NDArray[np.int8]

    @property
    def has_test(self) -> bool:
        return bool((self.splits == TEST).any())

    def paths(self, indexes: Indexes) -> tuple[str, ...]:
        return tuple(self.listing.paths[int(index)] for index in indexes)

    def names(self, labels: Indexes) -> list[str]:
        return [self.listing.classes[int(label)] for label in labels]

    def count(self, chosen: Mask | None = None) -> npt.NDArray[np.intp]:
        """Files per class and split [C,3]: the `chosen` ones [N], else all."""
        files = slice(None) if chosen is None else chosen
        counts = np.zeros((len(self.listing.classes), len(SPLITS)), dtype=np.intp)
        np.add.at(counts, (self.listing.labels[files], self.splits[files]), 1)
        return counts

    def contents_of(self, split: int) -> npt.NDArray[np.intp]:
        """The different contents in a split."""
        return np.unique(self.contents[self.kept & (self.splits == split)])

    def examples(self, contents: npt.NDArray[np.intp], splits: tuple[int, ...]) -> tuple[str, ...]:
        """A file with each of the first `contents` [K,S], in each of `splits` [S]."""
        return tuple(
            self.listing.paths[
                int(np.argmax(self.kept & (self.contents == content) & (self.splits == split)))
            ]
            for row in contents[:MAX_EXAMPLES]
            for content, split in zip(row, splits, strict=True)
        )


def run_checks(data: CheckedFiles, options: DatasetOptions) -> Iterator[Finding]:
    """All findings about classes and images."""
    for check in CHECKS:
        yield from check(data, options)


# --- classes -----------------------------------------------------------------------------------


def _number_of_classes(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    classes = data.listing.classes
    if not classes:
        yield error("no_classes", "No class has training images.", "Add images to the classes.")
    elif len(classes) == 1:
        yield error(
            "one_class",
            f"There is only one class, {quote_names(classes)}; training needs at least two.",
            "Add a second class beside it, e.g. a folder called other with images of anything "
            f"else{_or_its_folders(data)}.",
        )


def _or_its_folders(data: CheckedFiles) -> str:
    """An alternative if the only class holds folders, which may be the classes."""
    if not any(finding.kind == "nested" for finding in data.listing.findings):
        return ""
    name = data.listing.classes[0]
    parent = data.listing.paths[0].partition(f"/{name}/")[0]
    return f", or use '{parent}/{name}' if its folders are the classes"


def _classes_without_images(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    is_automatic = data.listing.is_automatic
    listed, valid, kept = data.count(), data.count(~data.conflicts), data.count(data.kept)
    train, val = kept[:, TRAIN], kept[:, VAL]
    rows = [
        (
            error,
            "no_good_images",
            (listed[:, TRAIN] > 0) & (train + val * is_automatic == 0),
            "no usable training images",
            "Add images, or remove the class.",
        ),
        (
            error,
            "cannot_split",
            is_automatic & (val == 0) & (train > 0),
            "too few images for both training and validation",
            "Add images, or name a folder of validation images with --val.",
        ),
        (
            warning,
            "few_images",
            (train > 0) & (train < FEW_IMAGES),
            f"fewer than {FEW_IMAGES} training images",
            "Add images; results from so few vary widely.",
        ),
    ]
    for split in (TEST,) if is_automatic else (VAL, TEST):
        is_missing = (valid[:, split] == 0) & (valid[:, TRAIN] > 0) & valid[:, split].any()
        hint = "Add some, or these classes are not evaluated."
        kind, what = f"missing_in_{SPLITS[split]}", f"no images in {SPLITS[split]}"
        rows.append((warning, kind, is_missing, what, hint))
    for make, kind, is_affected, what, hint in rows:
        names = data.names(np.flatnonzero(is_affected))
        if names:
            count = pluralize(len(names), "class has", "classes have")
            yield make(kind, f"{count} {what}: {quote_names(names)}.", hint, count=len(names))
    if not is_automatic and not val.any():
        hint = "Add images, or name another folder with --val."
        yield error("empty_val", "Validation has no usable images.", hint)


def _imbalance(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    train = data.count(data.kept)[:, TRAIN]
    filled = np.flatnonzero(train)
    if not len(filled):
        return
    least, most = filled[np.argmin(train[filled])], np.argmax(train)
    if train[most] >= IMBALANCE * train[least]:
        large, small = data.names([int(most), int(least)])
        yield warning(
            "imbalance",
            f"Class '{large}' has {pluralize(train[most], 'training image')}, "
            f"class '{small}' has {train[least]:,}.",
            "Use --balance, and compare balanced accuracy and the recall of each class.",
        )


def _similar_names(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    similar: dict[str, list[str]] = {}
    for name in data.listing.classes:
        similar.setdefault(_normalize(name), []).append(name)
    groups = [names for names in similar.values() if len(names) > 1]
    if groups:
        shown = "; ".join(quote_names(names) for names in groups[:MAX_EXAMPLES])
        yield warning(
            "similar_names",
            f"Classes with nearly the same name stay separate: {shown}.",
            "Move their images into one folder if they are the same class.",
            count=len(groups),
        )


def _normalize(name: str) -> str:
    """`name` without case, separators and differences in the encoding of accents; a leading minus
    stays.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"(?<=.)[\s_-]+", " ", re.sub(r"^[\s_]+(?=.)", "", folded)).rstrip()


# --- files -------------------------------------------------------------------------------------


def _broken_files(data: CheckedFiles, options: DatasetOptions) -> Iterator[Finding]:
    is_bad, faults = ~data.inspection.is_good, data.inspection.faults
    number, total = int(is_bad.sum()), len(is_bad)
    if not number:
        return
    listed, broken = data.count().sum(axis=1), data.count(is_bad).sum(axis=1)
    worst = np.flatnonzero(broken > MAX_BROKEN_IN_CLASS * listed)
    is_refused = (number > MAX_BROKEN * total or len(worst) > 0) and not options.allow_bad
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(data.inspection.kinds.items()))
    classes = f"; over 10 % of {quote_names(data.names(worst))}" if len(worst) else ""
    yield (error if is_refused else warning)(
        "broken_files",
        f"{number:,} of {pluralize(total, 'image')} cannot be opened ({kinds}{classes}).",
        "Repair or delete them, or exclude them with --allow-bad."
        if is_refused
        else "They are excluded from training and count as errors in validation.",
        count=number,
        paths=data.paths(index for index, _ in faults),
        reasons=tuple(fault.message for _, fault in faults),
    )


def _label_conflicts(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    indexes = np.flatnonzero(data.conflicts)
    if len(indexes):
        by_content = indexes[np.lexsort(data.inspection.digests[indexes].T[::-1])]
        yield warning(
            "label_conflict",
            f"{pluralize(len(indexes), 'file')} excluded: the same image is in several classes, as "
            "a copy or a link.",
            "Keep each image in one class.",
            count=len(indexes),
            paths=data.paths(by_content[:MAX_EXAMPLES]),
        )


def _leaks(data: CheckedFiles, options: DatasetOptions) -> Iterator[Finding]:
    for one, other in ((TRAIN, VAL), (TRAIN, TEST), (VAL, TEST)):
        shared = np.intersect1d(data.contents_of(one), data.contents_of(other))
        if len(shared):
            is_refused = one == TRAIN and not options.allow_leak
            count = pluralize(len(shared), "image is", "images are")
            refusal = f"Remove them from {SPLITS[one]}, or use --allow-leak; results"
            yield (error if is_refused else warning)(
                "leak",
                f"{count} in both {SPLITS[one]} and {SPLITS[other]}.",
                f"{refusal if is_refused else 'Results'} on {SPLITS[other]} will be too good.",
                count=len(shared),
                paths=data.examples(np.stack([shared, shared], axis=1), (one, other)),
            )


def _near_leaks(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    near = np.concatenate([data.near, data.near[:, ::-1]])
    near = near[np.isin(near[:, 0], data.contents_of(TRAIN))]
    for split in (VAL, TEST):
        pairs = near[np.isin(near[:, 1], data.contents_of(split))]
        if len(pairs):
            count = pluralize(len(pairs), "pair")
            yield warning(
                "near_leak",
                f"{count} of images in train and {SPLITS[split]} look nearly the same.",
                "Keep such images in one split, or results will be too good.",
                count=len(pairs),
                paths=data.examples(pairs, (TRAIN, split)),
            )


def _trained_before(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    trained = np.flatnonzero(data.earlier == TRAIN)
    for split in (VAL, TEST):
        moved = np.intersect1d(data.contents_of(split), trained)
        if len(moved):
            yield error(
                "trained_before",
                f"{pluralize(len(moved), 'image')} of {SPLITS[split]} used for training before "
                "this run was resumed.",
                "Move them back to train, or start a new run.",
                count=len(moved),
                paths=data.examples(moved[:, None], (split,)),
            )


def _copies(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    indexes = np.flatnonzero(data.kept)
    places = data.contents[indexes] * len(SPLITS) + data.splits[indexes]
    extra = np.delete(indexes, np.unique(places, return_index=True)[1])
    if len(extra):
        yield note(
            "copies",
            f"{pluralize(len(extra), 'exact copy', 'exact copies')} of images of the same class; "
            "kept.",
            count=len(extra),
            paths=data.paths(extra[:MAX_EXAMPLES]),
        )


def _sizes(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    sides = data.inspection.shorter_px[data.kept]
    if not len(sides):
        return
    least, median, most = int(sides.min()), int(np.median(sides)), int(sides.max())
    sizes = f"shorter sides of {least:,} to {most:,} px (median {median:,} px)"
    if most >= MIXED_SIZES * least:
        yield note("mixed_sizes", f"Image sizes vary: {sizes}.")
    small = int((sides < SMALL_PX).sum())
    if small:
        message = f"{pluralize(small, 'image')} with a shorter side below {SMALL_PX} px: {sizes}."
        yield note("small_images", message, count=small)


CHECKS: tuple[Callable[[CheckedFiles, DatasetOptions], Iterator[Finding]], ...] = (
    _number_of_classes,
    _broken_files,
    _classes_without_images,
    _label_conflicts,
    _leaks,
    _trained_before,
    _near_leaks,
    _imbalance,
    _similar_names,
    _copies,
    _sizes,
)
