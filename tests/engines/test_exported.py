"""Exported files as engines."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.engines.base import ModelOutputs, to_probabilities
from effnet_cli.engines.exported import ExportedEngine
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models.card import ModelCard


class Echo:
    """An engine that returns its input."""

    precision, scores_are = "fp32", "probabilities"

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []

    def __call__(self, crops: np.ndarray) -> ModelOutputs:
        self.batches.append(crops)
        shares = crops.reshape(len(crops), -1)[:, :3].astype(np.float32) + 1
        return ModelOutputs(shares / shares.sum(axis=1, keepdims=True))


@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_fixed_batches_are_exact(count: int, batch: int, seed: int) -> None:
    preprocessing = Preprocessing(8, 8, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    export = {"batch": batch, "include_preprocessing": True, "precision": "fp32", "quantize": None}
    card = ModelCard("lite0", ("a", "b", "c"), preprocessing, temperature=2.5, export=export)
    crops = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    engine = Echo()
    exported = ExportedEngine(engine, card)
    scores = exported(crops).scores
    assert all(part.shape == (batch, 8, 8, 3) for part in engine.batches)
    assert np.array_equal(np.concatenate(engine.batches)[:count], crops)
    expected = Echo()(crops).scores
    probabilities = to_probabilities(scores, exported.scores_are, card.temperature)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
