"""Many paths in two flat arrays: worker processes would copy 50,000 `str` objects, page by page, as
their reference counts change.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt


class Paths(Sequence[str]):
    """An immutable list of paths (`str` as from `os.fsdecode`), kept as the bytes of the operating
    system: path `i` is `blob[offsets[i]:offsets[i + 1]]`.
    """

    __slots__ = ("_blob", "_offsets")

    def __init__(self, paths: Iterable[str] = ()) -> None:
        blob = bytearray()
        ends = [0]
        for path in paths:
            blob += os.fsencode(path)
            ends.append(len(blob))
        self._blob = bytes(blob)
        self._offsets = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "Paths": ...

    def __getitem__(self, index: int | slice) -> "str | Paths":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        return os.fsdecode(self.encoded(index))

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Paths):
            return NotImplemented
        return self._blob == other._blob and np.array_equal(self._offsets, other._offsets)

    def __hash__(self) -> int:
        return hash(self._blob)

    def __repr__(self) -> str:
        return f"<{len(self)} paths>"

    def encoded(self, index: int) -> bytes:
        """Path `index` as bytes of the operating system."""
        position = range(len(self))[index]
        return self._blob[self._offsets[position] : self._offsets[position + 1]]

    def take(self, indexes: Iterable[int] | npt.NDArray[np.intp]) -> "Paths":
        """The paths at `indexes`."""
        return Paths(self[int(index)] for index in indexes)
