"""The checks of a scanned dataset, one function each."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.duplicates import Pairs, group_duplicates
from effnet_cli.datasets.findings import FINDING_EXAMPLES, Finding, error, note, warning
from effnet_cli.datasets.groups import NO_GROUP, join_groups, link_members
from effnet_cli.datasets.inspect_files import FileInspection
from effnet_cli.datasets.listing import FileList
from effnet_cli.datasets.split import SPLITS, TEST, TRAIN, VAL
from effnet_cli.options import DatasetOptions
from effnet_cli.system.text import pluralize, quote_names

MAX_BROKEN = 0.01  # fraction of all files
MAX_BROKEN_IN_CLASS = 0.1  # fraction of a class
FEW_TRAINING_IMAGES = 10  # in a class
IMBALANCE = 10  # largest / smallest class
SMALL_SIDE_PX = 32  # shorter side; model inputs are 224 px and more
MIXED_SIZES = 2  # largest / smallest shorter side

OTHER_CLASS = "Add a second class, for example a folder 'other' with unrelated images"
ADD_VAL = "Add images, or pass a folder of validation images with --val."
ADD_SOME = "Add images; otherwise these classes will not be evaluated."
ADD_TRAIN = "Add images; results from so few images are unreliable."
# Findings about classes, by kind: level, what is wrong, hint.
CLASS_FINDINGS: dict[str, tuple[Callable[..., Finding], str, str]] = {
    "no_good_images": (error, "no usable training images", "Add images, or remove the class."),
    "cannot_split": (error, "too few images for both training and validation", ADD_VAL),
    "missing_in_val": (warning, "no images in val", ADD_SOME),
    "missing_in_test": (warning, "no images in test", ADD_SOME),
    "few_images": (warning, f"fewer than {FEW_TRAINING_IMAGES} training images", ADD_TRAIN),
}

Mask = npt.NDArray[np.bool_]
Indexes = npt.NDArray[np.intp]


@dataclass(slots=True)
class CheckedFiles:
    """A listing and its inspection, with copies and splits.

    `kept` [N] marks the files to train and validate on, `conflicts` [N] those whose content is in
    several classes. `contents` [N] numbers the K distinct contents of the kept files (-1 for other
    files). For each content, `first` [K] is its first file and `earlier` [K] its split in an
    earlier part of the run (-1 if new). `near` [P,2] lists pairs of near-duplicate contents.
    """

    listing: FileList
    inspection: FileInspection
    splits: npt.NDArray[np.int8]
    kept: Mask
    conflicts: Mask
    contents: Indexes
    first: Indexes
    near: Pairs
    earlier: npt.NDArray[np.int8]

    @property
    def has_test(self) -> bool:
        return bool((self.splits == TEST).any())

    def paths(self, indexes: Iterable[int] | Indexes) -> tuple[str, ...]:
        return tuple(self.listing.paths[int(index)] for index in indexes)

    def names(self, labels: Sequence[int] | Indexes) -> list[str]:
        return [self.listing.classes[int(label)] for label in labels]

    def count(self, chosen: Mask | None = None) -> npt.NDArray[np.intp]:
        """Count the `chosen` files [N] (default: all) per class and split [C,3]."""
        files = slice(None) if chosen is None else chosen
        sets = self.listing.label_sets
        rows = len(self.listing.classes) if sets is None else len(sets.targets)
        counts = np.zeros((rows, len(SPLITS)), dtype=np.intp)
        np.add.at(counts, (self.listing.labels[files], self.splits[files]), 1)
        return counts if sets is None else sets.count(counts)

    def group_near_duplicates(self) -> Indexes:
        """Return the content that represents the group of each content [K]; a group lies in one
        class.
        """
        labels = self.listing.labels[self.first]
        same_class = labels[self.near[:, 0]] == labels[self.near[:, 1]]
        return group_duplicates(len(labels), self.near[same_class])

    def join_given_groups(self, groups: Indexes) -> Indexes:
        """Return `groups` of contents [K] joined by the groups that the dataset gives, which may
        have images of several classes.
        """
        kept = np.flatnonzero(self.kept)
        given = link_members(self.contents[kept], self.listing.groups[kept])
        if not len(given[0]):
            return groups
        return join_groups(len(groups), (np.arange(len(groups)), groups), given)

    def contents_of(self, split: int) -> Indexes:
        """Return the distinct contents of the kept files of a split."""
        return np.unique(self.contents[self.kept & (self.splits == split)])

    def examples(self, contents: Indexes, *splits: int) -> tuple[str, ...]:
        """Return a file in each of `splits` [S] for each of the first `contents` [K,S] or [K,1]."""
        places = self.contents * len(SPLITS) + self.splits
        wanted = contents[:FINDING_EXAMPLES] * len(SPLITS) + np.array(splits)
        return self.paths(int(np.argmax(places == place)) for place in wanted.flat)


# --- classes -----------------------------------------------------------------------------------


def _number_of_classes(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    classes = data.listing.classes
    if not classes:
        yield error("no_classes", "No class has training images.", "Add images to the classes.")
    if len(classes) == 1 and data.listing.label_sets is None:
        hint = OTHER_CLASS
        if any(finding.kind == "nested" for finding in data.listing.findings):
            folder = data.listing.paths[0].partition(f"/{classes[0]}/")[0] + f"/{classes[0]}"
            hint += f", or use {folder!r} if its folders are the classes"
        message = f"There is only one class, {quote_names(classes)}; training needs at least two."
        yield error("one_class", message, f"{hint}.")


def _images_of_classes(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    is_automatic = data.listing.is_automatic
    listed, kept = data.count(), data.count(data.kept)
    valid = data.count(~data.conflicts)
    train, val = kept[:, TRAIN], kept[:, VAL]
    is_missing = (valid == 0) & (valid[:, [TRAIN]] > 0) & valid.any(axis=0)
    affected = {
        "no_good_images": (listed[:, TRAIN] > 0) & (train + val * is_automatic == 0),
        "cannot_split": is_automatic & (val == 0) & (train > 0),
        "missing_in_val": is_missing[:, VAL] & (not is_automatic),
        "missing_in_test": is_missing[:, TEST],
        "few_images": (train > 0) & (train < FEW_TRAINING_IMAGES),
    }
    for kind, (make, what, hint) in CLASS_FINDINGS.items():
        names = data.names(np.flatnonzero(affected[kind]))
        if names:
            count = pluralize(len(names), "class has", "classes have")
            yield make(kind, f"{count} {what}: {quote_names(names)}.", hint, count=len(names))
    if not is_automatic and not val.any():
        hint = "Add images, or pass another folder with --val."
        yield error("empty_val", "Validation has no usable images.", hint)


def _imbalance(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    train = data.count(data.kept)[:, TRAIN]
    filled = np.flatnonzero(train)
    if not len(filled):
        return
    least, most = int(filled[np.argmin(train[filled])]), int(np.argmax(train))
    if train[most] >= IMBALANCE * train[least]:
        large, small = data.names([most, least])
        count = pluralize(train[most], "training image")
        message = f"Class '{large}' has {count}, class '{small}' has {train[least]:,}."
        hint = "Compare balanced accuracy and the recall of each class; see --balance."
        yield warning("imbalance", message, hint)


def _similar_names(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    similar: dict[str, list[str]] = {}
    for name in data.listing.classes:
        similar.setdefault(_normalize(name), []).append(name)
    groups = [names for names in similar.values() if len(names) > 1]
    if groups:
        shown = "; ".join(quote_names(names) for names in groups[:FINDING_EXAMPLES])
        message = f"Similar class names are treated as different classes: {shown}."
        hint = "Move their images into one folder if they are the same class."
        yield warning("similar_names", message, hint, count=len(groups))


def _normalize(name: str) -> str:
    """Remove differences of case, separators, accent encoding and decimals (`1` and `1.0`), but
    keep a leading minus.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    folded = re.sub(r"^(-?[0-9]+)\.0+$", r"\1", folded)
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
        paths=data.paths(index for index, _ in faults[:FINDING_EXAMPLES]),
        reasons=tuple(fault.message for _, fault in faults[:FINDING_EXAMPLES]),
    )


def _label_conflicts(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    indexes = np.flatnonzero(data.conflicts)
    if len(indexes):
        by_content = indexes[np.lexsort(data.inspection.digests[indexes].T[::-1])]
        paths = data.paths(by_content[:FINDING_EXAMPLES])
        count = pluralize(len(indexes), "file")
        message = f"{count} excluded: the same image is in several classes, as a copy or a link."
        hint = "Keep each image in one class."
        yield warning("label_conflict", message, hint, count=len(indexes), paths=paths)


def _leaks(data: CheckedFiles, options: DatasetOptions) -> Iterator[Finding]:
    for one, other in ((TRAIN, VAL), (TRAIN, TEST), (VAL, TEST)):
        shared = np.intersect1d(data.contents_of(one), data.contents_of(other))
        make, hint = warning, f"Results on {SPLITS[other]} will be overly optimistic."
        if one == TRAIN and not options.allow_leak:
            make = error
            hint = (
                "Remove them from train, or pass --allow-leak and accept overly optimistic results."
            )
        if len(shared):
            count = pluralize(len(shared), "image is", "images are")
            message = f"{count} in both {SPLITS[one]} and {SPLITS[other]}."
            paths = data.examples(shared[:, None], one, other)
            yield make("leak", message, hint, count=len(shared), paths=paths)


def _group_leaks(data: CheckedFiles, options: DatasetOptions) -> Iterator[Finding]:
    groups = np.where(data.kept, data.listing.groups, NO_GROUP)
    for split in (VAL, TEST):
        own = np.unique(groups[data.splits == TRAIN])
        shared = np.setdiff1d(np.intersect1d(own, groups[data.splits == split]), [NO_GROUP])
        if not len(shared):
            continue
        make = warning if options.allow_leak else error
        count = pluralize(len(shared), "group has", "groups have")
        places = groups * len(SPLITS) + data.splits
        wanted = shared[:FINDING_EXAMPLES, None] * len(SPLITS) + np.array([TRAIN, split])
        yield make(
            "group_leak",
            f"{count} images in both train and {SPLITS[split]}.",
            "Keep each group in one split, or pass --allow-leak and accept overly optimistic "
            "results.",
            count=len(shared),
            paths=data.paths(int(np.argmax(places == place)) for place in wanted.flat),
        )


def _near_leaks(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    near = np.concatenate([data.near, data.near[:, ::-1]])
    near = near[np.isin(near[:, 0], data.contents_of(TRAIN))]
    for split in (VAL, TEST):
        pairs = near[np.isin(near[:, 1], data.contents_of(split))]
        if len(pairs):
            count = pluralize(len(pairs), "near-duplicate pair")
            message = f"{count} between train and {SPLITS[split]}."
            hint = "Keep such images in one split; otherwise results will be overly optimistic."
            paths = data.examples(pairs, TRAIN, split)
            yield warning("near_leak", message, hint, count=len(pairs), paths=paths)


def _earlier_training_images(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    trained = np.flatnonzero(data.earlier == TRAIN)
    for split in (VAL, TEST):
        moved = np.intersect1d(data.contents_of(split), trained)
        if len(moved):
            count = pluralize(len(moved), "image")
            message = f"This run has already trained on {count} now in {SPLITS[split]}."
            hint = "Move them back to train, or start a new run."
            paths = data.examples(moved[:, None], split)
            yield error("already_trained", message, hint, count=len(moved), paths=paths)


def _copies(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    indexes = np.flatnonzero(data.kept)
    places = data.contents[indexes] * len(SPLITS) + data.splits[indexes]
    extra = np.delete(indexes, np.unique(places, return_index=True)[1])
    if len(extra):
        count = pluralize(len(extra), "exact copy", "exact copies")
        paths = data.paths(extra[:FINDING_EXAMPLES])
        message = f"{count} of images of the same class (kept)."
        yield note("copies", message, count=len(extra), paths=paths)


def _sizes(data: CheckedFiles, _: DatasetOptions) -> Iterator[Finding]:
    sides = data.inspection.shorter_px[data.kept]
    if not len(sides):
        return
    least, median, most = int(sides.min()), int(np.median(sides)), int(sides.max())
    sizes = f"shorter sides of {least:,} to {most:,} px (median {median:,} px)"
    if most >= MIXED_SIZES * least:
        yield note("mixed_sizes", f"Image sizes vary: {sizes}.")
    small = int((sides < SMALL_SIDE_PX).sum())
    if small:
        count = pluralize(small, "image")
        message = f"{count} with a shorter side below {SMALL_SIDE_PX} px; all images: {sizes}."
        yield note("small_images", message, count=small)


Check = Callable[[CheckedFiles, DatasetOptions], Iterator[Finding]]

CHECKS: Sequence[Check] = (
    _number_of_classes,
    _broken_files,
    _images_of_classes,
    _label_conflicts,
    _leaks,
    _group_leaks,
    _earlier_training_images,
    _near_leaks,
    _imbalance,
    _similar_names,
    _copies,
    _sizes,
)
# Those about classes; `effnet audit` lists each file that the others find.
CLASS_CHECKS: Sequence[Check] = (
    _number_of_classes,
    _images_of_classes,
    _group_leaks,
    _imbalance,
    _similar_names,
)


def run_checks(
    checks: Sequence[Check], data: CheckedFiles, options: DatasetOptions
) -> Iterator[Finding]:
    """Yield what the checks find, in their order."""
    for check in checks:
        yield from check(data, options)
