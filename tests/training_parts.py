"""Builders for the training tests: models, loaders, setups and phases."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from effnet_cli.datasets.paths import Paths
from effnet_cli.datasets.records import Subset
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.head_phase import HeadPhase, extract_features
from effnet_cli.finetune.inference import Inference
from effnet_cli.finetune.loader import BatchLoader, CacheBudget
from effnet_cli.finetune.objective import ClassObjective
from effnet_cli.finetune.phases import FullPhase, Phase
from effnet_cli.finetune.run_dir import RunDir, TrainingState
from effnet_cli.finetune.setup import TrainingSetup
from effnet_cli.images.augment import POLICIES
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models import build
from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import find_variant
from effnet_cli.options import FinetuneOptions, FinetuneTask
from effnet_cli.system.reporter import SILENT
from helpers import lively, load_pixels

CPU = torch.device("cpu")
CROP_PX = 32  # a forward pass takes milliseconds
PREPROCESSING = Preprocessing(CROP_PX, CROP_PX, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
LOADER = ImageLoader(PREPROCESSING)
CLASSES = ("a", "b", "c")


MODELS: dict[str, Callable[[], nn.Module]] = {
    name: partial(build.build, find_variant(name), 3) for name in ("lite0", "b0")
}


def build_tiny_model(seed: int = 0, classes: int = 3) -> nn.Module:
    """Build a classifier of vectors of 5 numbers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, classes))


def make_subset(folder: Path) -> Subset:
    paths = sorted(map(str, folder.iterdir()))
    labels = np.arange(len(paths), dtype=np.int32) % len(CLASSES)
    none = np.full(len(paths), -1, np.int32)
    return Subset(Paths(paths), labels, np.empty(0, np.int32), groups=none)


def make_loader(
    folder: Path, cache_bytes: int = 1 << 30, workers: int = 2, reporter: Any = SILENT
) -> BatchLoader:
    return BatchLoader(make_subset(folder), LOADER, CacheBudget(cache_bytes), workers, reporter)


def build_with_head(hidden: int = 8) -> nn.Module:
    """Build a seeded lite0 with a new head."""
    module = lively(build.build(find_variant("lite0"), 5), size_px=CROP_PX).requires_grad_(False)
    torch.manual_seed(0)
    build.set_head(module, len(CLASSES), hidden)
    return module.eval()


def make_setup(
    folder: Path, inference: Inference, module: nn.Module, **options: Any
) -> TrainingSetup:
    """Set up a run that trains and validates on all images of a folder."""
    images = make_loader(folder)
    return TrainingSetup(
        task=FinetuneTask(folder, options=FinetuneOptions(**options)),
        processes=ProcessGroup(),
        reporter=SILENT,
        device=CPU,
        precision="fp32",
        dataset=None,  # type: ignore[arg-type]
        card=ModelCard("lite0", CLASSES, PREPROCESSING),
        module=module,
        make_module=lambda: module,
        objective=ClassObjective(
            CLASSES, torch.zeros(len(CLASSES)), is_uneven=False, is_balanced=False
        ),
        inference=inference,
        make_loader=lambda _: images,
        train=images,
        val=images,
        run_dir=RunDir(folder),
        started_at=0.0,
    )


def make_head_phase(
    folder: Path, inference: Inference, module: nn.Module, **options: Any
) -> HeadPhase:
    setup = make_setup(folder, inference, module, **options)
    return HeadPhase(setup, extract_features(setup))


def make_full_phase(
    folder: Path, inference: Inference, module: nn.Module, **options: Any
) -> FullPhase:
    settings = {"batch_size": 4, "epochs": 2, "augment": "strong", **options}
    state = TrainingState()
    state.plan_full(settings["epochs"], POLICIES[settings["augment"]])
    return FullPhase(make_setup(folder, inference, module, **settings), module, state)


def train_epoch(phase: Phase, epoch: int = 1, start: int = 0) -> float:
    """Train one epoch and return the sum of its losses."""
    loss = torch.zeros(())
    for batch in phase.load_batches(epoch, start):
        loss += phase.step(batch)
    return float(loss)


def compute_logits(module: nn.Module, folder: Path) -> np.ndarray:
    pixels = np.stack([load_pixels(LOADER, path) for path in make_subset(folder).paths])
    with torch.inference_mode():
        logits: np.ndarray = module(torch.from_numpy(pixels)).numpy()
    return logits


def assert_same_tensors(one: nn.Module, other: nn.Module) -> None:
    """Compare all tensors except batch counters, which are not in model files."""
    tensors = one.state_dict()
    assert tensors.keys() == other.state_dict().keys()
    for name, tensor in other.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensors[name], tensor), name
