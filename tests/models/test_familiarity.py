"""Images that resemble those of training, and others."""

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.models.card import ModelCard
from effnet_cli.models.familiarity import MAX_DIRECTIONS, Familiarity, fit_familiarity
from effnet_cli.system.errors import UsageError
from helpers import RGB_CARD

WIDTH = 160


def draw(num_images: int, first: int, seed: int) -> np.ndarray:
    """Draw features, of which eight from `first` on are large and the others small."""
    rng = np.random.default_rng(seed)
    features = 0.1 * rng.random((num_images, WIDTH))
    features[:, first : first + 8] += rng.random((num_images, 8))
    return features.astype(np.float32)


@given(st.integers(5, 300), st.integers(20, 300), st.integers(0, 2**32 - 1))
def test_known_share_of_validation_images_is_familiar(
    num_train: int, num_val: int, seed: int
) -> None:
    val = draw(num_val, 0, seed + 1)
    familiarity = fit_familiarity(draw(num_train, 0, seed), val, known=0.95)
    shares = familiarity.measure(val)
    assert (shares >= 0).all()
    assert (shares <= 1).all()
    num_unknown = (shares < familiarity.unknown_below).sum()
    assert 0.05 * (num_val + 1) - 2 < num_unknown <= 0.05 * (num_val + 1)


@pytest.mark.parametrize("num_train", [40, 400])
def test_images_with_other_features_are_unfamiliar(num_train: int) -> None:
    train, val, alike = (draw(n, 0, seed) for seed, n in enumerate([num_train, 100, 100]))
    familiarity = fit_familiarity(train, val, known=0.95)
    assert familiarity.directions == min(MAX_DIRECTIONS, num_train // 4)
    assert (familiarity.measure(alike) >= familiarity.unknown_below).mean() > 0.85
    assert (familiarity.measure(draw(100, 80, 3)) < familiarity.unknown_below).all()


def test_brightness_of_features_does_not_matter() -> None:
    features = draw(50, 0, 0)
    familiarity = fit_familiarity(features, features, known=0.95)
    np.testing.assert_allclose(
        familiarity.measure(features * 1000), familiarity.measure(features), rtol=1e-5
    )
    assert familiarity.measure(np.zeros((1, WIDTH), np.float32)) == [0.0]


def test_other_features_are_refused() -> None:
    features = draw(50, 0, 0)
    familiarity = fit_familiarity(features, features, known=0.95)
    with pytest.raises(UsageError, match="159 features"):
        familiarity.measure(features[:, 1:])


def test_card_keeps_it() -> None:
    features = draw(50, 0, 0)
    familiarity = fit_familiarity(features, features, known=0.95)
    card = ModelCard("lite0", ("a", "b"), RGB_CARD.preprocessing, familiarity=familiarity)
    assert ModelCard.from_json(card.to_json()) == card


BASIS = base64.b64encode(np.ones((2, 5), np.int8).tobytes()).decode("ascii")


@pytest.mark.parametrize(
    "damaged",
    [
        Familiarity("?", 2, 0.5),
        Familiarity(BASIS, 3, 0.5),
        Familiarity(BASIS, 0, 0.5),
        Familiarity(BASIS[:-4], 2, 0.5),
        Familiarity(7, 2, 0.5),  # type: ignore[arg-type]
        Familiarity(BASIS, 2, 7.0),
        Familiarity(BASIS, 2, "low"),  # type: ignore[arg-type]
    ],
)
def test_damaged_values_are_refused(damaged: Familiarity) -> None:
    card = ModelCard("lite0", ("a", "b"), RGB_CARD.preprocessing, familiarity=damaged)
    with pytest.raises(ValueError, match="its familiarity"):
        ModelCard.from_json(card.to_json())
