"""Many paths in two flat arrays. Worker processes would copy the memory pages of 50,000 `str`
objects as their reference counts change.
"""

import os
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt


def decode_path(cell: str) -> str:
    """Return the path in a cell read with `csv_file.CSV_TEXT`, for the operating system."""
    return os.fsdecode(cell.encode(errors="surrogateescape"))


def encode_path(path: str) -> str:
    """Return the cell of a path, which keeps the operating system's bytes."""
    return os.fsencode(path).decode(errors="surrogateescape")


class Paths(Sequence[str]):
    """An immutable list of paths (`str` as from `os.fsdecode`), stored as the operating system's
    bytes: path `i` is `blob[offsets[i]:offsets[i + 1]]`.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        blob, ends = bytearray(), [0]
        for path in paths:
            blob += os.fsencode(path)
            ends.append(len(blob))
        self._blob = bytes(blob)
        self._offsets = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        return os.fsdecode(self.encoded(index))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Paths) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self._blob)

    def encoded(self, index: int) -> bytes:
        """Return path `index` as the operating system's bytes."""
        position = range(len(self))[index]
        return self._blob[self._offsets[position] : self._offsets[position + 1]]

    def __add__(self, other: "Paths") -> "Paths":
        joined = Paths()
        joined._blob = self._blob + other._blob
        shifted = other._offsets[1:] + self._offsets[-1]
        joined._offsets = np.concatenate([self._offsets, shifted])
        return joined

    def take(self, indexes: Iterable[int] | npt.NDArray[np.intp]) -> "Paths":
        """Return the paths at `indexes`."""
        return Paths(self[int(index)] for index in indexes)
