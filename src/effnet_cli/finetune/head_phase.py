"""The first phase of a run: a classifier head on the features of the pretrained backbone.

Training the head first keeps the first gradients of the full model from distorting features that
are already good (LP-FT: Kumar et al. 2022, arXiv 2202.10054).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from effnet_cli.engines.base import Engine
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.inference import Floats
from effnet_cli.finetune.loader import BatchLoader, Indexes
from effnet_cli.finetune.objective import Labels
from effnet_cli.finetune.optim import Schedule, Stepper, group_parameters
from effnet_cli.finetune.records import PhaseName
from effnet_cli.finetune.run_dir import TrainingState
from effnet_cli.finetune.setup import TrainingSetup
from effnet_cli.finetune.view_choice import (
    CHOICE_IMAGES,
    MIN_CHOICE_IMAGES,
    ViewTrial,
    choose_policy,
    describe_policy,
    limit_policy,
)
from effnet_cli.images.augment import POLICIES, Augmentation, AugmentPolicy

TrainingBatch = tuple[Tensor, Tensor, int]  # inputs, labels, images over all processes
ValidationOutputs = tuple[Indexes, Floats]  # indexes of the readable images, logits

HEAD_BATCH_SIZE = 256
HEAD_LR = 1e-3
HEAD_EPOCHS = 8  # the head is validated this many times during its training
HEAD_PASSES = 40  # over all views; fewer if there are many
MIN_HEAD_PASSES = 10
MIN_HEAD_STEPS, MAX_HEAD_STEPS = 240, 1200
HEAD_VIEWS = 4000  # small datasets get more views per image, up to about this total
MAX_VIEWS_PER_IMAGE = 8
# On fixed features, stronger augmentation lowers accuracy.
HEAD_LIMIT = POLICIES["light"]


@dataclass(frozen=True, slots=True)
class HeadFeatures:
    """Backbone features, float32 [N,D], divided by `scale`; `labels` are int64 [N].

    `train_indexes` [N] and `val_indexes` are those of the images in their subsets, `groups` [N] the
    numbers of their groups (-1 for none). The features of
    the clean training images come before those of their views.

    `policy` says how much training views of the full model may differ from the images; `trials` are
    the changes that the head was asked about to choose it.
    """

    train: Tensor
    train_indexes: Indexes
    labels: Tensor
    groups: Labels
    val: Tensor
    val_indexes: Indexes
    scale: float
    policy: AugmentPolicy
    trials: tuple[ViewTrial, ...] = ()


def extract_features(setup: TrainingSetup, policy: AugmentPolicy | None = None) -> HeadFeatures:
    """Run the backbone on the training images, clean and augmented, and the validation images.

    `policy` is given if it has been chosen before. Else, with `--augment auto`, a head that is
    trained on the clean features chooses the views.
    """
    engine = setup.inference.load_engine(setup.module)
    features = extract_clean_features(setup, engine)
    if not setup.options.is_trained:
        return features
    if policy is not None:
        features = replace(features, policy=policy)
    elif setup.options.augment == "auto" and len(features.val) >= MIN_CHOICE_IMAGES:
        policy, trials = _choose_policy(setup, engine, features)
        features = replace(features, policy=policy, trials=trials)
    policy = limit_policy(features.policy, HEAD_LIMIT)
    if policy == AugmentPolicy():
        return features
    views, run = views_per_image(len(setup.train)), setup.inference.run
    train, images = [features.train], [features.train_indexes]
    for number in range(views):
        seeds = (setup.options.seed, 0, number)
        view = Augmentation(policy, setup.card.preprocessing.crop_px, seeds)
        what = f"Features of view {number + 1} of {views}"
        indexes, values = run(engine, setup.train, what, augmentation=view, output="features")
        train.append(torch.from_numpy(values / np.float32(features.scale)))
        images.append(indexes)
    indexes = np.concatenate(images)
    labels = _labels(setup.train, indexes)
    return replace(
        features,
        train=torch.cat(train),
        train_indexes=indexes,
        labels=labels,
        groups=setup.train.groups[indexes],
    )


def extract_clean_features(setup: TrainingSetup, engine: Engine) -> HeadFeatures:
    """Run the backbone on the images as they are."""
    run = partial(setup.inference.run, engine, output="features")
    indexes, train = run(setup.train, "Features")
    val_indexes, val = run(setup.val, "Validation features")
    # One scale for all features keeps their ratios and makes the learning rate fit any model.
    scale = float(train.std()) or 1.0
    return HeadFeatures(
        train=torch.from_numpy(train / np.float32(scale)),
        train_indexes=indexes,
        labels=_labels(setup.train, indexes),
        groups=setup.train.groups[indexes],
        val=torch.from_numpy(val / np.float32(scale)),
        val_indexes=val_indexes,
        scale=scale,
        policy=_fixed_policy(setup),
    )


def views_per_image(num_images: int) -> int:
    """Return how many augmented views of each training image the head is trained on."""
    return max(1, min(MAX_VIEWS_PER_IMAGE, HEAD_VIEWS // num_images))


def _labels(images: BatchLoader, indexes: Indexes) -> Tensor:
    return torch.from_numpy(images.labels[indexes].astype(np.int64))


def _fixed_policy(setup: TrainingSetup) -> AugmentPolicy:
    """Return the views of --augment; with `auto`, those for too few images to choose by."""
    augment = setup.options.augment if setup.options.is_trained else "none"
    return POLICIES["light" if augment == "auto" else augment]


def _choose_policy(
    setup: TrainingSetup, engine: Engine, features: HeadFeatures
) -> tuple[AugmentPolicy, tuple[ViewTrial, ...]]:
    """Choose the views that a head on clean features tolerates, on some validation images."""
    phase = HeadPhase(setup, features)
    phase.train()
    order = np.random.default_rng((setup.options.seed, 2)).permutation(features.val_indexes)
    chosen = np.sort(order[:CHOICE_IMAGES])

    def measure_loss(policy: AugmentPolicy) -> float:
        views = Augmentation(policy, setup.card.preprocessing.crop_px, (setup.options.seed, 2))
        indexes, values = setup.inference.run(
            engine,
            setup.val,
            "Choosing training views",
            augmentation=views,
            indexes=chosen,
            output="features",
        )
        logits = phase.predict(torch.from_numpy(values / np.float32(features.scale)))
        # other machines may round differently, and choose other views
        labels = setup.val.labels[indexes]
        loss = setup.processes.broadcast(lambda: setup.objective.mean_loss(logits, labels))
        measured.append((policy, loss))
        return loss

    measured: list[tuple[AugmentPolicy, float]] = []
    policy = choose_policy(measure_loss)
    (_, clean), *changed = measured
    return policy, tuple(ViewTrial(describe_policy(one), loss - clean) for one, loss in changed)


class HeadPhase:
    """Trains the classifier head on features. Each process trains its own copy, within seconds."""

    name: PhaseName = "head"
    device = torch.device("cpu")
    processes = ProcessGroup()
    patience: int | None = None
    minutes: float | None = None

    def __init__(self, setup: TrainingSetup, features: HeadFeatures) -> None:
        options, count = setup.options, len(features.labels)
        self._module, self._features, self._seed = setup.module, features, options.seed
        # an engine may have moved the model to its device
        self._head = copy.deepcopy(setup.module.get_submodule("classifier")).to(self.device)
        self._batch_size = min(HEAD_BATCH_SIZE, max(1, count // 4))
        self.lr, self.epochs = HEAD_LR, HEAD_EPOCHS
        self.steps = _head_steps(count / self._batch_size)
        self.num_images = self.steps * self._batch_size
        self.stepper = Stepper(
            self._head,
            group_parameters(self._head, self.lr, options.weight_decay),
            Schedule(self.steps * self.epochs),
            loss=setup.objective.training_loss,
            processes=self.processes,
            reporter=setup.reporter,
            seed=options.seed,
        )

    def load_batches(self, epoch: int, first_step: int) -> Iterator[TrainingBatch]:
        """Yield the batches of an epoch (counted from 1), starting at `first_step`."""
        self._head.train()
        rng = np.random.default_rng((self._seed, 0, epoch))
        features, count = self._features, len(self._features.labels)
        passes = -(-self.num_images // count)
        order = np.concatenate([rng.permutation(count) for _ in range(passes)])
        for step in range(first_step, self.steps):
            part = torch.from_numpy(order[step * self._batch_size :][: self._batch_size])
            yield features.train[part], features.labels[part], self._batch_size

    def step(self, batch: TrainingBatch) -> Tensor:
        """Make one update and return its summed loss."""
        return self.stepper.step(*batch)

    def train(self) -> None:
        """Train all epochs at once, without validation."""
        for epoch in range(1, self.epochs + 1):
            for batch in self.load_batches(epoch, 0):
                self.step(batch)

    def module(self) -> nn.Module:
        """Return the model with a copy of the head that takes unscaled features."""
        head = copy.deepcopy(self._head)
        with torch.no_grad():
            head.get_parameter("1.weight").div_(self._features.scale)
        module = copy.copy(self._module)  # all other layers are shared
        module._modules = {**module._modules, "classifier": head}
        return module.eval()

    def validate(self) -> ValidationOutputs:
        """Return the indexes and logits of the readable validation images."""
        return self._features.val_indexes, self.predict(self._features.val)

    def predict(self, features: Tensor) -> Floats:
        """Return the logits of scaled features, float32 [N,C]."""
        self._head.eval()
        with torch.inference_mode():
            logits: Floats = self._head(features).numpy()
        return logits

    def must_show_gain(self, _: TrainingState) -> bool:
        """Return `False`: every run has a head."""
        return False

    def state_tensors(self) -> None:
        """Return `None`: a run that was stopped in this phase restarts it when resumed."""


def _head_steps(steps_per_pass: float) -> int:
    """Return the number of steps in an epoch of the head."""
    usual = min(max(MIN_HEAD_STEPS, HEAD_PASSES * steps_per_pass), MAX_HEAD_STEPS)
    return round(max(usual, MIN_HEAD_PASSES * steps_per_pass) / HEAD_EPOCHS)
