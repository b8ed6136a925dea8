"""Fixtures of the training tests: datasets, a small model, runs and the command line.

Loaded as a plugin by `conftest.py`.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effnet_cli.cli import main
from effnet_cli.engines.registry import plan_engine
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.inference import Inference
from effnet_cli.finetune.run_dir import to_arrays
from effnet_cli.models import build, checkpoint
from effnet_cli.models.card import MODEL_FILE_NAME, ModelCard
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import EngineOptions, FinetuneOptions, ModelOptions
from effnet_cli.system.reporter import SILENT
from helpers import SAMPLES, RecordingReporter, save_image
from training import (
    HEAD_ONLY,
    ONE_EPOCH,
    CommandResult,
    FinishedRun,
    RunWith,
    make_classes,
    make_task,
    quick_head,
    train,
)
from training_parts import CLASSES, PREPROCESSING

SMALL_PX = 64  # a twelfth of the computation at 224 px


# --- the machine ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """Pin this process and its children to one core: on busy cores, torch's threads mostly wait for
    each other.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    # each pytest-xdist worker uses a different core
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {sorted(cores)[number % len(cores)]})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def caches(session_folder: Path) -> Iterator[None]:
    """Use the cache folder of `own_caches` in fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFNET_CACHE", str(session_folder / "cache"))
        yield


@pytest.fixture
def quick() -> Iterator[None]:
    """Train heads in a tenth of a second."""
    with quick_head():
        yield


# --- data and models --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def colours(session_folder: Path) -> Path:
    """Three classes of eight images: 18 for training and 6 for validation."""
    root = session_folder / "colours"
    make_classes(root)
    return root


@pytest.fixture(scope="session")
def small(session_folder: Path, caches: None) -> ModelOptions:
    """The pretrained default model for crops of 64 px, as a model file."""
    folder = session_folder / "small"
    model = resolve_model(ModelOptions())
    card = replace(
        model.card,
        preprocessing=replace(model.card.preprocessing, resize_px=SMALL_PX, crop_px=SMALL_PX),
    )
    tensors = to_arrays(build.load_module(model).state_dict())
    checkpoint.write(folder / MODEL_FILE_NAME, card, tensors)
    return ModelOptions(model=folder)


@pytest.fixture(scope="session")
def image_folder(session_folder: Path) -> Path:
    """Fourteen images of several sizes; the larger ones are downscaled in the cache."""
    path = session_folder / "fourteen"
    path.mkdir()
    for number in range(12):
        save_image(path / f"{number:02}.png", number, (20 + 17 * number, 40 + 9 * number))
    for number, name in enumerate(("cat.jpg", "rocket.jpg")):
        (path / f"{12 + number}.jpg").write_bytes((SAMPLES / name).read_bytes())
    return path


@pytest.fixture(scope="session")
def inference() -> Inference:
    """Inference with torch, which needs no compilation."""
    plan = plan_engine(EngineOptions("cpu", "torch"))
    card = ModelCard("lite0", CLASSES, PREPROCESSING)
    return Inference(plan, find_variant("lite0"), card, ProcessGroup(), SILENT)


@pytest.fixture
def run_with(colours: Path, small: ModelOptions, tmp_path: Path, quick: None) -> RunWith:
    """`run_with(options, root=..., model=...)` trains quickly and returns the run and its notes."""

    def run(options: FinetuneOptions, **changes: Any) -> tuple[FinishedRun, RecordingReporter]:
        reporter = RecordingReporter()
        base, root = changes.pop("model", small), changes.pop("root", colours)
        output = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        return train(make_task(root, base, output, options, **changes), reporter), reporter

    return run


@pytest.fixture(scope="session")
def one_epoch_run(colours: Path, small: ModelOptions, session_folder: Path) -> FinishedRun:
    """A run with ONE_EPOCH, as a baseline."""
    with quick_head():
        return train(make_task(colours, small, session_folder / "one epoch", ONE_EPOCH))


@pytest.fixture(scope="session")
def head_run(colours: Path, small: ModelOptions, session_folder: Path) -> FinishedRun:
    """A run with HEAD_ONLY."""
    with quick_head():
        return train(make_task(colours, small, session_folder / "head only", HEAD_ONLY))


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def effnet(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., CommandResult]:
    """`effnet("finetune", ...)` runs a command in this process, without importing torch again."""

    def run_effnet(*arguments: str | Path) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["effnet", *map(str, arguments)])
        capfdbinary.readouterr()
        status = main.run()
        sys.stdout.flush()
        sys.stderr.flush()
        captured = capfdbinary.readouterr()
        return CommandResult(status, captured.out, captured.err.decode())

    return run_effnet
