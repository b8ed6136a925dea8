"""Verification of the published weights."""

import os

import pytest

from effnet_cli.models import listing, weights
from effnet_cli.models.variants import find_variant
from published_weights import OTHER, VARIANT, Mirror, effnet, put

pytestmark = pytest.mark.usefixtures("own_folders")


def test_another_file_of_the_same_size_and_time_is_noticed(mirror: Mirror) -> None:
    mirror()
    path = weights.fetch_weights(VARIANT)
    assert weights.is_intact(VARIANT, path)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    (result,) = listing.verify_weights([VARIANT])
    assert (result.path, result.status) == (path, "intact")
    put(OTHER)
    os.utime(path, ns=times)  # same size and time, as in images of containers
    assert not weights.is_intact(VARIANT, path)
    (result,) = listing.verify_weights([VARIANT])
    assert (result.path, result.status) == (path, "damaged")


def test_verify_fails_for_damaged_and_missing_weights() -> None:
    b0 = weights.expected_path(find_variant("b0"))
    assert b0 is not None
    done = effnet("weights", "verify", "b0")
    assert (done.returncode, done.stdout) == (1, "b0: missing\n")
    assert "To fix b0: effnet weights pull b0" in done.stderr
    put(OTHER, b0)
    done = effnet("weights", "verify", "b0", "lite0")
    assert done.returncode == 1
    damaged, intact = done.stdout.splitlines()
    assert damaged == f"b0: damaged: {b0}"
    assert intact.startswith("lite0: intact: ")
