"""Two processes over gloo, as torchrun starts them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effnet_cli import checkpoint
from effnet_cli.options import ModelOptions
from training import kept_state, make_classes, script, timeless

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("one_core", "caches")

# 18 pictures to train on: three updates of three pictures in each of two processes.
OPTIONS = ["--epochs", "2", "--hidden", "0", "--batch-size", "6", "--format", "jsonl"]
# Dropout draws for the pictures of its own process, so that only without it runs compare.
NO_DROPOUT = "from torch import nn\nnn.Dropout.forward = lambda self, x: x\n"
# One process has memory for one picture at once.
LITTLE_MEMORY = """
import os
import torch
from effnet_cli.lite import EfficientNetLite
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
class Trained:
    """A training by some processes: what it printed, and where its files are."""

    status: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def model(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()


Train = Callable[..., Trained]


@pytest.fixture
def trained(small: ModelOptions, tmp_path: Path) -> Train:
    """`trained(processes, arguments, code)`: `effnet finetune` into a folder of its own."""

    def run(
        processes: int, arguments: list[str | Path], code: str = "", folder: Path | None = None
    ) -> Trained:
        file = tmp_path / "start.py"
        file.write_text(script(code)[-1])
        options: list[str | Path] = ["--resume", folder] if folder is not None else []
        if folder is None:
            folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
            options = ["--model", str(small.model), "--output", folder, *OPTIONS]
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        done = subprocess.run(
            [sys.executable, *(start if processes > 1 else []), file, "finetune", *arguments]
            + options,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        return Trained(done.returncode, done.stdout, done.stderr, folder)

    return run


def test_two_processes_learn_what_one_learns(trained: Train, colours: Path) -> None:
    one = trained(1, [colours], NO_DROPOUT)
    two = trained(2, [colours], NO_DROPOUT)
    assert two.status == one.status == 0, two.stderr
    rows = two.rows
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        (row["phase"], row["epoch"]) for row in one.rows
    ]
    for row, other in zip(rows, one.rows, strict=True):
        for name in ("loss", "val_loss"):
            assert row.get(name) == pytest.approx(other.get(name), rel=1e-3)
    assert rows[-1]["val"]["pictures"] == 6
    (_, tensors), (_, others) = map(kept_state, (two.folder, one.folder))
    for name, value in others.items():
        if name.startswith(("average.features", "network.features")):
            np.testing.assert_allclose(tensors[name], value, atol=2e-4, err_msg=name)
    assert two.stderr.count("Starts from") == 1
    assert two.stderr.count("effnet predict PICTURE --model") == 1


def test_every_validation_picture_is_counted_once(trained: Train, tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", pictures=6)
    make_classes(root / "val", pictures=3, first_seed=50)
    make_classes(root / "test", pictures=1, first_seed=90)
    (root / "val" / "red" / "51.png").write_bytes(b"")
    two = trained(2, [root, "--allow-bad", "--head-only"])
    assert two.status == 0, two.stderr
    end = two.rows[-1]
    assert (end["val"]["pictures"], end["val"]["failed"]) == (9, 1)
    assert [row["pictures"] for row in end["val"]["classes"]] == [3, 3, 3]
    assert end["test"]["pictures"] == 3
    one = trained(1, [root, "--allow-bad", "--head-only"])
    assert timeless(two.rows[:-1]) == timeless(one.rows[:-1])
    assert two.model == one.model  # the classifier is learned by the first alone


def test_killed_processes_go_on_to_the_same_bits(trained: Train, colours: Path) -> None:
    unbroken = trained(2, [colours])
    killed = trained(2, [colours], FIRST_DIES)
    assert unbroken.status == 0
    assert killed.status != 0
    assert kept_state(killed.folder)[0]["epoch"] == 2
    resumed = trained(2, [], folder=killed.folder)
    assert resumed.status == 0, resumed.stderr
    assert [(row.get("phase"), row.get("epoch")) for row in resumed.rows[:-1]] == [("network", 2)]
    assert resumed.model == unbroken.model
    (_, tensors), (_, wanted) = map(kept_state, (resumed.folder, unbroken.folder))
    for name, value in wanted.items():
        assert tensors[name].tobytes() == value.tobytes(), name


def test_little_memory_in_one_process_is_little_for_all(trained: Train, colours: Path) -> None:
    two = trained(2, [colours], LITTLE_MEMORY)
    assert two.status == 0, two.stderr
    assert kept_state(two.folder)[0]["piece_size"] == 1


def test_errors_are_said_once_and_end_all(trained: Train, colours: Path, tmp_path: Path) -> None:
    make_classes(tmp_path / "one", ["only"])
    two = trained(2, [tmp_path / "one"])
    assert two.status != 0
    assert two.stderr.count("There is one class only") == 1
    assert two.stdout == ""
    two = trained(2, [colours, "--batch-size", "1"])
    assert two.status != 0
    assert two.stderr.count("2 processes are more than the 1 pictures in a batch") == 1
    checkpoint.read_card(two.folder / "model.safetensors")  # the classifier was learned
