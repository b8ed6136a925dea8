"""Datasets as rows of paths, labels and splits, of which there may be millions."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.findings import Finding, note
from effnet_cli.datasets.label_sets import join_labels, split_labels
from effnet_cli.datasets.listing import CountedFinding, LabelledFile, Source
from effnet_cli.datasets.paths import Paths
from effnet_cli.system.text import pluralize


class DatasetRow(NamedTuple):
    """An image, the name of its class, its split (an index of SPLITS), and its group, if any."""

    path: str
    label: str
    split: int
    group: str = ""


@dataclass(frozen=True, slots=True)
class RowArrays:
    """Rows in compact arrays: `labels` [N] are indexes into `classes`, `splits` [N] of SPLITS, and
    `groups` [N] into `group_names`, of which the first is empty.
    """

    paths: Paths
    classes: Sequence[str]
    labels: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int8]
    group_names: Sequence[str]
    groups: npt.NDArray[np.int32]


def collect_rows(rows: Iterable[DatasetRow]) -> RowArrays:
    """Read all rows."""
    labels, groups, splits = array("i"), array("i"), array("b")
    numbers: dict[str, int] = {}
    names = {"": 0}

    def take(row: DatasetRow) -> str:
        labels.append(numbers.setdefault(row.label, len(numbers)))
        splits.append(row.split)
        groups.append(names.setdefault(row.group, len(names)))
        return row.path

    paths = Paths(map(take, rows))
    return RowArrays(
        paths,
        list(numbers),
        np.array(labels, dtype=np.int32),
        splits=np.array(splits, dtype=np.int8),
        group_names=list(names),
        groups=np.array(groups, dtype=np.int32),
    )


def merge_rows(rows: RowArrays) -> RowArrays:
    """Return one row for each path and split, with the labels of all its rows."""
    found: dict[tuple[str, int], tuple[int, set[str]]] = {}
    for place, (path, label, split) in enumerate(
        zip(rows.paths, rows.labels.tolist(), rows.splits.tolist(), strict=True)
    ):
        _, labels = found.setdefault((path, split), (place, set()))
        labels.update(split_labels(rows.classes[label]))
    if len(found) == len(rows.paths):
        return rows
    kept = np.array([place for place, _ in found.values()], dtype=np.intp)
    keys = [join_labels(sorted(labels)) for _, labels in found.values()]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return RowArrays(
        rows.paths.take(kept),
        list(numbers),
        np.array([numbers[key] for key in keys], dtype=np.int32),
        splits=rows.splits[kept],
        group_names=rows.group_names,
        groups=rows.groups[kept],
    )


def describe_rows(layout: str, rows: RowArrays) -> Finding:
    """Return the note that says how a dataset was read."""
    return note("read_as", f"Read as {layout}: {pluralize(len(rows.paths), 'image')}.")


@dataclass(slots=True, kw_only=True)
class RowSource(Source):
    """A dataset in rows."""

    counted: ClassVar[tuple[CountedFinding, ...]] = (
        (note, "listed_twice", "row", "skipped: the file is already listed.", ""),
    )
    rows: RowArrays

    def read(self, split: int) -> tuple[list[str], Iterator[LabelledFile]]:
        labels, chosen = self.rows.labels, np.flatnonzero(self.rows.splits == split)
        chosen = chosen[np.argsort(labels[chosen], kind="stable")]
        numbers, starts = np.unique(labels[chosen], return_index=True)
        parts = np.split(chosen, starts[1:]) if len(chosen) else []
        by_class = {self.rows.classes[n]: part for n, part in zip(numbers, parts, strict=True)}
        classes = sorted(by_class)
        return classes, (file for name in classes for file in self._list(name, by_class[name]))

    def _list(self, label: str, rows: npt.NDArray[np.intp]) -> Iterator[LabelledFile]:
        """Yield the files of a class in the order of their paths, each of them once."""
        last, names = None, self.rows.group_names
        for path, group in sorted((self.rows.paths[i], self.rows.groups[i]) for i in rows.tolist()):
            if path == last:
                self.counters["listed_twice"].add(path)
            else:
                yield LabelledFile(path, label, group=names[group])
            last = path
