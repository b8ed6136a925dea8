"""A folder or a CSV file -> a checked, split dataset, or all that is wrong with it."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.checks import CheckedFiles, findings
from effnet_cli.datasets.csv_file import listed_table
from effnet_cli.datasets.duplicates import content_ids, near_pairs, representatives
from effnet_cli.datasets.folders import listed_folder
from effnet_cli.datasets.inspect_files import FileInspection, inspect_files
from effnet_cli.datasets.listing import FileList, LayoutError
from effnet_cli.datasets.records import (
    SPLITS,
    TEST,
    TRAIN,
    VAL,
    ClassCount,
    Dataset,
    Finding,
    Scan,
    SplitTable,
    Subset,
    fingerprint,
)
from effnet_cli.datasets.split import held_out
from effnet_cli.options import DatasetOptions, ImageOptions
from effnet_cli.system.errors import UsageError
from effnet_cli.system.reporter import SILENT, Reporter

ORDER = ("error", "warning", "note")


def scan(
    root: Path,
    options: DatasetOptions = DatasetOptions(),
    *,
    seed: int = 0,
    images: ImageOptions = ImageOptions(),
    known: Mapping[bytes, int] = MappingProxyType({}),
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> Scan:
    """Read, open and split a dataset; what is wrong with it is in the result, nothing is written.

    Args:
        root: a folder of class folders, a folder of splits (train, val, test) with class folders,
            or a CSV file with the columns path, label and perhaps split.
        options: how it is split, and what is let pass.
        seed: of the automatic split.
        images: how large an image may be.
        listener: hears how far the scan is.
        workers: threads that open images; `None` is one a core.
        known: the split of images by the SHA-256 of their bytes: images that were trained on
            before are never validated on.

    Raises:
        UsageError: an option's value is wrong.
    """
    if not 0 < options.val_fraction < 1:
        raise UsageError(
            f"--val-fraction {options.val_fraction} is not between 0 and 1.",
            "Give the share of the images to validate on, e.g. 0.2.",
        )
    try:
        listing = _listed(root, options)
    except LayoutError as refused:
        return Scan(str(root), "not recognised", (), (refused.finding,), None)
    looked = inspect_files(listing, images, reporter=reporter, workers=workers)
    choose = partial(_split, fraction=options.val_fraction, seed=seed, known=known)
    data = _sifted(listing, looked, choose)
    return _result(root, data, options)


def _listed(root: Path, options: DatasetOptions) -> FileList:
    try:
        if root.is_dir():
            return listed_folder(root, options)
        if root.exists():
            return listed_table(root, options)
    except OSError as error:  # the name is too long, or a folder above it is closed
        raise LayoutError(
            "unreadable", f"{str(root)!r} cannot be read: {error.strerror}.", "Check the path."
        ) from error
    raise LayoutError(
        "missing", f"There is no folder or file {str(root)!r}.", "Check the path of the dataset."
    )


def _sifted(
    listing: FileList,
    looked: FileInspection,
    split: Callable[[CheckedFiles, npt.NDArray[np.intp]], None],
) -> CheckedFiles:
    """Leave out what is broken or in two classes, find copies, and split where that is to do."""
    good = np.flatnonzero(looked.is_good)
    conflicts = np.zeros(len(looked.is_good), dtype=np.bool_)
    conflicts[good] = _in_several_classes(content_ids(looked.digests[good]), listing.labels[good])
    kept = looked.is_good & ~conflicts
    files = np.flatnonzero(kept)
    contents = np.full(len(kept), -1, dtype=np.intp)
    contents[files] = content_ids(looked.digests[files])
    first = files[np.unique(contents[files], return_index=True)[1]]
    near = near_pairs(looked, first)
    data = CheckedFiles(listing, looked, listing.splits.copy(), kept, conflicts, contents, near)
    if listing.is_automatic:
        split(data, first)
    return data


def _in_several_classes(
    contents: npt.NDArray[np.intp], labels: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_]:
    """Which files [N] share their content with a file of another class."""
    number = int(contents.max(initial=-1)) + 1
    least = np.full(number, np.iinfo(np.int32).max, dtype=np.int32)
    most = np.full(number, -1, dtype=np.int32)
    np.minimum.at(least, contents, labels)
    np.maximum.at(most, contents, labels)
    differs: npt.NDArray[np.bool_] = (least != most)[contents]
    return differs


def _split(
    data: CheckedFiles,
    first: npt.NDArray[np.intp],
    *,
    fraction: float,
    seed: int,
    known: Mapping[bytes, int],
) -> None:
    """Move a share of the training images to validation; `first` has a file of each content."""
    of_class = data.listing.labels[first]
    same_class = of_class[data.near[:, 0]] == of_class[data.near[:, 1]]
    groups = representatives(len(first), data.near[same_class])
    for label in np.unique(of_class):
        members = np.flatnonzero(of_class == label)
        if len(np.unique(groups[members])) == 1:  # all alike: rather split these than refuse
            groups[members] = members
    files = np.flatnonzero(data.kept & (data.splits == TRAIN))
    group_of = groups[data.contents[files]]
    digests = data.survey.digests[first]
    chosen = held_out(data.listing.labels[files], group_of, digests, fraction=fraction, seed=seed)
    before = np.array([known.get(digest.tobytes(), -1) for digest in digests], dtype=np.int8)
    for split in (VAL, TRAIN):  # a group with an image that was trained on stays in training
        is_known = np.isin(group_of, groups[before == split])
        chosen[is_known] = split == VAL
    data.splits[files[chosen]] = VAL


# --- the result --------------------------------------------------------------------------------


def _result(root: Path, data: CheckedFiles, options: DatasetOptions) -> Scan:
    found = sorted(
        (*data.listing.findings, *findings(data, options)),
        key=lambda finding: ORDER.index(finding.level),
    )
    is_refused = any(finding.level == "error" for finding in found)
    return Scan(
        str(root),
        data.listing.layout,
        tuple(_class_counts(data)),
        tuple(found),
        None if is_refused else _dataset(root, data, tuple(found)),
    )


def _class_counts(data: CheckedFiles) -> Iterator[ClassCount]:
    has_test = _has_test(data)
    rows = data.table(data.kept).tolist()
    for name, (train, val, test) in zip(data.listing.classes, rows, strict=True):
        yield ClassCount(name, train, val, test if has_test else None)


def _has_test(data: CheckedFiles) -> bool:
    return bool((data.splits == TEST).any())


def _dataset(root: Path, data: CheckedFiles, found: tuple[Finding, ...]) -> Dataset:
    classes = tuple(data.listing.classes)
    keys = _file_keys(data)
    return Dataset(
        str(root),
        classes,
        _subset(data, TRAIN),
        _subset(data, VAL),
        _subset(data, TEST) if _has_test(data) else None,
        found,
        keys,
        fingerprint(classes, keys),
        _split_table(data),
    )


def _split_table(data: CheckedFiles) -> SplitTable:
    files = np.flatnonzero(~data.conflicts)
    return SplitTable(
        data.listing.paths.take(files),
        data.listing.labels[files],
        data.splits[files],
        data.survey.digests[files],
    )


def _subset(data: CheckedFiles, split: int) -> Subset:
    labels = data.listing.labels
    is_here = data.splits == split
    good = np.flatnonzero(data.kept & is_here)
    return Subset(
        data.listing.paths.take(good), labels[good], labels[~data.survey.is_good & is_here]
    )


def _file_keys(data: CheckedFiles) -> npt.NDArray[np.uint64]:
    """A sorted key of 8 bytes for each file, of its place, its name and its content."""
    listing = data.listing
    classes = [name.encode(errors="surrogateescape") for name in listing.classes]
    keys = bytearray()
    for index in range(len(listing.paths)):
        split = SPLITS[data.splits[index]].encode()
        parts = (split, classes[listing.labels[index]], listing.names.encoded(index))
        key = hashlib.blake2b(b"\0".join(parts), digest_size=8)
        key.update(data.survey.digests[index].tobytes())
        keys += key.digest()
    return np.sort(np.frombuffer(bytes(keys), dtype="<u8").astype(np.uint64))
