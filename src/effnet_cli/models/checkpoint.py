"""Read and write model files: safetensors with the card in the metadata.

Reading one needs no torch and runs no code from the file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from effnet_cli.models import timm_config
from effnet_cli.models.card import CARD_KEY, ModelCard, describe_read_error
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

STATE_KEY, DIGEST_KEY = "effnet_state", "effnet_sha256"
READ_ERRORS = (OSError, SafetensorError, ValueError, TypeError, AttributeError, RecursionError)
RECREATE = "Download it again or retrain."

Arrays = Mapping[str, npt.NDArray[Any]]


def is_safetensors(path: Path) -> bool:
    """Return whether a file starts like safetensors: an 8-byte header length, then a brace."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{"


def write(path: Path, card: ModelCard, tensors: Arrays) -> None:
    """Write a model file atomically. `tensors` are float32, with torchvision's names."""
    _write(path, tensors, key=CARD_KEY, header=card.to_json())


def write_state(path: Path, header: Mapping[str, Any], tensors: Arrays) -> None:
    """Atomically write the state that a run resumes from; `header` must be JSON-serialisable."""
    text = json.dumps(header, allow_nan=False, sort_keys=True)
    _write(path, tensors, key=STATE_KEY, header=text)


def _write(path: Path, tensors: Arrays, *, key: str, header: str) -> None:
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    metadata = {key: header, DIGEST_KEY: _digest(header, arrays), "format": "pt"}
    with atomic_write(path) as part:
        part.write_bytes(_sort_metadata(save(arrays, metadata)))


def _sort_metadata(content: bytes) -> bytes:
    """Sort the metadata, which safetensors orders randomly, so equal models have equal bytes."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[start:]])


def read_card(path: Path) -> ModelCard:
    """Return the card of a model file without reading the tensors.

    `UsageError` if the file is missing, damaged, of another version, or not a model file.
    """
    with _check_file(path, "a model file"):
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        if CARD_KEY not in metadata:
            raise UsageError(
                f"{str(path)!r} has no effnet header, and {str(timm_config.config_path(path))!r} "
                "is missing or not timm's.",
                "Add the config.json that timm saved, or use --weights and --variant.",
            )
        return ModelCard.from_json(metadata[CARD_KEY])


def is_model_file(path: Path) -> bool:
    """Return whether a file has an effnet header, valid or not."""
    if not is_safetensors(path):
        return False
    try:
        with safe_open(path, framework="np") as file:
            return CARD_KEY in (file.metadata() or {})
    except READ_ERRORS:
        return False


def read_arrays(path: Path) -> tuple[ModelCard, Arrays]:
    """Return a model file's card and digest-checked tensors; errors as in `read_card`."""
    card = read_card(path)
    _, tensors = _read(path, CARD_KEY, "a model file")
    return card, tensors


def read_state(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Return the header and tensors that `write_state` wrote; `UsageError` for any other file."""
    header, tensors = _read(path, STATE_KEY, "a training state")
    return json.loads(header), tensors


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Return the torch tensors of any safetensors file, checking effnet's digest if it has one."""
    with _check_file(path, "a safetensors file"), safe_open(path, framework="pt") as file:
        if DIGEST_KEY not in (file.metadata() or {}):
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    import torch

    return {name: torch.from_numpy(array) for name, array in read_arrays(path)[1].items()}


def _read(path: Path, key: str, what: str) -> tuple[str, Arrays]:
    """Return the header under `key` and the tensors, after checking the digest."""
    with _check_file(path, what), safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        if not {key, DIGEST_KEY} <= metadata.keys():
            raise ValueError("it lacks the effnet header or digest")
        header, digest = metadata[key], metadata[DIGEST_KEY]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if _digest(header, tensors) != digest:
        raise UsageError(f"{str(path)!r} is corrupt: checksum mismatch.", RECREATE)
    return header, tensors


@contextmanager
def _check_file(path: Path, what: str) -> Iterator[None]:
    """Turn any error caused by a damaged or unsuitable file into a `UsageError`."""
    try:
        yield
    except READ_ERRORS as error:
        reason = describe_read_error(error)
        raise UsageError(f"{str(path)!r} is not {what}: {reason}.", RECREATE) from error


def _digest(header: str, tensors: Arrays) -> str:
    """Return the SHA-256 of the header and every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(header.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode("ascii"))
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
