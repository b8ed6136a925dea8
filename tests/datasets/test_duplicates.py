"""Groups of near-duplicates."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_cli.datasets.duplicates import group_duplicates


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=60))
@settings(max_examples=100)
def test_members_of_a_group_are_direct_duplicates_of_its_representative(
    pairs: list[tuple[int, int]],
) -> None:
    near = sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
    groups = group_duplicates(21, np.array(near, dtype=np.intp).reshape(-1, 2))
    for member, representative in enumerate(groups):
        assert representative == member or (representative, member) in near
        assert groups[representative] == representative
