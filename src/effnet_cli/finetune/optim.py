"""The update rule: one step of AdamW on one batch, for the classifier alone and for the network."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.reporter import Reporter

LABEL_SMOOTHING = 0.1
WARM_UP = 0.05  # share of all steps in which the learning rate rises
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What torch says when the memory of a CPU is at its end.
CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")


@dataclass(slots=True)
class Schedule:
    """Where a phase stands, and the learning rate that follows: a short rise, then half a cosine
    to zero over `total_steps`.
    """

    total_steps: int
    step: int = 0

    @property
    def factor(self) -> float:
        """What the peak learning rates are multiplied with at this step (0..1)."""
        rise = max(1, round(WARM_UP * self.total_steps))
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.total_steps)))
        return min(1.0, (self.step + 1) / rise) * fall


class Learner:
    """Changes `module` step by step.

    Args:
        module: maps a prepared batch to logits; in the mode in which it learns.
        groups: AdamW's groups of parameters; `lr` in each is the peak.
        schedule: shared with who counts the steps.
        class_weights: float32 [C], mean 1 over the training images.
        precision: `fp32`, or what autocast computes in.
        seed: of dropout; each step draws from the seed and its number alone.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[dict[str, Any]],
        schedule: Schedule,
        class_weights: Tensor,
        processes: ProcessGroup,
        reporter: Reporter,
        precision: str = "fp32",
        seed: int = 0,
    ) -> None:
        parameter = next(module.parameters())
        self._device = parameter.device
        self._module = module
        self._schedule, self._processes, self._reporter = schedule, processes, reporter
        self._peaks = [group["lr"] for group in groups]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self._class_weights = class_weights.to(self._device)
        self._dtype = DTYPES.get(precision)
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=precision == "fp16")
        self._seed = seed
        self.piece_size: int | None = None  # images at once, after memory was found too small
        self._is_settled = processes.count == 1

    def step(self, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """One update; the summed loss of this process's images, without waiting for the device.

        Args:
            inputs: this process's share of the batch, on the device, [N,...].
            labels: int64 [N].
            batch_size: images in the batch over all processes.
        """
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self._schedule.factor
        while True:
            try:
                loss = self._gradients(inputs, labels, batch_size)
                break
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve(len(labels), error)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._schedule.step += 1
        return loss

    def _gradients(self, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Add up the gradients of the batch, piece by piece where memory is small."""
        if not self._is_settled:
            self._settle(inputs, labels, batch_size)
        torch.manual_seed(self._seed * 1_000_003 + self._schedule.step)
        self.optimizer.zero_grad(set_to_none=True)
        size = self.piece_size or max(1, len(labels))
        starts = range(0, max(1, len(labels)), size)
        losses = []
        for start in starts:
            piece = slice(start, start + size)
            with self._joined(is_last=start == starts[-1]):
                losses.append(self._piece(inputs[piece], labels[piece], batch_size))
        return torch.stack(losses).sum()

    def _piece(self, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        enabled = self._dtype is not None
        with torch.autocast(self._device.type, self._dtype, enabled=enabled):
            logits = self._module(inputs).float()
        losses = functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=LABEL_SMOOTHING
        )
        loss = (losses * self._class_weights[labels]).sum()
        # the processes' gradients are averaged, and together they have `batch_size` images
        share = loss * (self._processes.count / batch_size)
        self.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _joined(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Between processes gradients travel with the last piece only."""
        if is_last or self._processes.count == 1:
            return nullcontext()
        context: AbstractContextManager[None] = self._module.no_sync()  # type: ignore[operator]
        return context

    def _settle(self, inputs: Tensor, labels: Tensor, batch_size: int) -> None:
        """Find the size of the pieces before processes wait for each other: one that runs out of
        memory later would leave the others waiting.
        """
        with self._module.no_sync():  # type: ignore[operator]
            size = self.piece_size or len(labels)
            while True:
                try:
                    self._piece(inputs[:size], labels[:size], batch_size)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not _is_out_of_memory(error):
                        raise
                    self._halve(len(labels), error)
                    size = self.piece_size or size
        size = self._processes.agreed(self.piece_size or len(labels), largest=False)
        self.piece_size = size if size < len(labels) else self.piece_size
        self._is_settled = True

    def _halve(self, batch_size: int, error: BaseException) -> None:
        size = self.piece_size or batch_size
        if size == 1 or (self._is_settled and self._processes.count > 1):
            raise EffnetError(
                f"There is no memory for {size} images at once on {self._device}.",
                "Use a smaller --batch-size or a smaller --variant; --resume goes on.",
            ) from error
        self.piece_size = size // 2
        self.optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._reporter.note(
            f"Memory is too small for {size} images at once: {self.piece_size} now, with the"
            " gradients added up, so that the batch stays the same."
        )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in CPU_OUT_OF_MEMORY)


def parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups for what learns in `module`; `lr` is the peak.

    Factors and offsets of channels are not drawn to zero, as the weights are.
    """
    learned = [p for p in module.parameters() if p.requires_grad]
    weights, others = [p for p in learned if p.ndim > 1], [p for p in learned if p.ndim <= 1]
    found = [
        {"params": weights, "lr": lr, "weight_decay": weight_decay},
        {"params": others, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in found if group["params"]]
