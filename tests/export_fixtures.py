"""Fixtures of the export tests: models and images, created once per test run.

Loaded as a plugin by `conftest.py`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from effnet_cli.engines.normalise import normalise
from effnet_cli.export.records import ExportResult
from effnet_cli.export.run import export
from effnet_cli.export.samples import VIEWS, sample_images
from effnet_cli.finetune.run_dir import to_arrays
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build, checkpoint
from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import find_variant
from effnet_cli.options import ExportOptions, ExportTask, ImageOptions, ModelOptions, TargetName
from effnet_cli.predict.records import ImageResult
from effnet_cli.system.reporter import SILENT
from exporting import ExportDefault, SmallModel, predict
from helpers import lively

SMALL_PX = 64


@pytest.fixture(scope="session")
def export_default(tmp_path_factory: pytest.TempPathFactory, caches: None) -> ExportDefault:
    """Export the default model with its real weights, once per target."""
    results: dict[TargetName, ExportResult] = {}

    def export_once(target: TargetName) -> ExportResult:
        if target not in results:
            folder = tmp_path_factory.mktemp(target)
            results[target] = export(ExportTask(options=ExportOptions(target), output=folder))
        return results[target]

    return export_once


@pytest.fixture(scope="session")
def small_model(session_folder: Path, caches: None) -> SmallModel:
    """Build seeded 64 px models with ten classes and BatchNorm statistics from real images."""

    def make(name: str) -> ModelOptions:
        folder = session_folder / f"small-{name}"
        if not folder.exists():
            row = find_variant(name.removesuffix("-hidden"))
            preprocessing = replace(row.preprocessing, resize_px=SMALL_PX, crop_px=SMALL_PX)
            classes = tuple("αβγδεζηθικ")
            module = build.build(row, len(classes))
            if name.endswith("-hidden"):
                build.set_head(module, len(classes), hidden=32)
            card = ModelCard(row.name, classes, preprocessing, temperature=1.7)
            images = sample_images().load(card, ImageOptions(), reporter=SILENT, step="")
            crops = np.concatenate([image.crop for image in images])
            lively(module, pixels=torch.from_numpy(normalise(crops, preprocessing)))
            checkpoint.write(folder / "model.safetensors", card, to_arrays(module.state_dict()))
        return ModelOptions(model=folder)

    return make


@pytest.fixture(scope="session")
def fifty_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Fifty images: crops and mirror images of the samples."""
    folder = tmp_path_factory.mktemp("fifty")
    loader = ImageLoader(find_variant("lite0").preprocessing)
    opened = [loader.open(path) for path in sample_images().paths]
    for number in range(50):
        image = VIEWS[number // len(opened)].apply(opened[number % len(opened)])
        image.save(folder / f"{number:02}.png", compress_level=1)
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def fifty_predictions(fifty_images: list[Path], caches: None) -> list[ImageResult]:
    """The default model's predictions for `fifty_images`."""
    return predict("lite0", fifty_images, top_k=1)
