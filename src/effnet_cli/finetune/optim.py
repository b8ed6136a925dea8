"""One AdamW update: learning-rate schedule, mixed precision and gradient accumulation."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from effnet_cli.engines.torch_engine import AUTOCAST_DTYPES
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.reporter import Reporter

Result = TypeVar("Result")

LABEL_SMOOTHING = 0.1

WARM_UP = 0.05  # fraction of the steps over which the learning rate rises
# What torch's CPU allocator says when it runs out of memory (Linux, Windows).
CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")


def smoothed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross-entropy of logits [N,C] for labels [N], with label smoothing."""
    return functional.cross_entropy(
        logits, labels, reduction="sum", label_smoothing=LABEL_SMOOTHING
    )


@dataclass(slots=True)
class Schedule:
    """The learning rate of a phase: a linear warm-up, and half a cosine down to zero."""

    total_steps: int
    step: int = 0

    @property
    def factor(self) -> float:
        """Multiplier of the peak learning rates at this step (0..1)."""
        warm_up_steps = max(1, round(WARM_UP * self.total_steps))
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.total_steps)))
        return min(1.0, (self.step + 1) / warm_up_steps) * decay


class Stepper:
    """Trains a module step by step.

    Args:
        module: maps inputs to logits; in training mode when `step` is called.
        groups: AdamW's parameter groups; the `lr` of each is its peak learning rate.
        schedule: advanced by each step.
        loss: returns the summed loss of logits, float32 [N,C], for labels, int64 [N].
        precision: `fp32`, or the autocast precision.
        seed: seed of dropout, which depends only on this seed and the step number.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[dict[str, Any]],
        schedule: Schedule,
        loss: Callable[[Tensor, Tensor], Tensor],
        processes: ProcessGroup,
        reporter: Reporter,
        precision: str = "fp32",
        seed: int = 0,
    ) -> None:
        self._module, self._processes, self._reporter = module, processes, reporter
        self._device = next(module.parameters()).device
        self._loss = loss
        self._dtype = AUTOCAST_DTYPES.get(precision)
        self._seed = seed
        self._peaks = [group["lr"] for group in groups]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=precision == "fp16")
        self.schedule = schedule
        self.micro_batch_size: int | None = None  # set when a batch does not fit into memory
        self._can_shrink = True

    def step(self, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Make one update and return this process's summed loss, without waiting for the device.

        Args:
            inputs: this process's part of the batch, on the device, [N,...].
            labels: int64 [N].
            batch_size: number of images in the batch, over all processes.
        """
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self.schedule.factor
        loss = self._shrink_to_fit(
            lambda: self._accumulate(inputs, labels, batch_size), len(labels)
        )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step += 1
        return loss

    def _accumulate(self, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Compute the gradients of a batch, one micro-batch at a time."""
        if self._processes.count > 1 and self._can_shrink:
            self._agree_on_micro_batch(inputs, labels, batch_size)
        torch.manual_seed(self._seed * 1_000_003 + self.schedule.step)
        self.optimizer.zero_grad(set_to_none=True)
        size = self.micro_batch_size or max(1, len(labels))
        starts = range(0, max(1, len(labels)), size)
        losses = []
        for start in starts:
            part = slice(start, start + size)
            with self._synchronise(is_last=start == starts[-1]):
                losses.append(self._backward(inputs[part], labels[part], batch_size))
        return torch.stack(losses).sum()

    def _backward(self, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Add the gradients of one micro-batch and return its summed loss."""
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            logits = self._module(inputs).float()
        loss = self._loss(logits, labels)
        # Gradients are averaged over the processes, which share `batch_size` images.
        mean = loss * (self._processes.count / batch_size)
        self.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _synchronise(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Return a context that exchanges gradients for the last micro-batch only."""
        if is_last or self._processes.count == 1:
            return nullcontext()
        context: AbstractContextManager[None] = self._module.no_sync()  # type: ignore[operator]
        return context

    def _agree_on_micro_batch(self, inputs: Tensor, labels: Tensor, batch_size: int) -> None:
        """Find a micro-batch size that fits in all processes before gradients are first exchanged.

        A process that ran out of memory later would leave the others waiting.
        """

        def try_backward() -> None:
            size = self.micro_batch_size or len(labels)
            self._backward(inputs[:size], labels[:size], batch_size)

        with self._module.no_sync():  # type: ignore[operator]
            self._shrink_to_fit(try_backward, len(labels))
        size = self._processes.reduce_min(self.micro_batch_size or len(labels))
        self.micro_batch_size = size if size < len(labels) else self.micro_batch_size
        self._can_shrink = False

    def _shrink_to_fit(self, work: Callable[[], Result], batch_size: int) -> Result:
        """Call `work`, halving the micro-batch each time it runs out of memory."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve_micro_batch(batch_size, error)

    def _halve_micro_batch(self, batch_size: int, error: BaseException) -> None:
        size = self.micro_batch_size or batch_size
        if size == 1 or not self._can_shrink:
            raise EffnetError(
                f"Out of memory at micro-batch {size} on {self._device}.",
                "Use a smaller --batch-size or --variant, or free up memory and rerun with "
                "--resume.",
            ) from error
        self.micro_batch_size = size // 2
        self.optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._reporter.note(
            f"Out of memory at micro-batch {size}; retrying with {self.micro_batch_size} and"
            " gradient accumulation."
        )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(text in str(error) for text in CPU_OUT_OF_MEMORY)


def group_parameters(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Group the trainable parameters for AdamW; `lr` is their peak learning rate.

    Weight decay does not apply to biases or BatchNorm scales.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    weights, others = [p for p in trainable if p.ndim > 1], [p for p in trainable if p.ndim <= 1]
    groups = [
        {"params": weights, "lr": lr, "weight_decay": weight_decay},
        {"params": others, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
