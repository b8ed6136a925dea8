"""Training options, and running out of memory or disk space."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from effnet_cli.finetune import head_phase
from effnet_cli.finetune.phases import auto_epochs
from effnet_cli.finetune.run import finetune
from effnet_cli.models import checkpoint
from effnet_cli.models.efficientnet import EfficientNet
from effnet_cli.options import FinetuneOptions, ModelOptions
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import EffnetError
from helpers import RecordingReporter
from training import (
    CANNOT_LEARN,
    HEAD_EPOCHS,
    HEAD_ONLY,
    ONE_EPOCH,
    CommandResult,
    FinishedRun,
    RunWith,
    drop_times,
    find_changed_tensors,
    make_classes,
    make_task,
    quick_head,
    read_state,
    read_tree,
    resume,
    save_blobs,
    train,
)

pytestmark = pytest.mark.usefixtures("one_core", "caches")


class NoDropout(nn.Dropout):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input


def limit_memory(patch: pytest.MonkeyPatch, limit: int, error: Callable[[], Exception]) -> None:
    """Make training run out of memory above `limit` images at a time."""
    forward = EfficientNet.forward

    def limited(self: EfficientNet, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > limit:
            raise error()
        return forward(self, x)

    patch.setattr(EfficientNet, "forward", limited)


# With a low learning rate, as AdamW turns rounding noise in tiny gradients into full steps.
WITHOUT_DROPOUT = replace(ONE_EPOCH, lr=1e-6, batch_size=9)


@pytest.fixture(scope="module")
def whole_batches(
    colours: Path, small: ModelOptions, session_folder: Path, one_core: None
) -> FinishedRun:
    """A run without dropout and with enough memory."""
    with quick_head(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Dropout, "forward", NoDropout.forward)
        return train(make_task(colours, small, session_folder / "whole", WITHOUT_DROPOUT))


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory."),
        lambda: RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
    ],
    ids=["cuda", "cpu"],
)
def test_micro_batches_give_the_same_result_with_little_memory(
    error: Callable[[], Exception],
    colours: Path,
    small: ModelOptions,
    whole_batches: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick: None,
) -> None:
    whole = whole_batches
    monkeypatch.setattr(nn.Dropout, "forward", NoDropout.forward)
    limit_memory(monkeypatch, 3, error)
    reporter = RecordingReporter()
    micro = train(make_task(colours, small, tmp_path / "micro", WITHOUT_DROPOUT), reporter)
    assert "Out of memory at micro-batch 9; retrying with 4 and" in reporter.text
    assert "Out of memory at micro-batch 4; retrying with 2 and" in reporter.text
    assert read_state(micro.folder)[0]["micro_batch_size"] == 2
    (one,), (other,) = whole.filter_epochs("full"), micro.filter_epochs("full")
    assert other.loss == pytest.approx(one.loss, rel=1e-4)
    assert other.val_loss == pytest.approx(one.val_loss, rel=1e-4)
    changed = 0
    (_, before), (_, after) = read_state(whole.folder), read_state(micro.folder)
    start = checkpoint.read_arrays(small.model / "model.safetensors")[1]  # type: ignore[operator]
    for name, value in after.items():
        if name.startswith("trained.features"):
            np.testing.assert_allclose(value, before[name], atol=5e-6)
            changed += not np.array_equal(value, start[name.removeprefix("trained.")])
    assert changed > 50
    resumed = resume(micro.folder, reporter)  # the micro-batch size is saved
    assert resumed.model == micro.model


def test_out_of_memory_for_one_image_keeps_the_head(
    colours: Path, small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    limit_memory(monkeypatch, 0, lambda: torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(EffnetError, match="Out of memory at micro-batch 1 ") as caught:
        train(make_task(colours, small, tmp_path / "run", ONE_EPOCH))
    assert "--batch-size" in caught.value.hint
    assert checkpoint.read_card(tmp_path / "run" / "model.safetensors").metrics["phase"] == "head"


def fill_disk(patch: pytest.MonkeyPatch) -> None:
    """Make every further write fail halfway."""
    write_bytes = Path.write_bytes

    def write_half(self: Path, content: bytes) -> int:
        write_bytes(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    def write_text(self: Path, content: str, encoding: str | None = None) -> int:
        return write_half(self, content.encode())

    patch.setattr(Path, "write_bytes", write_half)
    patch.setattr(Path, "write_text", write_text)


def test_full_disk_keeps_the_last_good_files(
    colours: Path, small: ModelOptions, tmp_path: Path, quick: None
) -> None:
    options = replace(ONE_EPOCH, epochs=2)
    uninterrupted = train(make_task(colours, small, tmp_path / "uninterrupted", options))
    folder = tmp_path / "run"
    records = finetune(make_task(colours, small, folder, options))
    next(record for record in records if getattr(record, "phase", "") == "full")
    before = read_tree(folder)
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(EffnetError, match=r"Cannot write .*: No space left") as caught:
            next(records)
    assert str(folder) in caught.value.message
    assert read_tree(folder) == before  # no partial file either
    assert checkpoint.read_arrays(folder / "model.safetensors")[0].classes
    resumed = resume(folder)  # now there is space again
    assert resumed.model == uninterrupted.model
    assert drop_times(resumed.rows) == drop_times(uninterrupted.rows)


def test_exploding_loss_is_an_error_and_keeps_the_best_epoch(
    colours: Path,
    small: ModelOptions,
    tmp_path: Path,
    effnet: Callable[..., CommandResult],
    quick: None,
) -> None:
    done = effnet(
        *("finetune", colours, "--model", small.model, "--hidden", "0", "--lr", "1e30", "-n", "2"),
        *("-o", tmp_path / "run", "-f", "jsonl"),
    )
    assert done.status == 1
    assert "the learning rate 1e+30 is probably too high" in done.stderr
    assert "Use a smaller --lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == HEAD_EPOCHS
    row = Classifier(ModelOptions(model=tmp_path / "run"))(colours / "red" / "0.jpg")
    assert len(row.predictions) == 3


def test_head_only_trains_heads_of_any_size(
    run_with: RunWith, head_run: FinishedRun, small: ModelOptions
) -> None:
    start = checkpoint.read_arrays(small.model / "model.safetensors")[1]  # type: ignore[operator]
    for hidden, shapes in (
        (0, {"classifier.1.weight": (3, 1280)}),
        (16, {"classifier.1.weight": (16, 1280), "classifier.4.weight": (3, 16)}),
    ):
        ran = run_with(replace(HEAD_ONLY, hidden=hidden))[0] if hidden else head_run
        assert {epoch.phase for epoch in ran.epochs} == {"head"}
        tensors = ran.tensors
        found = {n: v.shape for n, v in tensors.items() if n.startswith("classifier")}
        assert {n: s for n, s in found.items() if n.endswith("weight")} == shapes
        for name, value in tensors.items():
            if name.startswith("features"):
                assert np.array_equal(value, start[name])


def test_freeze_keeps_the_first_stages(
    run_with: RunWith, one_epoch_run: FinishedRun, small: ModelOptions
) -> None:
    ran, _ = run_with(replace(ONE_EPOCH, freeze=5))
    stages = {int(name.split(".")[1]) for name in find_changed_tensors(ran, small)}
    assert stages == {5, 6, 7, 8}
    ran = one_epoch_run
    stages = {int(name.split(".")[1]) for name in find_changed_tensors(ran, small)}
    assert stages == set(range(9))
    statistics = [name for name in find_changed_tensors(ran, small) if "running" in name]
    assert not statistics


def test_augment_changes_training(run_with: RunWith, one_epoch_run: FinishedRun) -> None:
    losses = {"strong": one_epoch_run.epochs[-1].loss}
    for augment in ("none", "light"):
        ran, _ = run_with(replace(ONE_EPOCH, augment=augment))
        losses[augment] = ran.epochs[-1].loss
    assert len(set(losses.values())) == 3


def make_uneven_classes(root: Path) -> Path:
    """Create 24 images of one class and 4 of another."""
    make_classes(root, ["a", "b"], images=4)
    for seed in range(4, 24):
        save_blobs(root / "a" / f"{seed}.png", (200, 50, 50), seed)
    return root


def test_balance_chooses_by_balanced_accuracy(run_with: RunWith, tmp_path: Path) -> None:
    root = make_uneven_classes(tmp_path / "imbalanced")
    plain, reporter = run_with(HEAD_ONLY, root=root)
    assert "--balance" in reporter.text or "fewer than" in reporter.text
    balanced, _ = run_with(replace(HEAD_ONLY, balance=True), root=root)
    assert balanced.epochs[0].loss != plain.epochs[0].loss
    best = max(balanced.epochs, key=lambda row: (row.balanced_accuracy, -row.val_loss))
    assert balanced.end.epoch == best.epoch


def test_full_model_that_does_not_beat_the_head_ends_early(run_with: RunWith) -> None:
    cannot_learn = FinetuneOptions(hidden=0, augment="none", lr=0.05)
    ran, reporter = run_with(cannot_learn)
    assert len(ran.filter_epochs("full")) == 1
    assert ran.end.phase == "head"
    assert "updates, the full model is worse than the classifier head" in reporter.text
    before = ran.model
    resumed = resume(ran.folder)
    assert resumed.model == before
    assert len(resumed.epochs) == 0
    ran, reporter = run_with(replace(cannot_learn, epochs=2))
    assert len(ran.filter_epochs("full")) == 2
    assert "is worse than" not in reporter.text


def test_epochs_depend_on_the_number_of_images(run_with: RunWith) -> None:
    assert [auto_epochs(number) for number in (10, 1000, 10_000)] == [12, 8, 5]
    ran, _ = run_with(FinetuneOptions(hidden=0, augment="none", lr=1e-3))
    assert {epoch.epochs for epoch in ran.filter_epochs("full")} == {12}


def test_uneven_classes_are_ranked_by_both_accuracies(run_with: RunWith, tmp_path: Path) -> None:
    root = make_uneven_classes(tmp_path / "uneven")
    ran, _ = run_with(HEAD_ONLY, root=root)
    best = max(ran.epochs, key=lambda row: (row.top1 + row.balanced_accuracy, -row.val_loss))
    assert ran.end.epoch == best.epoch


def test_views_are_chosen_by_the_head(run_with: RunWith, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = FinetuneOptions(epochs=1, hidden=0)
    _, reporter = run_with(auto)
    few = "views with crops down to 50% of the area, mirror images, brightness ±30%, colours ±30%"
    assert few in reporter.text
    monkeypatch.setattr(head_phase, "MIN_CHOICE_IMAGES", 1)
    ran, reporter = run_with(auto)
    assert "Choosing training views" in {what for what, *_ in reporter.steps}
    assert few not in reporter.text
    again, _ = run_with(auto)
    assert again.model == ran.model


def test_patience_and_minutes_stop_early(run_with: RunWith) -> None:
    no_progress = replace(ONE_EPOCH, epochs=6, lr=CANNOT_LEARN, augment="none", batch_size=18)
    ran, reporter = run_with(replace(no_progress, patience=1))
    assert len(ran.filter_epochs("full")) <= 2  # rounding may count as an improvement once
    assert "Early stopping: no improvement for" in reporter.text
    ran, reporter = run_with(replace(no_progress, minutes=1e-6))
    assert not ran.filter_epochs("full")
    assert "Stopping: another epoch would exceed --minutes" in reporter.text
    assert ran.end.phase == "head"


def test_batch_size_lr_and_precision_apply(run_with: RunWith, small: ModelOptions) -> None:
    ran, reporter = run_with(
        replace(ONE_EPOCH, batch_size=6, lr=CANNOT_LEARN, precision="bf16", weight_decay=0.0)
    )
    assert "cpu in bf16: 1 epoch of 3 updates with about 6 images each" in reporter.text
    assert not find_changed_tensors(ran, small)
    ran, reporter = run_with(replace(ONE_EPOCH, batch_size=18))
    assert "cpu in fp32: 1 epoch of 1 updates with about 18 images each" in reporter.text
    assert find_changed_tensors(ran, small)


def test_weight_decay_shrinks_weights(run_with: RunWith) -> None:
    norms = []
    for weight_decay in (0.0, 50.0):
        ran, _ = run_with(replace(HEAD_ONLY, weight_decay=weight_decay))
        norms.append(np.linalg.norm(ran.tensors["classifier.1.weight"]))
    assert norms[1] < 0.9 * norms[0]


def test_compile_compiles_the_trained_module(
    run_with: RunWith, one_epoch_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []

    class Compiled(nn.Module):
        """Replace torch.compile, which takes a minute."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.calls = module, 0
            compiled.append(self)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.module(x)

    monkeypatch.setattr(torch, "compile", Compiled)
    plain = one_epoch_run
    assert not compiled
    ran, _ = run_with(replace(ONE_EPOCH, compile=True))
    (one,) = compiled
    assert one.calls == 2
    assert set(ran.tensors) == set(plain.tensors)
    assert np.array_equal(
        read_state(ran.folder)[1]["trained.features.0.0.weight"],
        read_state(plain.folder)[1]["trained.features.0.0.weight"],
    )
