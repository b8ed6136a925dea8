"""The names of splits, and the automatic split, which depends only on contents and seed."""

import hashlib
import re
from collections.abc import Sequence
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
# How other tools name them besides: `Training Data`, `train_images`, `test1`, `PrivateTest`.
OTHER_NAMES = {"trn": TRAIN, "tst": TEST, "validate": VAL, "publictest": VAL, "privatetest": TEST}
UNUSED_NAMES = frozenset(("pred", "predict", "prediction", "unlabeled", "unlabelled", "unsup"))
FILLERS = frozenset(("data", "dataset", "set", "split", "folder", "images", "image", "imgs", "img"))
Words = tuple[str, ...]


def parse_split(name: str) -> int | None:
    """Return the split that a name of another tool means; `None` if it means none."""
    known = {**SPLIT_BY_NAME, **OTHER_NAMES}
    whole = name.strip().lower()
    if whole in known:
        return known[whole]
    words = _split_words(name)
    return known.get(words[0]) if len(words) == 1 else None


def parse_siblings(names: Sequence[str]) -> dict[str, int | None] | None:
    """Return the split that each name means, or `None` for one that is not to be used, if all of
    them are names of splits, perhaps with a word in common (`seg_train`, `seg_test`).
    """
    words = [_split_words(name) for name in names]
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
    words = set(_split_words(name))
    return bool(words) and words <= UNUSED_NAMES


def _split_words(name: str) -> Words:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return tuple(word for word in map(str.lower, words) if word not in FILLERS)


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
