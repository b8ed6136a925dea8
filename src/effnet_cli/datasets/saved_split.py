"""Which images a model was trained on: `split.csv` in the run folder, matched by content."""

import csv
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.inspect_files import hash_file, map_files
from effnet_cli.datasets.labelled import LabelledImages
from effnet_cli.datasets.listing import SPLIT_BY_NAME
from effnet_cli.datasets.records import SPLITS, TEST, TRAIN, VAL, Dataset
from effnet_cli.datasets.scan import scan
from effnet_cli.models.card import ModelCard
from effnet_cli.options import DatasetOptions, ImageOptions
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.files import atomic_write
from effnet_cli.system.reporter import SILENT, Reporter
from effnet_cli.system.text import pluralize

SPLIT_FILE_NAME = "split.csv"
# Beside the indexes of SPLITS: an image that the training has not seen, and one that lies in more
# than one class.
NEW, AMBIGUOUS = -1, -2

COLUMNS = ("path", "label", "split", "sha256")
CSV_FORMAT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}

Places = npt.NDArray[np.int8]


class SplitRow(NamedTuple):
    """A line of `split.csv`: the absolute path, the class, an index of SPLITS, and the SHA-256 of
    the bytes (empty if the file is unreadable).
    """

    path: str
    label: str
    split: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SavedSplit:
    """The images of a training.

    `contents` gives the split of an image by the SHA-256 of its bytes, `paths` by its absolute
    path; training wins where an image is in several splits.
    """

    file: Path
    classes: frozenset[str]
    contents: Mapping[bytes, int]
    paths: Mapping[str, int]

    def locate(self, data: LabelledImages, reporter: Reporter = SILENT) -> Places:
        """The split of each image of `data` [N], `NEW` or `AMBIGUOUS`.

        A changed file in the place of a training image counts as that image.
        """
        total = len(data.paths)
        places = np.full(total, NEW, dtype=np.int8)
        by_content: dict[bytes, list[int]] = {}
        digests = map_files(lambda index: _content(data.paths[index]), total)
        for index, digest in enumerate(digests):
            by_path = self.paths.get(_absolute(data.paths[index]), NEW)
            is_same = by_path == TRAIN or not digest
            places[index] = self.contents.get(digest, by_path if is_same else NEW)
            by_content.setdefault(digest, []).append(index)
            reporter.progress("Comparing images", index + 1, total)
        by_content.pop(b"", None)  # unreadable
        for same in by_content.values():
            if len(set(data.labels[same])) > 1:
                places[same] = AMBIGUOUS
        return places


def save_split(dataset: Dataset, folder: Path) -> None:
    """Write the split into a run folder. Images that the run has trained on before, and that are
    gone from the dataset, stay recorded.
    """
    file = folder / SPLIT_FILE_NAME
    rows = list(_rows_of(dataset))
    if file.exists():
        trained = {row.digest for row in rows if row.split == TRAIN}
        earlier = (row for row in _read_rows(file) if row.split == TRAIN)
        rows += [row for row in earlier if row.digest not in trained]
    _write_rows(file, rows)


def load_split(run: Path) -> SavedSplit | None:
    """The split in a run folder; `None` if there is none.

    Raises:
        UsageError: the file cannot be read.
    """
    file = run / SPLIT_FILE_NAME
    if not file.is_file():
        return None
    rows = sorted(_read_rows(file), key=lambda row: -row.split)  # training comes last and wins
    return SavedSplit(
        file,
        frozenset(row.label for row in rows if row.split == TRAIN),
        {row.digest: row.split for row in rows if row.digest},
        {row.path: row.split for row in rows},
    )


def locate_images(
    data: LabelledImages,
    card: ModelCard,
    model: Path | None,
    images: ImageOptions = ImageOptions(),
    reporter: Reporter = SILENT,
) -> Places | None:
    """Where each image of `data` was in the training of a model: an index of SPLITS, `NEW` or
    `AMBIGUOUS` [N]; `None` if the training is not known to have had any of them.

    Args:
        card: the card of the model.
        model: its file or run folder. Without a split in that folder, `data` is scanned and split
            again, and compared as a whole.
    """
    if not card.dataset:
        return None
    saved = None if model is None else load_split(model if model.is_dir() else model.parent)
    if saved is None or saved.classes != set(card.classes):
        return _split_again(data, card, images, reporter)
    if saved.file.samefile(data.root):
        return None
    places = saved.locate(data, reporter)
    return places if (places >= 0).any() else None


def _split_again(
    data: LabelledImages, card: ModelCard, images: ImageOptions, reporter: Reporter
) -> Places | None:
    about = card.dataset
    if not {"fingerprint", "seed", "val_fraction"} <= about.keys():
        return None
    if data.split not in (None, SPLITS[TRAIN]) or set(data.classes) != set(card.classes):
        return None  # a scan decodes every image: only if it may be the dataset
    options = DatasetOptions(None, about["val_fraction"], True, True, True)
    found = scan(Path(data.root), options, seed=about["seed"], images=images, reporter=reporter)
    dataset = found.dataset
    if dataset is None or dataset.fingerprint != about["fingerprint"]:
        reporter.note(
            f"The model is not in its run folder, which has {SPLIT_FILE_NAME}: images that it was "
            "trained on cannot be recognised."
        )
        return None
    split_of = dict(zip(dataset.files.paths, dataset.files.splits, strict=True))
    return np.array([split_of.get(path, AMBIGUOUS) for path in data.paths], dtype=np.int8)


def exclude_training_images(
    data: LabelledImages, places: Places, reporter: Reporter = SILENT
) -> LabelledImages:
    """`data` without the images that a model was trained on, and those in several classes.

    Raises:
        UsageError: none is left.
    """
    is_kept = (places != TRAIN) & (places != AMBIGUOUS)
    if not is_kept.any():
        raise UsageError(
            f"The model was trained on all images in {data.root!r}.", "Use other images."
        )
    if not np.isin(places, (VAL, TEST)).all():
        reporter.note(_describe(places))
    kept = np.flatnonzero(is_kept)
    split = SPLITS[VAL] if data.split in (None, SPLITS[TRAIN]) else data.split
    return replace(
        data, split=split, paths=data.paths.take(kept), labels=data.labels[kept], faults={}
    )


def _describe(places: Places) -> str:
    """`812 validation images; 3 new images included; 5 images from training excluded`."""
    counts = {place: int((places == place).sum()) for place in (VAL, TEST, NEW, TRAIN, AMBIGUOUS)}
    texts = {
        VAL: pluralize(counts[VAL], "validation image"),
        TEST: pluralize(counts[TEST], "test image"),
        NEW: f"{pluralize(counts[NEW], 'new image')} included",
        TRAIN: f"{pluralize(counts[TRAIN], 'image')} from training excluded",
        AMBIGUOUS: f"{pluralize(counts[AMBIGUOUS], 'image')} in several classes excluded",
    }
    return "; ".join(text for place, text in texts.items() if counts[place])


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _content(path: str) -> bytes:
    """SHA-256 of a file's bytes; empty if it is unreadable or not a file."""
    with suppress(ImageError):
        return hash_file(path) if Path(path).is_file() else b""
    return b""


def _rows_of(dataset: Dataset) -> Iterator[SplitRow]:
    files = dataset.files
    for index, path in enumerate(files.paths):
        label, digest = dataset.classes[files.labels[index]], files.digests[index]
        content = digest.tobytes() if digest.any() else b""
        yield SplitRow(_absolute(path), label, int(files.splits[index]), content)


def _write_rows(file: Path, rows: list[SplitRow]) -> None:
    with atomic_write(file) as part, part.open("w", **CSV_FORMAT) as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for row in rows:  # as in any CSV dataset, paths have the bytes of the operating system
            path = os.fsencode(row.path).decode(errors="surrogateescape")
            writer.writerow((path, row.label, SPLITS[row.split], row.digest.hex()))


def _read_rows(file: Path) -> Iterator[SplitRow]:
    try:
        with file.open(**CSV_FORMAT) as lines:
            for cells in csv.DictReader(lines, strict=True):
                path, label, split, sha256 = (cells[name] for name in COLUMNS)
                path = os.fsdecode(path.encode(errors="surrogateescape"))
                yield SplitRow(path, label, SPLIT_BY_NAME[split], bytes.fromhex(sha256))
    except (OSError, ValueError, LookupError, AttributeError, TypeError, csv.Error) as error:
        raise UsageError(
            f"{str(file)!r} is not the split of a training: {error!r}.",
            "Restore the file, or move the model file to another folder.",
        ) from error
