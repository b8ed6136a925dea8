"""Datasets as folders: one per class, optionally inside one per split."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from effnet_cli.datasets.findings import note, warning
from effnet_cli.datasets.layout import (
    FolderContents,
    enclosing_folders,
    find_splits,
    list_folder,
    no_classes,
)
from effnet_cli.datasets.listing import LabelledFile, LayoutError, Source
from effnet_cli.datasets.split import SPLITS, TRAIN, VAL
from effnet_cli.images.finder import Finder, SkipReason, identify_folder
from effnet_cli.options import DatasetOptions
from effnet_cli.system.text import quote_names

MOVE = "Move each into the folder of its class."
UNLINK = "Delete the links that point back."
RENAME = "If these are class folders, rename the split folders."
KIND_OF_SKIP: dict[SkipReason, str] = {
    "ignored": "system_files",
    "not_image": "not_images",
    "already_visited": "link_loop",
}


@dataclass(slots=True, kw_only=True)
class FolderSource(Source):
    """A dataset in folders. `bases` maps each split to the folder of its class folders."""

    counted = (
        (warning, "not_used", "folder", "beside the splits not used.", RENAME),
        (warning, "no_class", "image", "outside the class folders skipped.", MOVE),
        (note, "system_files", "hidden or system file", "ignored.", ""),
        (note, "not_images", "file", "skipped: not an image.", ""),
        (warning, "link_loop", "folder", "reached again through links; images count once.", UNLINK),
        (note, "nested", "image", "in subfolders of a class folder, counted for that class.", ""),
    )
    bases: dict[int, Path]

    def read(self, split: int) -> tuple[list[str], list[LabelledFile]]:
        base = self.bases[split]
        contents = list_folder(base)
        self.count(contents)
        others = {folder.resolve() for folder in self.bases.values() if folder != base}
        classes = [name for name in contents.folders if (base / name).resolve() not in others]
        if split == TRAIN and not classes:
            raise no_classes(contents)
        return classes, [file for name in classes for file in self._find(base / name)]

    def count(self, contents: FolderContents) -> None:
        """Count what lies beside the class folders or splits."""
        for kind, counter in contents.counters.items():
            self.counters[kind].merge(counter)

    def _find(self, folder: Path) -> Iterator[LabelledFile]:
        above = enclosing_folders(folder) - {identify_folder(folder)}
        for found in Finder([str(folder)], on_skip=self._skip, outer_folders=above):
            fault = found.error
            if fault and found.name == str(folder) and fault.kind == "not_a_file":
                return  # an empty folder
            if folder not in (Path(found.name), Path(found.name).parent):
                self.counters["nested"].add(found.name)
            yield LabelledFile(found.name, folder.name, fault)

    def _skip(self, reason: SkipReason, path: str) -> None:
        self.counters[KIND_OF_SKIP[reason]].add(path)


def open_folder(root: Path, options: DatasetOptions | None) -> FolderSource:
    """Open a folder of class folders or of splits."""
    top = find_splits(root)
    has_splits = top.has_train() or top.has_only_splits()
    names = top.splits() if has_splits else {}
    bases = {split: top.path / names[split][0] for split in names} or {TRAIN: top.path}
    if options is not None:
        if options.val is not None:
            bases[VAL] = _find_val(top.path, options.val)
            names.pop(VAL, None)
        _check_candidates(names)
    folders = [f"{bases[split].name}/" for split in sorted(bases)]
    layout = " and ".join(folders)
    if not has_splits:
        layout = f"one folder of classes{f', validated on {folders[1]}' if VAL in bases else ''}"
    source = FolderSource(layout=layout, has_splits=has_splits, splits=set(bases), bases=bases)
    if top.path != root:
        source.notes.append(note("parent", f"Using the splits in {str(top.path)!r}."))
    if has_splits:
        source.count(top)
        used = {path.resolve() for path in bases.values()}
        for folder in map(top.path.joinpath, top.folders):
            if folder.resolve() not in used:
                source.counters["not_used"].add(str(folder))
    return source


def _find_val(top: Path, val: Path) -> Path:
    for candidate in (top / val, val):
        if candidate.is_dir():
            return candidate
    message = f"No such folder: {str(val)!r}."
    raise LayoutError("no_val_folder", message, "Check the path given to --val.")


def _check_candidates(names: dict[int, list[str]]) -> None:
    for split, found in names.items():
        if len(found) > 1:
            message = f"Several folders look like the {SPLITS[split]} split: {quote_names(found)}."
            choose = f"Choose one with --val {found[0]}."
            hint = choose if split == VAL else "Rename all but one of them."
            raise LayoutError("two_candidates", message, hint)
