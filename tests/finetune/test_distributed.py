"""Training in two processes (gloo), and process groups."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.finetune.distributed import ProcessGroup, join_process_group
from effnet_cli.options import ModelOptions
from effnet_cli.system.errors import EffnetError, UsageError
from forked import ForkedResult, run_forked
from training import HEAD_EPOCHS, build_script, make_classes, read_state
from training_parts import CPU, build_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_core", "caches")]

# 18 training images: three updates per epoch, with three images in each of two processes.
OPTIONS = ["--epochs", "2", "--hidden", "0", "--batch-size", "6", "--format", "jsonl"]
# Dropout masks differ between processes, so runs are only comparable without dropout.
NO_DROPOUT = "from torch import nn\nnn.Dropout.forward = lambda self, x: x\n"
# The second process has memory for one image only.
LITTLE_MEMORY = """
import os
import torch
from effnet_cli.models.efficientnet import EfficientNet
forward = EfficientNet.forward
def limited(self, x):
    if self.training and os.environ.get("RANK") == "1" and len(x) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return forward(self, x)
EfficientNet.forward = limited
"""
# The first process dies just before the state of the second epoch is saved.
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
class ProcessesRun(ForkedResult):
    """The result of a run in several processes, and its run folder."""

    folder: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def model(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()


Train = Callable[..., ProcessesRun]


@pytest.fixture(scope="module")
def train_in(small: ModelOptions, session_folder: Path, one_core: None) -> Train:
    """`train_in(processes, arguments, code)` runs `effnet finetune` into a new folder."""
    runs = session_folder / "processes"
    runs.mkdir()

    def run(
        processes: int, arguments: list[str | Path], code: str = "", resume: Path | None = None
    ) -> ProcessesRun:
        folder = resume or runs / f"run{len(list(runs.iterdir()))}"
        options: list[str | Path] = ["--resume", folder, "--format", "jsonl"]
        if resume is None:
            options = ["--model", str(small.model), "--output", folder, *OPTIONS]
        done = run_forked(build_script(code), ["finetune", *arguments, *options], processes)
        return ProcessesRun(done.status, done.stdout, done.stderr, folder)

    return run


@pytest.fixture(scope="module")
def two(train_in: Train, colours: Path) -> ProcessesRun:
    """An uninterrupted run in two processes, one of which has little memory."""
    return train_in(2, [colours], NO_DROPOUT + LITTLE_MEMORY)


def test_two_processes_learn_like_one(two: ProcessesRun, train_in: Train, colours: Path) -> None:
    one = train_in(1, [colours], NO_DROPOUT)
    assert two.status == one.status == 0, two.stderr
    rows, others = two.rows, one.rows
    assert len(rows) == len(others) == HEAD_EPOCHS + 2 + 1
    for row, other in zip(rows[:-1], others[:-1], strict=True):
        assert (row["phase"], row["epoch"]) == (other["phase"], other["epoch"])
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-3)
    (header, tensors), (_, expected) = map(read_state, (two.folder, one.folder))
    for name, value in expected.items():
        if name.startswith(("average.features", "trained.features")):
            np.testing.assert_allclose(tensors[name], value, atol=2e-4, err_msg=name)
    assert header["micro_batch_size"] == 1  # the smallest of both processes


def test_only_the_first_process_reports(two: ProcessesRun) -> None:
    assert two.stderr.count("Starting from") == 1
    assert two.stderr.count("effnet predict IMAGE --model") == 1


def test_every_validation_image_is_counted_once(train_in: Train, tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=3, first_seed=50)
    make_classes(root / "test", images=1, first_seed=90)
    (root / "val" / "red" / "51.png").write_bytes(b"")
    done = train_in(2, [root, "--allow-bad"])
    assert done.status == 0, done.stderr
    end = done.rows[-1]
    assert (end["val"]["images"], end["val"]["failed"]) == (9, 1)
    assert [row["images"] for row in end["val"]["classes"]] == [3, 3, 3]
    assert end["test"]["images"] == 3


def test_killed_processes_resume_to_identical_bits(
    two: ProcessesRun, train_in: Train, colours: Path
) -> None:
    killed = train_in(2, [colours], NO_DROPOUT + LITTLE_MEMORY + FIRST_DIES)
    assert killed.status != 0
    assert read_state(killed.folder)[0]["epoch"] == 2
    resumed = train_in(2, [], NO_DROPOUT, killed.folder)  # with the saved micro-batch size
    assert resumed.status == 0, resumed.stderr
    assert [(row["phase"], row["epoch"]) for row in resumed.rows[:-1]] == [("full", 2)]
    assert resumed.model == two.model
    (_, tensors), (_, expected) = map(read_state, (resumed.folder, two.folder))
    for name, value in expected.items():
        assert tensors[name].tobytes() == value.tobytes(), name


def test_error_is_reported_once_under_torchrun(tmp_path: Path) -> None:
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
    assert refused.stderr.count("There is only one class") == 1
    assert refused.stdout == ""


# --- one process ------------------------------------------------------------------------------


def test_single_process_needs_no_communication() -> None:
    single = ProcessGroup()
    assert single.is_first
    assert single.broadcast(lambda: [1, 2]) == [1, 2]
    assert single.gather("mine") == ["mine"]
    assert single.reduce_max(3) == single.reduce_min(3) == 3
    module = build_tiny_model()
    assert single.wrap(module, CPU) is module
    assert single.shard(np.arange(5)).tolist() == [0, 1, 2, 3, 4]

    def fail() -> None:
        raise UsageError("no", "yes")

    with pytest.raises(UsageError, match="no"):
        single.broadcast(fail)


@given(st.integers(0, 40), st.integers(1, 7))
def test_shards_contain_every_index_once(size: int, count: int) -> None:
    parts = [ProcessGroup(rank, count).shard(np.arange(size)) for rank in range(count)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with join_process_group() as processes:
        assert processes == ProcessGroup()
    assert not torch.distributed.is_initialized()


def test_processes_that_cannot_connect_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(EffnetError, match="The 2 processes cannot connect") as caught,
        join_process_group(),
    ):
        pass
    assert "torchrun" in caught.value.hint
