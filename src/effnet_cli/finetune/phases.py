"""The two phases: a classifier on the features of the pretrained network, then the whole network
(LP-FT: Kumar et al. 2022, arXiv 2202.10054).

A classifier that fits before the network moves keeps the first gradients from tearing up features
that were right already.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from effnet_cli.engines.base import Engine
from effnet_cli.engines.normalise import normalise_for_training
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.fuse_bn import fuse_batch_norm
from effnet_cli.finetune.inference import Answering
from effnet_cli.finetune.loader import Indexes, SubsetImages
from effnet_cli.finetune.optim import Learner, Schedule, parameter_groups
from effnet_cli.finetune.records import PhaseName
from effnet_cli.images.augment import POLICIES, Augmentation, AugmentPolicy
from effnet_cli.models.checkpoint import Arrays
from effnet_cli.options import Augment, FinetuneOptions
from effnet_cli.system.errors import UsageError
from effnet_cli.system.reporter import Reporter

Floats = npt.NDArray[np.float32]
Step = tuple[Tensor, Tensor, int]

# The classifier's training. Its images are the clean ones and augmented views of them.
HEAD_BATCH_SIZE = 256
HEAD_LR = 1e-3
HEAD_EPOCHS = 8  # parts of its training after which validation is asked
HEAD_PASSES = 40  # over all views; fewer where there are so many that these take their time
MIN_HEAD_PASSES = 10
MIN_HEAD_STEPS, MAX_HEAD_STEPS = 240, 1200
VIEWED_IMAGES = 4000  # small datasets get more views, until there are about so many
MAX_VIEWS = 8
# What the classifier's views are made by: on fixed features stronger ones cost it accuracy.
HEAD_POLICIES: Mapping[Augment, AugmentPolicy] = {
    **POLICIES,
    "strong": POLICIES["light"],
}
# The whole network's training.
MIN_BATCH_SIZE, MAX_BATCH_SIZE = 8, 64
MIN_UPDATES = 40  # in an epoch; small datasets are learned in smaller batches
LR = 3e-4  # for batches of `MAX_BATCH_SIZE`; it goes with the square root of the size
AVERAGED_SHARE = 1 / 3  # of all updates: how far back the average of the weights looks
VIEW_MULTIPLE_PX = 16  # the side of training views


class Phase(Protocol):
    """One part of a training."""

    name: PhaseName
    lr: float
    epochs: int
    steps: int
    schedule: Schedule
    learner: Learner
    device: torch.device

    def batches(self, epoch: int, first_step: int) -> Iterator[Step]:
        """Inputs, labels and the size of the whole batch for each step of an epoch (from 1)."""

    def __len__(self) -> int:
        """Images in an epoch."""

    def after_step(self) -> None:
        """What follows each step."""

    def network(self) -> nn.Module:
        """The network as validation sees it now, and as the model file is to hold it."""

    def remember(self) -> None:
        """This is the best so far."""

    def answers(self) -> tuple[Indexes, Floats]:
        """Indexes and logits of the validation images, as `network()` answers."""


class HeadPhase:
    """The classifier, on features that are computed once."""

    name: PhaseName = "head"
    lr = HEAD_LR
    device = torch.device("cpu")  # seconds on any machine

    def __init__(
        self,
        network: nn.Module,
        train: SubsetImages,
        val: SubsetImages,
        answering: Answering,
        class_weights: Tensor,
        options: FinetuneOptions,
        reporter: Reporter,
    ) -> None:
        self._network = network
        self._head: nn.Module = network.get_submodule("classifier")
        self._seed = options.seed
        backbone = answering.loaded(_with_classifier(network, nn.Identity()))
        features, labels = _features(backbone, train, answering, options)
        what = "Validation features"
        self._val_indexes, val_features = answering.outputs(backbone, val, what)
        # one number for all features: they keep their shape, and the step sizes fit any network
        scale = float(features.std()) or 1.0
        self._scale = scale
        self._features = torch.from_numpy(features / np.float32(scale))
        self._val_features = torch.from_numpy(val_features / np.float32(scale))
        self._labels = torch.from_numpy(labels.astype(np.int64))
        self._batch_size = min(HEAD_BATCH_SIZE, max(1, len(labels) // 4))
        steps = len(labels) / self._batch_size
        usual = min(max(MIN_HEAD_STEPS, HEAD_PASSES * steps), MAX_HEAD_STEPS)
        self.epochs = HEAD_EPOCHS
        self.steps = round(max(usual, MIN_HEAD_PASSES * steps) / HEAD_EPOCHS)
        self.schedule = Schedule(self.steps * self.epochs)
        self.learner = Learner(
            self._head,
            parameter_groups(self._head, self.lr, options.weight_decay),
            self.schedule,
            class_weights,
            ProcessGroup(),
            reporter,
            seed=options.seed,
        )

    def batches(self, epoch: int, first_step: int) -> Iterator[Step]:
        """See `Phase`."""
        self._head.train()
        rng = np.random.default_rng((self._seed, 0, epoch))
        order = np.concatenate([rng.permutation(len(self._labels)) for _ in range(self._passes())])
        for step in range(first_step, self.steps):
            part = torch.from_numpy(order[step * self._batch_size :][: self._batch_size])
            yield self._features[part], self._labels[part], self._batch_size

    def _passes(self) -> int:
        return -(-self.steps * self._batch_size // len(self._labels))

    def answers(self) -> tuple[Indexes, Floats]:
        """See `Phase`."""
        self._head.eval()
        with torch.inference_mode():
            logits: Floats = self._head(self._val_features).numpy()
        return self._val_indexes, logits

    def __len__(self) -> int:
        return self.steps * self._batch_size

    def after_step(self) -> None:
        """See `Phase`."""

    def network(self) -> nn.Module:
        """See `Phase`: the same layers with a classifier that takes the features as they come."""
        head = copy.deepcopy(self._head)
        with torch.no_grad():
            head.get_parameter("1.weight").div_(self._scale)
        return _with_classifier(self._network, head)

    def remember(self) -> None:
        """See `Phase`."""
        self._best = self.network()

    def best(self) -> nn.Module:
        """The network with the classifier that validation liked best."""
        return self._best


def _features(
    backbone: Engine, train: SubsetImages, answering: Answering, options: FinetuneOptions
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Features of the clean images and of augmented views, and their labels."""
    views = 0
    if options.augment != "none":
        views = max(1, min(MAX_VIEWS, VIEWED_IMAGES // len(train)))
    found = [answering.outputs(backbone, train, "Features")]
    for number in range(views):
        what = f"Features of view {number + 1} of {views}"
        crop_px = answering.card.preprocessing.crop_px
        look = Augmentation(HEAD_POLICIES[options.augment], crop_px, (options.seed, 0, number))
        found.append(answering.outputs(backbone, train, what, look))
    labels = np.concatenate([train.labels[indexes] for indexes, _ in found])
    return np.concatenate([values for _, values in found]), labels


def _with_classifier(network: nn.Module, classifier: nn.Module) -> nn.Module:
    """The same network in evaluation mode, but for its classifier; all other layers are shared."""
    other = copy.copy(network)
    other._modules = {**network._modules, "classifier": classifier}
    return other.eval()


class NetworkPhase:
    """The whole network, with frozen BatchNorm statistics unless it starts from scratch.

    Validation sees a running average of the weights that learn, and that is what is kept.
    """

    name: PhaseName = "network"

    def __init__(
        self,
        network: nn.Module,
        train: SubsetImages,
        val: SubsetImages,
        answering: Answering,
        class_weights: Tensor,
        options: FinetuneOptions,
        reporter: Reporter,
        precision: str,
        device: torch.device,
        processes: ProcessGroup,
    ) -> None:
        self._train, self._val, self._answering = train, val, answering
        self._options, self.device, self._processes = options, device, processes
        self.epochs = options.epochs
        self.steps, size = _batches(len(train), options.batch_size, processes.count)
        self.lr = options.lr or LR * math.sqrt(size / MAX_BATCH_SIZE)
        self.schedule = Schedule(self.steps * self.epochs)
        self._average = network.to(device).eval()
        self._learning = copy.deepcopy(network).to(memory_format=torch.channels_last)
        _thaw(self._learning, options)
        if device.type == "cpu" and not options.from_scratch:
            fuse_batch_norm(self._learning)
        self._preprocessing = answering.loader.preprocessing
        self._crop_px = _view_px(self._preprocessing.crop_px, POLICIES[options.augment])
        module: Any = torch.compile(self._learning) if options.compile else self._learning
        self.learner = Learner(
            processes.wrapped(module, device),
            parameter_groups(self._learning, self.lr, options.weight_decay),
            self.schedule,
            class_weights,
            processes,
            reporter,
            precision,
            options.seed + 1,
        )

    def batches(self, epoch: int, first_step: int) -> Iterator[Step]:
        """See `Phase`."""
        self._learning.train()
        if not self._options.from_scratch:
            _freeze_statistics(self._learning)
        seed = self._options.seed
        order = np.random.default_rng((seed, 1, epoch)).permutation(len(self._train))
        parts = np.array_split(order, self.steps)[first_step:]
        mine = (self._processes.part(part) for part in parts)
        views = Augmentation(POLICIES[self._options.augment], self._crop_px, (seed, 1, epoch))
        batches = self._train.batches(mine, views)
        for part, batch in zip(parts, batches, strict=True):
            labels = torch.from_numpy(self._train.labels[batch.indexes].astype(np.int64))
            yield self._prepared(batch.crops), labels.to(self.device), len(part)

    def _prepared(self, crops: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [N,H,W,3] -> float32 [N,3,H,W], normalised, in channels_last memory."""
        values = torch.from_numpy(crops)
        if self.device.type == "cuda":
            values = values.pin_memory()
        values = values.to(self.device, non_blocking=True)
        return normalise_for_training(values, self._preprocessing)

    def __len__(self) -> int:
        return len(self._train)

    @torch.no_grad()
    def after_step(self) -> None:
        """See `Phase`: the average follows the weights that learn.

        It starts from the pretrained network with its new classifier, of which a twentieth is left
        in the end: that too makes answers sounder on images of another kind (WiSE-FT: Wortsman
        et al. 2021, arXiv 2109.01903). Of random weights nothing is to be left.
        """
        decay = 1 - 1 / max(1.0, AVERAGED_SHARE * self.schedule.total_steps)
        if self._options.from_scratch:
            decay = min(decay, self.schedule.step / (self.schedule.step + 10))
        torch._foreach_lerp_(
            list(self._average.parameters()), list(self._learning.parameters()), 1 - decay
        )
        if self._options.from_scratch:  # frozen statistics stay what they are
            for ours, theirs in zip(self._average.buffers(), self._learning.buffers(), strict=True):
                ours.copy_(theirs)

    def network(self) -> nn.Module:
        """See `Phase`."""
        return self._average

    def remember(self) -> None:
        """See `Phase`: the model file is enough."""

    def answers(self) -> tuple[Indexes, Floats]:
        """See `Phase`."""
        engine = self._answering.loaded(self._average)
        return self._answering.outputs(engine, self._val, "Validation")

    def restore(self, tensors: Arrays) -> None:
        """Put back what `tensors` gave."""
        parameters = list(self._learning.parameters())
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                parameter = parameters[int(number)]
                kept = torch.from_numpy(value.copy())
                if kept.shape == parameter.shape:
                    # in the parameter's own memory format: the fused update goes by memory alone
                    kept = torch.empty_like(parameter).copy_(kept)
                self.learner.optimizer.state[parameter][key] = kept.to(parameter.device)
        for prefix, module in (("average.", self._average), ("network.", self._learning)):
            module.load_state_dict(
                {
                    name.removeprefix(prefix): torch.from_numpy(value)
                    for name, value in tensors.items()
                    if name.startswith(prefix)
                }
            )

    def tensors(self) -> dict[str, Tensor]:
        """All that changes while the network learns, by name."""
        found = {f"average.{k}": v for k, v in self._average.state_dict().items()}
        found |= {f"network.{k}": v for k, v in self._learning.state_dict().items()}
        for number, parameter in enumerate(self._learning.parameters()):
            for key, value in self.learner.optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{number}.{key}"] = value
        return found


def _batches(num_images: int, size: int | None, num_processes: int) -> tuple[int, int]:
    """Updates in an epoch and images in each of them; each process has some of them.

    Raises:
        UsageError: there are fewer images, or smaller batches, than processes.
    """
    for what, number in ("training images", num_images), ("images in a batch", size):
        if number is not None and number < num_processes:
            raise UsageError(
                f"{num_processes} processes are more than the {number} {what}.",
                f"Use --nproc-per-node {number} or less.",
            )
    if size is None:
        size = min(MAX_BATCH_SIZE, max(MIN_BATCH_SIZE, num_processes, num_images // MIN_UPDATES))
    return min(max(1, round(num_images / size)), num_images // num_processes), size


def _view_px(crop_px: int, policy: AugmentPolicy) -> int:
    return VIEW_MULTIPLE_PX * round(policy.crop_scale * crop_px / VIEW_MULTIPLE_PX)


def _thaw(network: nn.Module, options: FinetuneOptions) -> None:
    """Let everything learn but the first stages that stay as they are."""
    network.requires_grad_(True)
    for stage in list(network.get_submodule("features").children())[: options.freeze]:
        stage.requires_grad_(False)


def _freeze_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
