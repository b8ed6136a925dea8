"""Principal components, half whitened."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from effnet_cli.embed.embedder import normalize
from effnet_cli.embed.projection import MIN_VARIANCE, WHITENING, fit_projection
from effnet_cli.embed.records import VectorSource

SOURCE = VectorSource("lite0", "0" * 64, "gem", precision="fp32", settings={})


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 5))
def test_components_are_scikit_learns(seed: int, dim: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(40, 8)) * np.arange(1, 9)).astype(np.float32)
    found = fit_projection(np.array_split(vectors, parts), dim, SOURCE)
    reference = PCA(dim, svd_solver="full").fit(vectors)
    variances = reference.explained_variance_ * 39 / 40  # of all, not of a sample
    scales = np.maximum(variances, MIN_VARIANCE * variances.mean()) ** (-WHITENING / 2)
    expected = normalize((reference.transform(vectors) * scales).astype(np.float32))
    actual = found.apply(vectors)
    signs = np.sign((actual * expected).sum(axis=0))
    np.testing.assert_allclose(actual * signs, expected, atol=1e-3)
