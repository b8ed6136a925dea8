"""Files with networks in them: the model file, and all the files from which weights are loaded."""

import argparse
import ast
import io
import json
import os
import pickle
import random
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import Tensor, nn

from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models import build, checkpoint
from effnet_cli.models.card import CARD_KEY, CARD_VERSION, ModelCard
from effnet_cli.models.checkpoint import DIGEST_KEY, MODEL_FILE_NAME
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import expected_path
from effnet_cli.system.errors import EffnetError, UsageError
from helpers import lively

pytestmark = pytest.mark.usefixtures("one_thread")

SRC = Path(checkpoint.__file__).parents[1]
LITE0 = find_variant("lite0")
CLASSES = 7
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

# torch warns about much that is in files; the command shows none of it
hostile = pytest.mark.filterwarnings("ignore::UserWarning")

Tensors = dict[str, Tensor]
Load = Callable[[Path], nn.Module]


# --- the model file ---------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / MODEL_FILE_NAME


def assert_same(given: checkpoint.Arrays, wanted: checkpoint.Arrays) -> None:
    assert given.keys() == wanted.keys()
    for name, array in wanted.items():
        assert given[name].dtype == array.dtype
        assert np.array_equal(given[name], array)


def with_header(path: Path, header: str, arrays: checkpoint.Arrays = ARRAYS) -> Path:
    """A model file with any text for a header, as a person's script may write it."""
    save_arrays(dict(arrays), path, {CARD_KEY: header, DIGEST_KEY: "0" * 64})
    return path


def header_with(**changes: Any) -> str:
    return json.dumps({**json.loads(CARD.to_json()), **changes})


def test_model_file_gives_back_what_was_written(path: Path) -> None:
    checkpoint.write(path, CARD, ARRAYS)
    card, arrays = checkpoint.read_arrays(path)
    assert card == CARD == checkpoint.read_card(path)
    assert isinstance(card.preprocessing.mean, tuple)
    assert_same(arrays, ARRAYS)
    tensors = checkpoint.read_tensors(path)
    assert_same({name: tensor.numpy() for name, tensor in tensors.items()}, ARRAYS)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_header_is_json_that_other_tools_can_read(path: Path) -> None:
    checkpoint.write(path, CARD, ARRAYS)
    with safe_open(path, framework="np") as file:
        content = json.loads(file.metadata()[CARD_KEY])
    assert content["format_version"] == CARD_VERSION
    assert content["classes"] == list(CARD.classes)
    assert content["preprocessing"]["crop_px"] == 57
    assert content["temperature"] == 1.75


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    classes=st.lists(TEXT, min_size=1, max_size=5),
    temperature=st.floats(1e-3, 1e3),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    metrics=st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    options=st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT, max_size=3),
)
def test_any_card_survives(
    classes: list[str],
    temperature: float,
    mean: tuple[float, float, float],
    metrics: dict[str, float],
    options: dict[str, object],
    path: Path,
) -> None:
    card = ModelCard(
        "b0",
        tuple(classes),
        replace(PREPROCESSING, mean=mean),
        temperature,
        options=options,
        metrics=metrics,
    )
    checkpoint.write(path, card, ARRAYS)
    assert checkpoint.read_arrays(path)[0] == card


@pytest.mark.parametrize(
    "name",
    [os.fsdecode(b"\xff\xfe"), "\ud800", "a\nb\r\0", "😀", "ﷺ", '"\\', "", "x" * 10_000, "\u202e"],
)
def test_class_names_of_any_text_survive(name: str, path: Path) -> None:
    checkpoint.write(path, replace(CARD, classes=(name, "other")), ARRAYS)
    assert checkpoint.read_arrays(path)[0].classes == (name, "other")


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
def test_arrays_of_any_layout_survive(array: np.ndarray, path: Path) -> None:
    checkpoint.write(path, CARD, {"x": array})
    assert_same(checkpoint.read_arrays(path)[1], {"x": array})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["metrics", "options", "dataset"])
def test_nan_is_not_written(value: float, place: str, path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        checkpoint.write(path, replace(CARD, **{place: {"figure": [value]}}), ARRAYS)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_flipped_byte_never_changes_an_answer_in_silence(flip: int, path: Path) -> None:
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


def test_flipped_byte_of_the_data_is_found_when_weights_are_loaded(path: Path) -> None:
    checkpoint.write(path, CARD, ARRAYS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        checkpoint.read_tensors(path)


def test_file_of_a_newer_effnet_is_refused_by_its_version(path: Path) -> None:
    with_header(path, header_with(format_version=2))
    with pytest.raises(UsageError, match="format version is 2; this effnet reads 1"):
        checkpoint.read_card(path)


def test_weights_without_a_header_are_told_how_they_are_used(path: Path) -> None:
    save_arrays(ARRAYS, path)
    with pytest.raises(UsageError, match="--weights"):
        checkpoint.read_card(path)
    assert_same(
        {name: tensor.numpy() for name, tensor in checkpoint.read_tensors(path).items()}, ARRAYS
    )


HEADERS = {
    "empty": ("", "Expecting value"),
    "text": ("not JSON", "Expecting value"),
    "list": ("[1]", "not a JSON object"),
    "empty object": ("{}", "format version is None"),
    "100,000 brackets": ("[" * 100_000, ""),
    "version in text": (header_with(format_version="1"), "format version is '1'"),
    "version only": (json.dumps({"format_version": 1}), "preprocessing"),
    "no classes": (header_with(classes=[]), "class names"),
    "numbers for classes": (header_with(classes=[1, 2]), "class names"),
    "text for classes": (header_with(classes="abc"), "class names"),
    "object for classes": (header_with(classes={"cat": 0}), "class names"),
    "null for classes": (header_with(classes=None), ""),
    "empty preprocessing": (header_with(preprocessing={}), "resize_px"),
    "list for preprocessing": (header_with(preprocessing=[224]), "not complete"),
    "temperature 0": (header_with(temperature=0), "temperature is 0"),
    "negative temperature": (header_with(temperature=-1.0), "temperature is -1.0"),
    "text for temperature": (header_with(temperature="1"), "temperature is '1'"),
    "NaN for temperature": (header_with(temperature=float("nan")), ""),
    "NaN in metrics": (header_with(metrics={"loss": float("nan")}), ""),
    "unknown field": (header_with(another=1), "another"),
    "number for variant": (header_with(variant=3), "variant"),
}


@pytest.mark.parametrize(("header", "difference"), HEADERS.values(), ids=HEADERS)
def test_header_that_is_not_ours_is_refused_by_the_first_difference(
    header: str, difference: str, path: Path
) -> None:
    with_header(path, header)
    with pytest.raises(UsageError) as caught:
        checkpoint.read_card(path)
    assert f"{str(path)!r} is not a model file: " in caught.value.message
    assert difference in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_px", "224"),
        ("crop_px", 0),
        ("resize_px", -1),
        ("resize_px", 1.5),
        ("interpolation", "nearest"),
        ("mean", [0.5, 0.5]),
        ("mean", ["a", "b", "c"]),
        ("std", [1, 0, 1]),
        ("std", None),
    ],
)
def test_preprocessing_that_cannot_be_done_is_refused(name: str, value: object, path: Path) -> None:
    preprocessing = {**json.loads(CARD.to_json())["preprocessing"], name: value}
    with_header(path, header_with(preprocessing=preprocessing))
    with pytest.raises(UsageError) as caught:
        checkpoint.read_card(path)
    assert name in caught.value.message


def test_header_that_another_tool_wrote_without_escapes_is_compared(path: Path) -> None:
    header = json.dumps(json.loads(CARD.to_json()), ensure_ascii=False)
    assert "café" in header
    with_header(path, header)
    with pytest.raises(UsageError, match="damaged"):
        checkpoint.read_arrays(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_numbers_that_numpy_does_not_know_are_refused(dtype: torch.dtype, path: Path) -> None:
    metadata = {CARD_KEY: CARD.to_json(), DIGEST_KEY: "0" * 64}
    save_file({"x": torch.zeros(3, dtype=dtype)}, path, metadata)
    with pytest.raises(UsageError):
        checkpoint.read_arrays(path)


def test_model_file_without_its_digest_is_refused(path: Path) -> None:
    save_arrays(ARRAYS, path, {CARD_KEY: CARD.to_json()})
    with pytest.raises(UsageError, match="not a model file"):
        checkpoint.read_arrays(path)


def damaged_contents() -> dict[str, bytes]:
    whole = io.BytesIO()
    torch.save({"x": torch.zeros(3)}, whole)
    return {
        "empty": b"",
        "short": b"\0" * 7,
        "text": b"effnet\n",
        "JSON": CARD.to_json().encode(),
        "random": random.Random(0).randbytes(4096),
        "absurd header length": b"\xff" * 8 + b"{}",
        "header beyond the end": (10**6).to_bytes(8, "little") + b"{}",
        "torch file": whole.getvalue(),
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


def test_full_disk_leaves_the_last_good_file_and_says_so(path: Path) -> None:
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


# --- the state of a training ------------------------------------------------------------------

STATE = {"epoch": 3, "loss": 0.1 + 0.2, "rows": [{"top1": 1 / 3}], "classes": ["\udcff", "é"]}
STATE_ARRAYS = {
    "average.classifier.1.bias": np.float32([1.5, -2.5]),
    "file_keys": np.array([0, 2**64 - 1], np.uint64),
    "network.features.0.1.num_batches_tracked": np.array(7),
    "optimizer.3.step": np.array(12, np.float32),
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    checkpoint.write_state(path, STATE, STATE_ARRAYS)
    return path


def test_state_gives_back_what_was_written(state: Path) -> None:
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
def test_any_state_survives(header: dict[str, Any], state: Path) -> None:
    checkpoint.write_state(state, header, STATE_ARRAYS)
    assert checkpoint.read_state(state)[0] == header


def test_state_with_nan_is_not_written_over_the_last_good_one(state: Path) -> None:
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


def test_state_that_is_not_there_is_refused(tmp_path: Path) -> None:
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
def test_other_files_are_no_states(write: Callable[[Path], object], path: Path) -> None:
    write(path)
    with pytest.raises(UsageError) as caught:
        checkpoint.read_state(path)
    assert f"{str(path)!r} is not a training state: " in caught.value.message
    assert not re.search(r"NoneType|effnet_state", caught.value.message)  # words, no Python


def test_state_is_no_model_file(state: Path) -> None:
    for read in (checkpoint.read_card, checkpoint.read_arrays):
        with pytest.raises(UsageError, match="has no effnet header"):
            read(state)


# --- weights from files that people have ------------------------------------------------------


@pytest.fixture(scope="session")
def tensors() -> Tensors:
    """The tensors of a lite0 with 7 classes, seeded."""
    torch.manual_seed(0)
    return build.build(LITE0, CLASSES).state_dict()


def load(path: Path) -> nn.Module:
    return build.load(LITE0, CLASSES, path)


def saved(content: object, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def as_safetensors(tensors: Tensors, path: Path) -> Path:
    save_file(tensors, path)
    return path


def as_model_file(tensors: Tensors, path: Path) -> Path:
    card = ModelCard("lite0", tuple("abcdefg"), LITE0.preprocessing)
    checkpoint.write(path, card, {name: tensor.numpy() for name, tensor in tensors.items()})
    return path


def assert_holds(network: nn.Module, tensors: Tensors) -> None:
    """`network` is ready to answer, with the weights `tensors`."""
    given = network.state_dict()
    assert not network.training
    for name, tensor in tensors.items():
        if not name.endswith("num_batches_tracked"):
            assert given[name].dtype == torch.float32
            assert torch.equal(given[name], tensor.float()), name
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    "save",
    [
        lambda tensors, folder: saved(tensors, folder / "w.pth"),
        lambda tensors, folder: saved(
            tensors, folder / "w.pth", _use_new_zipfile_serialization=False
        ),
        lambda tensors, folder: saved(tensors, folder / "w.safetensors"),
        lambda tensors, folder: as_safetensors(tensors, folder / "w.safetensors"),
        lambda tensors, folder: as_safetensors(tensors, folder / "w.pth"),
        lambda tensors, folder: as_model_file(tensors, folder / "w.safetensors"),
        lambda tensors, folder: saved({"state_dict": tensors, "epoch": 3}, folder / "w.pth"),
        lambda tensors, folder: saved({"model": tensors}, folder / "w.pth"),
        lambda tensors, folder: saved(
            {"state_dict": tensors, "args": argparse.Namespace(lr=0.1)}, folder / "w.pth"
        ),
        lambda tensors, folder: saved(
            {f"module.{name}": tensor for name, tensor in tensors.items()}, folder / "w.pth"
        ),
        lambda tensors, folder: as_safetensors(
            {f"module.{name}": tensor for name, tensor in tensors.items()}, folder / "w.safetensors"
        ),
        lambda tensors, folder: saved(
            {
                name: tensor
                for name, tensor in tensors.items()
                if not name.endswith("num_batches_tracked")
            },
            folder / "w.pth",
        ),
    ],
    ids=["zip", "legacy", "zip called safetensors", "safetensors", "safetensors called pth",
         "model file", "state_dict", "model", "timm's arguments", "module.",
         "module. in safetensors", "no counters"],
)  # fmt: skip
def test_weights_are_loaded_however_they_were_saved(
    save: Callable[[Tensors, Path], Path], tensors: Tensors, tmp_path: Path
) -> None:
    assert_holds(load(save(tensors, tmp_path)), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_other_precisions_become_float32(
    dtype: torch.dtype, tensors: Tensors, tmp_path: Path
) -> None:
    converted = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    assert_holds(load(as_safetensors(converted, tmp_path / "w.safetensors")), converted)


@pytest.mark.parametrize("name", ["b0", "lite2", "v2_s"])
def test_torchvisions_naming_is_ours(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = build.build(find_variant(name), CLASSES).state_dict()
    network = build.load(find_variant(name), CLASSES, saved(tensors, tmp_path / "w.pth"))
    assert_holds(network, tensors)


def assert_answers_alike(network: nn.Module, other: nn.Module, size: int = 96) -> None:
    """In float64: untrained networks blow the rounding of float32 up, on each processor
    differently.
    """
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, size, size, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        given, wanted = network.double()(pixels), other.double()(pixels)
    assert wanted.std() > 0.5  # else any network would do
    torch.testing.assert_close(given, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "name_in_timm", "eps"),
    [
        ("b0", "efficientnet_b0", 1e-5),
        ("lite0", "tf_efficientnet_lite0", 1e-3),
        ("lite1", "tf_efficientnet_lite1", 1e-3),
        ("v2_s", "efficientnetv2_s", 1e-3),
    ],
)
def test_timms_files_answer_as_in_timm(
    name: str, name_in_timm: str, eps: float, tmp_path: Path
) -> None:
    import timm

    theirs = timm.create_model(name_in_timm, num_classes=CLASSES)
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = eps  # torchvision's
    lively(theirs)
    for path in (
        saved({"state_dict": theirs.state_dict()}, tmp_path / "w.pth"),
        as_safetensors(theirs.state_dict(), tmp_path / "w.safetensors"),
    ):
        assert_answers_alike(build.load(find_variant(name), CLASSES, path), theirs)


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_packaged_weights_answer_as_in_timm(name: str) -> None:
    path = expected_path(find_variant(name))
    assert path is not None
    import timm

    theirs = timm.create_model(f"tf_efficientnet_{name}").eval()
    packaged = torch.load(path, weights_only=True)
    # other names, but the same order
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), packaged.values(), strict=True)), strict=True
    )
    assert_answers_alike(build.load(find_variant(name), 1000, path), theirs)


# --- files that are refused -------------------------------------------------------------------


class Touch:
    """Unpickled, it makes a file: code that runs."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.marker), "w")


PICKLES: dict[str, Callable[[object, Path], object]] = {
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
    "pickle protocol 0": lambda content, path: path.write_bytes(pickle.dumps(content, 0)),
    "torch zip": lambda content, path: torch.save(content, path),
    "torch legacy": lambda content, path: torch.save(
        content, path, _use_new_zipfile_serialization=False
    ),
}


@hostile
@pytest.mark.parametrize("save", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".bin", ""])
def test_code_in_a_pickle_is_refused_and_does_not_run(
    save: Callable[[object, Path], object], suffix: str, tensors: Tensors, tmp_path: Path
) -> None:
    path, marker = tmp_path / f"weights{suffix}", tmp_path / "it ran"
    for content in (Touch(marker), {**tensors, "epoch": Touch(marker)}):
        save(content, path)
        with pytest.raises(UsageError, match="refused") as caught:
            load(path)
        assert repr(str(path)) in caught.value.message
        assert not marker.exists()


def test_the_pickle_above_runs_code_where_nothing_forbids_it(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Touch(marker))).close()
    assert marker.exists()


def test_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="refused") as caught:
        load(saved(build.build(LITE0, CLASSES), tmp_path / "w.pth"))
    assert "state_dict" in caught.value.hint


@hostile
def test_torchscript_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    path = saved({"x": torch.zeros(3)}, tmp_path / "w.pt")
    with zipfile.ZipFile(path, "a") as archive:  # by which torch knows a program
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/constants.pkl", b"")
    with pytest.raises(UsageError) as caught:
        load(path)
    assert repr(str(path)) in caught.value.message
    assert "weights_only" not in str(caught.value)


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key != name}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: change(tensors[name].clone())}


def with_first(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return change


BIAS, STEM, MEAN = "classifier.1.bias", "features.0.0.weight", "features.0.1.running_mean"
DIFFERENCES: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (lambda tensors: without(tensors, BIAS), f"{BIAS} is missing"),
    "missing first": (lambda tensors: without(without(tensors, BIAS), STEM), f"{STEM} is missing"),
    "extra": (lambda tensors: {**tensors, "ema.x": torch.zeros(2)}, "ema.x is not one"),
    "shape": (changed(BIAS, lambda bias: bias[:-1]), f"{BIAS} has the shape [6] and not [7]"),
    "dimensions": (changed(BIAS, lambda bias: bias[None]), f"{BIAS} has the shape [1, 7]"),
    "NaN": (changed(STEM, with_first(float("nan"))), f"{STEM} holds NaN"),
    "infinite": (changed(MEAN, with_first(-float("inf"))), f"{MEAN} holds NaN or inf"),
    "infinite in float32": (changed(BIAS, lambda bias: bias.double() + 1e300), BIAS),
    "int64": (changed(BIAS, Tensor.long), BIAS),
    "int64 statistics": (changed(MEAN, Tensor.long), MEAN),
    "bool": (changed(BIAS, Tensor.bool), BIAS),
    "complex": (changed(BIAS, lambda bias: bias.to(torch.complex64)), BIAS),
    "sparse": (changed(BIAS, Tensor.to_sparse), BIAS),
    "no data": (changed(BIAS, lambda bias: bias.to("meta")), BIAS),
    "nothing": (lambda tensors: {}, "is missing"),
}


@hostile
@pytest.mark.parametrize(("change", "difference"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_other_tensors_are_refused_by_the_first_difference(
    change: Callable[[Tensors], Tensors], difference: str, tensors: Tensors, tmp_path: Path
) -> None:
    path = saved(change(tensors), tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        load(path)
    assert f"{str(path)!r} does not hold the weights of lite0: " in caught.value.message
    assert difference in caught.value.message
    assert "--variant" in caught.value.hint


def test_difference_in_a_timm_file_is_named(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES).state_dict()
    with pytest.raises(UsageError, match="is missing"):
        load(saved(without(theirs, "blocks.2.1.conv_pwl.weight"), tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["lite1", "b0", "v2_s"])
def test_weights_of_another_variant_are_refused(
    name: str, tensors: Tensors, tmp_path: Path
) -> None:
    path = saved(tensors, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=f"does not hold the weights of {name}: "):
        build.load(find_variant(name), CLASSES, path)


def test_weights_of_another_number_of_classes_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    path = saved(tensors, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"classifier\.1\.weight has the shape \[7, 1280\]"):
        build.load(LITE0, 1000, path)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text", None, 3.5], ids=repr)
def test_torch_file_of_something_else_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not named tensors"):
        load(saved(content, tmp_path / "w.pth"))


OTHER_FILES = {
    "empty": b"",
    "text": b"these are no weights\n",
    "random": random.Random(0).randbytes(10_000),
    "image": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "deep pickle": b"\x80\x02" + b"(" * 100_000 + b".",
    "looks like safetensors": b"\xff" * 8 + b"{" + b" " * 100,
    "header only": (2).to_bytes(8, "little") + b"{}",
}


@hostile
@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_are_not_weights(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert repr(str(path)) in caught.value.message
    assert "\n" not in caught.value.message


def test_other_zip_archive_is_not_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UsageError):
        load(path)


@pytest.fixture
def load_linear(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads as for any network, but for a tiny one."""
    monkeypatch.setattr(build, "build", lambda variant, num_classes: nn.Linear(3, num_classes))
    return lambda path: build.load(LITE0, 2, path)


FORMATS: dict[str, Callable[[Tensors, Path], Path]] = {
    "zip": saved,
    "legacy": lambda tensors, path: saved(tensors, path, _use_new_zipfile_serialization=False),
    "safetensors": as_safetensors,
}


@hostile
@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_every_truncated_file_is_refused(
    save: Callable[[Tensors, Path], Path], load_linear: Load, tmp_path: Path
) -> None:
    path = save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    content = path.read_bytes()
    assert load_linear(path).in_features == 3
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(UsageError):
            load_linear(path)


@hostile
@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_damaged_file_is_loaded_or_refused_in_words(
    save: Callable[[Tensors, Path], Path], load_linear: Load, tmp_path: Path
) -> None:
    path = save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    content, chance = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 1, 4])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            load_linear(path)
        except UsageError:
            refused += 1
    assert refused > 100


@hostile
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from([b"", b"\x80\x02", b"\x80\x04\x95", b"PK\x03\x04"]))
def test_any_bytes_are_refused_in_words(
    load_linear: Load, tmp_path: Path, content: bytes, start: bytes
) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(start + content)
    with pytest.raises(UsageError):
        load_linear(path)


# --- a new classifier ---------------------------------------------------------------------------


def with_head(hidden: int, name: str = "lite0") -> nn.Module:
    torch.manual_seed(1)
    network = build.build(find_variant(name), 1000)
    build.set_head(network, CLASSES, hidden)
    return network.eval()


@pytest.mark.parametrize("name", ["lite0", "b0", "v2_s"])
@pytest.mark.parametrize("hidden", [0, 16])
def test_new_classifier_has_the_layers_that_were_asked_for(name: str, hidden: int) -> None:
    network = build.build(find_variant(name), 1000)
    dropout = network.get_submodule("classifier.0")
    features = network.get_submodule("classifier.1").in_features
    head = build.set_head(network, CLASSES, hidden)
    assert network.get_submodule("classifier") is head
    assert network.get_submodule("classifier.0") is dropout
    shapes = [tuple(p.shape) for p in head.parameters() if p.ndim > 1]
    assert shapes == ([(hidden, features), (CLASSES, hidden)] if hidden else [(CLASSES, features)])
    assert network.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, CLASSES)


def test_classifier_can_be_replaced_again() -> None:
    network = with_head(16)
    build.set_head(network, 2)
    assert set(network.get_submodule("classifier").state_dict()) == {"1.weight", "1.bias"}
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_hidden_layer_is_a_layer(tmp_path: Path) -> None:
    """ReLU between the two: the logits of a sum are not the sum of the logits."""
    head = with_head(16).get_submodule("classifier")
    features = torch.randn(4, 1280, generator=torch.Generator().manual_seed(0)) * 5
    with torch.inference_mode():
        assert not torch.allclose(head(features) + head(-features), 2 * head(features * 0))


@pytest.mark.parametrize("name", ["lite0", "b0"])
@pytest.mark.parametrize("save", [saved, as_safetensors], ids=["torch", "safetensors"])
def test_hidden_layer_is_known_by_its_tensors(
    name: str, save: Callable[[Tensors, Path], Path], tmp_path: Path
) -> None:
    network = with_head(16, name)
    loaded = build.load(find_variant(name), CLASSES, save(network.state_dict(), tmp_path / "w.bin"))
    assert_holds(loaded, network.state_dict())
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(loaded(pixels), network(pixels))


HIDDEN, HEAD = "classifier.1.weight", "classifier.4.weight"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (changed(HIDDEN, lambda w: w[:, :-1]), f"{HIDDEN} has the shape [16, 1279]"),
        (changed(HIDDEN, lambda w: w[0]), f"{HIDDEN} has the shape [1280] and not [7, 1280]"),
        (changed(HIDDEN, lambda w: w[:0]), f"{HIDDEN} has the shape [0, 1280] and not [7, 1280]"),
        (changed(HIDDEN, lambda w: w[:15]), "classifier.1.bias has the shape [16] and not [15]"),
        (changed(HEAD, lambda w: w[:, :15]), f"{HEAD} has the shape [7, 15] and not [7, 16]"),
        (changed(HEAD, lambda w: w[:6]), f"{HEAD} has the shape [6, 16] and not [7, 16]"),
        (changed(HEAD, lambda w: w * float("nan")), f"{HEAD} holds NaN"),
        (lambda t: without(t, "classifier.4.bias"), "classifier.4.bias is missing"),
        (lambda t: without(t, "classifier.1.bias"), "classifier.1.bias is missing"),
        (lambda t: without(t, HEAD), f"{HIDDEN} has the shape [16, 1280] and not [7, 1280]"),
        (lambda t: without(t, HIDDEN), f"{HIDDEN} is missing"),
        (lambda t: {**t, "classifier.7.weight": torch.zeros(1)}, "classifier.7.weight is not one"),
    ],
)
def test_classifier_that_does_not_fit_is_refused_by_the_first_difference(
    change: Callable[[Tensors], Tensors], difference: str, tmp_path: Path
) -> None:
    path = saved(change(with_head(16).state_dict()), tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        load(path)
    assert difference in caught.value.message


# --- the source -------------------------------------------------------------------------------


def test_every_torch_load_in_the_source_forbids_code() -> None:
    calls = [
        node
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert calls
    for call in calls:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get("weights_only") == "True", ast.unparse(call)


def test_nothing_in_the_source_unpickles_by_other_ways() -> None:
    ways = {"pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "torch.hub.load",
            "torch.hub.load_state_dict_from_url", "load_state_dict_from_url", "joblib.load",
            "model_zoo.load_url", "torch.export.load"}  # fmt: skip
    found = [
        f"{path.name}: {ast.unparse(node)}"
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ways
    ]
    aliases = [
        f"{path.name}: {ast.unparse(node)}"
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module == "pickle" or {alias.name for alias in node.names} & {"load", "hub"})
        and (node.module or "").partition(".")[0] in ("torch", "pickle")
    ]
    # asked for by its file's name, and refused if there are pickles in it
    assert found + aliases == ["torch_engine.py: torch.export.load(network.path)"]
