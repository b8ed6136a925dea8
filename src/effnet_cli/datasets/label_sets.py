"""Several labels for an image: each different set of labels counts as one kind of image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

JOINER = "\x1f"  # between the labels of a row while files are listed
SAVED_JOINER = "|"  # in split.csv

Targets = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LabelSets:
    """The different sets of labels in a dataset: row `s` of `targets` [S,C] marks the classes of
    set `s`. Labels of images are indexes of these rows.
    """

    targets: Targets

    def count(self, of_sets: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return the numbers of images of each class [C,...] from those of each set [S,...]."""
        counts: npt.NDArray[np.intp] = self.targets.T.astype(np.intp) @ of_sets
        return counts

    def name(self, label: int, classes: Sequence[str]) -> str:
        """Return the labels of a set as text, as they are saved."""
        return SAVED_JOINER.join(classes[int(i)] for i in np.flatnonzero(self.targets[label]))


def split_labels(key: str) -> tuple[str, ...]:
    """Return the labels of a row; none of an empty text."""
    return tuple(key.split(JOINER)) if key else ()


def join_labels(labels: Sequence[str]) -> str:
    """Return the labels of a row as one text, in which their order does not matter."""
    return JOINER.join(sorted(set(labels)))
