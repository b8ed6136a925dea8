"""Classes of a dataset and classes of a model, brought together by name."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from effnet_cli.datasets.records import pluralize
from effnet_cli.models.imagenet import class_names, wordnet_ids
from effnet_cli.system.errors import UsageError

# What a dataset's name may be, the most certain first.
WAYS = ("names", "WordNet ids", "indexes", "names without case and punctuation")


@dataclass(frozen=True, slots=True)
class LabelMap:
    """`indexes` has the model's class for each of the dataset's, `None` where it has none.

    `how` says what the names were taken for. `unknown` are the dataset's classes that the model
    does not have, each with the nearest names; `unused` the model's classes without a folder;
    `merged` the model's classes that several of the dataset's mean, each with these.
    """

    indexes: tuple[int | None, ...]
    how: str
    unknown: tuple[tuple[str, tuple[str, ...]], ...]
    unused: tuple[str, ...]
    merged: tuple[tuple[str, tuple[str, ...]], ...]


def match_labels(names: Sequence[str], classes: Sequence[str]) -> LabelMap:
    """The classes of a dataset among those of a model, each for itself: by its name as it is; for
    ImageNet's also by WordNet id or by index; at last by its name without case and punctuation.

    Raises:
        UsageError: none is among them.
    """
    found = _found(names, classes)
    indexes = tuple(index for index, _ in found)
    if all(index is None for index in indexes):
        raise UsageError(
            f"Of {pluralize(len(names), 'class', 'classes')} none is the model's: "
            f"{_quoted(names)} against {_quoted(classes)}.",
            "Name the folders after the model's classes, or give the model that knows them.",
        )
    taken_for = {way for _, way in found}
    ways = [way for way in WAYS if way in taken_for]
    unknown = tuple(
        (name, _near(name, classes))
        for name, index in zip(names, indexes, strict=True)
        if index is None
    )
    meant: dict[int, list[str]] = {}
    for name, index in zip(names, indexes, strict=True):
        if index is not None:
            meant.setdefault(index, []).append(name)
    unused = tuple(name for index, name in enumerate(classes) if index not in meant)
    merged = tuple((classes[i], tuple(several)) for i, several in meant.items() if several[1:])
    return LabelMap(indexes, in_words(ways), unknown, unused, merged)


def _found(names: Sequence[str], classes: Sequence[str]) -> list[tuple[int | None, str]]:
    """The index of each name's class, and what the name was taken for."""
    readings = list(zip(WAYS, _readings(classes), strict=True))
    found = []
    for name in names:
        taken = ((known(name), way) for way, known in readings)
        found.append(next((one for one in taken if one[0] is not None), (None, "")))
    return found


def _readings(classes: Sequence[str]) -> Iterator[Callable[[str], int | None]]:
    """What a name may be, as in `WAYS`."""
    yield _unique(classes).get
    ids = wordnet_ids() if is_imagenet(classes) else ()
    yield {name: index for index, name in enumerate(ids)}.get
    indexes = {str(index): index for index in range(len(ids))}
    yield lambda name: indexes.get(name.lstrip("0") or name[-1:])  # 007 too
    plain = _unique([_plain(name) for name in classes])
    plain.pop("", None)  # of a name that is all punctuation nothing is left to compare
    yield lambda name: plain.get(_plain(name))


def _near(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The names that may be meant by one that is no class, or that stands for two."""
    others = [other for other in classes if other != name]
    return tuple(difflib.get_close_matches(name, others, n=2, cutoff=0.6))


def in_words(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([*filter(None, [", ".join(words[:-1])]), *words[-1:]])


def is_imagenet(classes: Sequence[str]) -> bool:
    """Whether a model answers with ImageNet-1k's classes."""
    return tuple(classes) == class_names()


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
