"""Normalisation of crops: NumPy and torch agree bit for bit."""

import numpy as np
import pytest
import torch

from effnet_cli.engines.base import to_probabilities
from effnet_cli.engines.normalise import (
    model_input,
    normalise,
    normalise_for_training,
    normalise_tensor,
)
from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import PUBLISHED, VARIANTS, Variant

# All values, in all channels.
CROPS = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3).repeat(2, axis=0)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_tensors_are_normalised_to_the_same_bits(row: Variant, device: str) -> None:
    crops = torch.from_numpy(CROPS).to(device)
    expected = normalise(CROPS, row.preprocessing)
    assert (expected.shape, expected.dtype) == ((2, 3, 16, 16), np.float32)
    with torch.inference_mode():
        actual = normalise_tensor(crops, row.preprocessing)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(actual.cpu().numpy().view(np.uint32), expected.view(np.uint32))
    close = normalise_for_training(crops, row.preprocessing)
    np.testing.assert_allclose(close.cpu().numpy(), expected, atol=1e-6)


def test_crops_are_not_changed() -> None:
    crops = CROPS.copy()
    crops.flags.writeable = False
    row = VARIANTS["lite0"]
    normalise(crops, row.preprocessing)
    normalise_tensor(torch.from_numpy(crops.copy()), row.preprocessing)
    np.testing.assert_array_equal(crops, CROPS)


def test_exports_with_preprocessing_take_uint8_crops() -> None:
    preprocessing = VARIANTS["lite0"].preprocessing
    with_preprocessing = ModelCard(
        "lite0", ("a",), preprocessing, export={"include_preprocessing": True}
    )
    without_preprocessing = ModelCard(
        "lite0", ("a",), preprocessing, export={"include_preprocessing": False}
    )
    assert model_input(CROPS, with_preprocessing) is CROPS
    np.testing.assert_array_equal(
        model_input(CROPS, without_preprocessing), normalise(CROPS, preprocessing)
    )


def test_probabilities_are_not_normalised_again() -> None:
    scores = np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)
    actual = to_probabilities(scores, "probabilities", 3.0)
    assert actual.dtype == np.float64
    np.testing.assert_array_equal(actual, scores)
    logits = np.array([[1.0, 3.0]], np.float32)
    np.testing.assert_allclose(
        to_probabilities(logits, "logits", 2.0), [[1 / (1 + np.e), np.e / (1 + np.e)]]
    )
