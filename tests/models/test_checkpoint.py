"""The model file and the training state: written atomically, validated when read."""

import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from effnet_cli.models import checkpoint
from effnet_cli.models.card import CARD_KEY, MODEL_FILE_NAME
from effnet_cli.models.checkpoint import DIGEST_KEY
from effnet_cli.system.errors import EffnetError, UsageError
from model_files import ARRAYS, CARD, TEXT, assert_same, with_header

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / MODEL_FILE_NAME


def test_model_file_round_trips(path: Path) -> None:
    checkpoint.write(path, CARD, ARRAYS)
    card, arrays = checkpoint.read_arrays(path)
    assert card == CARD == checkpoint.read_card(path)
    assert isinstance(card.preprocessing.mean, tuple)
    assert_same(arrays, ARRAYS)
    tensors = checkpoint.read_tensors(path)
    assert_same({name: tensor.numpy() for name, tensor in tensors.items()}, ARRAYS)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
        np.arange(12, dtype=np.float32)[::2],
        torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last).numpy(),
        np.array(3, dtype=np.float32),
        np.zeros((0, 3), dtype=np.float32),
        np.arange(3, dtype=np.int64),
        np.arange(3, dtype=np.float16),
    ],
    ids=["transposed", "fortran", "strided", "channels_last", "0-d", "empty", "int64", "float16"],
)
def test_any_array_layout_round_trips(array: np.ndarray, path: Path) -> None:
    checkpoint.write(path, CARD, {"x": array})
    assert_same(checkpoint.read_arrays(path)[1], {"x": array})


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_flipped_byte_is_refused_or_harmless(flip: int, path: Path) -> None:
    checkpoint.write(path, CARD, ARRAYS)
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        try:
            card, arrays = checkpoint.read_arrays(path)
        except UsageError as error:
            refused += 1
            assert repr(str(path)) in error.message
        else:
            assert card == CARD, position
            assert_same(arrays, ARRAYS)
    assert refused > 0.9 * len(content)


def test_flipped_byte_in_the_tensors_is_refused(path: Path) -> None:
    checkpoint.write(path, CARD, ARRAYS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is corrupt"):
        checkpoint.read_tensors(path)


def test_error_for_weights_without_a_header_names_the_option(path: Path) -> None:
    save_arrays(ARRAYS, path)
    with pytest.raises(UsageError, match="--weights"):
        checkpoint.read_card(path)
    assert_same(
        {name: tensor.numpy() for name, tensor in checkpoint.read_tensors(path).items()}, ARRAYS
    )


def test_digest_covers_the_exact_header_text(path: Path) -> None:
    header = json.dumps(json.loads(CARD.to_json()), ensure_ascii=False)
    assert "café" in header
    with_header(path, header)
    with pytest.raises(UsageError, match="is corrupt"):
        checkpoint.read_arrays(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_dtypes_unknown_to_numpy_are_refused(dtype: torch.dtype, path: Path) -> None:
    metadata = {CARD_KEY: CARD.to_json(), DIGEST_KEY: "0" * 64}
    save_file({"x": torch.zeros(3, dtype=dtype)}, path, metadata)
    with pytest.raises(UsageError):
        checkpoint.read_arrays(path)


def test_model_file_without_its_digest_is_refused(path: Path) -> None:
    save_arrays(ARRAYS, path, {CARD_KEY: CARD.to_json()})
    with pytest.raises(UsageError, match="not a model file"):
        checkpoint.read_arrays(path)


def damaged_contents() -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(3)}, buffer)
    return {
        "empty": b"",
        "short": b"\0" * 7,
        "text": b"effnet\n",
        "JSON": CARD.to_json().encode(),
        "random": random.Random(0).randbytes(4096),
        "absurd header length": b"\xff" * 8 + b"{}",
        "header beyond the end": (10**6).to_bytes(8, "little") + b"{}",
        "torch file": buffer.getvalue(),
    }


@pytest.mark.parametrize("content", damaged_contents().values(), ids=damaged_contents())
def test_other_files_are_not_model_files(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    for read in (checkpoint.read_card, checkpoint.read_arrays, checkpoint.read_tensors):
        with pytest.raises(UsageError) as caught:
            read(path)
        assert repr(str(path)) in caught.value.message


def test_every_truncation_is_refused(path: Path) -> None:
    checkpoint.write(path, CARD, ARRAYS)
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(UsageError):
            checkpoint.read_card(path)


@pytest.mark.linux
def test_full_disk_keeps_the_previous_file(path: Path) -> None:
    import resource

    checkpoint.write(path, CARD, ARRAYS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(EffnetError, match="Cannot write .*: File too large") as caught:
            checkpoint.write(path, CARD, {"x": np.zeros(100_000, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert repr(str(path)) in caught.value.message
    assert_same(checkpoint.read_arrays(path)[1], ARRAYS)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


STATE = {"epoch": 3, "loss": 0.1 + 0.2, "rows": [{"top1": 1 / 3}], "classes": ["\udcff", "é"]}
STATE_ARRAYS = {
    "average.classifier.1.bias": np.float32([1.5, -2.5]),
    "file_keys": np.array([0, 2**64 - 1], np.uint64),
    "trained.features.0.1.num_batches_tracked": np.array(7),
    "optimizer.3.step": np.array(12, np.float32),
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    checkpoint.write_state(path, STATE, STATE_ARRAYS)
    return path


def test_state_round_trips(state: Path) -> None:
    header, arrays = checkpoint.read_state(state)
    assert header == STATE
    assert_same(arrays, STATE_ARRAYS)
    assert list(state.parent.iterdir()) == [state]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(
        TEXT,
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=64) | TEXT,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    ).filter(lambda header: "Infinity" not in json.dumps(header))
)
def test_any_state_round_trips(header: dict[str, Any], state: Path) -> None:
    checkpoint.write_state(state, header, STATE_ARRAYS)
    assert checkpoint.read_state(state)[0] == header


def test_state_with_nan_does_not_replace_the_previous_one(state: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        checkpoint.write_state(state, {"loss": float("nan")}, STATE_ARRAYS)
    assert checkpoint.read_state(state)[0] == STATE


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_damaged_state_is_refused(flip: int, state: Path) -> None:
    content = state.read_bytes()
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= flip
        state.write_bytes(damaged)
        try:
            header, arrays = checkpoint.read_state(state)
        except UsageError as error:
            refused += 1
            assert repr(str(state)) in error.message
        else:
            assert header == STATE, position
            assert_same(arrays, STATE_ARRAYS)
    assert refused > 0.9 * len(content)


def test_every_truncated_state_is_refused(state: Path) -> None:
    content = state.read_bytes()
    for end in range(len(content)):
        state.write_bytes(content[:end])
        with pytest.raises(UsageError, match="is not a training state"):
            checkpoint.read_state(state)


def test_missing_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a training state: No such file"):
        checkpoint.read_state(tmp_path / "state.safetensors")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: checkpoint.write(path, CARD, ARRAYS),
        lambda path: save_arrays(dict(ARRAYS), path),
        lambda path: save_arrays(dict(ARRAYS), path, {"format": "pt"}),
        lambda path: path.write_bytes(b"PK\x03\x04"),
        lambda path: path.write_bytes(b""),
    ],
    ids=["model file", "no header", "another header", "zip", "empty"],
)
def test_other_files_are_not_states(write: Callable[[Path], object], path: Path) -> None:
    write(path)
    with pytest.raises(UsageError) as caught:
        checkpoint.read_state(path)
    assert f"{str(path)!r} is not a training state: " in caught.value.message
    assert not re.search(
        r"NoneType|effnet_state", caught.value.message
    )  # plain words, no Python names


def test_state_is_not_a_model_file(state: Path) -> None:
    for read in (checkpoint.read_card, checkpoint.read_arrays):
        with pytest.raises(UsageError, match="has no effnet header"):
            read(state)
