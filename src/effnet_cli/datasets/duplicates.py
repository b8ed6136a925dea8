"""Which images are copies of each other: by their bytes, or nearly by their look.

Near copies are the same image encoded or resized anew. Candidates come from a difference hash
("dHash": where the image gets brighter), sorted several times so that likely pairs are
neighbours; a thumbnail's differences confirm them. No step compares all with all.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.inspect_files import FileInspection

# Neighbours of an image that are looked at, in each of the sorted orders.
WINDOW = 8
ROTATIONS = (0, 14, 28, 42)  # bits of the hash: 56 in all, four orders
# Two gray thumbnails of one image, one as a JPEG of quality 60 at half the size, differ by less
# than these (of 255): measured on 143 photos and parts of photos, of which all copies are found. Of
# 3,000 drawn circles and squares 47 pairs of 4.5 million are as near, of 1,797 digits of 8 px none.
MEAN_DIFFERENCE = 4.0
MAX_DIFFERENCE = 28
COLOUR_DIFFERENCE = 16.0
# ... and by less than this share of the thumbnail's own standard deviation,
RELATIVE_DIFFERENCE = 0.1
CONTRAST = 4.0  # below this standard deviation (of 255) a thumbnail shows nothing to recognise
ASPECT_DIFFERENCE = 0.04  # of width / height
MARGIN = 4  # of 255: steps that are smaller are noise of encoding, not gradients
HASH_DIFFERENCE = 12  # bits
PAIRS_AT_ONCE = 1 << 16  # bounds the memory

Pairs = npt.NDArray[np.intp]


def content_ids(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """A number for each row of `digests` [N,32], from 0, in the order of the digests; equal rows
    have equal numbers.
    """
    words = np.ascontiguousarray(digests).view(">u8")
    order = np.lexsort(words.T[::-1])
    ordered = words[order]
    is_new = np.any(ordered[1:] != ordered[:-1], axis=1)
    ids = np.empty(len(words), dtype=np.intp)
    ids[order] = np.concatenate([[0], np.cumsum(is_new)])[: len(words)]
    return ids


def near_pairs(survey: FileInspection, chosen: npt.NDArray[np.intp]) -> Pairs:
    """Pairs of near copies [P,2] among the files `chosen` [N], whose bytes all differ: places in
    `chosen`, the smaller one first.
    """
    gray = survey.gray[chosen]
    is_telling = gray.std(axis=(1, 2), dtype=np.float32) >= CONTRAST
    gray, telling = gray[is_telling], chosen[is_telling]
    hashes = _difference_hashes(gray)
    brightness = gray.sum(axis=(1, 2), dtype=np.int32)
    found = [
        _confirmed(survey, telling, hashes, pairs) for pairs in _candidates(hashes, brightness)
    ]
    pairs = np.unique(np.concatenate([np.empty((0, 2), dtype=np.intp), *found]), axis=0)
    places: Pairs = np.flatnonzero(is_telling)[pairs]
    return places


def _difference_hashes(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """56 bits for each thumbnail [N,16,16]: where it gets brighter from left to right."""
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
    """Likely pairs: neighbours in the orders of the hash, each order starting at another bit."""
    for rotation in ROTATIONS:
        low = hashes & np.uint64((1 << rotation) - 1)
        turned = (hashes >> np.uint64(rotation)) | (low << np.uint64(56 - rotation))
        order = np.lexsort((brightness, turned))
        for step in range(1, WINDOW + 1):
            ends = np.stack([order[:-step], order[step:]], axis=1)
            for start in range(0, len(ends), PAIRS_AT_ONCE):
                yield np.sort(ends[start : start + PAIRS_AT_ONCE], axis=1)


def _confirmed(
    survey: FileInspection,
    telling: npt.NDArray[np.intp],
    hashes: npt.NDArray[np.uint64],
    pairs: Pairs,
) -> Pairs:
    """Those of `pairs` (places in `telling`) that look the same."""
    bits = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    pairs = pairs[bits <= HASH_DIFFERENCE]
    one, other = telling[pairs[:, 0]], telling[pairs[:, 1]]
    aspects = survey.aspect[one] / survey.aspect[other]
    gray = survey.gray[one].astype(np.int16) - survey.gray[other]
    colour = survey.colour[one].astype(np.int16) - survey.colour[other]
    contrast = survey.gray[one].std(axis=(1, 2), dtype=np.float32)
    mean = np.abs(gray).mean(axis=(1, 2))
    is_near = (
        (np.abs(aspects - 1) <= ASPECT_DIFFERENCE)
        & (mean <= np.minimum(MEAN_DIFFERENCE, RELATIVE_DIFFERENCE * contrast))
        & (np.abs(gray).max(axis=(1, 2), initial=0) <= MAX_DIFFERENCE)
        & (np.abs(colour).mean(axis=3).max(axis=(1, 2), initial=0) <= COLOUR_DIFFERENCE)
    )
    near: Pairs = pairs[is_near]
    return near


def representatives(count: int, pairs: Pairs) -> npt.NDArray[np.intp]:
    """For each of `count` things the one that stands for its group [count].

    A thing joins only one that stands for itself and is directly its copy, so that chains (the
    images of a film) do not become one group.
    """
    stands_for = np.arange(count)
    is_taken = np.zeros(count, dtype=np.bool_)  # has joined a group, or has others in its own
    for one, other in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if stands_for[one] == one and not is_taken[other]:
            stands_for[other] = one
            is_taken[[one, other]] = True
    return stands_for
