"""Validation of models on the engines of `predict`."""

from pathlib import Path

import numpy as np
import pytest

from effnet_cli.finetune.inference import Inference
from effnet_cli.system.errors import EffnetError
from helpers import save_image
from training_parts import build_with_head, compute_logits, make_loader

pytestmark = pytest.mark.usefixtures("one_thread")


def test_engine_outputs_equal_the_model_outputs(image_folder: Path, inference: Inference) -> None:
    module = build_with_head()
    indexes, logits = inference.run(
        inference.load_engine(module), make_loader(image_folder), "Validation"
    )
    assert indexes.tolist() == list(range(14))
    np.testing.assert_allclose(logits, compute_logits(module, image_folder), atol=1e-4)


def test_dataset_without_readable_images_is_an_error(tmp_path: Path, inference: Inference) -> None:
    save_image(tmp_path / "x.png", 0)
    images = make_loader(tmp_path)
    (tmp_path / "x.png").unlink()
    with pytest.raises(EffnetError, match="None of the images in the dataset can be read"):
        inference.run(inference.load_engine(build_with_head()), images, "Validation")
