"""The parts of fine-tuning, each alone: the folded network, the update rule, the images, the
phases, the processes, the signals, the run's folder.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import efficientnet_b0

from effnet_cli.datasets import Paths, Subset
from effnet_cli.engines.normalise import normalise
from effnet_cli.engines.registry import plan_engine
from effnet_cli.finetune import phases, run_dir
from effnet_cli.finetune.distributed import ProcessGroup, join_process_group
from effnet_cli.finetune.fuse_bn import FoldedUnit, fuse_batch_norm, keep_freed_memory
from effnet_cli.finetune.inference import Answering
from effnet_cli.finetune.loader import Memory, SubsetImages, chunks
from effnet_cli.finetune.optim import LABEL_SMOOTHING, Learner, Schedule, parameter_groups
from effnet_cli.finetune.phases import HeadPhase, NetworkPhase
from effnet_cli.finetune.signals import Stop, TrainingStopped, listening
from effnet_cli.images.augment import POLICIES, Augmentation
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models import build, checkpoint
from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import find_variant
from effnet_cli.options import (
    DatasetOptions,
    EngineOptions,
    FinetuneOptions,
    FinetuneTask,
    ImageOptions,
    ModelOptions,
)
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.reporter import SILENT
from helpers import SAMPLES, RecordingReporter, lively, load_pixels, save_image

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
CROP_PX = 32  # of the networks here, which so take milliseconds
PREPROCESSING = Preprocessing(CROP_PX, CROP_PX, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
CLASSES = ("a", "b", "c")


# --- folded networks --------------------------------------------------------------------------

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lite0": lambda: build.build(find_variant("lite0"), 3),
    "b0": lambda: efficientnet_b0(num_classes=3),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """A lively network in float64, so that only the arithmetic's order could make a difference."""
    return lively(NETWORKS[request.param](), size_px=CROP_PX).double()


def copied(network: nn.Module) -> nn.Module:
    name = "b0" if isinstance(network, type(efficientnet_b0(num_classes=3))) else "lite0"
    other = NETWORKS[name]().double()
    other.load_state_dict(network.state_dict())
    return other.eval()


def gradients(network: nn.Module, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    network.requires_grad_(True).zero_grad()
    logits = network(pixels)
    functional.cross_entropy(logits, torch.arange(len(pixels)) % 3).backward()
    return logits.detach(), {
        name: parameter.grad.clone()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("size_px", [CROP_PX, 45])
def test_folded_network_computes_and_learns_as_before(network: nn.Module, size_px: int) -> None:
    folded = copied(network)
    fuse_batch_norm(folded)
    units = [unit for unit in folded.modules() if isinstance(unit, FoldedUnit)]
    norms = [layer for layer in folded.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(units) == len(norms) > 40
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(4, 3, size_px, size_px, generator=generator, dtype=torch.float64)
    wanted, wanted_gradients = gradients(copied(network), pixels)
    logits, found = gradients(folded, pixels)
    assert wanted.std() > 0.5  # else any network would do
    torch.testing.assert_close(logits, wanted, rtol=1e-9, atol=1e-9)
    assert found.keys() == wanted_gradients.keys() == dict(network.named_parameters()).keys()
    learning = sum(bool(gradient.any()) for gradient in wanted_gradients.values())
    assert learning > 0.9 * len(wanted_gradients)
    for name, gradient in wanted_gradients.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9 * largest)


def test_folding_changes_no_name_and_no_tensor(network: nn.Module) -> None:
    folded = copied(network)
    before = {name: tensor.clone() for name, tensor in folded.state_dict().items()}
    order = [name for name, _ in folded.named_parameters()]
    fuse_batch_norm(folded)
    assert list(folded.state_dict()) == list(before)
    assert [name for name, _ in folded.named_parameters()] == order
    for name, tensor in folded.state_dict().items():
        assert torch.equal(tensor, before[name])
    again = copied(network)
    again.load_state_dict(folded.state_dict())


def test_folded_network_leaves_the_statistics_alone(network: nn.Module) -> None:
    folded = copied(network)
    fuse_batch_norm(folded)
    before = {name: buffer.clone() for name, buffer in folded.named_buffers()}
    folded.get_submodule("features").train()(torch.randn(4, 3, 32, 32, dtype=torch.float64))
    for name, buffer in folded.named_buffers():
        assert torch.equal(buffer, before[name])


def test_other_layers_are_not_folded() -> None:
    plain = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()),
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
    )
    fuse_batch_norm(plain)
    assert not any(isinstance(layer, FoldedUnit) for layer in plain.modules())


def test_memory_that_is_kept_changes_no_result() -> None:
    keep_freed_memory()
    assert torch.ones(1 << 20).sum() == 1 << 20


# --- the update rule --------------------------------------------------------------------------


def tiny(seed: int = 0, classes: int = 3) -> nn.Module:
    """A classifier of 5 numbers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, classes))


def learner_of(module: nn.Module, lr: float = 1e-2, **changes: Any) -> Learner:
    settings: dict[str, Any] = {
        "groups": parameter_groups(module, lr, 0.1),
        "schedule": Schedule(100),
        "class_weights": torch.ones(3),
        "processes": ProcessGroup(),
        "listener": RecordingReporter(),
    }
    return Learner(module, **{**settings, **changes})


def batch_of(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=generator)
    return inputs, torch.randint(0, 3, (count,), generator=generator)


def grads(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters()]  # type: ignore[union-attr]


@given(st.integers(1, 24), st.integers(1, 30))
def test_pieces_add_up_to_the_whole_batch(count: int, piece_size: int) -> None:
    inputs, labels = batch_of(count)
    whole, pieces = tiny(), tiny()
    first, second = learner_of(whole), learner_of(pieces)
    second.piece_size = piece_size
    losses = [learner.step(inputs, labels, count) for learner in (first, second)]
    torch.testing.assert_close(losses[0], losses[1])
    for wanted, given_ in zip(grads(whole), grads(pieces), strict=True):
        torch.testing.assert_close(given_, wanted, rtol=1e-4, atol=1e-6)


def test_loss_is_torchs_with_label_smoothing() -> None:
    inputs, labels = batch_of(7)
    module = tiny()
    wanted = functional.cross_entropy(module(inputs), labels, label_smoothing=LABEL_SMOOTHING)
    wanted.backward()
    wanted_gradients = grads(module)
    given_ = tiny()
    loss = learner_of(given_).step(inputs, labels, 7)
    torch.testing.assert_close(loss, wanted.detach() * 7)
    for one, other in zip(grads(given_), wanted_gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_class_weights_weigh_images() -> None:
    inputs, labels = batch_of(9)
    weights = torch.tensor([0.5, 2.0, 0.0])
    module = tiny()
    losses = functional.cross_entropy(
        module(inputs), labels, reduction="none", label_smoothing=LABEL_SMOOTHING
    )
    (losses * weights[labels]).mean().backward()
    wanted = grads(module)
    given_ = tiny()
    loss = learner_of(given_, class_weights=weights).step(inputs, labels, 9)
    torch.testing.assert_close(loss, (losses * weights[labels]).sum().detach())
    for one, other in zip(grads(given_), wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_lost_images_make_a_step_smaller() -> None:
    """Gradients are divided by the size of the batch, not by what could be opened of it."""
    inputs, labels = batch_of(4)
    half, whole = tiny(), tiny()
    learner_of(half).step(inputs, labels, 8)
    learner_of(whole).step(inputs, labels, 4)
    for one, other in zip(grads(half), grads(whole), strict=True):
        torch.testing.assert_close(2 * one, other)


def test_batch_without_images_is_survived() -> None:
    module = tiny()
    assert learner_of(module).step(torch.empty(0, 5), torch.empty(0, dtype=torch.long), 4) == 0
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_steps_follow_the_schedule_and_learn() -> None:
    inputs, labels = batch_of(12)
    module = tiny()
    learner = learner_of(module, lr=0.05, schedule=Schedule(40))
    rates, losses = [], []
    for _ in range(40):
        losses.append(float(learner.step(inputs, labels, 12)))
        rates.append(learner.optimizer.param_groups[0]["lr"])
    assert rates == [0.05 * Schedule(40, step).factor for step in range(40)]
    assert losses[-1] < 0.7 * losses[0]


@given(st.integers(1, 5000))
def test_learning_rate_rises_then_falls_to_nothing(total: int) -> None:
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


def test_dropout_depends_on_seed_and_step_alone() -> None:
    def trained(seed: int, start: int = 0) -> Tensor:
        torch.manual_seed(99)
        module = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3))
        learner = learner_of(module, schedule=Schedule(100, start), seed=seed)
        torch.rand(start + 1)  # what others draw does not matter
        learner.step(*batch_of(8), 8)
        return module[1].weight.grad.clone()  # type: ignore[union-attr, operator, return-value]

    assert torch.equal(trained(1, 5), trained(1, 5))
    assert not torch.equal(trained(1, 5), trained(1, 6))
    assert not torch.equal(trained(1, 5), trained(2, 5))


class Small(nn.Module):
    """A network on a device whose memory holds `room` images."""

    def __init__(self, room: int, error: Callable[[], BaseException]) -> None:
        super().__init__()
        self.inner, self.room, self.error = tiny(), room, error
        self.tried: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.tried.append(len(inputs))
        if len(inputs) > self.room:
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
def test_too_little_memory_halves_the_pieces_and_keeps_the_step(
    error: Callable[[], BaseException],
) -> None:
    inputs, labels = batch_of(20)
    module, whole, heard = Small(6, error), tiny(), RecordingReporter()
    learner = learner_of(module, reporter=heard)
    loss = learner.step(inputs, labels, 20)
    assert learner.piece_size == 5
    assert module.tried == [20, 10, 5, 5, 5, 5]
    assert len(heard.notes) == 2
    assert "20 images" in heard.notes[0]
    assert "5 now" in heard.notes[1]
    torch.testing.assert_close(loss, learner_of(whole).step(inputs, labels, 20))
    for wanted, given_ in zip(grads(whole), grads(module.inner), strict=True):
        torch.testing.assert_close(given_, wanted, rtol=1e-4, atol=1e-6)
    learner.step(inputs, labels, 20)  # remembered
    assert module.tried[6:] == [5, 5, 5, 5]
    assert len(heard.notes) == 2


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_no_memory_for_one_image_is_said(error: Callable[[], BaseException]) -> None:
    learner = learner_of(Small(0, error))
    with pytest.raises(EffnetError, match="no memory for 1 images") as caught:
        learner.step(*batch_of(3), 3)
    assert "--batch-size" in caught.value.hint
    assert learner.piece_size == 1


def test_other_errors_are_ours() -> None:
    learner = learner_of(Small(0, lambda: RuntimeError("mat1 and mat2 cannot be multiplied")))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        learner.step(*batch_of(3), 3)
    assert learner.piece_size is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_learn_alike(precision: str) -> None:
    inputs, labels = batch_of(12)
    module = tiny()
    learner = learner_of(module, lr=0.05, precision=precision)
    losses = [float(learner.step(inputs, labels, 12)) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


# --- images ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen images of several sizes; the larger are kept smaller than they are."""
    path = tmp_path_factory.mktemp("images")
    for number in range(12):
        save_image(path / f"{number:02}.png", number, (20 + 17 * number, 40 + 9 * number))
    for number, name in enumerate(("cat.jpg", "rocket.jpg")):
        (path / f"{12 + number}.jpg").write_bytes((SAMPLES / name).read_bytes())
    return path


def subset(folder: Path) -> Subset:
    paths = sorted(map(str, folder.iterdir()))
    labels = np.arange(len(paths), dtype=np.int32) % len(CLASSES)
    return Subset(Paths(paths), labels, np.empty(0, np.int32))


LOADER = ImageLoader(PREPROCESSING)


def images_of(
    folder: Path, room: int = 1 << 30, workers: int = 2, reporter: Any = SILENT
) -> SubsetImages:
    return SubsetImages(subset(folder), LOADER, Memory(room), workers, reporter)


@given(st.integers(0, 100), st.lists(st.integers(0, 60)))
def test_memory_never_gives_more_than_it_has(room: int, wanted: list[int]) -> None:
    memory, taken = Memory(room), 0
    for size in wanted:
        is_taken = memory.takes(size)
        assert is_taken == (taken + size <= room)
        taken += size * is_taken
    assert taken <= room


def test_memory_of_this_machine_is_a_share_of_what_is_free() -> None:
    memory = Memory()
    assert memory.takes(1 << 20)
    assert not memory.takes(1 << 50)


def test_memory_is_shared_fairly_between_threads() -> None:
    memory, taken = Memory(4000), []

    def take() -> None:
        taken.append(sum(memory.takes(1) for _ in range(2000)))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 4000


def test_squares_are_those_that_predict_sees(folder: Path) -> None:
    images = images_of(folder)
    for _ in range(2):  # decoded, then remembered
        batch = images.batch(np.arange(len(images)), None)
        assert list(batch.indexes) == list(range(len(images)))
        for index, crop in zip(batch.indexes, batch.crops, strict=True):
            path = subset(folder).paths[int(index)]
            assert np.array_equal(crop, LOADER.crop(LOADER.open(path)))


@pytest.mark.parametrize("crop_px", [16, CROP_PX, 48])
@pytest.mark.parametrize("room", [0, 20_000, 1 << 30], ids=["no room", "some room", "room"])
@pytest.mark.parametrize("workers", [1, 4])
def test_batches_do_not_depend_on_threads_or_memory(
    room: int, workers: int, crop_px: int, folder: Path
) -> None:
    order = np.random.default_rng(0).permutation(14)

    def epochs(images: SubsetImages) -> list[tuple[bytes, list[int]]]:
        found = []
        for epoch in (1, 2, 1):
            views = Augmentation(POLICIES["strong"], crop_px, (7, epoch))
            for batch in images.batches(chunks(order, 4), views):
                assert batch.crops.shape[1:] == (crop_px, crop_px, 3)
                found.append((batch.crops.tobytes(), batch.indexes.tolist()))
        return found

    found = epochs(images_of(folder, room, workers))
    assert found == epochs(images_of(folder, 0, 1))
    assert found[:4] == found[8:] != found[4:8]
    assert [index for _, part in found[:4] for index in part] == order.tolist()


def test_view_of_a_image_depends_on_nothing_but_seeds_and_its_index(folder: Path) -> None:
    views = Augmentation(POLICIES["strong"], CROP_PX, (1, 2))
    together = images_of(folder).batch(np.arange(6), views)
    for index in range(6):
        alone = images_of(folder).batch(np.array([index]), views)
        assert np.array_equal(alone.crops[0], together.crops[index])


def test_images_that_have_gone_are_left_out_and_said_once(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    heard = RecordingReporter()
    images = images_of(tmp_path, reporter=heard)
    (tmp_path / "03.png").unlink()
    (tmp_path / "05.png").write_bytes((tmp_path / "05.png").read_bytes()[:60])
    everyone, views = np.arange(14), Augmentation(POLICIES["light"], CROP_PX, (0,))
    for look in (None, views, None, views):
        batches = list(images.batches(chunks(everyone, 5), look))
        indexes = np.concatenate([batch.indexes for batch in batches])
        assert indexes.tolist() == [index for index in range(14) if index not in (3, 5)]
        assert [len(batch.crops) for batch in batches] == [4, 4, 4]
    assert images.lost == {3, 5}
    assert sorted(note.partition(":")[2].split(":")[0] for note in heard.notes) == [
        f" {tmp_path / '03.png'}",
        f" {tmp_path / '05.png'}",
    ]


def test_batch_of_nothing_but_lost_images_is_empty(folder: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "x.png", 0)
    images = images_of(tmp_path)
    (tmp_path / "x.png").unlink()
    for look, size in ((None, CROP_PX), (Augmentation(POLICIES["light"], 16, (0,)), 16)):
        batch = images.batch(np.array([0]), look)
        assert batch.crops.shape == (0, size, size, 3)
        assert batch.crops.dtype == np.uint8
        assert batch.indexes.tolist() == []


@given(st.integers(0, 50), st.integers(1, 60))
def test_chunks_are_all_there_in_order(count: int, size: int) -> None:
    parts = list(chunks(np.arange(count), size))
    assert all(len(part) == size for part in parts[:-1])
    assert [index for part in parts for index in part] == list(range(count))


# --- the two phases ---------------------------------------------------------------------------


def with_head(hidden: int = 8) -> nn.Module:
    """A lively lite0 with a new classifier."""
    network = lively(build.build(find_variant("lite0"), 5), size_px=CROP_PX).requires_grad_(False)
    torch.manual_seed(0)
    build.set_head(network, len(CLASSES), hidden)
    return network.eval()


@pytest.fixture
def answering() -> Answering:
    """Asked through torch, which needs no compiling."""
    plan = plan_engine(EngineOptions("cpu", "torch"))
    card = ModelCard("lite0", CLASSES, PREPROCESSING)
    return Answering(plan, find_variant("lite0"), card, LOADER, ProcessGroup(), SILENT)


def head_phase(folder: Path, answering: Answering, network: nn.Module, **options: Any) -> HeadPhase:
    images = images_of(folder)
    return HeadPhase(
        network, images, images, answering, torch.ones(3), FinetuneOptions(**options), SILENT
    )


def network_phase(
    folder: Path, answering: Answering, network: nn.Module, **options: Any
) -> NetworkPhase:
    images = images_of(folder)
    settings = FinetuneOptions(**{"batch_size": 4, "epochs": 2, **options})
    return NetworkPhase(
        network, images, images, answering, torch.ones(3), settings, SILENT, "fp32", CPU,
        ProcessGroup(),
    )  # fmt: skip


def learned(phase: HeadPhase | NetworkPhase, epoch: int = 1, start: int = 0) -> float:
    """One epoch as `finetune` does it; its summed loss."""
    loss = torch.zeros(())
    for inputs, labels, size in phase.batches(epoch, start):
        loss += phase.learner.step(inputs, labels, size)
        phase.after_step()
    return float(loss)


def logits_of(network: nn.Module, folder: Path) -> np.ndarray:
    pixels = np.stack([load_pixels(LOADER, path) for path in subset(folder).paths])
    with torch.inference_mode():
        logits: np.ndarray = network(torch.from_numpy(pixels)).numpy()
    return logits


def assert_same_tensors(one: nn.Module, other: nn.Module) -> None:
    """Equal but for counters of steps, which a model file does not keep."""
    tensors = one.state_dict()
    assert tensors.keys() == other.state_dict().keys()
    for name, tensor in other.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensors[name], tensor), name


def test_answers_are_the_networks_for_every_image(folder: Path, answering: Answering) -> None:
    network = with_head()
    indexes, logits = answering.outputs(answering.loaded(network), images_of(folder), "Validation")
    assert indexes.tolist() == list(range(14))
    np.testing.assert_allclose(logits, logits_of(network, folder), atol=1e-4)


def test_nothing_to_answer_is_said(tmp_path: Path, answering: Answering) -> None:
    save_image(tmp_path / "x.png", 0)
    images = images_of(tmp_path)
    (tmp_path / "x.png").unlink()
    with pytest.raises(EffnetError, match="None of the images"):
        answering.outputs(answering.loaded(with_head()), images, "Validation")


@pytest.mark.parametrize("hidden", [0, 8])
def test_classifier_answers_on_features_as_its_network_on_images(
    hidden: int, folder: Path, answering: Answering
) -> None:
    network = with_head(hidden)
    backbone = {k: v.clone() for k, v in network.get_submodule("features").state_dict().items()}
    phase = head_phase(folder, answering, network, augment="light", hidden=hidden)
    before = phase.answers()[1]
    assert len(phase) == sum(len(labels) for _, labels, _ in phase.batches(1, 0))
    learned(phase)
    indexes, logits = phase.answers()
    assert indexes.tolist() == list(range(14))
    assert np.abs(logits - before).max() > 0.1  # it has learned something
    np.testing.assert_allclose(logits_of(phase.network(), folder), logits, atol=2e-3, rtol=1e-3)
    phase.remember()
    best = {name: tensor.clone() for name, tensor in phase.best().state_dict().items()}
    learned(phase, 2)
    assert all(torch.equal(best[name], t) for name, t in phase.best().state_dict().items())
    for name, tensor in network.get_submodule("features").state_dict().items():
        assert torch.equal(tensor, backbone[name])


def test_classifier_sees_each_image_equally_often(folder: Path, answering: Answering) -> None:
    phase = head_phase(folder, answering, with_head(), augment="none")
    rows = [tuple(row.tolist()[:3]) for inputs, _, _ in phase.batches(1, 0) for row in inputs]
    counts = [rows.count(row) for row in set(rows)]
    assert len(counts) == 14
    assert max(counts) - min(counts) <= 1


def test_network_learns_and_its_average_answers(folder: Path, answering: Answering) -> None:
    network = with_head(0)
    phase = network_phase(folder, answering, network, epochs=6, augment="none", hidden=0)
    losses = [learned(phase, epoch) for epoch in range(1, 7)]
    assert losses[-1] < 0.7 * losses[0]
    indexes, logits = phase.answers()
    np.testing.assert_allclose(logits, logits_of(phase.network(), folder), atol=1e-4)
    assert not phase.network().training
    assert indexes.tolist() == list(range(14))


def test_average_is_that_of_the_weights_after_each_step(folder: Path, answering: Answering) -> None:
    phase = network_phase(folder, answering, with_head(0), hidden=0)
    wanted = phase.network().get_parameter("classifier.1.bias").detach().clone()
    # of the groups the second has the offsets, and the classifier is last
    bias = phase.learner.optimizer.param_groups[1]["params"][-1]
    decay = 1 - 3 / phase.schedule.total_steps
    assert 0 < decay < 1
    for inputs, labels, size in phase.batches(1, 0):
        phase.learner.step(inputs, labels, size)
        phase.after_step()
        wanted = decay * wanted + (1 - decay) * bias.detach()
    torch.testing.assert_close(phase.network().get_parameter("classifier.1.bias"), wanted)


@pytest.mark.parametrize("from_scratch", [False, True])
def test_statistics_are_frozen_unless_from_scratch(
    from_scratch: bool, folder: Path, answering: Answering
) -> None:
    network = with_head()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    phase = network_phase(folder, answering, network, from_scratch=from_scratch)
    learned(phase)
    now = dict(phase.network().named_buffers())
    moved = [name for name in before if not torch.equal(before[name], now[name])]
    assert (len(moved) > 90) == from_scratch
    assert bool(moved) == from_scratch


@pytest.mark.parametrize("freeze", [0, 3, 9])
def test_frozen_stages_stay_and_others_move(
    freeze: int, folder: Path, answering: Answering
) -> None:
    network = with_head()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    phase = network_phase(folder, answering, network, freeze=freeze, lr=1e-2)
    learned(phase)
    for name, tensor in phase.network().named_parameters():
        is_frozen = name.startswith("features.") and int(name.split(".")[1]) < freeze
        assert torch.equal(tensor, before[name]) == is_frozen, name


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("freeze", [0, 2])
def test_every_weight_is_in_one_group_and_only_weights_decay(
    name: str, freeze: int, folder: Path, answering: Answering
) -> None:
    network = NETWORKS[name]()
    build.set_head(network, 3, 8)
    phase = network_phase(folder, answering, network, freeze=freeze, lr=1e-3, weight_decay=0.2)
    found = phase.learner.optimizer.param_groups
    members = [parameter for group in found for parameter in group["params"]]
    assert len({id(parameter) for parameter in members}) == len(members)
    wanted = sum(
        not (key.startswith("features.") and int(key.split(".")[1]) < freeze)
        for key, _ in network.named_parameters()
    )
    assert len(members) == wanted
    assert all(parameter.requires_grad for parameter in members)
    for group in found:
        dimensions = {parameter.ndim > 1 for parameter in group["params"]}
        assert dimensions == {group["weight_decay"] > 0}
        assert group["weight_decay"] in (0.0, 0.2)
        assert group["lr"] == 1e-3


def test_groups_of_nothing_are_left_out() -> None:
    frozen = tiny().requires_grad_(False)
    assert parameter_groups(frozen, 0.1, 0.1) == []
    (weights,) = parameter_groups(nn.Linear(2, 2, bias=False), 0.1, 0.3)
    assert (weights["lr"], weights["weight_decay"]) == (0.1, 0.3)


@pytest.mark.parametrize(
    ("images", "size", "processes", "updates"),
    [(18, None, 1, 2), (320, None, 1, 40), (10_000, None, 1, 156), (14, 4, 4, 3), (3, 64, 1, 1)],
)
def test_every_process_has_a_part_of_every_update(
    images: int, size: int | None, processes: int, updates: int
) -> None:
    steps, chosen = phases._batches(images, size, processes)
    assert steps == updates
    assert chosen == (size or chosen)
    assert 8 <= chosen <= 64 or size is not None
    assert min(map(len, np.array_split(np.arange(images), steps))) >= processes


@pytest.mark.parametrize(("images", "size", "number"), [(40, 3, 3), (2, None, 2), (2, 64, 2)])
def test_too_many_processes_are_refused(images: int, size: int | None, number: int) -> None:
    with pytest.raises(UsageError, match=f"4 processes are more than the {number} ") as caught:
        phases._batches(images, size, 4)
    assert f"--nproc-per-node {number}" in caught.value.hint


def test_epoch_goes_on_where_it_was_stopped(folder: Path, answering: Answering) -> None:
    phase = network_phase(folder, answering, with_head())
    whole = list(phase.batches(2, 0))
    assert len(whole) == phase.steps > 2
    assert sum(size for _, _, size in whole) == len(phase) == 14
    rest = list(phase.batches(2, 2))
    for (inputs, labels, size), wanted in zip(rest, whole[2:], strict=True):
        assert torch.equal(inputs, wanted[0])
        assert torch.equal(labels, wanted[1])
        assert size == wanted[2]
    other = list(phase.batches(1, 0))
    assert not torch.equal(other[0][0], whole[0][0])


def test_inputs_are_normalised_as_validations(folder: Path, answering: Answering) -> None:
    phase = network_phase(folder, answering, with_head(), augment="none", batch_size=14)
    ((inputs, labels, _),) = phase.batches(1, 0)
    assert inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    order = np.random.default_rng((0, 1, 1)).permutation(14)
    assert labels.tolist() == [int(index) % 3 for index in order]
    views = Augmentation(POLICIES["none"], CROP_PX, (0, 1, 1))
    crops = images_of(folder).batch(order, views).crops
    wanted = normalise(crops, PREPROCESSING)
    np.testing.assert_allclose(inputs.numpy(), wanted, atol=1e-5)


def test_state_on_disk_is_all_that_a_network_in_training_is(
    folder: Path, answering: Answering, tmp_path: Path
) -> None:
    def two_steps(phase: NetworkPhase, start: int) -> None:
        for number, (inputs, labels, size) in enumerate(phase.batches(1, start)):
            if number == 2:
                break
            phase.learner.step(inputs, labels, size)
            phase.after_step()

    straight = network_phase(folder, answering, with_head(), lr=1e-3, batch_size=3)
    assert straight.steps >= 4
    two_steps(straight, 0)
    run = run_dir.RunFolder(tmp_path)
    state = run_dir.State(epoch=1, step=2, rows=[{"top1": 0.1 + 0.2}], classes=["\udcff"])
    run.write_state(state, np.array([2**64 - 1], np.uint64), straight.tensors())
    two_steps(straight, 2)

    network = lively(
        build.build(find_variant("lite0"), 5), seed=9, size_px=CROP_PX
    )  # of other weights
    build.set_head(network, len(CLASSES), 8)
    resumed = network_phase(folder, answering, network, lr=1e-3, batch_size=3)
    kept = run.read_state()
    assert kept is not None
    assert kept[0] == state
    assert kept[1]["file_keys"].tolist() == [2**64 - 1]
    resumed.restore({k: v for k, v in kept[1].items() if k != "file_keys"})
    resumed.schedule.step = 2
    two_steps(resumed, 2)
    assert_same_tensors(resumed.network(), straight.network())
    tensors = resumed.tensors()
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensors[name], tensor), name


# --- processes --------------------------------------------------------------------------------


def test_one_process_does_everything_itself() -> None:
    alone = ProcessGroup()
    assert alone.is_first
    assert alone.share(lambda: [1, 2]) == [1, 2]
    assert alone.collected("mine") == ["mine"]
    assert alone.agreed(3, largest=True) == alone.agreed(3, largest=False) == 3
    module = tiny()
    assert alone.wrapped(module, CPU) is module
    assert alone.part(np.arange(5)).tolist() == [0, 1, 2, 3, 4]

    def failing() -> None:
        raise UsageError("no", "yes")

    with pytest.raises(UsageError, match="no"):
        alone.share(failing)


@given(st.integers(0, 40), st.integers(1, 7))
def test_parts_of_the_processes_are_everything_once(size: int, count: int) -> None:
    parts = [ProcessGroup(rank, count).part(np.arange(size)) for rank in range(count)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with join_process_group() as processes:
        assert processes == ProcessGroup()
    assert not torch.distributed.is_initialized()


def test_processes_that_do_not_find_each_other_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(EffnetError, match="2 processes do not find each other") as caught,
        join_process_group(),
    ):
        pass
    assert "torchrun" in caught.value.hint


# --- signals ----------------------------------------------------------------------------------


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """What SIGTERM's and SIGINT's former handlers were called with."""
    calls: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        calls.append(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield calls
    for number, former in before.items():
        signal.signal(number, former)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_the_second_ends(number: int, handled: list[int]) -> None:
    stop = Stop()
    former = signal.getsignal(number)
    with listening(stop):
        assert stop.number == 0
        os.kill(os.getpid(), number)
        assert stop.number == number
        assert handled == []
        os.kill(os.getpid(), number)
        assert handled == [number]
    assert signal.getsignal(number) is former
    os.kill(os.getpid(), number)
    assert handled == [number, number]
    assert Stop().number == 0


def test_former_handlers_come_back_after_an_error(handled: list[int]) -> None:
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), listening(Stop()):
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) is former


def test_second_signal_of_another_kind_ends_too(handled: list[int]) -> None:
    with listening(Stop()):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert handled == [signal.SIGINT]


def test_signal_that_is_ignored_stays_ignored() -> None:
    """A shell starts jobs in the background with SIGINT ignored: Ctrl-C is for others."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = Stop()
    try:
        with listening(stop):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_do_not_listen() -> None:
    former = signal.getsignal(signal.SIGTERM)
    inside: list[object] = []

    def work() -> None:
        with listening(Stop()):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [former]


def test_stopped_training_says_how_it_goes_on(tmp_path: Path) -> None:
    error = TrainingStopped(signal.SIGTERM, tmp_path / "a run; rm -rf")
    assert error.exit_status == 143
    assert TrainingStopped(signal.SIGINT, tmp_path).exit_status == 130
    assert "SIGTERM" in error.message
    assert error.hint.endswith(f"--resume '{tmp_path / 'a run; rm -rf'}'")


# --- the run's folder ---------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


BEGUN = FinetuneTask(
    Path("/data/birds"),
    ModelOptions(variant="lite1", weights=Path("/w/lite1.pth")),
    DatasetOptions(val=Path("/data/val"), val_fraction=0.25),
    ImageOptions(max_pixels=1234),
    FinetuneOptions(epochs=9, lr=1e-3, hidden=0, augment="light", minutes=2.5, seed=7),
)


def begun(task: FinetuneTask, folder: Path) -> FinetuneTask:
    """`task` was begun in `folder`; what the command line makes of a bare --resume."""
    folder.mkdir(exist_ok=True)
    run_dir.RunFolder(folder).write_options(task)
    return FinetuneTask(Path(), resume=folder)


def test_resumed_task_is_the_one_that_was_begun(here: Path) -> None:
    bare = begun(BEGUN, here / "run")
    task = run_dir.restore_task(bare, frozenset({"resume"}))
    assert task == replace(BEGUN, resume=here / "run")
    assert isinstance(task.model.weights, Path)
    assert isinstance(task.dataset.val, Path)
    assert task.model.model is None


def test_what_was_typed_and_may_change_changes(here: Path) -> None:
    bare = begun(BEGUN, here / "run")
    options = replace(BEGUN.options, epochs=20, minutes=None, patience=3, lr=7.0)
    given_ = replace(bare, root=Path("/moved"), options=options, workers=3, device="cuda")
    given_ = replace(given_, model=replace(given_.model, offline=True))
    typed = frozenset({"root", "epochs", "patience", "workers", "device", "resume"})
    task = run_dir.restore_task(given_, typed)
    assert task.options == replace(BEGUN.options, epochs=20, patience=3)  # not typed: as it was
    assert (task.root, task.workers, task.device) == (Path("/moved"), 3, "cuda")
    assert run_dir.restore_task(given_, typed | {"minutes"}).options.minutes is None


@pytest.mark.parametrize(
    ("name", "change", "was"),
    [
        ("lr", {"options": FinetuneOptions(lr=1e-2)}, "0.001"),
        ("weight_decay", {"options": FinetuneOptions(weight_decay=0.5)}, "0.05"),
        ("augment", {"options": FinetuneOptions(augment="none")}, "'light'"),
        ("head_only", {"options": FinetuneOptions(head_only=True)}, "False"),
        ("seed", {"options": FinetuneOptions(seed=1)}, "7"),
        ("variant", {"model": ModelOptions(variant="b0")}, "'lite1'"),
        ("weights", {"model": ModelOptions(weights=Path("/other.pth"))}, "'/w/lite1.pth'"),
        ("model", {"model": ModelOptions(model=Path("/m"))}, "not given"),
        ("val", {"dataset": DatasetOptions(val=Path("/data/other"))}, "'/data/val'"),
        ("val_fraction", {"dataset": DatasetOptions(val_fraction=0.1)}, "0.25"),
        ("max_pixels", {"images": ImageOptions(max_pixels=99)}, "1234"),
    ],
)
def test_what_cannot_change_any_more_is_refused_by_its_value(
    name: str, change: dict[str, Any], was: str, here: Path
) -> None:
    bare = replace(begun(BEGUN, here / "run"), **change)
    with pytest.raises(UsageError) as caught:
        run_dir.restore_task(bare, frozenset({name}))
    assert caught.value.message == (
        f"--{name.replace('_', '-')} was {was} when this training began."
    )
    run_dir.restore_task(bare, frozenset())  # what was not typed is a default, and no wish


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lr", {"options": FinetuneOptions(lr=1e-3)}),
        ("variant", {"model": ModelOptions(variant="lite1")}),
        ("weights", {"model": ModelOptions(weights=Path("/w/lite1.pth"))}),
        ("val", {"dataset": DatasetOptions(val=Path("/data/val"))}),
    ],
)
def test_what_was_typed_again_is_no_change(name: str, change: dict[str, Any], here: Path) -> None:
    bare = replace(begun(BEGUN, here / "run"), **change)
    assert run_dir.restore_task(bare, frozenset({name})).options == BEGUN.options


paths = st.binary(min_size=1, max_size=20).map(
    lambda name: Path("/") / os.fsdecode(name.replace(b"\0", b"x").replace(b"/", b"y"))
)


@given(root=paths, model_=st.none() | paths, val=st.none() | paths)
def test_paths_of_any_bytes_survive_in_the_options(
    root: Path, model_: Path | None, val: Path | None, session_folder: Path
) -> None:
    task = FinetuneTask(root, ModelOptions(model=model_), DatasetOptions(val=val))
    folder = session_folder / "any-bytes"
    assert run_dir.restore_task(begun(task, folder), frozenset()) == replace(task, resume=folder)


def test_relative_root_is_found_from_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = begun(FinetuneTask(Path("birds")), here / "run")
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    assert run_dir.restore_task(bare, frozenset()).root == here / "birds"


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"\xff\xfe", b"[]", b"{}", b'"x"', b'{"root": 3}', b'{"model": {}}'],
    ids=str,
)
def test_folder_without_a_run_is_refused(content: bytes | None, here: Path) -> None:
    folder = here / "run"
    folder.mkdir()
    if content is not None:
        (folder / run_dir.OPTIONS_FILE_NAME).write_bytes(content)
    task = FinetuneTask(Path(), resume=folder)
    with pytest.raises(UsageError, match="holds no training that can go on"):
        run_dir.restore_task(task, frozenset({"lr"}))


@pytest.mark.parametrize("change", ["more", "less"])
def test_options_of_another_effnet_are_refused(change: str, here: Path) -> None:
    bare = begun(BEGUN, here / "run")
    path = here / "run" / run_dir.OPTIONS_FILE_NAME
    content = json.loads(path.read_text())
    if change == "more":
        content["options"]["mixup"] = 0.3
    else:
        del content["model"]["weights"]
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError):
        run_dir.restore_task(bare, frozenset())


def test_new_runs_are_numbered(here: Path) -> None:
    birds = here / "birds"
    made = []
    for _ in range(3):
        path = run_dir.new_path(None, birds, "lite0")
        path.mkdir(parents=True)
        made.append(str(path))
    assert made == [f"runs/birds-lite0{end}" for end in ("", "-2", "-3")]
    (here / "runs" / "birds-lite0-4").symlink_to("nowhere")
    assert run_dir.new_path(None, birds, "lite0") == Path("runs/birds-lite0-5")
    assert run_dir.new_path(None, here / "list.csv", "b0") == Path("runs/list-b0")
    assert run_dir.new_path(None, Path("/"), "b0") == Path("runs/dataset-b0")
    assert run_dir.new_path(None, Path(), "b0") == Path(f"runs/{here.name}-b0")


def test_output_may_be_new_or_empty(here: Path) -> None:
    (here / "empty").mkdir()
    for name in ("new", "empty", "new/deeper"):
        run_dir.check_output(here / name)
        assert run_dir.new_path(here / name, here, "b0") == here / name


@pytest.mark.parametrize("name", ["file", "full"])
def test_output_that_holds_something_is_refused(name: str, here: Path) -> None:
    (here / "full").mkdir()
    for path in (here / "file", here / "full" / "x"):
        path.write_text("x")
    with pytest.raises(UsageError, match="is there already") as caught:
        run_dir.check_output(here / name)
    assert "--resume" in caught.value.hint


def test_run_folder_is_held_by_one_and_cleaned_of_what_died(here: Path) -> None:
    folder = here / "a" / "run"
    with run_dir.held(folder) as run:
        assert run.path == folder
        assert run.model == folder / checkpoint.MODEL_FILE_NAME
        (folder / ".model.safetensors.0123.part").write_bytes(b"half")
        with (
            pytest.raises(UsageError, match="Another training writes into"),
            run_dir.held(folder),
        ):
            pass
        assert (folder / ".model.safetensors.0123.part").exists()  # the other may be writing it
    with run_dir.held(folder):
        assert not (folder / ".model.safetensors.0123.part").exists()


def test_run_folder_is_free_after_an_error(here: Path) -> None:
    with pytest.raises(KeyError), run_dir.held(here / "run"):
        raise KeyError
    with run_dir.held(here / "run"):
        pass


def test_place_that_cannot_hold_a_run_is_said(here: Path) -> None:
    (here / "file").write_text("x")
    for place in (here / "file", here / "file" / "run", here / ("x" * 300)):
        with pytest.raises(UsageError, match="cannot be written"), run_dir.held(place):
            pass


def test_run_files_are_plain_and_whole(here: Path) -> None:
    run = run_dir.RunFolder(here)
    assert run.read_state() is None
    run.write_metrics([{"epoch": 1, "top1": 0.5}, {"epoch": 2, "top1": 1.0}])
    lines = (here / run_dir.METRICS_FILE_NAME).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    card = ModelCard("lite0", CLASSES, PREPROCESSING)
    network = with_head()
    run.write_model(card, network)
    assert checkpoint.read_card(run.model) == card
    assert_same_tensors(build.load(find_variant("lite0"), 3, run.model), network)
    assert {path.name for path in here.iterdir()} == {"metrics.jsonl", "model.safetensors"}
