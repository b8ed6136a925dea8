"""Choosing the images for calibration and comparison."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from effnet_cli.export.samples import choose_images
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.card import ModelCard
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import find_variant
from effnet_cli.options import ExportTask, FinetuneOptions, ImageOptions, ModelOptions
from effnet_cli.system.reporter import SILENT
from exporting import copy_sample
from training import CommandResult, make_task, train

pytestmark = pytest.mark.usefixtures("one_core")

Effnet = Callable[..., CommandResult]

CAT_DOG = ModelCard("lite0", ("cat", "dog"), find_variant("lite0").preprocessing)


def test_dataset_is_calibrated_on_train_and_compared_on_val(tmp_path: Path) -> None:
    names = ["train/cat/1.jpg", "train/dog/2.jpg", "valid/dog/3.jpg", "valid/cat/4.jpg"]
    root = copy_sample(tmp_path, names)
    calibration, compared = choose_images(ExportTask(calibrate=root), CAT_DOG)
    assert calibration is not None
    assert [os.path.relpath(p, root) for p in calibration.paths] == names[:2]
    assert {os.path.relpath(p, root) for p in compared.paths} == set(names[2:])
    assert calibration.labels == (0, 1)
    assert compared.labels == (0, 1)  # cat/4.jpg comes first


def test_a_table_with_splits_is_read_like_folders(tmp_path: Path) -> None:
    root = copy_sample(tmp_path, ["images/1.jpg", "images/2.jpg", "images/3.jpg"])
    rows = ["file,breed,subset", "1,dog,train", "2,cat,train", "3,dog,valid"]
    (tmp_path / "pets.csv").write_text("\n".join(rows))
    for source in (root, tmp_path / "pets.csv"):
        calibration, compared = choose_images(ExportTask(calibrate=source), CAT_DOG)
        assert calibration is not None
        assert [Path(path).name for path in calibration.paths] == ["2.jpg", "1.jpg"]
        assert [Path(path).name for path in compared.paths] == ["3.jpg"]
        assert (calibration.labels, compared.labels) == ((0, 1), (1,))


@pytest.mark.usefixtures("quick")
def test_training_images_are_for_calibration_only(
    colours: Path, small: ModelOptions, tmp_path: Path, effnet: Effnet
) -> None:
    ran = train(make_task(colours, small, tmp_path / "run", FinetuneOptions(head_only=True)))
    calibration, compared = choose_images(ExportTask(calibrate=colours), ran.card)
    assert calibration is not None
    assert (len(calibration.paths), len(compared.paths)) == (18, 6)
    assert not set(calibration.paths) & set(compared.paths)
    assert choose_images(ExportTask(check=colours), ran.card)[1] == compared
    for images in (calibration, compared):
        assert images.labels is not None
        folders = [Path(path).parent.name for path in images.paths]
        assert [ran.card.classes[label] for label in images.labels] == folders
    command = ("export", "--to", "onnx", "--model", ran.folder, "--quantize", "int8", "--force")
    done = effnet(*command, "--calibrate", colours, "-o", tmp_path)
    assert f"views of the training images of {colours}" in done.stderr
    assert f"views of the images of {colours} that the model was not trained on" in done.stderr


def test_few_images_are_used_for_both(tmp_path: Path) -> None:
    _, compared = choose_images(
        ExportTask(calibrate=copy_sample(tmp_path, ["cat/1.jpg", "dog/1.jpg"])), CAT_DOG
    )
    assert compared.name == f"{tmp_path} (the calibration images)"


def test_images_without_splits_are_divided(tmp_path: Path) -> None:
    root = copy_sample(tmp_path, [f"cat/{n:03}.jpg" for n in range(140)])
    calibration, compared = choose_images(ExportTask(calibrate=root), CAT_DOG)
    assert calibration is not None
    assert (len(calibration.paths), len(compared.paths)) == (128, 12)
    assert not set(calibration.paths) & set(compared.paths)
    assert choose_images(ExportTask(calibrate=root), CAT_DOG)[0] == calibration


def test_few_images_yield_many_views(tmp_path: Path) -> None:
    root = copy_sample(tmp_path, ["a/1.jpg"])
    _, compared = choose_images(ExportTask(check=root), CAT_DOG)
    assert compared.labels is None
    card = imagenet_card(find_variant("lite0"))
    views = list(compared.load(card, ImageOptions(), reporter=SILENT, step=""))
    assert len({one.crop.tobytes() for one in views}) == len(views) == 32
    whole = ImageLoader(card.preprocessing).load(compared.paths[0])
    assert np.array_equal(views[0].crop, whole)
