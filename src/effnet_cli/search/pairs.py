"""Pairs of images that show the same or different things: from a table, or from class folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.columns import Cell, normalize_name
from effnet_cli.datasets.labelled import load_labelled
from effnet_cli.datasets.table_files import open_label_table
from effnet_cli.system.errors import UsageError
from effnet_cli.system.text import quote_names

# Names of the two columns of images, and of the one that says whether they show the same.
IMAGE_COLUMNS = (
    ("a", "b"),
    ("image1", "image2"),
    ("image_1", "image_2"),
    ("image_a", "image_b"),
    ("img1", "img2"),
    ("path1", "path2"),
    ("path_1", "path_2"),
    ("file1", "file2"),
    ("left", "right"),
    ("first", "second"),
)
SAME_COLUMNS = (
    "same", "is_same", "match", "is_match", "is_duplicate", "duplicate", "label", "target", "y",
)  # fmt: skip
SAME_WORDS = frozenset(("1", "1.0", "true", "yes", "t", "y", "same", "match"))
DIFFERENT_WORDS = frozenset(("0", "0.0", "false", "no", "f", "n", "different", "other", "mismatch"))
MAX_SAME, MAX_DIFFERENT = 50_000, 200_000  # pairs of class folders
MIN_OF_CLASS = 100  # same pairs, however many classes there are


@dataclass(frozen=True, slots=True)
class ImagePairs:
    """Pairs of `paths`: `first` [P] and `second` [P] are their indexes, and `is_same` [P]."""

    paths: Sequence[str]
    first: npt.NDArray[np.intp]
    second: npt.NDArray[np.intp]
    is_same: npt.NDArray[np.bool_]

    def keep(self, can_be_read: npt.NDArray[np.bool_]) -> "ImagePairs":
        """Return the pairs of which both images can be read [N]."""
        kept = can_be_read[self.first] & can_be_read[self.second]
        return ImagePairs(
            self.paths, self.first[kept], self.second[kept], is_same=self.is_same[kept]
        )


def read_pairs(file: Path) -> ImagePairs:
    """Read a table with two columns of images and one that says whether they show the same.

    Raises:
        UsageError: it cannot be read, or a row says neither.
    """
    table = open_label_table(file)
    names = [normalize_name(name) for name in table.columns]
    images = next((pair for pair in IMAGE_COLUMNS if set(pair) <= set(names)), None)
    said = next((name for name in SAME_COLUMNS if name in names), None)
    if images is None or said is None:
        what = "two images" if images is None else "whether they show the same"
        raise UsageError(
            f"{str(file)!r} has the columns {quote_names(list(table.columns))}; none is known to "
            f"hold {what}.",
            "Name them image1, image2 and same.",
        )
    places = [names.index(name) for name in (*images, said)]
    numbers: dict[str, int] = {}
    rows = []
    for line, cells in table.read():
        one, other, word = (_text(cells, place) for place in places)
        if not one or not other:
            message = f"{table.unit.capitalize()} {line} of {str(file)!r} has no two images."
            raise UsageError(message, "Add the path of each image, or remove the row.")
        is_same = word.lower() in SAME_WORDS
        if not is_same and word.lower() not in DIFFERENT_WORDS:
            message = f"{table.unit.capitalize()} {line} of {str(file)!r} says {word!r}."
            raise UsageError(message, "Use 1 for the same, and 0 for different.")
        left, right = (
            numbers.setdefault(str(table.folder / path), len(numbers)) for path in (one, other)
        )
        rows.append((left, right, is_same))
    return _make_pairs(list(numbers), rows)


def pair_classes(folder: Path, seed: int) -> ImagePairs:
    """Pair the images of a labelled dataset within classes, and as many images of different
    classes as can be compared in seconds.

    Raises:
        UsageError: it cannot be read, or has fewer than two classes.
    """
    found = load_labelled(folder)
    rng = np.random.default_rng(seed)
    labels = found.labels
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if len(by_class) < 2:
        message = f"{str(folder)!r} has images of one class only."
        raise UsageError(message, "Add a folder of another class.")
    same = _sample_same(by_class, rng)
    different = rng.integers(len(labels), size=(2 * MAX_DIFFERENT, 2))
    different = different[labels[different[:, 0]] != labels[different[:, 1]]]
    different = np.unique(np.sort(different, axis=1), axis=0)
    different = rng.permutation(different)[:MAX_DIFFERENT]
    pairs = np.concatenate([same, different])
    is_same = np.arange(len(pairs)) < len(same)
    return ImagePairs(found.paths, pairs[:, 0], pairs[:, 1], is_same=is_same)


def _sample_same(
    by_class: Sequence[npt.NDArray[np.intp]], rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Return pairs [P,2] within classes: all of a small class, and some of a large one."""
    limit = max(MAX_SAME // len(by_class), MIN_OF_CLASS)
    found = [np.zeros((0, 2), np.intp)]
    for own in by_class:
        if len(own) * (len(own) - 1) // 2 <= limit:
            pairs = np.array(list(combinations(own, 2)), np.intp).reshape(-1, 2)
        else:
            drawn = np.sort(own[rng.integers(len(own), size=(2 * limit, 2))], axis=1)
            pairs = rng.permutation(np.unique(drawn[drawn[:, 0] < drawn[:, 1]], axis=0))[:limit]
        found.append(pairs)
    return np.concatenate(found)


def _text(cells: Sequence[Cell], place: int) -> str:
    cell = cells[place] if place < len(cells) else ""
    return cell.strip() if isinstance(cell, str) else ""


def _make_pairs(paths: Sequence[str], rows: Sequence[tuple[int, int, bool]]) -> ImagePairs:
    columns = np.array(rows, np.intp).reshape(-1, 3)
    return ImagePairs(paths, columns[:, 0], columns[:, 1], is_same=columns[:, 2] == 1)
