"""Exact nearest neighbours, and filters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.search import query
from effnet_cli.search.query import find_neighbours


@given(
    st.integers(0, 10_000), st.integers(0, 60), st.integers(1, 4), st.integers(1, 70), st.booleans()
)
def test_neighbours_are_those_of_a_full_sort(
    seed: int, rows: int, queries: int, k: int, has_hidden: bool
) -> None:
    rng = np.random.default_rng(seed)
    # few different values, so that there are ties
    vectors = rng.integers(-1, 2, (rows, 3)).astype(np.float32)
    asked = rng.integers(-1, 2, (queries, 3)).astype(np.float32)
    hidden = rng.random(rows) < 0.3 if has_hidden else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query, "COMPARED_ROWS", 7)
        found = find_neighbours(vectors, asked, k, is_hidden=hidden)
    similarities = asked @ vectors.T
    shown = np.arange(rows) if hidden is None else np.flatnonzero(~hidden)
    assert len(found) == queries
    for one, own in zip(found, similarities, strict=True):
        expected = shown[np.argsort(-own[shown], kind="stable")][:k]
        assert one.rows.tolist() == expected.tolist()
        assert one.similarities.tolist() == own[expected].tolist()
