"""The automatic split."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_cli.datasets.split import assign_folds, choose_validation

groups_of_classes = st.lists(
    st.lists(st.integers(1, 6), min_size=2, max_size=12), min_size=1, max_size=4
)


@given(
    classes=groups_of_classes,
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**40),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=200)
def test_split_is_stratified_keeps_groups_together_and_ignores_order(
    classes: list[list[int]], fraction: float, seed: int, order: object
) -> None:
    labels, groups = [], []
    for label, sizes in enumerate(classes):
        for size in sizes:
            labels += [label] * size
            groups += [len(set(groups))] * size
    keys = np.random.default_rng(0).integers(0, 256, (len(set(groups)), 32), dtype=np.uint8)
    label_row, group_row = np.array(labels, dtype=np.int32), np.array(groups)
    chosen = choose_validation(label_row, group_row, keys, fraction=fraction, seed=seed)
    for label, sizes in enumerate(classes):
        share = chosen[label_row == label]
        assert 0 < share.sum() < len(share)
        if max(sizes) == 1:
            assert abs(share.sum() - fraction * len(share)) <= 1
    for group in np.unique(group_row):
        assert len(np.unique(chosen[group_row == group])) == 1
    shuffled = list(range(len(labels)))
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    chosen_after_shuffling = choose_validation(
        label_row[shuffled], group_row[shuffled], keys, fraction=fraction, seed=seed
    )
    assert np.array_equal(chosen_after_shuffling, chosen[shuffled])


@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(2, 7), st.integers(0, 99))
def test_folds_share_each_class_evenly(labels: list[int], count: int, seed: int) -> None:
    row, none = np.array(labels, np.int32), np.full(len(labels), -1, np.int32)
    assigned = assign_folds(row, none, count, seed=seed)
    assert np.array_equal(assigned, assign_folds(row, none, count, seed=seed))
    for group in [np.arange(len(labels)), *(np.flatnonzero(np.equal(labels, n)) for n in range(5))]:
        sizes = Counter(assigned[group].tolist())
        assert max(sizes.values(), default=0) - min(sizes[n] for n in range(count)) <= 1
