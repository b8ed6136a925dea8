"""Recognise which columns of a table hold images, labels and splits."""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from effnet_cli.datasets.findings import Finding, error, note, warning
from effnet_cli.datasets.image_paths import PathResolver
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.split import TEST, TRAIN, VAL, parse_split
from effnet_cli.images.finder import is_image_name
from effnet_cli.options import LabelOptions
from effnet_cli.system.text import quote_names

if TYPE_CHECKING:  # it imports this module
    from effnet_cli.datasets.table import LabelTable

Cell = str | tuple[str, ...]  # several values: a list in a JSON file
Rows = Sequence[Sequence[Cell]]
# Names in lower case with underscores, the best first: those that tools and competitions use.
IMAGE_NAMES = (
    "path", "file_path", "filepath", "filepaths", "file_name", "filename", "image_path", "img_path",
    "image_file", "image_name", "image", "img", "images", "file", "filename_image", "picture",
    "photo", "source_ref", "image_gcs_uri", "image_url", "image_uri", "uri", "url", "image_id",
    "img_id", "imageid", "file_id", "id", "name", "key",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labels", "class_name", "class", "classes", "label_name", "category", "category_name",
    "display_name", "target", "choice", "choices", "annotation", "tag", "tags", "diagnosis", "dx",
    "breed", "species", "genre", "ground_truth", "emotion", "variety", "class_id", "label_id",
    "category_id",
)  # fmt: skip
SPLIT_NAMES = (
    "split", "subset", "set", "data_set", "dataset", "partition", "usage", "ml_use", "phase",
    "fold", "purpose", "stage",
)  # fmt: skip
GROUP_NAMES = (
    "group", "patient", "patient_id", "subject", "subject_id", "person", "person_id", "lesion_id",
    "case_id", "study_id", "video", "video_id", "session", "session_id", "individual_id",
)  # fmt: skip
# Columns that no class is taken from, unless --label-column says so.
NOT_LABELS = frozenset((
    "width", "height", "size", "x", "y", "w", "h", "xmin", "ymin", "xmax", "ymax", "bbox", "area",
    "confidence", "score", "probability", "age", "date", "time", "filesize", "url",
))  # fmt: skip
# Columns of yes and no: the splits that they stand for.
YES_NO_SPLITS = {
    **dict.fromkeys(("is_valid", "is_val", "is_validation"), (VAL, TRAIN)),
    **dict.fromkeys(("is_test",), (TEST, TRAIN)),
    **dict.fromkeys(("is_train", "is_training", "is_training_image"), (TRAIN, VAL)),
}
YES = frozenset(("true", "yes", "1", "1.0", "t", "y"))
NO = frozenset(("false", "no", "0", "0.0", "f", "n"))
ONE_HOT = frozenset(("0", "1", "0.0", "1.0", "true", "false"))
ONE_HOT_OR_UNSURE = ONE_HOT | {"-1", "-1.0"}
CERTAIN_SPLITS = ("split", "subset", "partition")  # columns that mean nothing else
INDEX_NAMES = re.compile(r"(unnamed_\d+|index|)")  # what pandas writes
PIXELS = re.compile(r"pixels|pixel_?\d+|\d+x\d+")
SAVE_ARRAYS = "Save each image as a PNG file in a folder of its class."
MISSING_CELLS = frozenset(("NA", "N/A", "NaN", "nan", "null", "<NA>", "None"))
LABEL_SEPARATORS = "|;,"
OVERRIDE = "Name the column with {0} NAME."


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table, by index. Several `labels` hold one class each (one-hot)."""

    names: Sequence[str]
    image: int
    labels: tuple[int, ...]
    split: int | None
    group: int | None = None
    separator: str | None = None
    notes: tuple[Finding, ...] = ()

    def get(self, column: int, cells: Sequence[Cell]) -> Cell:
        """Return a cell; empty if the row is too short."""
        return cells[column] if column < len(cells) else ""

    def read_labels(self, cells: Sequence[Cell]) -> tuple[str, ...]:
        """Return the labels of a row."""
        if len(self.labels) > 1:
            chosen = (i for i in self.labels if str(self.get(i, cells)).strip().lower() in YES)
            return tuple(self.names[index].strip() for index in chosen)
        cell = self.get(self.labels[0], cells)
        if self.separator is not None and isinstance(cell, str):
            return tuple(part.strip() for part in cell.split(self.separator))
        return (cell,) if isinstance(cell, str) else cell

    def read_group(self, cells: Sequence[Cell]) -> str:
        """Return the name of a row's group; empty if it has none."""
        name = "" if self.group is None else str(self.get(self.group, cells)).strip()
        return "" if name in MISSING_CELLS else name

    def parse_split(self, text: str) -> int | None:
        """Return the split that a cell of the split column means; `None` if it means none."""
        return None if self.split is None else _parse_split_cell(self.names[self.split], text)

    def image_paths(self, table: "LabelTable") -> Iterator[str]:
        """Yield the paths of all rows."""
        for _, cells in table.read():
            cell = self.get(self.image, cells)
            if cell and isinstance(cell, str):
                yield cell

    def describe(self, kind: str) -> str:
        """Say how a table is read, e.g. "a CSV file (images from 'id', labels from 'breed')"."""
        if len(self.labels) > 1:
            labels = f"labels from {len(self.labels)} columns, one for each class"
        else:
            labels = f"labels from {self.names[self.labels[0]]!r}"
            if self.separator is not None:
                labels += f", separated by {self.separator!r}"
        parts = [f"images from {self.names[self.image]!r}", labels]
        if self.split is not None:
            parts.append(f"splits from {self.names[self.split]!r}")
        if self.group is not None:
            parts.append(f"groups from {self.names[self.group]!r}")
        return f"{kind} ({', '.join(parts)})"


def choose_columns(
    table: "LabelTable", sample: Rows, options: LabelOptions, *, resolver: PathResolver
) -> Columns:
    """Choose the columns by the options, else by their names and what is in them.

    Raises:
        LayoutError: there is no such column, or none is recognised.
    """
    names = [normalize_name(name) for name in table.columns]
    label = _find_named(table, options.label_column, "--label-column")
    split = _find_named(table, options.split_column, "--split-column")
    group = _find_named(table, options.group_column, "--group-column")
    taken = {label, split, group}
    image = choose_image_column(table, sample, options, resolver=resolver, taken=taken)
    taken.add(image)
    if split is None:
        split = _find_split(table, names, sample, taken=taken)
        taken.add(split)
    labels: tuple[int, ...] = () if label is None else (label,)
    if not labels:
        labels = _find_labels(table.columns, names, sample, taken=taken)
    if not labels:
        raise _not_recognised(table, "labels", "--label-column")
    used = {image, split, group, *labels}
    ignored = [name for index, name in enumerate(table.columns)
               if index not in used and not INDEX_NAMES.fullmatch(names[index])]  # fmt: skip
    notes = [*_describe_ignored(ignored, table, sample, split=split)]
    return Columns(
        table.columns,
        image,
        labels,
        split=split,
        group=group,
        separator=_choose_separator(sample, labels, options),
        notes=tuple(notes),
    )


def _choose_separator(sample: Rows, labels: tuple[int, ...], options: LabelOptions) -> str | None:
    """Return what separates several labels in a cell: the first of the usual ones that occurs."""
    if not options.multi_label or len(labels) > 1:
        return None
    if options.label_separator is not None:
        return options.label_separator
    texts = _texts(sample, labels[0])
    return next((one for one in LABEL_SEPARATORS if any(one in text for text in texts)), None)


def choose_image_column(
    table: "LabelTable",
    sample: Rows,
    options: LabelOptions,
    *,
    resolver: PathResolver,
    taken: Set[int | None] = frozenset(),
) -> int:
    """Choose the column of images, which is none of those `taken`.

    Raises:
        LayoutError: there is no such column, or none is recognised.
    """
    image = _find_named(table, options.image_column, "--image-column")
    if image is None:
        names = [normalize_name(name) for name in table.columns]
        image = _find_image(names, sample, taken, resolver=resolver)
    if image is None:
        raise _not_recognised(table, "images", "--image-column")
    return image


def normalize_name(name: str) -> str:
    """Return a column's name in lower case with underscores, without what encloses it: the last
    part of `data.imageFile` is `image_file`.
    """
    last = re.split(r"[./](?=[^./]*$)", name.strip())[-1]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", last)
    return re.sub(r"[\s_-]+", "_", words).strip("_").casefold()


def _find_named(table: "LabelTable", name: str | None, flag: str) -> int | None:
    if name is None:
        return None
    columns = list(table.columns)
    if name in columns:
        return columns.index(name)
    message = f"{str(table.file)!r} has no column {name!r}."
    hint = f"Use {flag} with one of {quote_names(columns)}."
    raise LayoutError("missing_column", message, hint)


def _find_image(
    names: Sequence[str], sample: Rows, taken: Set[int | None], *, resolver: PathResolver
) -> int | None:
    """Return the column of images: of those with a usual name, the one that leads to most files;
    without such a name, one whose cells all differ and lead to files.
    """
    known = [names.index(name) for name in IMAGE_NAMES if name in names]
    free = [index for index in known if index not in taken]
    if free:
        return max(free, key=lambda index: resolver.count_found(_texts(sample, index)))
    usable = []
    for index in range(len(names)):
        texts = _texts(sample, index)
        found = resolver.count_found(texts)
        if index not in taken and len(set(texts)) == len(sample) and 2 * found >= len(texts) > 0:
            usable.append((sum(map(is_image_name, texts)), found, -index))
    return -max(usable)[-1] if usable else None


def _find_split(
    table: "LabelTable", names: Sequence[str], sample: Rows, *, taken: Set[int | None]
) -> int | None:
    """Return the column of splits: by its name, else one that holds nothing but names of splits."""
    flags = [name for name, own in zip(table.columns, names, strict=True) if own in YES_NO_SPLITS]
    if len(flags) > 1:
        message = f"The columns {quote_names(flags)} all mark splits."
        hint = "Use one column with train, val and test, or name one with --split-column NAME."
        raise LayoutError("several_splits", message, hint)
    named = [i for i, name in enumerate(names) if name in (*SPLIT_NAMES, *YES_NO_SPLITS)]
    unnamed = [i for i, name in enumerate(names) if i not in named and name not in LABEL_NAMES]
    for index in (*named, *unnamed):
        values = {text.strip().lower() for text in _texts(sample, index)}
        splits = {_parse_split_cell(names[index], value) for value in values}
        if index in taken or not values:
            continue
        if (index in named and splits - {None}) or (len(splits) > 1 and None not in splits):
            return index
    return None


@lru_cache(1 << 10)  # millions of rows have the same few values
def _parse_split_cell(column: str, text: str) -> int | None:
    """Return the split that a cell means in a column of this name."""
    name, value = normalize_name(column), text.strip().lower()
    if name in YES_NO_SPLITS and value in YES | NO:
        return YES_NO_SPLITS[name][value in NO]
    return parse_split(text)


def _find_labels(
    columns: Sequence[str], names: Sequence[str], sample: Rows, *, taken: Set[int | None]
) -> tuple[int, ...]:
    """Return the column of labels: by its name, else the only one left, or those of one class
    each.
    """
    free = [index for index in range(len(names)) if index not in taken]
    for wanted in LABEL_NAMES:
        found = [index for index in free if names[index] == wanted]
        if found:  # those of people come before those of models
            return (min(found, key=lambda index: "prediction" in columns[index].lower()),)
    left = [index for index in free if not INDEX_NAMES.fullmatch(names[index])]
    one_hot = tuple(index for index in left if _holds(sample, index, ONE_HOT))
    maybe = [columns[i] for i in left if i not in one_hot and _holds(sample, i, ONE_HOT_OR_UNSURE)]
    if one_hot and maybe:
        message = f"The columns {quote_names(maybe)} hold -1, which is neither yes nor no."
        raise LayoutError("unsure_labels", message, "Replace -1 by 0 or 1, or remove these rows.")
    if len(one_hot) > 1:
        return one_hot
    likely = [index for index in left if names[index] not in NOT_LABELS]
    return (likely[0],) if len(likely) == 1 else ()


def _holds(sample: Rows, column: int, allowed: Set[str]) -> bool:
    values = {text.strip().lower() for text in _texts(sample, column)}
    return bool(values) and values <= allowed


def _texts(sample: Rows, column: int) -> list[str]:
    cells = (cells[column] for cells in sample if column < len(cells))
    return [cell for cell in cells if isinstance(cell, str) and cell]


def _describe_ignored(
    ignored: Sequence[str], table: "LabelTable", sample: Rows, *, split: int | None
) -> Iterator[Finding]:
    if not ignored:
        return
    like_splits = [name for name in ignored if normalize_name(name) in SPLIT_NAMES]
    for name in like_splits if split is None else ():
        values = sorted(set(_texts(sample, list(table.columns).index(name))))
        message = (
            f"The column {name!r} is not used: its values {quote_names(values)} are no splits."
        )
        make = error if normalize_name(name) in CERTAIN_SPLITS else warning
        yield make("split_not_read", message, "Use train, val and test to mark splits.")
    others = [name for name in ignored if split is not None or name not in like_splits]
    if others:
        groups = [name for name in others if normalize_name(name) in GROUP_NAMES]
        hint = (
            f"If images of one {groups[0]!r} belong together, add --group-column." if groups else ""
        )
        yield note("ignored_columns", f"Columns not used: {quote_names(others)}.", hint)


def _not_recognised(table: "LabelTable", what: str, flag: str) -> LayoutError:
    if any(PIXELS.fullmatch(normalize_name(name)) for name in table.columns):
        message = f"{str(table.file)!r} holds pixels, not paths of images."
        return LayoutError("pixels", message, SAVE_ARRAYS)
    message = (
        f"{str(table.file)!r} has the columns {quote_names(list(table.columns))}; none of them is "
        f"known to hold {what}."
    )
    return LayoutError("missing_column", message, OVERRIDE.format(flag))
