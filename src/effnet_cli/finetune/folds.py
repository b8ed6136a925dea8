"""Cross-validation of the classifier head: each image is classified by a head that has not seen it.

On a few hundred images, the accuracy on a fifth of them is mostly chance. All of them together say
more, and predictions that no training has spoiled reveal wrong labels.
"""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from effnet_cli.datasets.csv_file import CSV_TEXT
from effnet_cli.datasets.label_errors import INSTALL_CLEANLAB
from effnet_cli.datasets.paths import decode_path, encode_path
from effnet_cli.datasets.saved_split import WRITE_TEXT
from effnet_cli.datasets.split import assign_folds
from effnet_cli.engines.base import to_probabilities
from effnet_cli.evaluate.metrics import fit_temperature, share_interval
from effnet_cli.evaluate.predictions import Predictions
from effnet_cli.evaluate.records import LabelledPrediction
from effnet_cli.finetune.example_phase import start_head
from effnet_cli.finetune.head_phase import HeadFeatures
from effnet_cli.finetune.setup import TrainingSetup
from effnet_cli.models.card import FOLDS_FILE_NAME
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import atomic_write
from effnet_cli.system.text import pluralize

FOLDS_COLUMNS = ("path", "label", "prediction", "probability", "label_probability", "label_error")
Labels = npt.NDArray[np.int32]


def cross_validate(setup: TrainingSetup, features: HeadFeatures) -> None:
    """Classify the training and validation images out of fold, and write `folds.csv`.

    Its `label_error` is the rank of a label among those that are probably wrong, 1 for the worst.
    """
    predictions = _predict_out_of_fold(setup, features, setup.options.folds or 0)
    path, errors = setup.run_dir.path / FOLDS_FILE_NAME, predictions.label_errors(limit=None)
    if setup.processes.is_first:
        with atomic_write(path) as part, part.open("w", **WRITE_TEXT) as file:
            csv.writer(file).writerows(_rows(predictions, errors or ()))
    right = int(predictions.is_right.sum())
    setup.reporter.note(f"{describe_accuracy(right, len(predictions.labels))} Saved to {path}")
    if errors is None:
        setup.reporter.note("To find likely label errors, install cleanlab: " + INSTALL_CLEANLAB)
    elif errors:
        count = pluralize(len(errors), "label")
        setup.reporter.note(f"{count} may be wrong: see its column label_error.")
    else:
        setup.reporter.note("No label is likely to be wrong.")


def describe_accuracy(right: int, total: int) -> str:
    """Say in a sentence how accurate cross-validation found the head to be."""
    low, high = share_interval(right, total)
    return (
        f"Cross-validation of the classifier head on all {pluralize(total, 'image')}: top-1 "
        f"{right / total:.1%} (95 % interval {low:.1%} to {high:.1%})."
    )


@dataclass(frozen=True, slots=True)
class SavedFolds:
    """What `folds.csv` says: how many of the `total` images were right, and the likely label
    errors, worst first.
    """

    right: int
    total: int
    label_errors: tuple[LabelledPrediction, ...]


def read_folds(folder: Path) -> SavedFolds | None:
    """Read the `folds.csv` of a run; `None` if it was not cross-validated.

    Raises:
        UsageError: the file cannot be read.
    """
    path = folder / FOLDS_FILE_NAME
    if not path.is_file():
        return None
    try:
        with path.open(**CSV_TEXT) as file:
            return _summarise(list(csv.DictReader(file)))
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        raise UsageError(f"{str(path)!r} is damaged.", "Restore it, or delete it.") from error


def _summarise(rows: Sequence[Mapping[str, str]]) -> SavedFolds:
    errors = [row for row in rows if row["label_error"]]
    errors.sort(key=lambda row: int(row["label_error"]))
    return SavedFolds(
        right=sum(row["label"] == row["prediction"] for row in rows),
        total=len(rows),
        label_errors=tuple(
            LabelledPrediction(
                decode_path(row["path"]),
                row["label"],
                row["prediction"],
                probability=float(row["probability"]),
                label_probability=float(row["label_probability"]),
            )
            for row in errors
        ),
    )


def _predict_out_of_fold(setup: TrainingSetup, features: HeadFeatures, count: int) -> Predictions:
    """Return predictions for the training images, then those of validation."""
    subsets, num_train = (setup.dataset.train, setup.dataset.val), len(setup.train)
    labels = np.concatenate([subset.labels for subset in subsets])
    images = np.concatenate([features.train_indexes, num_train + features.val_indexes])
    values, own = torch.cat([features.train, features.val]), torch.from_numpy(labels[images])
    # the clean features of an image come before those of its views
    places, rows = np.unique(images, return_index=True)
    groups = np.concatenate([subset.groups for subset in subsets])
    folds = assign_folds(labels, groups, count, seed=setup.options.seed)
    logits = np.empty((len(places), len(setup.dataset.classes)), np.float32)
    for fold in np.unique(folds[places]).tolist():  # with many folds, some have no image
        setup.reporter.progress("Cross-validating the classifier head", fold, count)
        is_held, kept = folds[places] == fold, torch.from_numpy(folds[images] != fold)
        part = replace(
            features,
            train=values[kept],
            labels=own[kept].long(),
            groups=groups[images[kept.numpy()]],
        )
        phase = start_head(setup, part)
        phase.train()
        logits[is_held] = phase.predict(values[rows[is_held]])
    return Predictions(
        paths=[path for subset in subsets for path in subset.paths],
        all_labels=labels,
        classes=setup.dataset.classes,
        places=places,
        labels=labels[places],
        predicted=logits.argmax(axis=1),
        scores=logits,
        probabilities=to_probabilities(logits, "logits", fit_temperature(logits, labels[places])),
        errors={},
        groups=groups,
    )


def _rows(found: Predictions, errors: Sequence[LabelledPrediction]) -> Iterator[Sequence[object]]:
    ranks = {error.path: rank for rank, error in enumerate(errors, start=1)}
    yield FOLDS_COLUMNS
    for place, label, predicted, shares in zip(
        found.places, found.labels, found.predicted, found.probabilities, strict=True
    ):
        path = found.paths[int(place)]
        yield (
            encode_path(os.path.abspath(path)),  # noqa: PTH100 (keeps symbolic links)
            found.classes[label],
            found.classes[predicted],
            f"{shares[predicted]:.6f}",
            f"{shares[label]:.6f}",
            ranks.get(path, ""),
        )
