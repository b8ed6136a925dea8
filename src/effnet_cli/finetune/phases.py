"""The second phase of a run: the full model, which starts with the head of the first phase."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effnet_cli.engines.normalise import normalise_for_training
from effnet_cli.finetune.example_phase import ExamplePhase
from effnet_cli.finetune.fuse_bn import fuse_batch_norm
from effnet_cli.finetune.head_phase import (
    HeadPhase,
    TrainingBatch,
    ValidationOutputs,
    views_per_image,
)
from effnet_cli.finetune.loader import Crops
from effnet_cli.finetune.optim import Schedule, Stepper, group_parameters
from effnet_cli.finetune.records import PhaseName
from effnet_cli.finetune.run_dir import TrainingState
from effnet_cli.finetune.setup import TrainingSetup
from effnet_cli.finetune.view_choice import describe_policy
from effnet_cli.images.augment import Augmentation, AugmentPolicy
from effnet_cli.models.checkpoint import Arrays
from effnet_cli.options import FinetuneOptions
from effnet_cli.system.errors import UsageError

MIN_AUTO_BATCH, MAX_AUTO_BATCH = 8, 64
MIN_UPDATES = 40  # per epoch; small datasets get smaller batches
FULL_LR = 3e-4  # at MAX_AUTO_BATCH; scales with the square root of the batch size
AVERAGED_FRACTION = 0.1  # of all updates: the horizon of the weight average
VIEW_MULTIPLE_PX = 16  # the side of training views is a multiple of this
# Without --epochs: this many views in all, within limits.
AUTO_IMAGES = 8000
MIN_AUTO_EPOCHS, MAX_AUTO_EPOCHS = 5, 12
# The full model has this share of the head's time to show that it is better.
PROBE_SHARE = 1 / 3
TRAINING_COST = 5  # of an image, in passes through the backbone (lite0, two cores: 20 and 4 ms)
MIN_PROBE_STEPS = 12


class FullPhase:
    """Trains all layers, with frozen BatchNorm statistics unless it starts from scratch.

    Validation uses a running average of the trained weights, which also goes into the model file.
    """

    name: PhaseName = "full"

    def __init__(self, setup: TrainingSetup, module: nn.Module, state: TrainingState) -> None:
        self._setup, options = setup, setup.options
        self.device, self.processes = setup.device, setup.processes
        self.epochs = options.epochs or state.epochs
        self.patience, self.minutes = options.patience, options.minutes
        self._policy, self.num_images = state.policy, len(setup.train)
        self.steps, batch_size = plan_batches(
            self.num_images, options.batch_size, self.processes.count
        )
        self.lr = options.lr or FULL_LR * math.sqrt(batch_size / MAX_AUTO_BATCH)
        self._average = module.to(self.device).eval()
        self._trained = _trainable_copy(self._average, options)
        compiled: Any = torch.compile(self._trained) if options.compile else self._trained
        self.stepper = Stepper(
            self.processes.wrap(compiled, self.device),
            group_parameters(self._trained, self.lr, options.weight_decay),
            Schedule(self.steps * self.epochs),
            loss=setup.objective.training_loss,
            processes=self.processes,
            reporter=setup.reporter,
            precision=setup.precision,
            seed=options.seed + 1,
        )

    def describe(self) -> str:
        """Describe the training ahead in one line."""
        return (
            f"Training the full model on {self.device} in {self._setup.precision}: "
            f"{self.epochs} epoch{'s' * (self.epochs != 1)} of {self.steps} updates with about "
            f"{self.num_images // self.steps} images each, peak learning rate {self.lr:.2g}; views "
            f"with {describe_policy(self._policy)}"
        )

    def must_show_gain(self, state: TrainingState) -> bool:
        """Return whether the model must be better than the head by now, without --epochs.

        Until then, its training takes `PROBE_SHARE` of what the passes of the head have cost.
        """
        options = self._setup.options
        if options.epochs is not None or options.from_scratch or state.epoch > 1:
            return False
        passes = self.num_images * (1 + views_per_image(self.num_images)) + len(self._setup.val)
        images = PROBE_SHARE * passes / TRAINING_COST
        step = max(MIN_PROBE_STEPS, round(images * self.steps / self.num_images))
        return state.step == min(step, self.steps)

    def load_batches(self, epoch: int, first_step: int) -> Iterator[TrainingBatch]:
        """Yield the batches of an epoch (counted from 1), starting at `first_step`."""
        setup, options = self._setup, self._setup.options
        self._trained.train()
        if not options.from_scratch:
            _freeze_statistics(self._trained)
        seeds, policy = (options.seed, 1, epoch), self._policy
        order = np.random.default_rng(seeds).permutation(self.num_images)
        parts = np.array_split(order, self.steps)[first_step:]
        shards = (self.processes.shard(part) for part in parts)
        view_px = _view_px(setup.card.preprocessing.crop_px, policy)
        batches = setup.train.load_batches(shards, Augmentation(policy, view_px, seeds))
        for part, batch in zip(parts, batches, strict=True):
            labels = torch.from_numpy(setup.train.labels[batch.indexes].astype(np.int64))
            yield self._to_inputs(batch.crops), labels.to(self.device), len(part)

    def _to_inputs(self, crops: Crops) -> Tensor:
        """Convert uint8 [N,H,W,3] to normalised float32 [N,3,H,W] on the device."""
        values = torch.from_numpy(crops)
        if self.device.type == "cuda":
            values = values.pin_memory()
        values = values.to(self.device, non_blocking=True)
        return normalise_for_training(values, self._setup.card.preprocessing)

    def step(self, batch: TrainingBatch) -> Tensor:
        """Update the weights and their average, and return the summed loss."""
        loss = self.stepper.step(*batch)
        self._update_average()
        return loss

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the average towards the trained weights.

        The average starts as the pretrained model with its new head. A twentieth of that remains
        at the end, which also makes the model more robust to other kinds of images (WiSE-FT:
        Wortsman et al. 2021, arXiv 2109.01903). Random initial weights are averaged out early.
        """
        schedule, is_from_scratch = self.stepper.schedule, self._setup.options.from_scratch
        decay = 1 - 1 / max(1.0, AVERAGED_FRACTION * schedule.total_steps)
        if is_from_scratch:
            decay = min(decay, schedule.step / (schedule.step + 10))
        torch._foreach_lerp_(
            list(self._average.parameters()), list(self._trained.parameters()), 1 - decay
        )
        if is_from_scratch:  # otherwise the statistics are frozen
            for ours, theirs in zip(self._average.buffers(), self._trained.buffers(), strict=True):
                ours.copy_(theirs)

    def module(self) -> nn.Module:
        """Return the averaged model, in evaluation mode."""
        return self._average

    def validate(self) -> ValidationOutputs:
        """Return the indexes and logits of the readable validation images."""
        inference = self._setup.inference
        return inference.run(inference.load_engine(self._average), self._setup.val, "Validation")

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the average, the trained weights, and AdamW's moments."""
        tensors = {f"average.{k}": v for k, v in self._average.state_dict().items()}
        tensors |= {f"trained.{k}": v for k, v in self._trained.state_dict().items()}
        moments = self.stepper.optimizer.state
        for number, parameter in enumerate(self._trained.parameters()):
            for key, value in moments.get(parameter, {}).items():
                tensors[f"optimizer.{number}.{key}"] = value
        return tensors

    def restore(self, state: TrainingState, tensors: Arrays) -> None:
        """Continue from a saved state and its tensors."""
        self.stepper.micro_batch_size = state.micro_batch_size
        self.stepper.scaler.load_state_dict(state.scaler)
        self.stepper.schedule.step = (state.epoch - 1) * self.steps + state.step
        self._average.load_state_dict(_select(tensors, "average."))
        self._trained.load_state_dict(_select(tensors, "trained."))
        parameters = list(self._trained.parameters())
        for name, value in _select(tensors, "optimizer.").items():
            number, key = name.split(".")
            parameter, moment = parameters[int(number)], value.clone()
            if moment.shape == parameter.shape:
                # The fused update ignores strides: it needs the memory format of the parameter.
                moment = torch.empty_like(parameter).copy_(moment)
            self.stepper.optimizer.state[parameter][key] = moment.to(parameter.device)


Phase = HeadPhase | ExamplePhase | FullPhase


def auto_epochs(num_images: int) -> int:
    """Return how many epochs the full model is trained for without --epochs."""
    return min(MAX_AUTO_EPOCHS, max(MIN_AUTO_EPOCHS, round(AUTO_IMAGES / num_images)))


def plan_batches(num_images: int, size: int | None, num_processes: int) -> tuple[int, int]:
    """Return the number of updates per epoch and the batch size, which may be approximate.

    Every process gets at least one image of each update.

    Raises:
        UsageError: the dataset or the batch has fewer images than there are processes.
    """
    for what, number in ("Batch size", size), ("Training set size", num_images):
        if number is not None and number < num_processes:
            raise UsageError(
                f"{what} {number} is smaller than the number of processes ({num_processes}).",
                f"Use --nproc-per-node {number} or less.",
            )
    if size is None:
        size = min(MAX_AUTO_BATCH, max(MIN_AUTO_BATCH, num_processes, num_images // MIN_UPDATES))
    return min(max(1, round(num_images / size)), num_images // num_processes), size


def _view_px(crop_px: int, policy: AugmentPolicy) -> int:
    return VIEW_MULTIPLE_PX * int(policy.crop_scale * crop_px / VIEW_MULTIPLE_PX)


def _trainable_copy(module: nn.Module, options: FinetuneOptions) -> nn.Module:
    """Return a copy of `module` in which all but the frozen stages are trainable."""
    other = copy.deepcopy(module).to(memory_format=torch.channels_last)
    other.requires_grad_(True)
    for stage in list(other.get_submodule("features").children())[: options.freeze]:
        stage.requires_grad_(False)
    is_on_cpu = next(other.parameters()).device.type == "cpu"
    if is_on_cpu and not options.from_scratch:
        fuse_batch_norm(other)
    return other


def _freeze_statistics(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


def _select(tensors: Arrays, prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, with the prefix removed."""
    return {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
