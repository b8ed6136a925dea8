"""Two processes over gloo."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effnet_cli.options import ModelOptions
from forked import Ended, ended
from training import HEAD_EPOCHS, kept_state, make_classes, script

pytestmark = pytest.mark.usefixtures("one_core", "caches")

# 18 images to train on: three updates of three images in each of two processes.
OPTIONS = ["--epochs", "2", "--hidden", "0", "--batch-size", "6", "--format", "jsonl"]
# Dropout draws for the images of its own process, so that only without it runs compare.
NO_DROPOUT = "from torch import nn\nnn.Dropout.forward = lambda self, x: x\n"
# One process has memory for one image at once.
LITTLE_MEMORY = """
import os
import torch
from effnet_cli.models.lite import EfficientNetLite
forward = EfficientNetLite.forward
def limited(self, x):
    if self.training and os.environ.get("RANK") == "1" and len(x) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return forward(self, x)
EfficientNetLite.forward = limited
"""
# The process that writes dies when the second epoch's state is to appear.
FIRST_DIES = """
import os
from pathlib import Path
replaced, left = Path.replace, [3]
def replace(self, target):
    left[0] -= Path(target).name == "state.safetensors"
    if not left[0]:
        os.kill(os.getpid(), 9)
    return replaced(self, target)
Path.replace = replace
"""


@dataclass(frozen=True)
class TrainingResult(Ended):
    """A training by some processes, and where its files are."""

    folder: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def model(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()


Train = Callable[..., TrainingResult]


@pytest.fixture(scope="module")
def trained(small: ModelOptions, session_folder: Path, one_core: object) -> Train:
    """`trained(processes, arguments, code)`: `effnet finetune` into a folder of its own."""
    here = session_folder / "processes"
    here.mkdir()

    def run(
        processes: int, arguments: list[str | Path], code: str = "", resume: Path | None = None
    ) -> TrainingResult:
        folder = resume or here / f"run{len(list(here.iterdir()))}"
        options: list[str | Path] = ["--resume", folder, "--format", "jsonl"]
        if resume is None:
            options = ["--model", str(small.model), "--output", folder, *OPTIONS]
        done = ended(script(code), ["finetune", *arguments, *options], processes)
        return TrainingResult(done.status, done.stdout, done.stderr, folder)

    return run


@pytest.fixture(scope="module")
def two(trained: Train, colours: Path) -> TrainingResult:
    """Two processes that nothing happens to, but that one has little memory."""
    return trained(2, [colours], NO_DROPOUT + LITTLE_MEMORY)


def test_two_processes_learn_what_one_learns(
    two: TrainingResult, trained: Train, colours: Path
) -> None:
    one = trained(1, [colours], NO_DROPOUT)
    assert two.status == one.status == 0, two.stderr
    rows, others = two.rows, one.rows
    assert len(rows) == len(others) == HEAD_EPOCHS + 2 + 1
    for row, other in zip(rows[:-1], others[:-1], strict=True):
        assert (row["phase"], row["epoch"]) == (other["phase"], other["epoch"])
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-3)
    (header, tensors), (_, wanted) = map(kept_state, (two.folder, one.folder))
    for name, value in wanted.items():
        if name.startswith(("average.features", "network.features")):
            np.testing.assert_allclose(tensors[name], value, atol=2e-4, err_msg=name)
    assert header["piece_size"] == 1  # what is little for one is little for all


def test_the_first_process_speaks_for_all(two: TrainingResult) -> None:
    assert two.stderr.count("Starts from") == 1
    assert two.stderr.count("effnet predict IMAGE --model") == 1


def test_every_validation_image_is_counted_once(trained: Train, tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=3, first_seed=50)
    make_classes(root / "test", images=1, first_seed=90)
    (root / "val" / "red" / "51.png").write_bytes(b"")
    done = trained(2, [root, "--allow-bad", "--head-only"])
    assert done.status == 0, done.stderr
    end = done.rows[-1]
    assert (end["val"]["images"], end["val"]["failed"]) == (9, 1)
    assert [row["images"] for row in end["val"]["classes"]] == [3, 3, 3]
    assert end["test"]["images"] == 3


def test_killed_processes_go_on_to_the_same_bits(
    two: TrainingResult, trained: Train, colours: Path
) -> None:
    killed = trained(2, [colours], NO_DROPOUT + LITTLE_MEMORY + FIRST_DIES)
    assert killed.status != 0
    assert kept_state(killed.folder)[0]["epoch"] == 2
    resumed = trained(2, [], NO_DROPOUT, killed.folder)  # the size of the pieces is remembered
    assert resumed.status == 0, resumed.stderr
    assert [(row["phase"], row["epoch"]) for row in resumed.rows[:-1]] == [("network", 2)]
    assert resumed.model == two.model
    (_, tensors), (_, wanted) = map(kept_state, (resumed.folder, two.folder))
    for name, value in wanted.items():
        assert tensors[name].tobytes() == value.tobytes(), name


def test_torchrun_starts_them_and_a_refusal_is_said_once(tmp_path: Path) -> None:
    make_classes(tmp_path, ["only"])
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    refused = subprocess.run(
        [sys.executable, *torchrun, "-m", "effnet_cli", "finetune", tmp_path],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert refused.returncode != 0
    assert refused.stderr.count("There is one class only") == 1
    assert refused.stdout == ""
