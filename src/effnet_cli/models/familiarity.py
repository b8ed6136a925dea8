"""Tells images that resemble those a model was trained on from images of another kind.

A classifier has to choose one of its classes, and can be certain of it for an image that belongs to
none. But the features of such an image point elsewhere: a smaller share of them lies in the few
directions that the features of the training images have in common. (ViM: Wang et al. 2022, arXiv
2203.10807, uses what lies outside.)
"""

import base64
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from effnet_cli.system.errors import UsageError

Features = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

MAX_DIRECTIONS = 128  # of 1280 features: 220 kB as text
IMAGES_PER_DIRECTION = 4  # fewer images have fewer directions in common
INT8_MAX = 127


@dataclass(frozen=True, slots=True)
class Familiarity:
    """How familiar images are to a model, by their features.

    `basis` is base64 of orthogonal directions, int8 [K,D], of any length; `directions` is K.
    Images whose familiarity is below `unknown_below` are best called unknown.
    """

    basis: str
    directions: int
    unknown_below: float

    @property
    def num_features(self) -> int:
        """The number of features, D."""
        return int(_decode(self.basis, self.directions).shape[1])

    def measure(self, features: Features) -> Floats:
        """Return the familiarity of images, float64 [N] from 0 to 1, by their features [N,D].

        It is the length of a feature vector's part in the basis, as a share of its length.

        Raises:
            UsageError: the model has another number of features.
        """
        if features.shape[1] != self.num_features:
            raise UsageError(
                f"The model has {features.shape[1]:,} features, but its familiarity is for "
                f"{self.num_features:,}.",
                "Use --unknown-below with a probability, or train the model again.",
            )
        lengths = np.linalg.norm(features, axis=1)
        inside = np.linalg.norm(features @ _decode(self.basis, self.directions).T, axis=1)
        shares = inside.astype(np.float64) / np.maximum(lengths, np.finfo(np.float32).tiny)
        # the stored directions are only almost orthogonal
        limited: Floats = np.minimum(shares, 1.0)
        return limited

    def check(self) -> None:
        """Raise `ValueError` unless the values fit together."""
        try:
            _decode(self.basis, self.directions)
        except (TypeError, ValueError) as error:
            raise ValueError("its familiarity has no readable basis") from error
        if not isinstance(self.unknown_below, float) or not 0 <= self.unknown_below <= 1:
            raise ValueError(f"its familiarity is unknown below {self.unknown_below!r:.100}")


@cache
def _decode(basis: str, directions: int) -> Features:
    """Return a stored basis with directions of length 1, float32 [K,D]."""
    values = np.frombuffer(base64.b64decode(basis, validate=True), np.int8)
    rows: Features = values.reshape(directions, -1).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1.0)
    return rows


def fit_familiarity(train: Features, val: Features, known: float) -> Familiarity:
    """Find the common directions of `train` [N,D], and the threshold that a share of `known` of
    images like the validation images, `val` [M,D], reach on average.
    """
    unit = train / np.maximum(np.linalg.norm(train, axis=1, keepdims=True), 1e-12)
    count = max(1, min(MAX_DIRECTIONS, len(train) // IMAGES_PER_DIRECTION, train.shape[1]))
    _, vectors = np.linalg.eigh(unit.T.astype(np.float64) @ unit)  # ascending
    basis = vectors[:, : -count - 1 : -1].T
    scaled = np.rint(basis / np.abs(basis).max(axis=1, keepdims=True) * INT8_MAX)
    text = base64.b64encode(scaled.astype(np.int8).tobytes()).decode("ascii")
    shares = np.sort(Familiarity(text, count, 0.0).measure(val))
    # Not the quantile of these images, but the one that as many of new ones will reach.
    rank = math.floor((1 - known) * (len(val) + 1))
    return Familiarity(text, count, float(shares[max(rank, 1) - 1]))
