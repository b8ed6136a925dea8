"""Training steps: gradients, micro-batches, schedule, precision."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.objective import ClassObjective
from effnet_cli.finetune.optim import (
    LABEL_SMOOTHING,
    Schedule,
    Stepper,
    group_parameters,
    smoothed_cross_entropy,
)
from effnet_cli.system.errors import EffnetError
from helpers import RecordingReporter
from training_parts import build_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


def make_stepper(module: nn.Module, lr: float = 1e-2, **changes: Any) -> Stepper:
    settings: dict[str, Any] = {
        "groups": group_parameters(module, lr, 0.1),
        "schedule": Schedule(100),
        "loss": smoothed_cross_entropy,
        "processes": ProcessGroup(),
        "reporter": RecordingReporter(),
    }
    return Stepper(module, **{**settings, **changes})


def make_batch(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=generator)
    return inputs, torch.randint(0, 3, (count,), generator=generator)


def copy_gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters()]  # type: ignore[union-attr]


@given(st.integers(1, 24), st.integers(1, 30))
def test_micro_batches_add_up_to_the_whole_batch(count: int, micro_batch_size: int) -> None:
    inputs, labels = make_batch(count)
    whole, micro = build_tiny_model(), build_tiny_model()
    first, second = make_stepper(whole), make_stepper(micro)
    second.micro_batch_size = micro_batch_size
    losses = [stepper.step(inputs, labels, count) for stepper in (first, second)]
    torch.testing.assert_close(losses[0], losses[1])
    for expected, actual in zip(copy_gradients(whole), copy_gradients(micro), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_loss_equals_torchs_with_label_smoothing() -> None:
    inputs, labels = make_batch(7)
    module = build_tiny_model()
    expected = functional.cross_entropy(module(inputs), labels, label_smoothing=LABEL_SMOOTHING)
    expected.backward()
    expected_gradients = copy_gradients(module)
    other_module = build_tiny_model()
    loss = make_stepper(other_module).step(inputs, labels, 7)
    torch.testing.assert_close(loss, expected.detach() * 7)
    for one, other in zip(copy_gradients(other_module), expected_gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_offsets_are_added_to_the_logits() -> None:
    inputs, labels = make_batch(9)
    offsets = torch.tensor([0.5, -2.0, 0.0])
    module = build_tiny_model()
    loss = functional.cross_entropy(
        module(inputs) + offsets, labels, label_smoothing=LABEL_SMOOTHING
    )
    loss.backward()
    expected = copy_gradients(module)
    other_module = build_tiny_model()
    objective = ClassObjective(("a", "b", "c"), offsets, is_uneven=False, is_balanced=False)
    stepper = make_stepper(other_module, loss=objective.training_loss)
    actual = stepper.step(inputs, labels, 9)
    torch.testing.assert_close(actual, 9 * loss.detach())
    for one, other in zip(copy_gradients(other_module), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_step_with_unreadable_images_is_smaller() -> None:
    """Gradients are divided by the batch size, not by the number of readable images."""
    inputs, labels = make_batch(4)
    half, whole = build_tiny_model(), build_tiny_model()
    make_stepper(half).step(inputs, labels, 8)
    make_stepper(whole).step(inputs, labels, 4)
    for one, other in zip(copy_gradients(half), copy_gradients(whole), strict=True):
        torch.testing.assert_close(2 * one, other)


def test_empty_batch_keeps_parameters_finite() -> None:
    module = build_tiny_model()
    assert make_stepper(module).step(torch.empty(0, 5), torch.empty(0, dtype=torch.long), 4) == 0
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_steps_follow_the_schedule_and_reduce_the_loss() -> None:
    inputs, labels = make_batch(12)
    module = build_tiny_model()
    stepper = make_stepper(module, lr=0.05, schedule=Schedule(40))
    rates, losses = [], []
    for _ in range(40):
        losses.append(float(stepper.step(inputs, labels, 12)))
        rates.append(stepper.optimizer.param_groups[0]["lr"])
    assert rates == [0.05 * Schedule(40, step).factor for step in range(40)]
    assert losses[-1] < 0.7 * losses[0]


@given(st.integers(1, 5000))
def test_learning_rate_rises_then_falls_to_zero(total: int) -> None:
    factors = [Schedule(total, step).factor for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert peak <= max(1, 0.06 * total)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert Schedule(total, total).factor == pytest.approx(0)
    if total >= 20:
        assert factors[0] <= factors[peak]
        assert max(factors) > 0.95
        assert factors[-1] < 0.01
        assert factors[total // 2] == pytest.approx(0.5, abs=0.05)
    if total >= 100:
        assert factors[0] <= 0.25


def test_dropout_depends_on_seed_and_step_only() -> None:
    def train_step(seed: int, start: int = 0) -> Tensor:
        torch.manual_seed(99)
        module = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3))
        stepper = make_stepper(module, schedule=Schedule(100, start), seed=seed)
        torch.rand(start + 1)  # other random draws do not matter
        stepper.step(*make_batch(8), 8)
        return module[1].weight.grad.clone()  # type: ignore[union-attr, operator, return-value]

    assert torch.equal(train_step(1, 5), train_step(1, 5))
    assert not torch.equal(train_step(1, 5), train_step(1, 6))
    assert not torch.equal(train_step(1, 5), train_step(2, 5))


class SmallMemory(nn.Module):
    """A model that runs out of memory above `max_images` images."""

    def __init__(self, max_images: int, error: Callable[[], BaseException]) -> None:
        super().__init__()
        self.inner, self.max_images, self.error = build_tiny_model(), max_images, error
        self.batch_sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.batch_sizes.append(len(inputs))
        if len(inputs) > self.max_images:
            raise self.error()
        logits: Tensor = self.inner(inputs)
        return logits


OUT_OF_MEMORY: dict[str, Callable[[], BaseException]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    "windows": lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
    "python": MemoryError,
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(
    error: Callable[[], BaseException],
) -> None:
    inputs, labels = make_batch(20)
    module, whole, reporter = SmallMemory(6, error), build_tiny_model(), RecordingReporter()
    stepper = make_stepper(module, reporter=reporter)
    loss = stepper.step(inputs, labels, 20)
    assert stepper.micro_batch_size == 5
    assert module.batch_sizes == [20, 10, 5, 5, 5, 5]
    assert len(reporter.notes) == 2
    assert "micro-batch 20;" in reporter.notes[0]
    assert "retrying with 5 and" in reporter.notes[1]
    torch.testing.assert_close(loss, make_stepper(whole).step(inputs, labels, 20))
    for expected, actual in zip(copy_gradients(whole), copy_gradients(module.inner), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    stepper.step(inputs, labels, 20)  # the micro-batch stays small
    assert module.batch_sizes[6:] == [5, 5, 5, 5]
    assert len(reporter.notes) == 2


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_out_of_memory_for_one_image_is_an_error(error: Callable[[], BaseException]) -> None:
    stepper = make_stepper(SmallMemory(0, error))
    with pytest.raises(EffnetError, match="Out of memory at micro-batch 1 ") as caught:
        stepper.step(*make_batch(3), 3)
    assert "--batch-size" in caught.value.hint
    assert stepper.micro_batch_size == 1


def test_other_errors_keep_their_traceback() -> None:
    stepper = make_stepper(
        SmallMemory(0, lambda: RuntimeError("mat1 and mat2 cannot be multiplied"))
    )
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        stepper.step(*make_batch(3), 3)
    assert stepper.micro_batch_size is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_precision_reduces_the_loss(precision: str) -> None:
    inputs, labels = make_batch(12)
    module = build_tiny_model()
    stepper = make_stepper(module, lr=0.05, precision=precision)
    losses = [float(stepper.step(inputs, labels, 12)) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


def test_empty_groups_are_omitted() -> None:
    frozen = build_tiny_model().requires_grad_(False)
    assert group_parameters(frozen, 0.1, 0.1) == []
    (weights,) = group_parameters(nn.Linear(2, 2, bias=False), 0.1, 0.3)
    assert (weights["lr"], weights["weight_decay"]) == (0.1, 0.3)
