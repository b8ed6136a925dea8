"""Models run through the engine of `predict`."""

from pathlib import Path

import numpy as np
import pytest

from effnet_cli.finetune.inference import Inference
from effnet_cli.system.errors import EffnetError
from helpers import save_image
from training_parts import (
    loader_of,
    logits_of,
    with_head,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_outputs_are_those_of_the_model_for_every_image(
    image_folder: Path, inference: Inference
) -> None:
    module = with_head()
    indexes, logits = inference.run(
        inference.load_engine(module), loader_of(image_folder), "Validation"
    )
    assert indexes.tolist() == list(range(14))
    np.testing.assert_allclose(logits, logits_of(module, image_folder), atol=1e-4)


def test_no_readable_image_is_an_error(tmp_path: Path, inference: Inference) -> None:
    save_image(tmp_path / "x.png", 0)
    images = loader_of(tmp_path)
    (tmp_path / "x.png").unlink()
    with pytest.raises(EffnetError, match="None of the images in the dataset can be read"):
        inference.run(inference.load_engine(with_head()), images, "Validation")
