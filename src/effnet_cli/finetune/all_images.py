"""`--final all`: train once more on all images, those of validation included.

Of a few hundred images, the fifth that validation needs is missed. The second training repeats what
the first has found to be best, and cannot be measured itself: its model is written to a folder of
its own, and the run keeps the model that was validated.
"""

from collections import deque
from dataclasses import replace

import numpy as np
from torch import nn

from effnet_cli.datasets.paths import Paths
from effnet_cli.datasets.records import Dataset, Subset
from effnet_cli.datasets.saved_split import identify_run, save_split
from effnet_cli.datasets.split import TRAIN, VAL
from effnet_cli.evaluate.records import LabelMetrics, Metrics
from effnet_cli.finetune.example_phase import start_head
from effnet_cli.finetune.final_model import evaluate_on_test, fit_to_images
from effnet_cli.finetune.head_phase import extract_features
from effnet_cli.finetune.inference import Floats
from effnet_cli.finetune.loader import Indexes
from effnet_cli.finetune.phases import FullPhase, Phase
from effnet_cli.finetune.records import AllImagesResult
from effnet_cli.finetune.run_dir import RunDir, TrainingState
from effnet_cli.finetune.setup import TrainingSetup
from effnet_cli.finetune.signals import stop_error
from effnet_cli.finetune.trainer import Trainer
from effnet_cli.models import checkpoint
from effnet_cli.models.card import METRICS_FILE_NAME, STATE_FILE_NAME, ModelCard
from effnet_cli.models.checkpoint import Arrays
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import remove_partial_files

ALL_FOLDER = "all"  # in the run folder


class LastEpochTrainer(Trainer):
    """Keeps the last epoch, as no image is left to judge by, and writes only its state."""

    def _update_best(self, phase: Phase, metrics: Metrics | LabelMetrics, loss: float) -> bool:
        super()._update_best(phase, metrics, loss)
        return True

    def _write_model(self, indexes: Indexes, logits: Floats) -> None:
        pass

    def _raise_if_stopped(self) -> None:
        if self._stop.number:
            path = self._setup.run_dir.path
            is_saved = (path / STATE_FILE_NAME).exists()
            progress = "progress is saved" if is_saved else "the first model is saved"
            raise stop_error(self._stop.number, path.parent, progress)


def train_on_all(setup: TrainingSetup, first: TrainingState) -> AllImagesResult:
    """Train on all images, for as many epochs as the best of the `first` training.

    Raises:
        TrainingStopped: a signal arrived; progress is saved.
        EffnetError: training diverged, or memory or disk space ran out.
    """
    card = setup.processes.broadcast(lambda: checkpoint.read_card(setup.run_dir.model))
    run_dir = RunDir(setup.run_dir.path / ALL_FOLDER)
    setup.train.forget()  # the same images are cached again
    merged = _merge(setup, run_dir, first)
    if not setup.processes.broadcast(lambda: _is_done(run_dir, card)):
        setup.reporter.note(f"Training once more, on all {len(merged.train):,} images")
        if setup.processes.is_first:
            run_dir.path.mkdir(exist_ok=True)
            remove_partial_files(run_dir.path, "")
        _write(merged, card, _train(merged, first))
    return AllImagesResult(run_dir.model, len(merged.train), evaluate_on_test(merged))


def _is_done(run_dir: RunDir, card: ModelCard) -> bool:
    """Return whether the folder has the model that repeats the training described by `card`."""
    if not run_dir.model.is_file() or (run_dir.path / STATE_FILE_NAME).exists():
        return False
    try:
        return checkpoint.read_card(run_dir.model).metrics == card.metrics
    except UsageError:  # it is damaged: train it again
        return False


def _read_state(run_dir: RunDir, epochs: int | None) -> tuple[TrainingState, Arrays] | None:
    """Return the saved state; `None` if it is damaged or repeats an earlier best epoch."""
    try:
        saved = run_dir.read_state()
    except UsageError:
        return None
    return None if saved is None or saved[0].epochs != epochs else saved


def _merge(setup: TrainingSetup, run_dir: RunDir, first: TrainingState) -> TrainingSetup:
    """Return the set-up with the validation images among the training images."""
    is_head = first.best["phase"] == "head"
    options = replace(
        setup.options,
        epochs=None if is_head else first.best["epoch"],
        head_only=is_head,
        patience=None,
    )
    dataset = _merge_splits(setup.dataset)
    return replace(
        setup,
        task=replace(setup.task, options=options),
        dataset=dataset,
        module=setup.make_module(),
        train=setup.make_loader(dataset.train),
        run_dir=run_dir,
    )


def _merge_splits(dataset: Dataset) -> Dataset:
    """Return the dataset with its validation images in the training split, too."""
    parts = dataset.train, dataset.val
    labels = np.concatenate([part.labels for part in parts])
    paths = [path for part in parts for path in part.paths]
    order = sorted(range(len(paths)), key=lambda index: (labels[index], paths[index]))
    train = Subset(
        Paths(paths[index] for index in order),
        labels[order],
        np.concatenate([part.failed for part in parts]),
        groups=np.concatenate([part.groups for part in parts])[order],
    )
    splits = np.where(dataset.files.splits == VAL, TRAIN, dataset.files.splits)
    return replace(
        dataset, train=train, files=dataset.files._replace(splits=splits.astype(np.int8))
    )


def _train(setup: TrainingSetup, first: TrainingState) -> nn.Module:
    """Run the phases as in the first training, from its pretrained weights, and return the model
    after the last epoch.
    """
    options, processes = setup.options, setup.processes
    saved = processes.broadcast(lambda: _read_state(setup.run_dir, options.epochs))
    state, tensors = (TrainingState(), None) if saved is None else saved
    state.loss /= processes.count
    trainer, module = LastEpochTrainer(setup, state), setup.module
    if tensors is None:
        state.plan_full(options.epochs or 0, first.policy)
        if not options.from_scratch:
            features = extract_features(setup, first.policy)
            deque(trainer.run(start_head(setup, features)), maxlen=0)
            module = processes.broadcast(lambda: trainer.best_module)
    if not options.has_full_phase:
        return module
    full = FullPhase(setup, module, state)
    trainer.resume(full, tensors)
    saved = tensors = None  # free memory
    deque(trainer.run(full), maxlen=0)
    return full.module()


def _write(setup: TrainingSetup, card: ModelCard, module: nn.Module) -> None:
    """Write the model with what the card of the validated model says, and its split."""
    familiarity = fit_to_images(setup, setup.inference.load_engine(module))
    if familiarity is not None and card.familiarity is not None:
        # the validation images are familiar to this model: their threshold would be too high
        known = card.familiarity.unknown_below
        familiarity = replace(familiarity, unknown_below=known)
    if not setup.processes.is_first:
        return
    folder, dataset = setup.run_dir.path, setup.dataset
    card = replace(
        card,
        familiarity=familiarity,
        dataset={
            **card.dataset,
            "fingerprint": dataset.fingerprint,
            "run": identify_run(dataset, folder),
            "train": len(dataset.train.labels),
            "val": 0,
        },
    )
    save_split(dataset, folder)  # first: without it, later commands would not know these images
    setup.run_dir.write_model(card, module)
    for name in (STATE_FILE_NAME, METRICS_FILE_NAME):
        (folder / name).unlink(missing_ok=True)
