"""Paths with arbitrary bytes."""

import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.datasets.paths import Paths

any_bytes = st.binary(max_size=40).map(lambda text: text.replace(b"\0", b"/"))


@given(st.lists(any_bytes, max_size=20))
def test_paths_of_any_bytes_survive(given_paths: list[bytes]) -> None:
    texts = [os.fsdecode(path) for path in given_paths]
    paths = Paths(texts)
    assert list(paths) == texts
    assert len(paths) == len(texts)
    assert [paths.encoded(i) for i in range(len(paths))] == given_paths
    assert pickle.loads(pickle.dumps(paths)) == paths
    assert list(paths.take(range(len(paths) - 1, -1, -1))) == texts[::-1]
    with pytest.raises(IndexError):
        paths[len(texts)]
    if texts:
        assert paths[-1] == texts[-1]
        assert paths != Paths([*texts[:-1], texts[-1] + "x"])
