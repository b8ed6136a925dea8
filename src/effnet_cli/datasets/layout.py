"""Which folders are splits, and which are classes."""

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from effnet_cli.datasets.findings import Counters
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.pattern import suggest_pattern
from effnet_cli.datasets.split import SPLIT_BY_NAME, TRAIN, parse_siblings
from effnet_cli.datasets.suspicion import InnerFolders
from effnet_cli.images.finder import (
    Identity,
    identify_folder,
    is_ignored,
    is_image_content,
    is_image_name,
)
from effnet_cli.system.text import pluralize, quote_names

CLASSES_EXAMPLE = "Create one folder per class, e.g. {0}/cat/1.jpg and {0}/dog/2.jpg"
SPLITS_EXAMPLE = ", or {0}/train/cat/1.jpg and {0}/val/cat/2.jpg"
CSV_EXAMPLE = "; or list them in a CSV file with the columns path and label."


@dataclass(slots=True)
class FolderContents:
    """The subfolders of a folder. `counters` has what else is in it, by kind of finding."""

    path: Path
    folders: list[str] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)

    def splits(self) -> dict[int, list[str]]:
        """Return the subfolders that are splits, by the index of the split; none if they are
        classes.
        """
        if {name.lower() for name in self.folders} <= SPLIT_BY_NAME.keys() or self._has_train():
            return _by_split({name: SPLIT_BY_NAME.get(name.lower()) for name in self.folders})
        return _by_split(parse_siblings(self.folders) or {})

    def _has_train(self) -> bool:
        """Return whether a subfolder named train is a split, and not a class of railway trains."""
        train = [name for name in self.folders if SPLIT_BY_NAME.get(name.lower()) == TRAIN]
        return bool(train) and not any(list_folder(self.path / name).num_images for name in train)

    @property
    def num_images(self) -> int:
        return self.counters["no_class"].count


def _by_split(splits: dict[str, int | None]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name, split in splits.items():
        if split is not None:
            found.setdefault(split, []).append(name)
    return found


def list_folder(folder: Path) -> FolderContents:
    """List `folder`. Links to the folder itself or to a folder above it count as loops."""
    contents = FolderContents(folder)
    above = enclosing_folders(folder)
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if is_ignored(entry.name):
                    contents.counters["system_files"].add(entry.path)
                elif _is_folder(entry):
                    if entry.is_symlink() and identify_folder(entry.path) in above:
                        contents.counters["link_loop"].add(entry.path)
                    else:
                        contents.folders.append(entry.name)
                elif is_image_name(entry.name) or is_image_content(entry.path):
                    contents.counters["no_class"].add(entry.path)
    except OSError as fault:
        message = f"Cannot read the folder {str(folder)!r}: {fault.strerror}."
        raise LayoutError("unreadable", message, "Check its permissions.") from fault
    return contents


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def enclosing_folders(folder: Path) -> frozenset[Identity]:
    """Return the folder and all folders above it, by its path as given and with links resolved."""
    real, named = folder.resolve(), folder.absolute()
    return frozenset(map(identify_folder, {real, *real.parents, named, *named.parents}))


def find_splits(root: Path) -> FolderContents:
    """Find the folder of the splits: `root`, or one below it if each level has a single folder."""
    first = contents = list_folder(root)
    seen = {identify_folder(root)}
    while len(contents.folders) == 1 and not contents.num_images and not contents.splits():
        below = contents.path / contents.folders[0]
        if identify_folder(below) in seen:
            break
        seen.add(identify_folder(below))
        contents = list_folder(below)
    return contents if TRAIN in contents.splits() else first


def find_classes(split: Path) -> Path:
    """Return the folder of a split's class folders: `train/train` if that is all there is in
    `train`, as some archives unpack.
    """
    contents = list_folder(split)
    is_doubled = contents.folders == [split.name] and not contents.num_images
    return split / split.name if is_doubled else split


def look_into(folder: Path) -> InnerFolders:
    """Return what is directly in a folder."""
    names, has_images = [], False
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored(entry.name):
                continue
            if _is_folder(entry):
                names.append(entry.name)
            else:
                has_images = has_images or is_image_name(entry.name)
    return InnerFolders(frozenset(names), has_images)


def _list_names(contents: FolderContents) -> list[str]:
    return sorted(path.name for path in contents.path.iterdir())


def no_classes(contents: FolderContents) -> LayoutError:
    """Return the error for a folder that should have class folders."""
    folder = str(contents.path).rstrip("/")
    is_split = contents.path.name.lower() in SPLIT_BY_NAME
    example = CLASSES_EXAMPLE if is_split else CLASSES_EXAMPLE + SPLITS_EXAMPLE
    message = f"{folder!r} has no class folders."
    if contents.num_images:
        count = pluralize(contents.num_images, "image is", "images are")
        message = f"{count} directly in {folder!r}, instead of in class folders."
    examples = contents.counters["no_class"].examples
    hint = example.format(folder) + CSV_EXAMPLE
    suggested = suggest_pattern([name for name in _list_names(contents) if is_image_name(name)])
    if suggested is not None:
        pattern, labels = suggested
        message += f" Their names suggest the classes {quote_names(labels)}."
        hint = f"If so, pass {shlex.quote(folder)} with --label-pattern {shlex.quote(pattern)}"
    return LayoutError("no_classes", message, hint, paths=examples)
