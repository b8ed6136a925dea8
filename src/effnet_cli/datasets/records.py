"""What a scan of a dataset gives: what was found, and the images to train on."""

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.paths import Paths
from effnet_cli.system.errors import UsageError

Level = Literal["error", "warning", "note"]
SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)  # indexes of SPLITS
EXAMPLES = 5  # paths that are shown for each finding


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing that was found; an error refuses the dataset.

    `kind` is fixed, so that programs can rely on it. `message` is one sentence with the offending
    values, `hint` one with what to do (empty for most notes). `paths` are the first five of `count`
    things, or the first five pairs, one path behind the other; `reasons` has what is wrong with
    each, where that differs.
    """

    level: Level
    kind: str
    message: str
    hint: str = ""
    count: int = 1
    paths: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(slots=True)
class Tally:
    """How many, and the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(path)

    def join(self, other: "Tally") -> None:
        self.count += other.count
        self.examples = (self.examples + other.examples)[:EXAMPLES]

    def finding(self, level: Level, kind: str, message: str, hint: str = "") -> list[Finding]:
        """A finding of all that was counted, or none."""
        if not self.count:
            return []
        return [Finding(level, kind, message, hint, self.count, tuple(self.examples))]


@dataclass(frozen=True, slots=True)
class Subset:
    """The images of one split, in the order of classes and paths.

    `labels` are the class indexes of `paths`. `failed` are the class indexes of the images that
    cannot be opened: validation counts them as wrong answers.
    """

    paths: Paths
    labels: npt.NDArray[np.int32]
    failed: npt.NDArray[np.int32]

    def count(self, num_classes: int) -> npt.NDArray[np.intp]:
        """Good images in each class [num_classes]."""
        return np.bincount(self.labels, minlength=num_classes)


class SplitTable(NamedTuple):
    """Every image that takes part, those that cannot be opened included, in the order of classes
    and paths: index of its class, index of SPLITS, SHA-256 (uint8 [N,32]; zeros if unreadable).
    """

    paths: Paths
    labels: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int8]
    digests: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A checked, split dataset.

    `file_keys`, uint64 and sorted, holds a hash of (split, class, path, content) for each file;
    `fingerprint` is the SHA-256 of these and the classes, the same wherever `root` lies.
    """

    root: str
    classes: tuple[str, ...]
    train: Subset
    val: Subset
    test: Subset | None
    findings: tuple[Finding, ...]
    file_keys: npt.NDArray[np.uint64]
    fingerprint: str
    files: SplitTable


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Good images of one class in each split; `test` is `None` where there is no such split."""

    name: str
    train: int
    val: int
    test: int | None


@dataclass(frozen=True, slots=True)
class Scan:
    """All that is known of a dataset; `dataset` is `None` if it is refused. `layout` says in words
    how it was read.
    """

    root: str
    layout: str
    classes: tuple[ClassCount, ...]
    findings: tuple[Finding, ...]
    dataset: Dataset | None

    def errors(self) -> Iterator[Finding]:
        """Why the dataset is refused."""
        return (finding for finding in self.findings if finding.level == "error")

    def to_json(self) -> dict[str, object]:
        """The scan in types that JSON knows, names as they are."""
        return {
            "ok": self.dataset is not None,
            "root": self.root,
            "layout": self.layout,
            "classes": [
                {"name": row.name, "train": row.train, "val": row.val, "test": row.test}
                for row in self.classes
            ],
            "findings": [
                {
                    "level": finding.level,
                    "kind": finding.kind,
                    "message": finding.message,
                    "hint": finding.hint,
                    "count": finding.count,
                    "paths": list(finding.paths),
                    "reasons": list(finding.reasons),
                }
                for finding in self.findings
            ],
        }


class DatasetRefused(UsageError):
    """A dataset that cannot be trained on: the message lists all errors of `scan`, each with its
    hint if there are several.
    """

    def __init__(self, scan: Scan) -> None:
        errors = list(scan.errors())
        look = f"Then look again: effnet finetune {shlex.quote(scan.root)} --check"
        hint = errors[0].hint if len(errors) == 1 else look
        super().__init__("\n".join(_described(scan.root, errors)), hint)
        self.scan = scan

    def __reduce__(self) -> tuple[type["DatasetRefused"], tuple[Scan]]:
        return DatasetRefused, (self.scan,)


def _described(root: str, errors: Sequence[Finding]) -> Iterator[str]:
    yield f"{root!r} cannot be trained on:"
    for error in errors:
        yield f"- {error.message} {error.hint}" if len(errors) > 1 else f"- {error.message}"
        reasons = error.reasons or ("",) * len(error.paths)
        for path, reason in zip(error.paths, reasons, strict=True):
            line = path.replace("\n", "\\n")  # a name must not look like another line
            yield f"    {line}: {reason}" if reason else f"    {line}"


def require_dataset(scan: Scan) -> Dataset:
    """The dataset of a scan without errors.

    Raises:
        DatasetRefused: there are errors.
    """
    if scan.dataset is None:
        raise DatasetRefused(scan)
    return scan.dataset


def count_changes(
    old_keys: npt.NDArray[np.uint64], new_keys: npt.NDArray[np.uint64]
) -> tuple[int, int]:
    """How many files of `Dataset.file_keys` are gone and how many are new; a changed file is
    both.
    """
    old, old_counts = np.unique(old_keys, return_counts=True)
    new, new_counts = np.unique(new_keys, return_counts=True)
    _, in_old, in_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    kept = int(np.minimum(old_counts[in_old], new_counts[in_new]).sum())
    return len(old_keys) - kept, len(new_keys) - kept


def fingerprint(classes: Iterable[str], file_keys: npt.NDArray[np.uint64]) -> str:
    """SHA-256, hexadecimal, over the classes and the sorted keys of the files."""
    digest = hashlib.sha256()
    for name in classes:
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    digest.update(file_keys.astype("<u8").tobytes())
    return digest.hexdigest()
