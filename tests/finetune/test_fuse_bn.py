"""Fused BatchNorm computes the same outputs and gradients."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effnet_cli.finetune.fuse_bn import FusedConvBatchNorm, fuse_batch_norm
from helpers import lively
from training_parts import CROP_PX, MODELS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    """A seeded model in float64, where rounding errors are negligible."""
    return lively(MODELS[request.param](), size_px=CROP_PX).double()


def compute_gradients(model: nn.Module, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.requires_grad_(True).zero_grad()
    logits = model(pixels)
    functional.cross_entropy(logits, torch.arange(len(pixels)) % 3).backward()
    return logits.detach(), {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("size_px", [CROP_PX, 45])
def test_fused_model_has_the_same_outputs_and_gradients(model: nn.Module, size_px: int) -> None:
    fused = copy.deepcopy(model)
    fuse_batch_norm(fused)
    units = [unit for unit in fused.modules() if isinstance(unit, FusedConvBatchNorm)]
    norms = [layer for layer in fused.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(units) == len(norms) > 40
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(4, 3, size_px, size_px, generator=generator, dtype=torch.float64)
    expected, expected_gradients = compute_gradients(copy.deepcopy(model), pixels)
    logits, found = compute_gradients(fused, pixels)
    assert expected.std() > 0.5  # constant outputs would make the test trivial
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert found.keys() == expected_gradients.keys() == dict(model.named_parameters()).keys()
    learning = sum(bool(gradient.any()) for gradient in expected_gradients.values())
    assert learning > 0.9 * len(expected_gradients)
    for name, gradient in expected_gradients.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9 * largest)


def test_fusing_keeps_names_and_tensors(model: nn.Module) -> None:
    fused = copy.deepcopy(model)
    before = {name: tensor.clone() for name, tensor in fused.state_dict().items()}
    order = [name for name, _ in fused.named_parameters()]
    fuse_batch_norm(fused)
    assert list(fused.state_dict()) == list(before)
    assert [name for name, _ in fused.named_parameters()] == order
    for name, tensor in fused.state_dict().items():
        assert torch.equal(tensor, before[name])
    again = copy.deepcopy(model)
    again.load_state_dict(fused.state_dict())


def test_training_a_fused_model_keeps_its_statistics(model: nn.Module) -> None:
    fused = copy.deepcopy(model)
    fuse_batch_norm(fused)
    before = {name: buffer.clone() for name, buffer in fused.named_buffers()}
    fused.get_submodule("features").train()(torch.randn(4, 3, 32, 32, dtype=torch.float64))
    for name, buffer in fused.named_buffers():
        assert torch.equal(buffer, before[name])


def test_other_layers_are_not_fused() -> None:
    plain = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()),
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
    )
    fuse_batch_norm(plain)
    assert not any(isinstance(layer, FusedConvBatchNorm) for layer in plain.modules())
