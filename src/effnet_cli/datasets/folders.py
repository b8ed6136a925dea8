"""Datasets as folders: one for each class, perhaps below one for each split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from effnet_cli.datasets.layout import (
    FolderContents,
    enclosing_folders,
    find_splits,
    identify,
    list_folder,
    no_classes,
)
from effnet_cli.datasets.listing import LabelledFile, LayoutError, Source
from effnet_cli.datasets.records import (
    MAX_EXAMPLES,
    SPLITS,
    TRAIN,
    VAL,
    Counters,
    Finding,
    note,
    warning,
)
from effnet_cli.images.finder import Finder, SkipReason
from effnet_cli.options import DatasetOptions
from effnet_cli.system.text import pluralize, quote_names

MOVE = "Move each into the folder of its class."
UNLINK = "Delete the links that point back."
# Findings about what is counted on the way: level, kind, noun, what follows it, hint.
COUNTED: tuple[tuple[Callable[..., Finding], str, str, str, str], ...] = (
    (warning, "no_class", "image", "outside the class folders skipped.", MOVE),
    (note, "system_files", "hidden or system file", "ignored.", ""),
    (note, "not_images", "file", "skipped: not an image.", ""),
    (warning, "link_loop", "folder", "reached again through links; images count once.", UNLINK),
    (note, "nested", "image", "in subfolders of a class folder, as images of that class.", ""),
)
KIND_OF_SKIP: dict[SkipReason, str] = {
    "ignored": "system_files",
    "not_image": "not_images",
    "already_visited": "link_loop",
}


@dataclass(slots=True)
class FolderSource(Source):
    """A dataset in folders: `bases` has a folder of class folders for each split."""

    bases: dict[int, Path]
    layout_findings: list[Finding]
    counters: Counters = field(default_factory=Counters)

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
        """Count what is beside class folders or splits."""
        for kind, counter in contents.counters.items():
            self.counters[kind].merge(counter)

    def _find(self, folder: Path) -> Iterator[LabelledFile]:
        above = enclosing_folders(folder) - {identify(folder)}
        for found in Finder([str(folder)], on_skip=self._skip, outer_folders=above):
            fault = found.error
            if fault and found.name == str(folder) and fault.kind == "not_a_file":
                return  # an empty folder
            if Path(found.name).parent != folder:
                self.counters["nested"].add(found.name)
            yield LabelledFile(found.name, folder.name, fault)

    def _skip(self, reason: SkipReason, path: str) -> None:
        self.counters[KIND_OF_SKIP[reason]].add(path)

    def findings(self) -> Iterator[Finding]:
        yield from self.layout_findings
        for make, kind, noun, what, hint in COUNTED:
            counter = self.counters[kind]
            if counter.count:
                message = f"{pluralize(counter.count, noun)} {what}"
                yield make(kind, message, hint, count=counter.count, paths=tuple(counter.examples))


def open_folder(root: Path, options: DatasetOptions | None) -> FolderSource:
    """A folder of classes or of splits.

    Raises:
        LayoutError: it is ambiguous, or cannot be read.
    """
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
    layout = " and ".join([", ".join(folders[:-1]), folders[-1]][len(folders) == 1 :])
    if not has_splits:
        layout = f"one folder of classes{f', validated on {folders[1]}' if VAL in bases else ''}"
    findings = [*_layout_findings(root, top, bases)] if has_splits else []
    source = FolderSource(layout, has_splits, set(bases), bases=bases, layout_findings=findings)
    if has_splits:
        source.count(top)
    return source


def _find_val(top: Path, val: Path) -> Path:
    for candidate in (top / val, val):
        if candidate.is_dir():
            return candidate
    message = f"There is no folder {str(val)!r}."
    raise LayoutError("no_val_folder", message, "Check the path given to --val.")


def _check_candidates(names: dict[int, list[str]]) -> None:
    for split, found in names.items():
        if len(found) > 1:
            message = f"Several folders could be {SPLITS[split]}: {quote_names(found)}."
            choose = f"Choose one with --val {found[0]}."
            hint = choose if split == VAL else "Rename all but one of them."
            raise LayoutError("two_candidates", message, hint)


def _layout_findings(root: Path, top: FolderContents, bases: dict[int, Path]) -> Iterator[Finding]:
    if top.path != root:
        yield note("parent", f"Using the splits in {str(top.path)!r}.")
    used = {path.resolve() for path in bases.values()}
    names = [name for name in top.folders if (top.path / name).resolve() not in used]
    if names:
        yield warning(
            "not_used",
            f"Folders beside the splits are not used: {quote_names(names)}.",
            "Rename the splits if these are classes.",
            count=len(names),
            paths=tuple(str(top.path / name) for name in names[:MAX_EXAMPLES]),
        )
