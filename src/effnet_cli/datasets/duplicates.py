"""Exact copies of images, by content, and near-duplicates, by appearance.

A near-duplicate is the same image encoded again or resized. Candidates come from a difference hash
("dHash": where the image gets brighter), sorted several times so that likely pairs are neighbours.
Comparing thumbnails confirms them. No step compares all pairs.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.inspect_files import FileInspection

WINDOW = 8  # neighbours to compare in each sorted order
ROTATIONS = (0, 14, 28, 42)  # bits of the hash: 56 in all, four orders
# The thumbnails of an image and of its JPEG copy (quality 60, half the size) differ by less than
# these limits (of 255). They find all copies of 143 photos and crops. Among 3,000 drawings of
# circles and squares, 47 of 4.5 million pairs are as similar; among 1,797 digits of 8 px, none.
MEAN_DIFFERENCE = 4.0
MAX_DIFFERENCE = 28
COLOUR_DIFFERENCE = 16.0
RELATIVE_DIFFERENCE = 0.1  # of the thumbnail's own standard deviation
MIN_CONTRAST = 4.0  # standard deviation (of 255); a flatter thumbnail shows nothing
ASPECT_DIFFERENCE = 0.04  # of width / height
MARGIN = 4  # of 255; smaller steps are encoding noise, not gradients
HASH_DIFFERENCE = 12  # bits
PAIRS_AT_ONCE = 1 << 16  # bounds the memory

Pairs = npt.NDArray[np.intp]


def content_ids(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Number the distinct rows of `digests` [N,32] from 0, in sorted order: one number per row."""
    words = np.ascontiguousarray(digests).view(">u8")
    return np.unique(words, axis=0, return_inverse=True)[1].reshape(-1)


def find_near_duplicates(inspection: FileInspection, files: npt.NDArray[np.intp]) -> Pairs:
    """Find the near-duplicates among `files` [N], whose contents all differ.

    The result [P,2] has pairs of indexes of `files`, the smaller index first.
    """
    gray = inspection.gray[files]
    has_contrast = gray.std(axis=(1, 2), dtype=np.float32) >= MIN_CONTRAST
    gray, clear = gray[has_contrast], files[has_contrast]
    hashes = _hash_differences(gray)
    brightness = gray.sum(axis=(1, 2), dtype=np.int32)
    found = [np.empty((0, 2), dtype=np.intp)]
    for pairs in _candidates(hashes, brightness):
        bits = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
        close = pairs[bits <= HASH_DIFFERENCE]
        found.append(close[_look_alike(inspection, clear[close[:, 0]], clear[close[:, 1]])])
    places: Pairs = np.flatnonzero(has_contrast)[np.unique(np.concatenate(found), axis=0)]
    return places


def _hash_differences(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return 56 bits per thumbnail [N,16,16]: where it gets brighter from left to right."""
    count = len(gray)
    blocks = gray.reshape(count, 8, 2, 8, 2).mean(axis=(2, 4), dtype=np.float32)
    bits = (np.diff(blocks, axis=2) > MARGIN).reshape(count, 56)
    packed = np.zeros((count, 8), dtype=np.uint8)
    packed[:, :7] = np.packbits(bits, axis=1)
    words: npt.NDArray[np.uint64] = packed.view(">u8").astype(np.uint64)[:, 0]
    return words >> np.uint64(8)


def _candidates(
    hashes: npt.NDArray[np.uint64], brightness: npt.NDArray[np.int32]
) -> Iterator[Pairs]:
    """Yield likely pairs: neighbours when sorted by the hash, rotated to several start bits."""
    for rotation in ROTATIONS:
        low = hashes & np.uint64((1 << rotation) - 1)
        rotated = (hashes >> np.uint64(rotation)) | (low << np.uint64(56 - rotation))
        order = np.lexsort((brightness, rotated))
        for step in range(1, WINDOW + 1):
            ends = np.stack([order[:-step], order[step:]], axis=1)
            for start in range(0, len(ends), PAIRS_AT_ONCE):
                yield np.sort(ends[start : start + PAIRS_AT_ONCE], axis=1)


def _look_alike(
    inspection: FileInspection, one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]
) -> npt.NDArray[np.bool_]:
    """Return whether the thumbnails of `one[i]` and `other[i]` are nearly the same [P]."""
    aspects = inspection.aspect[one] / inspection.aspect[other]
    gray = inspection.gray[one].astype(np.int16) - inspection.gray[other]
    colour = inspection.colour[one].astype(np.int16) - inspection.colour[other]
    contrast = inspection.gray[one].std(axis=(1, 2), dtype=np.float32)
    mean = np.abs(gray).mean(axis=(1, 2))
    is_near: npt.NDArray[np.bool_] = (
        (np.abs(aspects - 1) <= ASPECT_DIFFERENCE)
        & (mean <= np.minimum(MEAN_DIFFERENCE, RELATIVE_DIFFERENCE * contrast))
        & (np.abs(gray).max(axis=(1, 2), initial=0) <= MAX_DIFFERENCE)
        & (np.abs(colour).mean(axis=3).max(axis=(1, 2), initial=0) <= COLOUR_DIFFERENCE)
    )
    return is_near


def group_duplicates(count: int, pairs: Pairs) -> npt.NDArray[np.intp]:
    """Return the item that represents each item's group [count].

    An item joins only a direct duplicate that represents itself, so that chains (such as the frames
    of a film) do not become one group.
    """
    groups = np.arange(count)
    is_taken = np.zeros(count, dtype=np.bool_)  # has joined a group, or has others in its own
    for one, other in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if groups[one] == one and not is_taken[other]:
            groups[other] = one
            is_taken[[one, other]] = True
    return groups
