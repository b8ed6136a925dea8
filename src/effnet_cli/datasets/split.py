"""The automatic split: the same images go to validation on every machine and in every order."""

import hashlib

import numpy as np
import numpy.typing as npt


def held_out(
    labels: npt.NDArray[np.int32],
    groups: npt.NDArray[np.intp],
    keys: npt.NDArray[np.uint8],
    *,
    fraction: float,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Which images [N] go to validation: about `fraction` of each class, at least one and never
    all, groups whole.

    Args:
        labels: the class of each image [N].
        groups: equal numbers for images that stay together [N]; a group lies in one class.
        keys: what tells the contents of the groups apart, a row of bytes for each number.
        fraction: 0 to 1, both excluded.
        seed: another seed draws another split.

    A class with one group only is left in training whole.
    """
    result = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        numbers, sizes = np.unique(groups[members], return_counts=True)
        drawn = sorted(range(len(numbers)), key=lambda i: _lot(keys[numbers[i]].tobytes(), seed))
        chosen = _fill([int(sizes[i]) for i in drawn], len(members), fraction)
        result[members] = np.isin(groups[members], [numbers[drawn[place]] for place in chosen])
    return result


def _lot(key: bytes, seed: int) -> bytes:
    return hashlib.sha256(b"%d:" % seed + key).digest()


def _fill(sizes: list[int], total: int, fraction: float) -> list[int]:
    """The places of the groups to hold out, in the order drawn: each that still fits."""
    if len(sizes) < 2:
        return []
    room = min(max(round(total * fraction), 1), total - 1)
    chosen = []
    for place, size in enumerate(sizes):
        if size <= room:
            chosen.append(place)
            room -= size
    return chosen or [min(range(len(sizes)), key=sizes.__getitem__)]
