"""Which images a model was trained on: `split.csv` in the run folder, matched by content."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.csv_file import CSV_TEXT
from effnet_cli.datasets.inspect_files import hash_file, map_files
from effnet_cli.datasets.label_sets import SAVED_JOINER
from effnet_cli.datasets.labelled import LabelledImages
from effnet_cli.datasets.paths import decode_path, encode_path
from effnet_cli.datasets.records import Dataset
from effnet_cli.datasets.scan import scan
from effnet_cli.datasets.split import SPLIT_BY_NAME, SPLITS, TEST, TRAIN, VAL
from effnet_cli.models.card import SPLIT_FILE_NAME, ModelCard, describe_read_error
from effnet_cli.options import DatasetOptions, ImageOptions
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.files import atomic_write
from effnet_cli.system.reporter import SILENT, Reporter
from effnet_cli.system.text import pluralize

COLUMNS = ("path", "label", "split", "sha256")
RUN_COLUMN = "run"  # the same in each row
RUN_ID_CHARS = 16  # hexadecimal
WRITE_TEXT = CSV_TEXT | {"encoding": "utf-8"}  # without a byte order mark
# Places besides the indexes of SPLITS: not seen in training, and found in several classes.
NEW, AMBIGUOUS = -1, -2

Places = npt.NDArray[np.int8]


class SplitRow(NamedTuple):
    """A row of `split.csv`: the absolute path, the class, the index of the split, and the SHA-256
    of the bytes (empty if the file is unreadable).
    """

    path: str
    label: str
    split: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SavedSplit:
    """The images of a training run. Those of the training split come last.

    `run` is also in the card of the run's model (see `identify_run`).
    """

    file: Path
    rows: list[SplitRow]
    run: str = ""

    @property
    def classes(self) -> set[str]:
        return {row.label for row in self.rows if row.split == TRAIN}

    @property
    def contents(self) -> dict[bytes, int]:
        """The split of each image by SHA-256; training wins for an image in several splits."""
        return {row.digest: row.split for row in self.rows if row.digest}

    def locate(self, data: LabelledImages, reporter: Reporter = SILENT) -> Places:
        """Return the split of each image of `data` [N]: an index of SPLITS, `NEW` or `AMBIGUOUS`.

        A changed file at the path of a training image counts as that image.
        """
        total = len(data.paths)
        places = np.full(total, NEW, dtype=np.int8)
        contents, by_path = self.contents, {row.path: row.split for row in self.rows}
        same_content = defaultdict(list)
        for index, digest in enumerate(map_files(lambda i: _hash_content(data.paths[i]), total)):
            split = by_path.get(_absolute(data.paths[index]), NEW)
            may_be_same = split == TRAIN or not digest
            places[index] = contents.get(digest, split if may_be_same else NEW)
            if digest:
                same_content[digest].append(index)
            reporter.progress("Comparing images", index + 1, total)
        for indexes in same_content.values():
            if len(set(data.labels[indexes])) > 1:
                places[indexes] = AMBIGUOUS
        return places

    def count_changes(self, dataset: Dataset) -> tuple[int, int]:
        """Count the saved images missing from `dataset`, and those new in it. A changed image
        counts as both, a renamed one as neither.
        """
        before = Counter(row[1:] for row in self.rows)
        after = Counter(row[1:] for row in _rows_of(dataset))
        return (before - after).total(), (after - before).total()


def identify_run(dataset: Dataset, folder: Path | None) -> str:
    """Return what the split and the model of a run have in common: the beginning of the fingerprint
    of its first dataset. `folder` is the run folder, if there is one.
    """
    saved = None if folder is None else load_split(folder)
    return dataset.fingerprint[:RUN_ID_CHARS] if saved is None else saved.run


def save_split(dataset: Dataset, folder: Path) -> None:
    """Write the split into a run folder. It keeps images that the run has already trained on, even
    if they are gone from the dataset.
    """
    rows, run = list(_rows_of(dataset)), identify_run(dataset, folder)
    saved = load_split(folder)
    if saved is not None:
        trained = {row.digest for row in rows if row.split == TRAIN}
        rows += [row for row in saved.rows if row.split == TRAIN and row.digest not in trained]
    with atomic_write(folder / SPLIT_FILE_NAME) as part, part.open("w", **WRITE_TEXT) as lines:
        writer = csv.writer(lines)
        writer.writerow((*COLUMNS, RUN_COLUMN))
        for row in rows:
            cells = encode_path(row.path), row.label, SPLITS[row.split], row.digest.hex()
            writer.writerow((*cells, run))


def load_split(folder: Path) -> SavedSplit | None:
    """Read the split in a run folder. Return `None` if there is none.

    Raises:
        UsageError: the file cannot be read.
    """
    file = folder / SPLIT_FILE_NAME
    if not file.is_file():
        return None
    try:
        with file.open(**CSV_TEXT) as lines:
            rows, run = _read_rows(csv.DictReader(lines, strict=True))
    except (OSError, ValueError) as fault:
        message = f"{str(file)!r} is not a saved split: {describe_read_error(fault)}."
        hint = "Restore it, or move the model file to another folder."
        raise UsageError(message, hint) from fault
    return SavedSplit(file, sorted(rows, key=lambda row: -row.split), run)


def _read_rows(reader: "csv.DictReader[str]") -> tuple[list[SplitRow], str]:
    """Return the rows and the run; `ValueError` with the first fault."""
    rows, runs = [], {""}
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        for cells in reader if not missing else ():
            path, label, split, sha256 = (cells[name] for name in COLUMNS)
            digest = bytes.fromhex(sha256)
            rows.append(SplitRow(decode_path(path), label, SPLIT_BY_NAME[split], digest=digest))
            runs.add(cells.get(RUN_COLUMN) or "")
    except (ValueError, LookupError, AttributeError, TypeError, csv.Error) as fault:
        raise ValueError(f"line {reader.line_num} is damaged") from fault
    if missing:
        raise ValueError(f"it has no column {missing[0]!r}")
    return rows, max(runs)


def _load_split_of(card: ModelCard, folder: Path, reporter: Reporter) -> SavedSplit | None:
    """Return the split in the folder of a model; `None` with a note if it is not that of the model.

    Raises:
        UsageError: it cannot be read.
    """
    file = folder / SPLIT_FILE_NAME
    if file.is_file() and not _has_columns(file):
        reporter.note(f"Ignoring {str(file)!r}: it was not written by `effnet finetune`.")
        return None
    saved = load_split(folder)
    if saved is None:
        return None
    classes = saved.classes
    if card.label_scores is not None:
        classes = {name for key in classes for name in key.split(SAVED_JOINER) if name}
    if classes != set(card.classes) or saved.run != card.dataset.get(RUN_COLUMN, ""):
        reporter.note(f"Ignoring {str(file)!r}: it belongs to another model.")
        return None
    return saved


def _has_columns(file: Path) -> bool:
    """Return whether a file starts like a saved split, or cannot be read."""
    try:
        with file.open(**CSV_TEXT) as lines:
            return set(COLUMNS) <= set(next(csv.reader(lines), ()))
    except OSError:
        return True
    except csv.Error:
        return False


def locate_images(
    data: LabelledImages,
    card: ModelCard,
    model: Path | None,
    *,
    images: ImageOptions = ImageOptions(),
    reporter: Reporter = SILENT,
) -> Places | None:
    """Find the place of each image of `data` in a model's training: an index of SPLITS, `NEW` or
    `AMBIGUOUS` [N]. Return `None` if the training is not known to include any of them.

    Args:
        card: the model's card.
        model: its file or run folder. Without a split in that folder, `data` is scanned and split
            again, which works only if it is unchanged.
    """
    if not card.dataset:
        return None
    folder = model if model is None or model.is_dir() else model.parent
    saved = None if folder is None else _load_split_of(card, folder, reporter)
    if saved is None:
        return _split_again(data, card, images=images, reporter=reporter)
    if saved.file.samefile(data.root):
        return None
    places = saved.locate(data, reporter)
    return places if (places >= 0).any() else None


def count_trained_on(
    dataset: Dataset, card: ModelCard, folder: Path
) -> Iterator[tuple[str, int, int]]:
    """Yield each split held out in `dataset` that has training images of another model: its name,
    their number, and the number of all images in it.

    Args:
        card: the model's card.
        folder: the folder of its file.
    """
    saved = _load_split_of(card, folder, SILENT) if card.dataset else None
    if saved is None:
        return
    trained = {row.digest for row in saved.rows if row.split == TRAIN and row.digest}
    rows = list(_rows_of(dataset))
    for split in (VAL, TEST):
        held_out = [row.digest in trained for row in rows if row.split == split]
        if any(held_out):
            yield SPLITS[split], sum(held_out), len(held_out)


def _split_again(
    data: LabelledImages, card: ModelCard, *, images: ImageOptions, reporter: Reporter
) -> Places | None:
    about = card.dataset
    if not {"fingerprint", "seed", "val_fraction"} <= about.keys():
        return None
    if data.split not in (None, SPLITS[TRAIN]) or set(data.classes) != set(card.classes):
        return None  # another dataset; a scan would decode every image
    options = DatasetOptions(
        val_fraction=about["val_fraction"], skip_empty=True, allow_bad=True, allow_leak=True
    )
    found = scan(Path(data.root), options, seed=about["seed"], images=images, reporter=reporter)
    if found.dataset is None or found.dataset.fingerprint != about["fingerprint"]:
        reporter.note(
            f"Cannot exclude training images: no matching {SPLIT_FILE_NAME} beside the model."
        )
        return None
    files = found.dataset.files
    split_of = dict(zip(files.paths, files.splits, strict=True))
    return np.array([split_of.get(path, AMBIGUOUS) for path in data.paths], dtype=np.int8)


def exclude_training_images(
    data: LabelledImages, located: Iterable[Places | None], reporter: Reporter = SILENT
) -> LabelledImages:
    """Return `data` without the images that a model was trained on and those in several classes.

    Args:
        located: what `locate_images` returned for each model that is evaluated on `data`.

    Raises:
        UsageError: no image is left.
    """
    places = _merge(located)
    if places is None:
        return data
    kept = np.flatnonzero((places != TRAIN) & (places != AMBIGUOUS))
    if not len(kept):
        message = f"The model was trained on all images in {data.root!r}."
        raise UsageError(message, "Choose different images.")
    if not np.isin(places, (VAL, TEST)).all():
        reporter.note(_describe(places))
    split = SPLITS[VAL] if data.split in (None, SPLITS[TRAIN]) else data.split
    return replace(data.select(kept), split=split)


def select_split(
    data: LabelledImages, located: Iterable[Places | None], name: str
) -> LabelledImages:
    """Return the images of `data`, which has no such split itself, in a split of the models.

    Args:
        located: what `locate_images` returned for each model that is evaluated on `data`.
        name: the name of the split.

    Raises:
        UsageError: there is no such split, or it has no image.
    """
    places, split = _merge(located), SPLIT_BY_NAME.get(name.lower(), NEW)
    kept = np.flatnonzero(np.empty(0) if places is None or split == NEW else places == split)
    if not len(kept):
        raise UsageError(f"{data.root!r} has no split {name!r}.", "Omit --split.")
    return replace(data.select(kept), split=SPLITS[split])


def _merge(located: Iterable[Places | None]) -> Places | None:
    """Merge the places of images in the training of several models; training wins."""
    known = [places for places in located if places is not None]
    if not known:
        return None
    merged: Places = np.max(known, axis=0)
    for excluded in (AMBIGUOUS, TRAIN):
        merged[np.any(np.equal(known, excluded), axis=0)] = excluded
    return merged


def _describe(places: Places) -> str:
    """Count the images of each place, as in
    `812 validation images; 3 new images included; 5 images from training excluded`.
    """
    nouns = (
        (VAL, "validation image", ""),
        (TEST, "test image", ""),
        (NEW, "new image", " included"),
        (TRAIN, "image", " from training excluded"),
        (AMBIGUOUS, "image", " in several classes excluded"),
    )
    counts = [(int((places == place).sum()), noun, what) for place, noun, what in nouns]
    return "; ".join(f"{pluralize(count, noun)}{what}" for count, noun, what in counts if count)


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _hash_content(path: str) -> bytes:
    """Return the SHA-256 of a file's bytes; empty if it is unreadable or not a regular file."""
    with suppress(ImageError):
        return hash_file(path)
    return b""


def _rows_of(dataset: Dataset) -> Iterator[SplitRow]:
    files = dataset.files
    for path, label, split, row in zip(*files, strict=True):
        digest = row.tobytes() if row.any() else b""
        name = dataset.name_label(int(label))
        yield SplitRow(_absolute(path), name, split=int(split), digest=digest)
