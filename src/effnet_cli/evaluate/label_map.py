"""Match the classes of a dataset to the classes of a model by name."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.evaluate.records import MergedClass, UnknownClass
from effnet_cli.models.imagenet import class_names, wordnet_ids
from effnet_cli.system.errors import UsageError
from effnet_cli.system.text import quote_names

MAX_NOTES = 5  # about classes, for each kind of note
LookUp = Callable[[str], int | None]  # from a name to the index of its class


@dataclass(frozen=True, slots=True)
class LabelMap:
    """How the classes of a dataset map to those of a model.

    `indexes` holds the index of the model's class for each class of the dataset, `None` for
    `unknown` ones. `matching` names the ways of matching that were used. `unused` lists the model's
    classes without a folder.
    """

    indexes: tuple[int | None, ...]
    matching: str
    unknown: tuple[UnknownClass, ...]
    unused: tuple[str, ...]
    merged: tuple[MergedClass, ...]

    def apply(self, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.intp]:
        """Convert a dataset's `labels` [N] to the model's class indexes; -1 for unknown ones."""
        indexes = np.array([-1 if index is None else index for index in self.indexes], np.intp)
        return indexes.take(labels)


def match_labels(
    names: Sequence[str],
    classes: Sequence[str],
    owners: tuple[str, str] = ("The dataset", "the model"),
) -> LabelMap:
    """Match a dataset's class `names` to a model's `classes`; errors name their `owners`.

    Each name is matched on its own: first exactly, then, for ImageNet-1k's classes, by WordNet id
    or index, and last without case and punctuation. Raises UsageError if no name matches.
    """
    lookups = dict(_lookups(classes))
    found = [_match(name, lookups) for name in names]
    indexes, ways = zip(*found, strict=True)
    if not any(ways):
        raise UsageError(
            f"{owners[0]} has none of the classes of {owners[1]}: "
            f"{quote_names(names)} instead of {quote_names(classes)}.",
            "Use the model's class names as labels or folder names, or choose another --model.",
        )
    folders: dict[int, list[str]] = {}
    unknown = []
    for name, index in zip(names, indexes, strict=True):
        if index is None:
            unknown.append(UnknownClass(name, _near(name, classes)))
        else:
            folders.setdefault(index, []).append(name)
    return LabelMap(
        indexes=indexes,
        matching=_join([way for way in lookups if way in ways]),
        unknown=tuple(unknown),
        unused=tuple(name for index, name in enumerate(classes) if index not in folders),
        merged=tuple(MergedClass(classes[i], tuple(two)) for i, two in folders.items() if two[1:]),
    )


def _match(name: str, lookups: Mapping[str, LookUp]) -> tuple[int | None, str]:
    """Return the index of the class with this name, and how it matched."""
    tries = ((look_up(name), way) for way, look_up in lookups.items())
    return next((match for match in tries if match[0] is not None), (None, ""))


def _lookups(classes: Sequence[str]) -> Iterator[tuple[str, LookUp]]:
    """Yield the ways in which a name can match, in order of preference."""
    yield "names", _unique(classes).get
    ids = wordnet_ids() if tuple(classes) == class_names() else ()
    yield "WordNet ids", _unique(ids).get
    indexes = _unique([str(index) for index in range(len(ids))])
    yield "indexes", lambda name: indexes.get(name.lstrip("0") or name[-1:])  # 007 matches 7
    simple = _unique([_simplify(name) for name in classes])
    simple.pop("", None)  # names with only punctuation must not match each other
    yield "names without case and punctuation", lambda name: simple.get(_simplify(name))


def _near(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return classes that an unknown name may mean, except (duplicate) classes of the same name."""
    others = [other for other in classes if other != name]
    return tuple(difflib.get_close_matches(name, others, n=2))


def describe_label_map(label_map: LabelMap, num_classes: int) -> Iterator[str]:
    """Yield notes on how classes matched, and on unknown, merged and unused ones."""
    unknown, merged = label_map.unknown, label_map.merged
    if label_map.matching != "names":
        yield f"Matched folders by {label_map.matching}"
    for row in unknown[:MAX_NOTES]:
        hint = f"; did you mean {' or '.join(map(repr, row.near))}?" if row.near else ""
        yield f"Skipping {row.label!r}: not a class of this model{hint}"
    if len(unknown) > MAX_NOTES:
        yield f"... and {len(unknown) - MAX_NOTES:,} more unknown classes"
    for one in merged[:MAX_NOTES]:
        both = "both" if len(one.folders) == 2 else "all"
        folders = _join([repr(folder) for folder in one.folders])
        yield f"{folders} {both} map to {one.label!r} and were merged"
    if len(merged) > MAX_NOTES:
        yield f"... and {len(merged) - MAX_NOTES:,} more merged classes"
    if label_map.unused:
        counts = f"{len(label_map.unused):,} of the model's {num_classes:,} classes"
        yield f"{counts} have no images here: {quote_names(label_map.unused)}"


def _join(words: Sequence[str]) -> str:
    """Join words for a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Return indexes keyed by name, without names that occur more than once."""
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if counts[name] == 1}


def _simplify(name: str) -> str:
    """Normalise to Unicode form NFKC, fold case, and keep only letters and digits."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if character.isalnum())
