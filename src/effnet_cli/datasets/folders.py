"""Datasets as folders: one per class, optionally inside one per split."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from effnet_cli.datasets.findings import note, warning
from effnet_cli.datasets.layout import (
    FolderContents,
    enclosing_folders,
    find_classes,
    find_splits,
    list_folder,
    look_into,
    no_classes,
)
from effnet_cli.datasets.listing import LabelledFile, LayoutError, Source
from effnet_cli.datasets.other_formats import check_folder, is_archive_name, is_other_format
from effnet_cli.datasets.pattern import open_pattern
from effnet_cli.datasets.split import SPLITS, TRAIN, VAL, is_unused
from effnet_cli.datasets.suspicion import check_are_classes, is_part
from effnet_cli.datasets.table_files import is_table, open_tables_beside
from effnet_cli.images.finder import Finder, SkipReason, identify_folder, is_ignored
from effnet_cli.options import DatasetOptions, LabelOptions
from effnet_cli.system.text import quote_names

MOVE = "Move each into the folder of its class."
UNLINK = "Delete the links that point back."
RENAME = "If these are class folders, rename the split folders."
KEEP = "If it is a class, add --label-pattern '([^/]+)/[^/]+$'."
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
        (warning, "no_labels", "folder", "of unlabelled images not used.", KEEP),
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
        classes = []
        for name in contents.folders:
            if is_unused(name):
                self.counters["no_labels"].add(str(base / name))
            elif (base / name).resolve() not in others:
                classes.append(name)
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


def open_folder(root: Path, options: LabelOptions) -> Source:
    """Open a folder of class folders, of splits, or of images with a table.

    Raises:
        LayoutError: it is none of these, or could be read in several ways.
    """
    if options.label_pattern is not None:
        return open_pattern(root, options.label_pattern)
    check_folder(root)
    top = find_splits(root)
    names = top.splits()
    bases = {split: find_classes(top.path / found[0]) for split, found in names.items()}
    first = list_folder(bases.get(TRAIN, next(iter(bases.values()), top.path)))
    table = _open_table(top.path, bases, first, options=options)
    if table is not None:
        return table
    if not names:
        classes = [name for name in first.folders if not is_unused(name)]
        check_are_classes(classes, str(first.path), lambda name: look_into(first.path / name))
    if isinstance(options, DatasetOptions):
        if options.val is not None:
            bases = {TRAIN: top.path} | bases | {VAL: _find_val(top.path, options.val)}
            names.pop(VAL, None)
        _check_candidates(names)
    return _open_folders(root, top, bases or {TRAIN: top.path}, has_splits=bool(top.splits()))


def _open_table(
    root: Path, bases: Mapping[int, Path], first: FolderContents, *, options: LabelOptions
) -> Source | None:
    """Open the table of a dataset whose folders are no classes, or of which columns are named."""
    named = (options.image_column, options.label_column, options.split_column)
    is_named = any((*named, options.group_column, options.multi_label))
    classes = [name for name in first.folders if not (is_unused(name) or is_part(name))]
    if len(classes) > 1 and not is_named:
        return None
    table = open_tables_beside(root, bases, options, is_needed=not classes or is_named)
    if table is not None and not is_named:
        _check_no_classes_inside(root, first)
    if table is None and not classes and not bases:
        _suggest_what_is_inside(root, first)
    if table is None and is_named:
        message = f"{str(root)!r} has no table of images and labels."
        raise LayoutError(
            "no_table", message, "Pass the table itself, or omit the names of columns."
        )
    return table


def _check_no_classes_inside(root: Path, contents: FolderContents) -> None:
    """Refuse to choose between a table and the class folders in a folder such as `images`.

    Raises:
        LayoutError: there are class folders.
    """
    for name in contents.folders:
        inner = look_into(contents.path / name)
        if len(inner.names) > 1 and not inner.has_images and not all(map(is_part, inner.names)):
            folder = contents.path / name
            message = (
                f"{str(root)!r} has a table, and folders in {str(folder)!r} that may be classes."
            )
            raise LayoutError("table_or_folders", message, "Pass the table, or that folder.")


def _suggest_what_is_inside(root: Path, contents: FolderContents) -> None:
    """Name the folder or the file that has the classes, if there are no class folders.

    Raises:
        LayoutError: there is one.
    """
    parts = [contents.path / name for name in contents.folders]
    for part in parts:
        inner = look_into(part)
        is_inside = len(inner.names) > 1 and not all(map(is_part, inner.names))
        if is_inside and not inner.has_images and len(parts) > 1:
            message = f"{str(root)!r} has no class folders, but {str(part)!r} may have."
            raise LayoutError("no_classes", message, f"If so, pass {str(part)!r}.")
    beside = _find_files_beside([contents.path, *parts])
    readable = [path for path in beside if is_table(path) or is_archive_name(path)]
    if readable and not contents.num_images:
        names = quote_names([str(path.relative_to(root)) for path in readable])
        message = f"{str(root)!r} has no class folders, but {names}."
        raise LayoutError("no_classes", message, f"Pass one of them, e.g. {str(readable[0])!r}.")


def _open_folders(
    root: Path, top: FolderContents, bases: dict[int, Path], *, has_splits: bool
) -> FolderSource:
    folders = [f"{bases[split].name}/" for split in sorted(bases)]
    layout = " and ".join(folders)
    if not has_splits:
        layout = f"one folder of classes{f', validated on {folders[1]}' if VAL in bases else ''}"
    source = FolderSource(layout=layout, has_splits=has_splits, splits=set(bases), bases=bases)
    if top.path != root:
        source.notes.append(note("parent", f"Using the splits in {str(top.path)!r}."))
    beside = _find_files_beside({root, top.path, *bases.values()})
    if beside:
        names = quote_names([str(path.relative_to(root)) for path in beside])
        message = f"Labels are the names of folders; not used: {names}."
        readable = [path for path in beside if is_table(path) or is_archive_name(path)]
        hint = f"To use a file instead, pass it: {str(readable[0])!r}." if readable else ""
        source.notes.append(warning("unused_files", message, hint))
    if has_splits:
        source.count(top)
        used = {path.resolve() for path in bases.values()}
        used |= {path.parent.resolve() for path in bases.values() if path.parent != top.path}
        for folder in map(top.path.joinpath, top.folders):
            if folder.resolve() not in used:
                source.counters["not_used"].add(str(folder))
    return source


def _find_files_beside(folders: Iterable[Path]) -> list[Path]:
    """Return the files beside class folders that may hold images or labels."""
    found = (
        path
        for folder in folders
        for path in folder.iterdir()
        if is_table(path) or is_archive_name(path) or is_other_format(path)
    )
    return sorted(path for path in found if not is_ignored(path.name) and path.is_file())


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
