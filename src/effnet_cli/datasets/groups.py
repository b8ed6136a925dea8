"""Groups of images that have something in common, such as a patient: they stay on one side."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.findings import Finding, error, note
from effnet_cli.system.text import pluralize

if TYPE_CHECKING:  # it imports this module
    from effnet_cli.datasets.listing import LabelledFile

Groups = npt.NDArray[np.intp]
NO_GROUP = -1


class GroupNumbers:
    """Numbers the groups of a dataset, which a table names or a pattern finds in the paths below
    its root.
    """

    def __init__(self, root: Path, pattern: re.Pattern[str] | None = None) -> None:
        self._pattern = pattern
        self._prefix = f"{root if root.is_dir() else root.parent}{os.sep}"
        self._numbers: dict[str, int] = {}
        self._ungrouped = 0

    def number_of(self, file: "LabelledFile") -> int:
        """Return the number of a file's group; `NO_GROUP` if it has none."""
        name = file.group
        if self._pattern is not None:
            match = self._pattern.search(file.path.removeprefix(self._prefix))
            name = "\0".join(match.groups("") or (match[0],)) if match else ""
        if not name:
            self._ungrouped += 1
            return NO_GROUP
        return self._numbers.setdefault(name, len(self._numbers))

    def findings(self) -> Iterator[Finding]:
        """Say how many groups there are, if there are any."""
        count = len(self._numbers)
        if count:
            rest = f"; {pluralize(self._ungrouped, 'image')} in none" if self._ungrouped else ""
            message = f"Images in {pluralize(count, 'group')}{rest}: a group stays in one split."
            yield note("groups", message, count=count)
        elif self._pattern is not None and self._ungrouped:
            message = f"--group-pattern {self._pattern.pattern!r} matches none of the paths."
            yield error("no_groups", message, "Check it, or omit it.")


def join_groups(count: int, *joined: tuple[Groups, Groups]) -> Groups:
    """Return the smallest member of the group of each of `count` items, where the items
    `joined[k][0]` [P] and `joined[k][1]` [P] are in one group pair by pair.
    """
    roots = list(range(count))

    def find(item: int) -> int:
        while roots[item] != item:
            roots[item] = roots[roots[item]]
            item = roots[item]
        return item

    for ones, others in joined:
        for one, other in zip(ones.tolist(), others.tolist(), strict=True):
            low, high = sorted((find(one), find(other)))
            roots[high] = low
    return np.array([find(item) for item in range(count)], dtype=np.intp)


def link_members(items: Groups, numbers: npt.NDArray[np.int32]) -> tuple[Groups, Groups]:
    """Return pairs that connect all `items` [M] of each number [M]; -1 is none."""
    order = np.argsort(numbers, kind="stable")
    order = order[numbers[order] != NO_GROUP]
    items, numbers = items[order], numbers[order]
    is_same = numbers[1:] == numbers[:-1]
    return items[:-1][is_same], items[1:][is_same]
