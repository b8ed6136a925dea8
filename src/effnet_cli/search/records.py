"""What `search` yields: changes of an index, and matches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from effnet_cli.predict.records import ErrorInfo

# What happened to an image. `copied`: its content is that of an image in the index, perhaps of one
# that was moved, so that it was not decoded.
Change = Literal["added", "changed", "copied", "removed", "failed"]


@dataclass(frozen=True, slots=True)
class IndexedImage:
    """An image whose entry in the index changed, or which could not be read."""

    path: str
    change: Change
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """An index after an update: its images, those that cannot be read, and how many changed."""

    name: str
    images: int
    failed: int
    unchanged: int
    changes: Mapping[Change, int]


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index on this machine; `size_bytes` are those of its files."""

    name: str
    folder: str
    model: str
    pool: str
    images: int
    failed: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Match:
    """An image that resembles a query.

    `rank` starts at 1. `similarity` is the cosine of the vectors, -1..1; for the name of a class,
    the probability of the class, 0..1. `label` is the most probable class of the image.
    """

    rank: int
    path: str
    similarity: float
    label: str


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The matches of a query, best first, or the error. `query` is as given."""

    query: str
    matches: tuple[Match, ...] = ()
    error: ErrorInfo | None = None

    @property
    def status(self) -> str:
        """`ok` or `error`."""
        return "ok" if self.error is None else "error"
