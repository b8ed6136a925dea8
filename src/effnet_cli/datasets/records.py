"""The records of a dataset: its images, and what a scan found."""

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.findings import Finding
from effnet_cli.datasets.label_sets import LabelSets
from effnet_cli.datasets.paths import Paths
from effnet_cli.system.errors import UsageError

UNEVEN_RATIO = 3  # between the numbers of training images of the largest and the smallest class


@dataclass(frozen=True, slots=True)
class Subset:
    """The images of one split, ordered by class and path.

    `labels` are the class indexes of `paths`, `groups` the numbers of their groups (-1 for none).
    `failed` has the class indexes of the images that cannot be opened, which validation counts as
    errors.
    """

    paths: Paths
    labels: npt.NDArray[np.int32]
    failed: npt.NDArray[np.int32]
    groups: npt.NDArray[np.int32]

    def count(self, num_classes: int) -> npt.NDArray[np.intp]:
        """Count the images that can be opened, per class [num_classes]."""
        return np.bincount(self.labels, minlength=num_classes)


class SplitTable(NamedTuple):
    """All images of the splits, including those that cannot be opened: class indexes, indexes of
    SPLITS, and SHA-256 digests (uint8 [N,32]; zeros if unreadable).
    """

    paths: Paths
    labels: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int8]
    digests: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A checked, split dataset. With `label_sets`, of which the labels are indexes, images have
    several labels or none.
    """

    classes: tuple[str, ...]
    train: Subset
    val: Subset
    test: Subset | None
    files: SplitTable
    label_sets: LabelSets | None = None

    @property
    def is_uneven(self) -> bool:
        """Whether the largest class has several times as many training images as the smallest."""
        if self.label_sets is not None:
            return False
        counts = self.train.count(len(self.classes))
        return bool(counts.max() >= UNEVEN_RATIO * max(counts.min(), 1))

    def name_label(self, label: int) -> str:
        """Return the name of a label: that of its class, or those of a set."""
        if self.label_sets is None:
            return self.classes[label]
        return self.label_sets.name(label, self.classes)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of the classes and of each image's split, class and content, but not
        its path.
        """
        _, labels, splits, digests = self.files
        names = [name.encode(errors="surrogateescape") + b"\0" for name in self.classes]
        if self.label_sets is not None:
            names.append(self.label_sets.targets.tobytes())
        images = zip(splits, labels, digests, strict=True)
        keys = sorted(b"%d %d " % (split, label) + row.tobytes() for split, label, row in images)
        return hashlib.sha256(b"".join([*names, *keys])).hexdigest()


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How many usable images one class has in each split. `test` is `None` without a test split."""

    name: str
    train: int
    val: int
    test: int | None


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of a scan. `dataset` is `None` if there are errors. `layout` describes how the
    dataset was read.
    """

    root: str
    layout: str
    classes: tuple[ClassCount, ...]
    findings: tuple[Finding, ...]
    dataset: Dataset | None

    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    def to_json(self) -> dict[str, object]:
        """Return the scan as JSON types, with names unchanged."""
        return {
            "ok": self.dataset is not None,
            "root": self.root,
            "layout": self.layout,
            "classes": [asdict(row) for row in self.classes],
            "findings": [asdict(finding) for finding in self.findings],
        }

    def require_dataset(self) -> Dataset:
        """Return the dataset.

        Raises:
            DatasetError: the scan has errors.
        """
        if self.dataset is None:
            raise DatasetError(self)
        return self.dataset


class DatasetError(UsageError):
    """A dataset that cannot be trained on. The message lists all errors of `scan`, with their
    hints if there are several.
    """

    def __init__(self, scan: Scan) -> None:
        errors = scan.errors()
        again = f"Check again with: effnet finetune {shlex.quote(scan.root)} --check"
        hint = errors[0].hint if len(errors) == 1 else again
        super().__init__("\n".join(_describe(scan.root, errors)), hint)
        self.scan = scan

    def __reduce__(self) -> tuple[type["DatasetError"], tuple[Scan]]:
        return DatasetError, (self.scan,)


def _describe(root: str, errors: Sequence[Finding]) -> Iterator[str]:
    yield f"Cannot train on {root!r}:"
    for found in errors:
        yield f"- {found.message} {found.hint}" if len(errors) > 1 else f"- {found.message}"
        reasons = found.reasons or ("",) * len(found.paths)
        for path, reason in zip(found.paths, reasons, strict=True):
            line = path.replace("\n", "\\n")  # a name must not look like another line
            yield f"    {line}: {reason}" if reason else f"    {line}"
