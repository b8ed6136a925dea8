"""The names of splits, and the automatic split, which depends only on contents and seed."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.groups import NO_GROUP
from effnet_cli.datasets.label_sets import LabelSets

SPLITS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)  # indexes of SPLITS
SPLIT_BY_NAME = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
# How other tools name them besides: `Training Data`, `train_images`, `test1`, `PrivateTest`.
OTHER_NAMES = {"trn": TRAIN, "tst": TEST, "validate": VAL, "publictest": VAL, "privatetest": TEST}
UNUSED_NAMES = frozenset(("pred", "predict", "prediction", "unlabeled", "unlabelled", "unsup"))
FILLERS = frozenset((
    "data", "dataset", "set", "split", "folder", "images", "image", "imgs", "img", "labels",
    "label", "list", "info", "annotations", "metadata",
))  # fmt: skip
SHARD = re.compile(r"-\d+-of-\d+")  # of Hugging Face datasets
Words = tuple[str, ...]


def parse_split(name: str) -> int | None:
    """Return the split that a name of another tool means; `None` if it means none."""
    known = {**SPLIT_BY_NAME, **OTHER_NAMES}
    whole = name.strip().lower()
    if whole in known:
        return known[whole]
    words = split_words(name)
    return known.get(words[0]) if len(words) == 1 else None


def parse_siblings(names: Sequence[str]) -> dict[str, int | None] | None:
    """Return the split that each name means, or `None` for one that is not to be used, if all of
    them are names of splits, perhaps with a word in common (`seg_train`, `seg_test`).
    """
    words = [split_words(name) for name in names]
    shared = {one[:1] for one in words} if len(words) > 1 else set()
    if len(shared) == 1:
        words = [one[1:] for one in words]
    found: dict[str, int | None] = {}
    for name, rest in zip(names, words, strict=True):
        split = parse_split(" ".join(rest)) if rest else None
        if split is None and is_unused(" ".join(rest)):
            found[name] = None
        elif split is None:
            return None
        else:
            found[name] = split
    return found if any(split is not None for split in found.values()) else None


def is_unused(name: str) -> bool:
    """Return whether a folder of this name holds images without labels."""
    words = set(split_words(name))
    return bool(words) and words <= UNUSED_NAMES


def split_words(name: str) -> Words:
    """Return the words of a name that may tell a split, in lower case."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", SHARD.sub("", name))
    return tuple(word for word in map(str.lower, words) if word not in FILLERS)


def choose_validation(
    labels: npt.NDArray[np.int32],
    groups: npt.NDArray[np.intp],
    keys: npt.NDArray[np.uint8],
    *,
    fraction: float,
    seed: int,
    label_sets: LabelSets | None = None,
) -> npt.NDArray[np.bool_]:
    """Choose validation images [N]: about `fraction` of each class, at least one and never all.

    `labels` and `groups` [N] are the class and the group of each image. A group is never divided,
    even if it has images of several classes. Row `g` of `keys` is the content of group `g`. A class
    with only one group is not split. With `label_sets`, of which `labels` are indexes, an image
    counts for each of its classes; those without any are a class, too.
    """
    if not len(labels):
        return np.zeros(0, dtype=np.bool_)
    counts = _count_classes(labels, groups)
    if label_sets is not None:
        counts = _count_members(counts, label_sets)
    totals = np.zeros(1 + max(label for own in counts.values() for label in own), dtype=np.intp)
    for own in counts.values():
        for label, count in own.items():
            totals[label] += count
    num_groups = Counter(label for classes in counts.values() for label in classes)
    room = [
        min(max(round(total * fraction), 1), total - 1) if num_groups[label] > 1 else 0
        for label, total in enumerate(totals.tolist())
    ]
    left, chosen = totals.tolist(), set[int]()

    def choose(group: int) -> None:
        chosen.add(group)
        for label, count in counts[group].items():
            room[label] -= count
            left[label] -= count

    order = sorted(counts, key=lambda group: _rank(keys[group].tobytes(), seed))
    for group in order:
        if all(count <= room[label] for label, count in counts[group].items()):
            choose(group)
    for label in (label for label, number in num_groups.items() if number > 1):
        if left[label] == totals[label]:  # no group of the class fits: take the smallest
            fitting = [
                group
                for group in order
                if label in counts[group]
                and all(count < left[other] for other, count in counts[group].items())
            ]
            if fitting:
                choose(min(fitting, key=lambda group: sum(counts[group].values())))
    return np.isin(groups, list(chosen))


def _count_classes(
    labels: npt.NDArray[np.int32], groups: npt.NDArray[np.intp]
) -> dict[int, dict[int, int]]:
    """Return the number of images of each class in each group."""
    counts: dict[int, dict[int, int]] = {}
    pairs, numbers = np.unique(np.stack([groups, labels]), axis=1, return_counts=True)
    for group, label, number in zip(*pairs.tolist(), numbers.tolist(), strict=True):
        counts.setdefault(group, {})[label] = number
    return counts


def _count_members(
    counts: dict[int, dict[int, int]], label_sets: LabelSets
) -> dict[int, dict[int, int]]:
    """Return the numbers of images of each class in each group, from those of each set."""
    targets = label_sets.targets
    without = np.column_stack([targets, ~targets.any(axis=1)])
    members = [np.flatnonzero(row).tolist() for row in without]
    found: dict[int, dict[int, int]] = {}
    for group, own in counts.items():
        total: Counter[int] = Counter()
        for label, count in own.items():
            total.update(dict.fromkeys(members[label], count))
        found[group] = dict(total)
    return found


def _rank(key: bytes, seed: int) -> bytes:
    return hashlib.sha256(b"%d:" % seed + key).digest()


def assign_folds(
    labels: npt.NDArray[np.int32], groups: npt.NDArray[np.int32], count: int, *, seed: int
) -> npt.NDArray[np.intp]:
    """Return the fold of each image [N]: random, with the images of each class spread evenly.

    The images of one of the `groups` [N] (-1 is none) get the fold of one of them.
    """
    order = np.random.default_rng((seed, 4)).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.intp)
    folds[order] = np.arange(len(labels)) % count
    numbers, first = np.unique(groups, return_index=True)
    places = first[np.searchsorted(numbers, groups)]
    shared: npt.NDArray[np.intp] = np.where(groups == NO_GROUP, folds, folds[places])
    return shared
