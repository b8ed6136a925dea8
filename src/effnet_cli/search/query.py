"""Find the images of an index that resemble others, or are of a class."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.embed.records import Vector, Vectors
from effnet_cli.options import MatchOptions
from effnet_cli.search.condition import Condition, Rows
from effnet_cli.search.records import Match
from effnet_cli.search.store import Store
from effnet_cli.system.errors import UsageError
from effnet_cli.system.text import quote_names

COMPARED_ROWS = 16_384  # 84 MB of vectors of 1,280 numbers
MAX_NAMED = 5  # classes in an error
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The `rows` [K] of an index that are nearest to a query, and their `similarities` [K]."""

    rows: Rows
    similarities: Vector


def find_neighbours(
    vectors: Vectors, queries: Vectors, k: int, *, is_hidden: Mask | None = None
) -> list[Neighbours]:
    """Compare each of `queries` [Q,D] with all `vectors` [N,D], but the rows in `is_hidden` [N].

    The result is exact; equal similarities are in the order of their rows. There are fewer than `k`
    if there are not as many rows.
    """
    none = Neighbours(np.zeros(0, np.intp), np.zeros(0, np.float32))
    best = [none] * len(queries)
    for start in range(0, len(vectors), COMPARED_ROWS):
        rows = slice(start, start + COMPARED_ROWS)
        similarities = queries @ vectors[rows].T
        if is_hidden is not None:
            similarities[:, is_hidden[rows]] = -np.inf
        best = [_merge(one, own, start, k=k) for one, own in zip(best, similarities, strict=True)]
    return best


def _merge(best: Neighbours, similarities: Vector, start: int, *, k: int) -> Neighbours:
    """Return the best of those before, and of the rows from `start` on."""
    is_full = len(best.rows) == k
    limit = best.similarities[-1] if is_full else -np.inf
    better = np.flatnonzero(similarities > limit)
    if not len(better):
        return best
    rows = np.concatenate([best.rows, better + start])
    values = np.concatenate([best.similarities, similarities[better]])
    order = np.lexsort((rows, -values))[:k]
    return Neighbours(rows[order], values[order])


class Matcher:
    """Answers queries with the images of an index that pass the filters in `options`.

    Raises:
        UsageError: an unknown class.
    """

    def __init__(self, store: Store, options: MatchOptions = MatchOptions()) -> None:
        self._store, self._options = store, options
        label = None if options.label is None else _find_class(store, options.label)
        self._condition = Condition(
            folder=options.folder, since=options.since, until=options.until, label=label
        )

    def match_vectors(self, vectors: Vectors) -> list[tuple[Match, ...]]:
        """Return the matches of each vector [Q,D], best first.

        Copies of an image are matches of their own.
        """
        found = find_neighbours(
            self._store.vectors(), vectors, self._options.k, is_hidden=self._hidden()
        )
        return [
            self._list_matches(zip(one.rows.tolist(), one.similarities.tolist(), strict=True))
            for one in found
        ]

    def match_class(self, text: str) -> tuple[Match, ...]:
        """Return the images of the classes whose names have the words of `text`, most probable
        first.

        Raises:
            UsageError: no class has these words.
        """
        probabilities: dict[int, float] = defaultdict(float)
        for index in _find_classes(self._store, text):
            for row, probability in self._store.rows_of_class(index):
                probabilities[row] += probability
        ranked = sorted(probabilities.items(), key=lambda item: (-item[1], item[0]))
        hidden = self._hidden()
        return self._list_matches(
            (row, share) for row, share in ranked if hidden is None or not hidden[row]
        )

    def _hidden(self) -> Mask | None:
        holes = self._store.holes()
        if self._condition.is_empty and not len(holes):
            return None
        is_hidden = np.zeros(self._store.num_rows, np.bool_)
        if not self._condition.is_empty:
            is_hidden[:] = True
            is_hidden[self._store.select(self._condition)] = False
        is_hidden[holes] = True
        return is_hidden

    def _list_matches(self, rows: Iterator[tuple[int, float]]) -> tuple[Match, ...]:
        matches: list[Match] = []
        for row, similarity in rows:
            label = self._store.label(row)
            for path in self._store.paths(row, self._condition):
                rank = len(matches) + 1
                matches.append(Match(rank, path, similarity, label=label))
            if len(matches) >= self._options.k:
                break
        return tuple(matches[: self._options.k])


def _list_classes(store: Store, text: str) -> list[int]:
    words = rf"\b{re.escape(text.strip())}\b"
    exact = [i for i, name in enumerate(store.classes) if name.casefold() == text.casefold()]
    found = [i for i, name in enumerate(store.classes) if re.search(words, name, re.IGNORECASE)]
    return exact or found


def _find_classes(store: Store, text: str) -> list[int]:
    found = _list_classes(store, text)
    if not found:
        shown = quote_names(list(store.classes)[:MAX_NAMED])
        message = f"{text!r} is neither a file nor a class of the index."
        raise UsageError(message, f"Pass an image, or a class such as {shown}.")
    return found


def _find_class(store: Store, text: str) -> int:
    """Return the only class that `text` names."""
    found = _find_classes(store, text)
    if len(found) > 1:
        names = quote_names([store.classes[index] for index in found])
        raise UsageError(f"--class {text!r} could be {names}.", "Use the whole name.")
    return found[0]
