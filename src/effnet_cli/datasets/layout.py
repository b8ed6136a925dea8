"""Which folder is a split, and which holds classes."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from effnet_cli.datasets.listing import SPLIT_BY_NAME, LayoutError
from effnet_cli.datasets.records import (
    EXAMPLES,
    SPLITS,
    TRAIN,
    VAL,
    Finding,
    Tally,
)
from effnet_cli.images.finder import Identity, is_ignored, is_image_content, is_image_name
from effnet_cli.options import DatasetOptions
from effnet_cli.system.text import pluralize, quote_names

WANTED_CLASSES = "Give each class a folder, e.g. {0}/cat/1.jpg and {0}/dog/2.jpg"
WANTED_SPLITS = ", or {0}/train/cat/1.jpg and {0}/val/cat/2.jpg"
WANTED_TABLE = "; or list them in a CSV file with the columns path and label."


@dataclass(slots=True)
class FolderContents:
    """What lies straight in a folder."""

    path: Path
    folders: list[str] = field(default_factory=list)
    images: Tally = field(default_factory=Tally)
    ignored: Tally = field(default_factory=Tally)
    loops: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Where each split lies: `bases` has a folder of class folders for each index of SPLITS.
    `not_classes` are folders beside the classes of train that are something else.
    """

    layout: str
    bases: dict[int, Path]
    not_classes: frozenset[str] = frozenset()


def list_folder(folder: Path) -> FolderContents:
    """What lies in `folder`; links to itself and to folders above are told apart.

    Raises:
        Refused: it cannot be read.
    """
    look = FolderContents(folder)
    around = folders_around(folder)
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if is_ignored(entry.name):
                    look.ignored.add(entry.path)
                elif _is_folder(entry):
                    if entry.is_symlink() and identity_of(entry.path) in around:
                        look.loops.add(entry.path)
                    else:
                        look.folders.append(entry.name)
                elif is_image_name(entry.name) or is_image_content(entry.path):
                    look.images.add(entry.path)
    except OSError as error:
        raise LayoutError(
            "unreadable",
            f"The folder {str(folder)!r} cannot be read: {error.strerror}.",
            "Check its permissions.",
        ) from error
    return look


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def identity_of(folder: Path | str) -> Identity:
    """What tells a folder from all others, whatever path leads there."""
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def folders_around(folder: Path) -> frozenset[Identity]:
    """The folder itself and all above it, by its name and by where links lead."""
    real = folder.resolve()
    named = folder.absolute()
    return frozenset(map(identity_of, {real, *real.parents, named, *named.parents}))


def splits_folder(root: Path) -> tuple[Path, FolderContents]:
    """The folder that holds the splits: `root`, or below it where each folder holds only the
    next.
    """
    first = look = list_folder(root)
    seen = {identity_of(root)}
    while len(look.folders) == 1 and not look.images.count:
        if TRAIN in roles_of(look):
            return look.path, look
        below = look.path / look.folders[0]
        if identity_of(below) in seen:
            break
        seen.add(identity_of(below))
        look = list_folder(below)
    found = look if _is_split_layout(look) else first
    return found.path, found


def roles_of(look: FolderContents) -> dict[int, list[str]]:
    """The folders with a split's usual name, by the index of the split."""
    roles: dict[int, list[str]] = {}
    for name in look.folders:
        if (role := SPLIT_BY_NAME.get(name.lower())) is not None:
            roles.setdefault(role, []).append(name)
    return roles


def _is_split_layout(look: FolderContents) -> bool:
    """Whether the folder called train is a split; among other classes it may hold railway
    trains.
    """
    roles = roles_of(look)
    if TRAIN not in roles:
        return False
    others = len(look.folders) - sum(map(len, roles.values()))
    inside = [list_folder(look.path / name) for name in roles[TRAIN]]
    return not others or not any(train.images.count for train in inside)


def plan_of(
    root: Path, look: FolderContents, options: DatasetOptions, findings: list[Finding]
) -> EnginePlan:
    """How the folder `look` is read as a dataset; what is not used of it goes to `findings`.

    Raises:
        Refused: no layout is recognised.
    """
    val = _named_val(look.path, options.val) if options.val is not None else None
    if _is_split_layout(look):
        return _plan_of_splits(look, val, findings)
    if (
        look.folders
        and len(roles_of(look)) > 1
        and set(map(str.lower, look.folders)) <= set(SPLIT_BY_NAME)
    ):
        raise LayoutError(
            "no_train",
            f"{str(root)!r} has {quote_names(look.folders)}, but no folder called train.",
            "Call the folder of the training images train.",
        )
    if not look.folders:
        raise no_classes(root, look)
    if val is None:
        return EnginePlan("one folder of classes, split by effnet", {TRAIN: look.path})
    return EnginePlan(
        f"one folder of classes, validated on {val.name}/",
        {TRAIN: look.path, VAL: val},
        frozenset(n for n in look.folders if (look.path / n).resolve() == val.resolve()),
    )


def _named_val(base: Path, val: Path) -> Path:
    for candidate in (base / val, val):
        if candidate.is_dir():
            return candidate
    raise LayoutError(
        "no_val_folder",
        f"There is no folder {str(val)!r} for --val.",
        "Check the path after --val.",
    )


def _plan_of_splits(look: FolderContents, val: Path | None, findings: list[Finding]) -> EnginePlan:
    roles = roles_of(look)
    bases: dict[int, Path] = {}
    for split, names in sorted(roles.items()):
        if split == VAL and val is not None:
            continue
        if len(names) > 1:
            raise _two_candidates(split, names)
        bases[split] = look.path / names[0]
    if val is not None:
        bases[VAL] = val
    used = {path.resolve() for path in bases.values()}
    unused = [name for name in look.folders if (look.path / name).resolve() not in used]
    if unused:
        findings.append(_not_used(bases[TRAIN], unused))
    words = [f"{bases[split].name}/" for split in sorted(bases)]
    layout = f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
    return EnginePlan(
        layout if VAL in bases else f"{layout}, validation split off by effnet", bases
    )


def _not_used(train: Path, names: list[str]) -> Finding:
    return Finding(
        "warning",
        "not_used",
        f"Folders beside {train.name!r} are not used: {quote_names(names)}.",
        f"Rename {train.name!r} if these are classes.",
        len(names),
        tuple(str(train.parent / name) for name in names[:EXAMPLES]),
    )


def _two_candidates(split: int, names: list[str]) -> LayoutError:
    hint = (
        f"Name the one to validate on: --val {names[0]}."
        if split == VAL
        else "Rename all but one of them."
    )
    return LayoutError(
        "two_candidates",
        f"More than one folder may be {SPLITS[split]}: {quote_names(names)}.",
        hint,
    )


def no_classes(folder: Path, look: FolderContents) -> LayoutError:
    """Why a folder is neither split nor folder of classes, and how it should look."""
    is_split = folder.name.lower() in SPLIT_BY_NAME
    wanted = WANTED_CLASSES if is_split else WANTED_CLASSES + WANTED_SPLITS
    hint = wanted.format(str(folder).rstrip("/")) + WANTED_TABLE
    if look.images.count:
        return LayoutError(
            "no_classes",
            f"{pluralize(look.images.count, 'image')} straight in {str(folder)!r}: "
            "no folder says what their class is.",
            hint,
            tuple(look.images.examples),
        )
    return LayoutError("no_classes", f"{str(folder)!r} holds no class folders.", hint)
