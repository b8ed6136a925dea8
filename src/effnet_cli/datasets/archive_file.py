"""Datasets in a zip or tar archive, read in place."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from effnet_cli.datasets.columns import LABEL_NAMES, normalize_name
from effnet_cli.datasets.findings import Counters, note, warning
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.other_formats import PACKED_SUFFIXES, is_archive_name
from effnet_cli.datasets.pattern import compile_pattern, match_path
from effnet_cli.datasets.rows import DatasetRow, RowSource, collect_rows, describe_rows
from effnet_cli.datasets.split import TRAIN, is_unused, parse_siblings, parse_split
from effnet_cli.datasets.suspicion import check_are_classes, group_inner, is_part
from effnet_cli.datasets.table_files import is_table
from effnet_cli.images.archives import UNPACK, Archive, open_archive
from effnet_cli.images.finder import is_ignored, is_image_name
from effnet_cli.options import LabelOptions
from effnet_cli.system.errors import ImageError
from effnet_cli.system.text import quote_names

MAX_LABEL_BYTES = 1 << 20
WEB_DATASET, SPLIT_FOLDERS, CLASS_FOLDERS = "images with their classes", "splits", "class folders"
CLASS_FILE = ".cls"  # beside each image of a WebDataset


@dataclass(slots=True, kw_only=True)
class ArchiveSource(RowSource):
    """A dataset in an archive."""

    counted = (
        *RowSource.counted,
        (warning, "unsafe_name", "file", "skipped: its name leads out of the archive.", ""),
        (warning, "no_class", "image", "outside the class folders skipped.", UNPACK),
        (warning, "no_label", "image", "without a label skipped.", "Add its label to the archive."),
        (warning, "no_match", "image", "skipped: --label-pattern does not match.", "Check it."),
        (warning, "unreadable_members", "link or repeated name", "skipped.", UNPACK),
        (note, "system_files", "hidden or system file", "ignored.", ""),
        (note, "not_images", "file", "skipped: not an image.", ""),
    )


def is_archive(path: Path) -> bool:
    """Return whether a file is named like an archive."""
    return is_archive_name(path) and path.is_file()


def list_archive(file: Path) -> Iterator[str]:
    """Yield the names of the images in an archive.

    Raises:
        LayoutError: it cannot be read.
    """
    counters = Counters()
    for name in _open(file).names():
        if _is_usable(name, counters) and is_image_name(name):
            yield name


def _open(file: Path) -> Archive:
    if file.suffix.lower() in PACKED_SUFFIXES:
        message = f"The files in {str(file)!r} cannot be read one by one."
        hint = "Unpack it and pass the folder, or pack its files as zip or tar."
        raise LayoutError("packed", message, hint)
    try:
        return open_archive(str(file))
    except ImageError as fault:
        raise LayoutError("bad_archive", fault.message, fault.hint) from fault


def open_archive_file(file: Path, options: LabelOptions) -> ArchiveSource:
    """Open an archive of class folders, of splits, or a WebDataset (an image and its class in files
    of one name).

    Raises:
        LayoutError: it is none of these, or cannot be read.
    """
    archive = _open(file)
    counters = Counters()
    names = [name for name in archive.names() if _is_usable(name, counters)]
    counters["unreadable_members"].count = archive.num_hidden
    images = [name for name in names if is_image_name(name)]
    layout, rows = _choose_layout(
        archive, names, images, options=options, place=str(file), counters=counters
    )
    counters["not_images"].count += len(names) - len(images) if layout != WEB_DATASET else 0
    found = collect_rows(row._replace(path=str(file / row.path)) for row in rows)
    if not found.classes:
        message = f"{str(file)!r} has no class folders."
        raise LayoutError("no_classes", message, UNPACK)
    splits = set(np.unique(found.splits).tolist())
    kind = f"an archive of {layout}"
    notes = [describe_rows(kind, found)]
    tables = [name for name in names if is_table(Path(name))]
    if tables and layout != WEB_DATASET:
        message = f"Labels are the names of folders; not used: {quote_names(tables)}."
        notes.append(warning("unused_files", message, f"To use a file, unpack {str(file)!r}."))
    return ArchiveSource(
        layout=kind,
        notes=notes,
        has_splits=layout == SPLIT_FOLDERS or splits != {TRAIN},
        splits=splits,
        counters=counters,
        rows=found,
    )


def _is_usable(name: str, counters: Counters) -> bool:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        counters["unsafe_name"].add(name)
        return False
    if any(map(is_ignored, path.parts)):
        counters["system_files"].add(name)
        return False
    return True


def _choose_layout(
    archive: Archive,
    names: Sequence[str],
    images: Sequence[str],
    *,
    options: LabelOptions,
    place: str,
    counters: Counters,
) -> tuple[str, Iterator[DatasetRow]]:
    if options.label_pattern is not None:
        pattern = compile_pattern(options.label_pattern)
        return CLASS_FOLDERS, match_path(pattern, ((name, name) for name in images), counters)
    if any(name.endswith(CLASS_FILE) for name in names):
        return WEB_DATASET, _read_web_dataset(archive, names, images, counters=counters)
    depth = _count_shared_folders(images)
    tops = sorted({PurePosixPath(name).parts[depth] for name in images if name.count("/") > depth})
    splits = parse_siblings(tops) or {}
    if not splits:
        _check_tops(names, images, tops, depth=depth, place=place)
    kind = SPLIT_FOLDERS if splits else CLASS_FOLDERS
    return kind, _read_folders(images, splits, depth, counters=counters)


def _check_tops(
    names: Sequence[str], images: Sequence[str], tops: Sequence[str], *, depth: int, place: str
) -> None:
    """Refuse folders that are hardly classes, and a table that would be ignored.

    Raises:
        LayoutError: there are such folders, or there is a table and no classes.
    """
    paths: dict[str, list[Sequence[str]]] = {top: [] for top in tops}
    for name in images:
        parts = PurePosixPath(name).parts[depth:]
        if len(parts) > 1:
            paths[parts[0]].append(parts[1:])
    tables = [name for name in names if is_table(Path(name))]
    if tables and len([top for top in tops if not is_part(top)]) < 2:
        message = f"{place!r} holds the table {tables[0]!r}, which is not read inside an archive."
        raise LayoutError("table_in_archive", message, UNPACK)
    check_are_classes(tops, place, group_inner(paths))


def _count_shared_folders(images: Sequence[str]) -> int:
    """Return how many folders around all images are neither splits nor classes."""
    paths = [PurePosixPath(name).parts for name in images]
    depth = 0
    while paths and all(len(parts) > depth + 2 for parts in paths):
        names = {parts[depth] for parts in paths}
        if len(names) > 1 or parse_split(names.pop()) is not None:
            break
        depth += 1
    return depth


def _read_folders(
    images: Sequence[str], splits: Mapping[str, int | None], depth: int, *, counters: Counters
) -> Iterator[DatasetRow]:
    for name in images:
        *folders, _ = PurePosixPath(name).parts[depth:]
        split: int | None = TRAIN
        if splits and folders:
            top = folders.pop(0)
            split = splits[top]
            if folders[:1] == [top]:  # `train/train`, as some archives unpack
                folders.pop(0)
        if folders and split is not None and not is_unused(folders[0]):
            yield DatasetRow(name, folders[0], split)
        else:
            counters["no_class"].add(name)


def _read_web_dataset(
    archive: Archive, names: Sequence[str], images: Sequence[str], *, counters: Counters
) -> Iterator[DatasetRow]:
    """Yield the images with the text of the file of the same name that holds the class."""
    known = set(names)
    for name in images:
        label = _read_label(archive, re.sub(r"\.[^/]*$", "", name), known)
        if label:
            yield DatasetRow(name, label, TRAIN)
        else:
            counters["no_label"].add(name)


def _read_label(archive: Archive, stem: str, known: set[str]) -> str:
    """Return the name of a class from a file beside an image (`.json` before `.cls`: its names say
    more than numbers do).
    """
    if f"{stem}.json" in known:
        try:
            content = json.loads(_read_small(archive, f"{stem}.json"))
        except (ValueError, RecursionError):
            content = None
        fields = (
            {normalize_name(key): one for key, one in content.items()}
            if isinstance(content, dict)
            else {}
        )
        label = next((fields[key] for key in LABEL_NAMES if isinstance(fields.get(key), str)), "")
        if label:
            return str(label).strip()
    if stem + CLASS_FILE not in known:
        return ""
    return _read_small(archive, stem + CLASS_FILE).decode(errors="surrogateescape").strip()


def _read_small(archive: Archive, name: str) -> bytes:
    """Return the content of a file that holds a label; nothing if it is too large for that."""
    size = archive.size_of(name) or 0
    try:
        return archive.read(name) if size <= MAX_LABEL_BYTES else b""
    except ImageError:
        return b""
