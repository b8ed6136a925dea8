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

from effnet_cli.datasets.csv_file import CSV_TEXT, decode_path, encode_path
from effnet_cli.datasets.inspect_files import hash_file, map_files
from effnet_cli.datasets.labelled import LabelledImages
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
    """The images of a training run. Those of the training split come last."""

    file: Path
    rows: list[SplitRow]

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


def save_split(dataset: Dataset, folder: Path) -> None:
    """Write the split into a run folder. It keeps images that the run has already trained on, even
    if they are gone from the dataset.
    """
    rows = list(_rows_of(dataset))
    saved = load_split(folder)
    if saved is not None:
        trained = {row.digest for row in rows if row.split == TRAIN}
        rows += [row for row in saved.rows if row.split == TRAIN and row.digest not in trained]
    with atomic_write(folder / SPLIT_FILE_NAME) as part, part.open("w", **WRITE_TEXT) as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for row in rows:
            cells = encode_path(row.path), row.label, SPLITS[row.split], row.digest.hex()
            writer.writerow(cells)


def load_split(folder: Path) -> SavedSplit | None:
    """Read the split in a run folder. Return `None` if there is none.

    Raises:
        UsageError: the file cannot be read.
    """
    file = folder / SPLIT_FILE_NAME
    if not file.is_file():
        return None
    rows = []
    try:
        with file.open(**CSV_TEXT) as lines:
            for cells in csv.DictReader(lines, strict=True):
                path, label, split, sha256 = (cells[name] for name in COLUMNS)
                path = decode_path(path)
                digest = bytes.fromhex(sha256)
                rows.append(SplitRow(path, label, split=SPLIT_BY_NAME[split], digest=digest))
    except (OSError, ValueError, LookupError, AttributeError, TypeError, csv.Error) as fault:
        message = f"{str(file)!r} is not a saved split: {describe_read_error(fault)}."
        hint = "Restore the file, or move the model file to another folder."
        raise UsageError(message, hint) from fault
    return SavedSplit(file, sorted(rows, key=lambda row: -row.split))


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
    saved = None if model is None else load_split(model if model.is_dir() else model.parent)
    if saved is None or saved.classes != set(card.classes):
        return _split_again(data, card, images=images, reporter=reporter)
    if saved.file.samefile(data.root):
        return None
    places = saved.locate(data, reporter)
    return places if (places >= 0).any() else None


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
    known = [places for places in located if places is not None]
    if not known:
        return data
    places = np.max(known, axis=0)
    for excluded in (AMBIGUOUS, TRAIN):
        places[np.any(np.equal(known, excluded), axis=0)] = excluded
    kept = np.flatnonzero((places != TRAIN) & (places != AMBIGUOUS))
    if not len(kept):
        message = f"The model was trained on all images in {data.root!r}."
        raise UsageError(message, "Choose different images.")
    if not np.isin(places, (VAL, TEST)).all():
        reporter.note(_describe(places))
    split = SPLITS[VAL] if data.split in (None, SPLITS[TRAIN]) else data.split
    return replace(data, split=split, paths=data.paths.take(kept), labels=data.labels[kept])


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
        return hash_file(path) if Path(path).is_file() else b""
    return b""


def _rows_of(dataset: Dataset) -> Iterator[SplitRow]:
    files = dataset.files
    for path, label, split, row in zip(*files, strict=True):
        digest = row.tobytes() if row.any() else b""
        name = dataset.classes[label]
        yield SplitRow(_absolute(path), name, split=int(split), digest=digest)
