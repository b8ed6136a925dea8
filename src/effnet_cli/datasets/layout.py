"""Which folders are splits, and which are classes."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from effnet_cli.datasets.findings import Counters
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.split import SPLIT_BY_NAME, TRAIN
from effnet_cli.images.finder import (
    Identity,
    identify_folder,
    is_ignored,
    is_image_content,
    is_image_name,
)
from effnet_cli.system.text import pluralize

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
        """Return the subfolders that are named like a split, by the index of the split."""
        found: dict[int, list[str]] = {}
        for name in self.folders:
            if (split := SPLIT_BY_NAME.get(name.lower())) is not None:
                found.setdefault(split, []).append(name)
        return found

    def has_only_splits(self) -> bool:
        return bool(self.folders) and {n.lower() for n in self.folders} <= SPLIT_BY_NAME.keys()

    def has_train(self) -> bool:
        """Return whether a subfolder named train is a split, and not a class of railway trains."""
        train = self.splits().get(TRAIN, [])
        if not train or self.has_only_splits():
            return bool(train)
        return not any(list_folder(self.path / name).num_images for name in train)

    @property
    def num_images(self) -> int:
        return self.counters["no_class"].count


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
    while len(contents.folders) == 1 and not contents.num_images and not contents.has_train():
        below = contents.path / contents.folders[0]
        if identify_folder(below) in seen:
            break
        seen.add(identify_folder(below))
        contents = list_folder(below)
    return contents if contents.has_train() else first


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
    return LayoutError("no_classes", message, hint, paths=examples)
