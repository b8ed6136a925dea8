"""The model file: safetensors with one JSON header, readable without torch and without running
code.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from effnet_cli.models.card import CARD_KEY, ModelCard
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

STATE_KEY, DIGEST_KEY = "effnet_state", "effnet_sha256"
MODEL_FILE_NAME, OPTIONS_FILE_NAME = "model.safetensors", "options.json"  # in a run's folder
AGAIN = "Fetch or train it again."

Arrays = Mapping[str, npt.NDArray[Any]]


def is_safetensors(path: Path) -> bool:
    """Whether a file's first bytes are those of safetensors: the header's length, then its
    brace.
    """
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{"


def write(path: Path, card: ModelCard, tensors: Arrays) -> None:
    """Write a model file, whole or not at all.

    Args:
        path: where to, usually `model.safetensors`.
        card: the header.
        tensors: the network's tensors by torchvision's names, float32.
    """
    _write(path, CARD_KEY, card.to_json(), tensors)


def write_state(path: Path, header: Mapping[str, Any], tensors: Arrays) -> None:
    """Write what a training needs to go on, whole or not at all; `header` is plain JSON."""
    _write(path, STATE_KEY, json.dumps(header, allow_nan=False, sort_keys=True), tensors)


def _write(path: Path, key: str, header: str, tensors: Arrays) -> None:
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    metadata = {key: header, DIGEST_KEY: _digest(header, tensors), "format": "pt"}
    with atomic_write(path) as part:
        part.write_bytes(_in_one_order(save(dict(tensors), metadata)))


def _in_one_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted: the library puts them in another order each
    time, and the same model is to be the same bytes.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[start:]])


def read_state(path: Path) -> tuple[dict[str, Any], Arrays]:
    """The header and the tensors that `write_state` wrote.

    Raises:
        UsageError: the file is missing, damaged, or no such state.
    """
    header, tensors = _read(path, STATE_KEY, "the state of a training")
    content: dict[str, Any] = json.loads(header)
    return content, tensors


def _read(path: Path, key: str, what: str) -> tuple[str, Arrays]:
    """The header under `key` and the tensors, checked against the digest."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if not {key, DIGEST_KEY} <= metadata.keys():
                raise ValueError("it lacks effnet's header or digest")
            header, digest = metadata[key], metadata[DIGEST_KEY]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{str(path)!r} is not {what}: {_reason(error)}.", AGAIN) from error
    if _digest(header, tensors) != digest:
        raise UsageError(
            f"{str(path)!r} is damaged: its content is not what its own digest says.", AGAIN
        )
    return header, tensors


def read_card(path: Path) -> ModelCard:
    """The header of a model file; its tensors are not read.

    Raises:
        UsageError: the file is missing, damaged, newer, or no model file of effnet; the message
        names the difference.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        if CARD_KEY not in metadata:
            raise ValueError(
                "it has no header of effnet; use weights without one as --weights with --variant"
            )
        return ModelCard.from_json(metadata[CARD_KEY])
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UsageError(f"{str(path)!r} is not a model file: {_reason(error)}.", AGAIN) from error


def read_arrays(path: Path) -> tuple[ModelCard, Arrays]:
    """The header and the tensors of a model file, checked against the digest that it carries.

    Raises:
        UsageError: as `read_card`, or the content is not what was written.
    """
    card = read_card(path)
    _, tensors = _read(path, CARD_KEY, "a model file")
    return card, tensors


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """The torch tensors of any safetensors file; those of a model file are checked against its
    digest.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{str(path)!r} cannot be read as safetensors: {_reason(error)}.", AGAIN
        ) from error
    if DIGEST_KEY in metadata:
        read_arrays(path)
    return tensors


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".")


def _digest(header: str, tensors: Arrays) -> str:
    """SHA-256 over the header and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(header.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode("ascii"))
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
