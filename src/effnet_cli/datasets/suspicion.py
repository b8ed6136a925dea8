"""Folders that are hardly classes: splits, parts of a dataset, or places around the classes."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.split import FILLERS, OTHER_NAMES, SPLIT_BY_NAME, split_words
from effnet_cli.system.text import quote_names

SPLIT_WORDS = {*SPLIT_BY_NAME, *OTHER_NAMES, "holdout", "query", "gallery", "fold"}
PART_WORDS = FILLERS | {
    "mask", "masks", "annotation", "annotations", "label", "labels", "trimaps", "xmls", "meta",
    "metadata", "segmentation", "segmentations", "part", "archive",
}  # fmt: skip
ARE_CLASSES = "if they are classes, add --label-pattern '^([^/]+)/'"
INNER_OR_OUTER = (
    "Add --label-pattern '([^/]+)/[^/]+$' for the inner folders as classes, or '^([^/]+)/' for the "
    "outer ones."
)


class InnerFolders(NamedTuple):
    """What is directly in a folder: the names of its folders, and whether it has images."""

    names: frozenset[str]
    has_images: bool


def is_part(name: str) -> bool:
    """Return whether a folder is named like a part of a dataset: `images_2`, `annotations`."""
    words = [word for word in re.findall("[a-z]+", name.lower()) if len(word) > 1]
    known = [word for word in words if word in PART_WORDS]
    return bool(known) and (len(known) == len(words) or words[-1] == "part")


def is_split_like(name: str) -> bool:
    """Return whether a name has a word for a split: `cars_train`, `fold_1`."""
    return any(word in SPLIT_WORDS for word in split_words(name))


def check_are_classes(
    names: Sequence[str], place: str, look_into: Callable[[str], InnerFolders]
) -> None:
    """Refuse folders that are more likely something else than classes.

    Args:
        names: the names of the folders.
        place: what they are in.
        look_into: returns what is in a folder.

    Raises:
        LayoutError: some are named like splits or parts, or the classes may be the folders inside.
    """
    splits, parts = list(filter(is_split_like, names)), list(filter(is_part, names))
    if len(splits) > 1 or (splits and parts):
        message = f"{quote_names(splits + parts)} in {place!r} look like splits, not classes."
        hint = f"Name splits train, val and test; {ARE_CLASSES}."
        raise LayoutError("looks_like_splits", message, hint)
    if len(parts) > 1:
        message = f"{quote_names(parts)} in {place!r} look like parts of a dataset, not classes."
        hint = f"Pass the folder or the table that has the classes; {ARE_CLASSES}."
        raise LayoutError("looks_like_parts", message, hint)
    inner = _find_inner_folders(names, look_into)
    if inner:
        message = (
            f"{quote_names(names)} in {place!r} have folders inside, {quote_names(inner)}: these "
            "could be the classes."
        )
        raise LayoutError("looks_like_splits", message, INNER_OR_OUTER)


def _find_inner_folders(
    names: Sequence[str], look_into: Callable[[str], InnerFolders]
) -> list[str]:
    """Return the folders inside several others, if these have no images of their own, or all of
    them have the same folders.
    """
    found: dict[str, InnerFolders] = {}
    for name in names if len(names) > 1 else ():
        found[name] = look_into(name)
        if not found[name].names:
            return []
    if not found:
        return []
    sets = {one.names for one in found.values()}
    is_same = len(sets) == 1 and len(min(sets)) > 1
    are_only_folders = not any(one.has_images for one in found.values())
    return sorted(frozenset().union(*sets)) if is_same or are_only_folders else []


def group_inner(paths: Mapping[str, Sequence[Sequence[str]]]) -> Callable[[str], InnerFolders]:
    """Return `look_into` for the paths of images below each folder, as their parts."""

    def look_into(name: str) -> InnerFolders:
        own = paths[name]
        return InnerFolders(
            frozenset(parts[0] for parts in own if len(parts) > 1),
            any(len(parts) == 1 for parts in own),
        )

    return look_into
