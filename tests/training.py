"""Helpers of the training tests: small datasets, short runs and their files."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effnet_cli.finetune import head_phase
from effnet_cli.finetune.records import AllImagesResult, Epoch, TrainingResult
from effnet_cli.finetune.resume import restore_task
from effnet_cli.finetune.run import finetune
from effnet_cli.models import checkpoint
from effnet_cli.models.card import ModelCard
from effnet_cli.options import FinetuneOptions, FinetuneTask, ModelOptions
from effnet_cli.system.reporter import SILENT, Reporter
from helpers import RecordingReporter

COLOURS = {"red": (200, 50, 50), "green": (50, 200, 50), "blue": (50, 50, 200)}
# A head that trains in a tenth of a second.
HEAD_EPOCHS = 2
QUICK_HEAD = {
    "HEAD_EPOCHS": HEAD_EPOCHS,
    "MIN_HEAD_STEPS": 16,
    "HEAD_PASSES": 4,
    "MIN_HEAD_PASSES": 2,
    "MAX_VIEWS_PER_IMAGE": 1,
}
ONE_EPOCH = FinetuneOptions(epochs=1, hidden=0, augment="strong")
HEAD_ONLY = FinetuneOptions(head_only=True, hidden=0, augment="none")
CANNOT_LEARN = 1e-30  # a learning rate
TIME_FIELDS = ("seconds", "images_per_s")


def save_blobs(path: Path, colour: Sequence[int], seed: int) -> None:
    """Write a smooth image of roughly one colour, in the format of its suffix."""
    rng = np.random.default_rng((seed, *colour))
    blobs = np.clip(rng.normal(colour, 60, (4, 6, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(blobs).resize((90, 60), Image.Resampling.BICUBIC).save(path)


def make_classes(
    root: Path,
    names: Sequence[str] = tuple(COLOURS),
    images: int = 8,
    first_seed: int = 0,
) -> None:
    """Create one folder per class, with JPEG and PNG images in turn."""
    for number, name in enumerate(names):
        folder = root / name
        folder.mkdir(parents=True)
        red, green, blue = list(COLOURS.values())[number % 3]
        for seed in range(first_seed, first_seed + images):
            suffix = "png" if seed % 2 else "jpg"
            save_blobs(folder / f"{seed}.{suffix}", (red, green, blue + number), seed)


def read_tree(root: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder, by relative path."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# --- runs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinishedRun:
    """A finished run."""

    folder: Path
    epochs: list[Epoch]
    end: TrainingResult
    all_images: AllImagesResult | None = None

    @property
    def model(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()

    @property
    def card(self) -> ModelCard:
        return checkpoint.read_card(self.folder / "model.safetensors")

    @property
    def tensors(self) -> checkpoint.Arrays:
        return checkpoint.read_arrays(self.folder / "model.safetensors")[1]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.folder)

    def filter_epochs(self, phase: str) -> list[Epoch]:
        return [epoch for epoch in self.epochs if epoch.phase == phase]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def drop_times(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without durations and rates."""
    return [{k: v for k, v in row.items() if k not in TIME_FIELDS} for row in rows]


def make_task(
    root: Path, base: ModelOptions, output: Path, options: FinetuneOptions, **changes: Any
) -> FinetuneTask:
    return FinetuneTask(root, base, options=options, output=output, **changes)


def read_state(folder: Path) -> tuple[dict[str, Any], checkpoint.Arrays]:
    """Return the header and tensors of a run's saved state."""
    return checkpoint.read_state(folder / "state.safetensors")


def train(task: FinetuneTask, reporter: Reporter = SILENT) -> FinishedRun:
    records = list(finetune(task, reporter))
    epochs = [record for record in records if isinstance(record, Epoch)]
    end, *later = records[len(epochs) :]
    assert isinstance(end, TrainingResult)
    assert all(isinstance(one, AllImagesResult) for one in later)
    return FinishedRun(end.model.parent, epochs, end, *later)  # type: ignore[arg-type]


def resume(folder: Path, reporter: Reporter = SILENT, **changes: Any) -> FinishedRun:
    """Resume a run with changed options."""
    options = FinetuneOptions(**changes)
    task = FinetuneTask(Path(), options=options, resume=folder)
    return train(restore_task(task, frozenset(changes)), reporter)


RunWith = Callable[..., tuple[FinishedRun, RecordingReporter]]


@contextmanager
def quick_head() -> Iterator[None]:
    """Train a head in a tenth of a second."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK_HEAD.items():
            patch.setattr(head_phase, name, value)
        yield


@dataclass(frozen=True)
class CommandResult:
    """Exit status and output of a command."""

    status: int
    stdout: bytes
    stderr: str


def build_script(code: str = "") -> str:
    """Return Python code that executes `code`, then runs `effnet` with a quick head."""
    settings = "".join(f"head_phase.{name} = {value}\n" for name, value in QUICK_HEAD.items())
    imports = (
        "from effnet_cli.cli.main import main\n"
        "from effnet_cli.finetune import head_phase, trainer as training\n"
    )
    return f"{imports}{settings}{code}\nmain()"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def find_changed_tensors(ran: FinishedRun, small: ModelOptions) -> set[str]:
    """Return the names of the backbone tensors that training changed."""
    start = checkpoint.read_arrays(small.model / "model.safetensors")[1]  # type: ignore[operator]
    state = read_state(ran.folder)[1]
    return {
        name
        for name, value in start.items()
        if name.startswith("features") and not np.array_equal(value, state[f"trained.{name}"])
    }
