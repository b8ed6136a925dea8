"""Scan a dataset: list, decode, check and split its images."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.checks import CHECKS, CheckedFiles, run_checks
from effnet_cli.datasets.duplicates import content_ids, find_near_duplicates
from effnet_cli.datasets.findings import Finding
from effnet_cli.datasets.formats import open_source
from effnet_cli.datasets.groups import GroupNumbers
from effnet_cli.datasets.inspect_files import FileInspection, inspect_files
from effnet_cli.datasets.listing import FileList, LayoutError, list_files
from effnet_cli.datasets.pattern import compile_group_pattern
from effnet_cli.datasets.records import ClassCount, Dataset, Scan, SplitTable, Subset
from effnet_cli.datasets.split import TEST, TRAIN, VAL, choose_validation
from effnet_cli.options import DatasetOptions, ImageOptions
from effnet_cli.system.reporter import SILENT, Reporter

LEVEL_ORDER = ("error", "warning", "note")
AUTOMATIC_SPLIT = ", validation split off automatically"


def scan(
    root: Path,
    options: DatasetOptions = DatasetOptions(),
    *,
    seed: int = 0,
    images: ImageOptions = ImageOptions(),
    earlier: Mapping[bytes, int] = MappingProxyType({}),
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> Scan:
    """Scan a dataset. Problems are part of the result, and nothing is written.

    Args:
        root: a folder of class folders, a folder of splits (train, val, test) with class folders,
            or a CSV file with the columns path, label and optionally split.
        options: how to split it, and which problems to allow.
        seed: seed of the automatic split.
        images: limits on images.
        earlier: the split of images in an earlier part of the run, by SHA-256 of their bytes. An
            image that was trained on is never used for validation.
        workers: number of threads that open images; `None` is one per core.
    """
    try:
        data = check_files(
            root,
            options,
            seed=seed,
            images=images,
            earlier=earlier,
            workers=workers,
            reporter=reporter,
        )
    except LayoutError as fault:
        return Scan(str(root), "not recognised", (), findings=(fault.finding,), dataset=None)
    listing = data.listing
    found = sort_findings([*listing.findings, *run_checks(CHECKS, data, options)])
    is_refused = any(finding.level == "error" for finding in found)
    return Scan(
        root=str(root),
        layout=listing.layout + AUTOMATIC_SPLIT * listing.is_automatic,
        classes=tuple(_count_classes(data)),
        findings=tuple(found),
        dataset=None if is_refused else _build_dataset(data),
    )


def check_files(
    root: Path,
    options: DatasetOptions = DatasetOptions(),
    *,
    seed: int = 0,
    images: ImageOptions = ImageOptions(),
    earlier: Mapping[bytes, int] = MappingProxyType({}),
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> CheckedFiles:
    """List and open all files, find copies, and split off validation; takes the same as `scan`.

    Raises:
        LayoutError: the files cannot be listed.
    """
    source = open_source(root, options)
    groups = GroupNumbers(root, compile_group_pattern(options.group_pattern))
    listing = list_files(
        source, groups, skip_empty=options.skip_empty, is_multi_label=options.multi_label
    )
    inspection = inspect_files(listing, images, workers=workers, reporter=reporter)
    data = _find_copies(listing, inspection, earlier)
    if listing.is_automatic:
        _split_off_validation(data, options.val_fraction, seed)
    return data


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings, errors first."""
    return sorted(findings, key=lambda finding: LEVEL_ORDER.index(finding.level))


def _count_classes(data: CheckedFiles) -> Iterator[ClassCount]:
    rows = data.count(data.kept).tolist()
    for name, (train, val, test) in zip(data.listing.classes, rows, strict=True):
        yield ClassCount(name, train=train, val=val, test=test if data.has_test else None)


def _find_copies(
    listing: FileList, inspection: FileInspection, earlier: Mapping[bytes, int]
) -> CheckedFiles:
    """Exclude broken files and images in several classes, and number the distinct contents."""
    good = np.flatnonzero(inspection.is_good)
    ids, labels = content_ids(inspection.digests[good]), listing.labels[good]
    pairs = np.unique(np.stack([ids, labels]), axis=1)  # the classes of each content
    conflicts = np.zeros(len(inspection.is_good), dtype=np.bool_)
    conflicts[good] = (np.bincount(pairs[0], minlength=1) > 1)[ids]
    kept = inspection.is_good & ~conflicts
    files = np.flatnonzero(kept)
    contents = np.full(len(kept), -1, dtype=np.intp)
    _, places, numbers = np.unique(ids[kept[good]], return_index=True, return_inverse=True)
    contents[files], first = numbers, files[places]
    splits = [earlier.get(digest.tobytes(), -1) for digest in inspection.digests[first]]
    return CheckedFiles(
        listing=listing,
        inspection=inspection,
        splits=listing.splits.copy(),
        kept=kept,
        conflicts=conflicts,
        contents=contents,
        first=first,
        near=find_near_duplicates(inspection, first),
        earlier=np.array(splits, dtype=np.int8),
    )


def _split_off_validation(data: CheckedFiles, fraction: float, seed: int) -> None:
    """Move a fraction of the training images to validation, keeping near-duplicates together."""
    labels, groups = data.listing.labels[data.first], data.group_near_duplicates()
    for label in np.unique(labels) if data.listing.label_sets is None else ():
        members = np.flatnonzero(labels == label)
        if len(np.unique(groups[members])) == 1:  # all alike: better to split than to refuse
            groups[members] = members
    groups = data.join_given_groups(groups)
    files = np.flatnonzero(data.kept & (data.splits == TRAIN))
    group_of_file, digests = groups[data.contents[files]], data.inspection.digests[data.first]
    is_val = choose_validation(
        data.listing.labels[files],
        group_of_file,
        digests,
        fraction=fraction,
        seed=seed,
        label_sets=data.listing.label_sets,
    )
    for split in (VAL, TRAIN):  # a group with an image that was trained on stays in training
        is_val[np.isin(group_of_file, groups[data.earlier == split])] = split == VAL
    data.splits[files[is_val]] = VAL


def _build_dataset(data: CheckedFiles) -> Dataset:
    files = np.flatnonzero(~data.conflicts)
    return Dataset(
        classes=tuple(data.listing.classes),
        label_sets=data.listing.label_sets,
        train=_subset(data, TRAIN),
        val=_subset(data, VAL),
        test=_subset(data, TEST) if data.has_test else None,
        files=SplitTable(
            paths=data.listing.paths.take(files),
            labels=data.listing.labels[files],
            splits=data.splits[files],
            digests=data.inspection.digests[files],
        ),
    )


def _subset(data: CheckedFiles, split: int) -> Subset:
    labels: npt.NDArray[np.int32] = data.listing.labels
    good = np.flatnonzero(data.kept & (data.splits == split))
    failed = labels[~data.inspection.is_good & (data.splits == split)]
    groups = data.listing.groups[good]
    return Subset(data.listing.paths.take(good), labels[good], failed, groups=groups)
