"""A small model file, and files with other headers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save_file as save_arrays

from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models import checkpoint
from effnet_cli.models.card import CARD_KEY, ModelCard
from effnet_cli.models.checkpoint import DIGEST_KEY
from effnet_cli.models.operating_point import OperatingPoint, Share

TEXT = st.text(st.characters(codec=None), max_size=12)  # lone surrogates too
PREPROCESSING = Preprocessing(64, 57, "bicubic", (0.1, 0.2, 0.3), (0.5, 0.25, 1 / 3))
ARRAYS = {
    "classifier.1.bias": np.float32([1.5, -2.5, 3.25]),
    "features.0.0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
}

CARD = ModelCard(
    "lite1",
    ("chat", "café", "犬"),
    PREPROCESSING,
    temperature=1.75,
    options={"epochs": 3, "lr": 0.001, "freeze": None},
    dataset={"files": 12, "sha256": "ab" * 32},
    metrics={"accuracy": 0.5, "recall": [0.1, 0.9]},
)


def make_point(positive: str = "café", **changes: Any) -> OperatingPoint:
    """Return an operating point, with figures that do not matter."""
    share = Share(8, 10, 0.8, (0.5, 0.9))
    values = {
        "positive": positive, "metric": "sensitivity", "asked": 0.75, "threshold": 0.4,
        "true_positives": 8, "false_positives": 1, "true_negatives": 9, "false_negatives": 2,
        "failed_positives": 1, "failed_negatives": 0, "prevalence": 0.5, "sensitivity": share,
        "specificity": share, "ppv": None, "npv": share, "fit": "crop", "precision": "fp32",
    }  # fmt: skip
    return OperatingPoint(**(values | changes))


def assert_same(actual: checkpoint.Arrays, expected: checkpoint.Arrays) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert np.array_equal(actual[name], array)


def with_header(path: Path, header: str, arrays: checkpoint.Arrays = ARRAYS) -> Path:
    """Return a model file with any text as its header, as a script may write it."""
    save_arrays(dict(arrays), path, {CARD_KEY: header, DIGEST_KEY: "0" * 64})
    return path


def header_with(**changes: Any) -> str:
    return json.dumps({**json.loads(CARD.to_json()), **changes})
