"""Classes of a dataset and classes of a model, brought together by name."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from effnet_cli.checkpoint import imagenet_card
from effnet_cli.errors import UsageError
from effnet_cli.variants import DEFAULT_VARIANT, find


@dataclass(frozen=True, slots=True)
class Matched:
    """`indexes` has the model's class for each of the dataset's, `None` where it has none.

    `how` says what the names were taken for. `unknown` are the dataset's classes that the model
    does not have, each with the nearest names; `unused` the model's classes without a folder.
    """

    indexes: tuple[int | None, ...]
    how: str
    unknown: tuple[tuple[str, tuple[str, ...]], ...]
    unused: tuple[str, ...]


def matched(names: Sequence[str], classes: Sequence[str]) -> Matched:
    """The classes of a dataset among those of a model: by their names as they are; for ImageNet's
    also by WordNet id or by index; at last by names without case and punctuation.

    Raises:
        UsageError: none is among them.
    """
    for how, known in _readings(names, classes):  # noqa: B007 (used below)
        indexes = tuple(known(name) for name in names)
        if any(index is not None for index in indexes):
            break
    else:
        raise UsageError(
            f"None of the {len(names):,} classes is one of the model's: "
            f"{_quoted(names)} against {_quoted(classes)}.",
            "Name the folders after the model's classes, or give the model that knows them.",
        )
    unknown = tuple(
        (name, tuple(difflib.get_close_matches(name, classes, n=2, cutoff=0.6)))
        for name, index in zip(names, indexes, strict=True)
        if index is None
    )
    taken = set(indexes)
    unused = tuple(name for index, name in enumerate(classes) if index not in taken)
    return Matched(indexes, how, unknown, unused)


def _readings(
    names: Sequence[str], classes: Sequence[str]
) -> Iterator[tuple[str, Callable[[str], int | None]]]:
    """What the names of a dataset may be, the most certain first."""
    exact = _unique(classes)
    if is_imagenet(classes):
        ids = {name: index for index, name in enumerate(wordnet_ids())}
        yield "WordNet ids", ids.get
        if all(name.isdecimal() for name in names):
            yield "indexes", lambda name: int(name) if int(name) < len(classes) else None
    if not all(name in exact for name in names):
        plain = _unique([_plain(name) for name in classes])
        if sum(_plain(name) in plain for name in names) > sum(name in exact for name in names):
            yield "names without case and punctuation", partial(_loosely, exact, plain)
    yield "names", exact.get


def is_imagenet(classes: Sequence[str]) -> bool:
    """Whether a model answers with ImageNet-1k's classes."""
    row = find(DEFAULT_VARIANT)
    return tuple(classes) == imagenet_card(row.name, row.preprocessing).classes


def wordnet_ids() -> list[str]:
    """The WordNet ids of ImageNet-1k's classes, by index."""
    return Path(__file__).with_name("imagenet_wordnet_ids.txt").read_text("ascii").split()


def _loosely(exact: Mapping[str, int], plain: Mapping[str, int], name: str) -> int | None:
    return exact.get(name, plain.get(_plain(name)))


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Indexes by name, without names that stand for two classes."""
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if counts[name] == 1}


def _plain(name: str) -> str:
    """Letters and digits, without case and in one Unicode form."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if character.isalnum())


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown}, ..." if len(names) > 3 else shown
