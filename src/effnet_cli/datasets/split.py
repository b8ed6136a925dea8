"""The names of splits, and the automatic split, which depends only on contents and seed."""

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt

SPLITS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)  # indexes of SPLITS
SPLIT_BY_NAME = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}


def choose_validation(
    labels: npt.NDArray[np.int32],
    groups: npt.NDArray[np.intp],
    keys: npt.NDArray[np.uint8],
    *,
    fraction: float,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Choose validation images [N]: about `fraction` of each class, at least one and never all.

    `labels` and `groups` [N] are the class and the group of each image. A group lies in one class
    and is never divided. Row `g` of `keys` is the content of group `g`. A class with only one group
    is not split.
    """
    result = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        numbers, sizes = np.unique(groups[members], return_counts=True)
        order = sorted(range(len(numbers)), key=lambda i: _rank(keys[numbers[i]].tobytes(), seed))
        chosen = _fill([int(sizes[i]) for i in order], len(members), fraction)
        result[members] = np.isin(groups[members], [numbers[order[place]] for place in chosen])
    return result


def _rank(key: bytes, seed: int) -> bytes:
    return hashlib.sha256(b"%d:" % seed + key).digest()


def _fill(sizes: list[int], total: int, fraction: float) -> list[int]:
    """Return the indexes of the groups that still fit, in order, or the smallest if none fits."""
    if len(sizes) < 2:
        return []
    room = min(max(round(total * fraction), 1), total - 1)
    chosen = []
    for place, size in enumerate(sizes):
        if size <= room:
            chosen.append(place)
            room -= size
    return chosen or [min(range(len(sizes)), key=sizes.__getitem__)]


def assign_folds(labels: npt.NDArray[np.int32], count: int, seed: int) -> npt.NDArray[np.intp]:
    """Return the fold of each image [N]: random, with the images of each class spread evenly."""
    order = np.random.default_rng((seed, 4)).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.intp)
    folds[order] = np.arange(len(labels)) % count
    return folds
