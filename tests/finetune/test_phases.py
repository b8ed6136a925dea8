"""The head phase and the full phase, without a run."""

import itertools
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from effnet_cli.engines.normalise import normalise
from effnet_cli.finetune import phases, run_dir
from effnet_cli.finetune.inference import Inference
from effnet_cli.finetune.phases import FullPhase
from effnet_cli.finetune.records import Epoch
from effnet_cli.images.augment import POLICIES, Augmentation
from effnet_cli.models import build
from effnet_cli.models.variants import find_variant
from effnet_cli.system.errors import UsageError
from helpers import lively
from training_parts import (
    CLASSES,
    CROP_PX,
    MODELS,
    PREPROCESSING,
    assert_same_tensors,
    build_with_head,
    compute_logits,
    make_full_phase,
    make_head_phase,
    make_loader,
    train_epoch,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("hidden", [0, 8])
def test_head_phase_scores_equal_those_of_its_model(
    hidden: int, image_folder: Path, inference: Inference
) -> None:
    module = build_with_head(hidden)
    backbone = {k: v.clone() for k, v in module.get_submodule("features").state_dict().items()}
    phase = make_head_phase(image_folder, inference, module, augment="light", hidden=hidden)
    before = phase.validate()[1]
    assert phase.num_images == sum(len(labels) for _, labels, _ in phase.load_batches(1, 0))
    train_epoch(phase)
    indexes, logits = phase.validate()
    assert indexes.tolist() == list(range(14))
    assert np.abs(logits - before).max() > 0.1  # it has learned
    np.testing.assert_allclose(
        compute_logits(phase.module(), image_folder), logits, atol=2e-3, rtol=1e-3
    )
    best = phase.module()
    tensors = {name: tensor.clone() for name, tensor in best.state_dict().items()}
    train_epoch(phase, 2)
    assert all(torch.equal(tensors[name], t) for name, t in best.state_dict().items())
    for name, tensor in module.get_submodule("features").state_dict().items():
        assert torch.equal(tensor, backbone[name])


def test_head_trains_on_each_image_equally_often(image_folder: Path, inference: Inference) -> None:
    phase = make_head_phase(image_folder, inference, build_with_head(), augment="none")
    rows = [tuple(row.tolist()[:3]) for inputs, _, _ in phase.load_batches(1, 0) for row in inputs]
    counts = [rows.count(row) for row in set(rows)]
    assert len(counts) == 14
    assert max(counts) - min(counts) <= 1


def test_full_phase_reduces_the_loss(image_folder: Path, inference: Inference) -> None:
    module = build_with_head(0)
    phase = make_full_phase(image_folder, inference, module, epochs=6, augment="none", hidden=0)
    losses = [train_epoch(phase, epoch) for epoch in range(1, 7)]
    assert losses[-1] < 0.7 * losses[0]
    indexes, logits = phase.validate()
    np.testing.assert_allclose(logits, compute_logits(phase.module(), image_folder), atol=1e-4)
    assert not phase.module().training
    assert indexes.tolist() == list(range(14))


def test_average_is_updated_after_each_step(image_folder: Path, inference: Inference) -> None:
    phase = make_full_phase(image_folder, inference, build_with_head(0), epochs=10, hidden=0)
    expected = phase.module().get_parameter("classifier.1.bias").detach().clone()
    # biases are in the second group, the head's last
    bias = phase.stepper.optimizer.param_groups[1]["params"][-1]
    decay = 1 - 10 / phase.stepper.schedule.total_steps
    assert 0 < decay < 1
    for batch in phase.load_batches(1, 0):
        phase.step(batch)
        expected = decay * expected + (1 - decay) * bias.detach()
    torch.testing.assert_close(phase.module().get_parameter("classifier.1.bias"), expected)


@pytest.mark.parametrize("from_scratch", [False, True])
def test_statistics_are_frozen_unless_from_scratch(
    from_scratch: bool, image_folder: Path, inference: Inference
) -> None:
    module = build_with_head()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    phase = make_full_phase(image_folder, inference, module, from_scratch=from_scratch)
    train_epoch(phase)
    after = dict(phase.module().named_buffers())
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert (len(changed) > 90) == from_scratch
    assert bool(changed) == from_scratch


@pytest.mark.parametrize("freeze", [0, 3, 9])
def test_only_unfrozen_stages_change(freeze: int, image_folder: Path, inference: Inference) -> None:
    module = build_with_head()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    phase = make_full_phase(image_folder, inference, module, freeze=freeze, lr=1e-2)
    train_epoch(phase)
    for name, tensor in phase.module().named_parameters():
        is_frozen = name.startswith("features.") and int(name.split(".")[1]) < freeze
        assert torch.equal(tensor, before[name]) == is_frozen, name


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("freeze", [0, 2])
def test_parameters_are_in_one_group_and_only_weights_decay(
    name: str, freeze: int, image_folder: Path, inference: Inference
) -> None:
    module = MODELS[name]()
    build.set_head(module, 3, 8)
    phase = make_full_phase(
        image_folder, inference, module, freeze=freeze, lr=1e-3, weight_decay=0.2
    )
    found = phase.stepper.optimizer.param_groups
    members = [parameter for group in found for parameter in group["params"]]
    assert len({id(parameter) for parameter in members}) == len(members)
    expected = sum(
        not (key.startswith("features.") and int(key.split(".")[1]) < freeze)
        for key, _ in module.named_parameters()
    )
    assert len(members) == expected
    assert all(parameter.requires_grad for parameter in members)
    for group in found:
        dimensions = {parameter.ndim > 1 for parameter in group["params"]}
        assert dimensions == {group["weight_decay"] > 0}
        assert group["weight_decay"] in (0.0, 0.2)
        assert group["lr"] == 1e-3


@pytest.mark.parametrize(
    ("images", "size", "processes", "updates"),
    [(18, None, 1, 2), (320, None, 1, 40), (10_000, None, 1, 156), (14, 4, 4, 3), (3, 64, 1, 1)],
)
def test_every_process_gets_images_in_every_update(
    images: int, size: int | None, processes: int, updates: int
) -> None:
    steps, batch_size = phases.plan_batches(images, size, processes)
    assert steps == updates
    assert batch_size == (size or batch_size)
    assert 8 <= batch_size <= 64 or size is not None
    assert min(map(len, np.array_split(np.arange(images), steps))) >= processes


@pytest.mark.parametrize(("images", "size", "number"), [(40, 3, 3), (2, None, 2), (2, 64, 2)])
def test_too_many_processes_are_refused(images: int, size: int | None, number: int) -> None:
    with pytest.raises(UsageError, match=rf"{number} is smaller than .* processes \(4\)") as caught:
        phases.plan_batches(images, size, 4)
    assert f"--nproc-per-node {number}" in caught.value.hint


def test_epoch_resumes_after_its_last_step(image_folder: Path, inference: Inference) -> None:
    phase = make_full_phase(image_folder, inference, build_with_head())
    whole = list(phase.load_batches(2, 0))
    assert len(whole) == phase.steps > 2
    assert sum(size for _, _, size in whole) == phase.num_images == 14
    rest = list(phase.load_batches(2, 2))
    for (inputs, labels, size), expected in zip(rest, whole[2:], strict=True):
        assert torch.equal(inputs, expected[0])
        assert torch.equal(labels, expected[1])
        assert size == expected[2]
    other = list(phase.load_batches(1, 0))
    assert not torch.equal(other[0][0], whole[0][0])


def test_inputs_are_normalised_as_in_validation(image_folder: Path, inference: Inference) -> None:
    phase = make_full_phase(
        image_folder, inference, build_with_head(), augment="none", batch_size=14
    )
    ((inputs, labels, _),) = phase.load_batches(1, 0)
    assert inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    order = np.random.default_rng((0, 1, 1)).permutation(14)
    assert labels.tolist() == [int(index) % 3 for index in order]
    views = Augmentation(POLICIES["none"], CROP_PX, (0, 1, 1))
    crops = make_loader(image_folder).load_batch(order, views).crops
    expected = normalise(crops, PREPROCESSING)
    np.testing.assert_allclose(inputs.numpy(), expected, atol=1e-5)


def test_saved_state_is_sufficient_to_resume(
    image_folder: Path, inference: Inference, tmp_path: Path
) -> None:
    def train_two_steps(phase: FullPhase, start: int) -> None:
        for batch in itertools.islice(phase.load_batches(1, start), 2):
            phase.step(batch)

    uninterrupted = make_full_phase(
        image_folder, inference, build_with_head(), lr=1e-3, batch_size=3
    )
    assert uninterrupted.steps >= 4
    train_two_steps(uninterrupted, 0)
    run = run_dir.RunDir(tmp_path)
    zeros = {field.name: 0 for field in fields(Epoch)}
    rows = [zeros | {"phase": "full", "top1": 0.1 + 0.2}]
    state = run_dir.TrainingState(epoch=1, step=2, rows=rows, classes=["\udcff"])
    run.write_state(state, uninterrupted.state_tensors())
    names = set(uninterrupted.state_tensors())
    train_two_steps(uninterrupted, 2)

    other = lively(build.build(find_variant("lite0"), 5), seed=9, size_px=CROP_PX)
    build.set_head(other, len(CLASSES), 8)
    resumed = make_full_phase(image_folder, inference, other, lr=1e-3, batch_size=3)
    saved = run.read_state()
    assert saved is not None
    assert saved[0] == state
    assert set(saved[1]) == names
    resumed.restore(*saved)
    train_two_steps(resumed, 2)
    assert_same_tensors(resumed.module(), uninterrupted.module())
    tensors = resumed.state_tensors()
    for name, tensor in uninterrupted.state_tensors().items():
        assert torch.equal(tensors[name], tensor), name
