"""Files that cannot be opened, and copies within and across splits and classes."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypedDict

import numpy as np

from effnet_cli.audit.records import Problem, ProblemName
from effnet_cli.datasets.checks import CheckedFiles
from effnet_cli.datasets.split import SPLITS
from effnet_cli.system.errors import ImageError

# What is said of a copy, about the place of the other file.
COPY_REASONS: Mapping[ProblemName, str] = {
    "label_conflict": "also in class {label!r}",
    "leak": "also in {split}",
    "near_leak": "nearly the same in {split}",
    "near_conflict": "nearly the same in class {label!r}",
    "copy": "the same content",
    "near_copy": "nearly the same",
}
REMOVED: Collection[ProblemName] = ("leak", "near_leak", "copy")


class Place(TypedDict):
    """Where a file is: fields of `Problem`."""

    path: str
    label: str
    split: str | None


def locate(data: CheckedFiles, file: int) -> Place:
    """Return path, label and split of a file; the split is `None` in a dataset without."""
    listing = data.listing
    return {
        "path": listing.paths[file],
        "label": listing.classes[listing.labels[file]],
        "split": SPLITS[listing.splits[file]] if listing.splits.any() else None,
    }


def unreadable_files(
    data: CheckedFiles, faults: Sequence[tuple[int, ImageError]]
) -> Iterator[Problem]:
    """Yield the files that could not be opened."""
    for file, fault in faults:
        reason = f"{fault.kind}: {fault.message}"
        yield Problem("unreadable", 0, **locate(data, file), action="remove", reason=reason)


def exact_copies(data: CheckedFiles) -> Iterator[Problem]:
    """Yield the files whose content is also in another class, another split or the same split."""
    by_content: dict[bytes, list[int]] = defaultdict(list)
    for file in np.flatnonzero(data.conflicts).tolist():
        by_content[data.inspection.digests[file].tobytes()].append(file)
    labels, splits = data.listing.labels, data.listing.splits
    for files in by_content.values():
        for file in files:
            other = next(one for one in files if labels[one] != labels[file])
            yield _copy(data, file, other, kind="label_conflict")
    for files in _files_by_content(data).values():
        last, seen = files[-1], set[int]()  # in the order of the splits
        for file in files:
            if splits[file] in seen:
                first = next(one for one in files if splits[one] == splits[file])
                yield _copy(data, file, first, kind="copy")
            elif splits[file] != splits[last]:
                yield _copy(data, file, last, kind="leak")
            seen.add(int(splits[file]))


def near_copies(data: CheckedFiles) -> Iterator[Problem]:
    """Yield pairs of images that are nearly the same, in several splits, classes or neither."""
    labels, splits = data.listing.labels, data.listing.splits
    files_of = _files_by_content(data, set(data.near.ravel().tolist()))
    for one, other in data.near.tolist():
        pairs = [(files_of[one][0], files_of[other][-1]), (files_of[other][0], files_of[one][-1])]
        file, kept = max(pairs, key=lambda pair: int(splits[pair[1]]) - int(splits[pair[0]]))
        if labels[file] != labels[kept]:
            yield _copy(data, file, kept, kind="near_conflict")
        elif splits[file] != splits[kept]:
            yield _copy(data, file, kept, kind="near_leak")
        else:
            yield _copy(data, kept, file, kind="near_copy")


def _files_by_content(data: CheckedFiles, contents: set[int] | None = None) -> dict[int, list[int]]:
    """Return the kept files of each of `contents` (default: those in several files), in the order
    of splits and paths.
    """
    kept = np.flatnonzero(data.kept)
    counts = np.bincount(data.contents[kept], minlength=1)
    result: dict[int, list[int]] = defaultdict(list)
    for file in kept[np.argsort(data.listing.splits[kept], kind="stable")].tolist():
        content = int(data.contents[file])
        if counts[content] > 1 if contents is None else content in contents:
            result[content].append(file)
    return result


def _copy(data: CheckedFiles, file: int, other: int, *, kind: ProblemName) -> Problem:
    place = locate(data, other)
    return Problem(
        kind,
        0,
        **locate(data, file),
        action="remove" if kind in REMOVED else "check",
        reason=COPY_REASONS[kind].format(**place),
        other=place["path"],
    )
