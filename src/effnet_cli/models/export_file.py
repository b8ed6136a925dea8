"""What `effnet export` writes: a file for a runtime, and a JSON beside it that says all the rest.

The JSON (`model.onnx.json` for `model.onnx`) holds the card, what goes in and comes out, and the
SHA-256 of the file: a runtime is not to see bytes that were not written by an export. Only an ONNX
file may come without it, as it carries the card itself, and can be checked before it is run.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from effnet_cli.models.card import ModelCard
from effnet_cli.options import ExportPrecision, FileKind, Quantization, TargetName
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import atomic_write, cache_dir, cached_sha256

FILE_KINDS: Mapping[str, FileKind] = {
    ".onnx": "onnx",
    ".xml": "openvino",
    ".pt2": "pt2",
    ".tflite": "litert",
    ".pte": "executorch",
}
COREML_SUFFIX = ".mlpackage"
JSON_SUFFIX = ".json"
MAX_JSON_BYTES = 64 * 2**20
AGAIN = "Export it again."


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """The JSON beside an exported file.

    `input` and `output` name the tensors, their types, shapes and meaning. `files` has the SHA-256
    of each file by its name. `check` is what was found when the file was compared with its source.
    """

    card: ModelCard
    input: Mapping[str, Any]
    output: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the JSON beside `path`, whole or not at all."""
        extra = {n: getattr(self, n) for n in ("input", "output", "files", "check")}
        content = json.loads(self.card.to_json()) | extra
        text = json.dumps(content, allow_nan=False, sort_keys=True, indent=1)
        with atomic_write(json_path(path)) as part:
            part.write_text(text + "\n", encoding="ascii")


def json_path(path: Path) -> Path:
    """Where the JSON of an exported file is."""
    return path.with_name(path.name + JSON_SUFFIX)


def export_owner(path: Path) -> Path | None:
    """The exported file that the JSON or the weights at `path` were written beside."""
    suffix = path.suffix.lower()
    if suffix == ".bin":
        owner = path.with_suffix(".xml")
    elif suffix == JSON_SUFFIX and file_kind(path.with_suffix("")) != "tensors":
        owner = path.with_suffix("")
    else:
        return None
    return owner if owner.is_file() else None


def is_export(path: Path) -> bool:
    """Whether what is at `path` was exported, as its JSON says; the file may be damaged or gone."""
    try:
        return "export" in json.loads(json_path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def is_model_file(path: Path) -> bool:
    """Whether the file at `path` is an export, a part of one, or called as weights are."""
    if not path.is_file():
        return False
    is_called_so = path.suffix.lower() in (".safetensors", ".onnx", ".pth", ".pt")
    return is_called_so or is_export(path) or export_owner(path) is not None


def file_kind(path: Path) -> FileKind:
    """What a file holds, by its name."""
    return FILE_KINDS.get(path.suffix.lower(), "tensors")


def read_card(path: Path) -> ModelCard:
    """The card of an exported file, once the file is known to be what was written.

    Raises:
        UsageError: the file or its JSON is missing, damaged or foreign; the message names the
        difference.
    """
    facts = json_path(path)
    try:
        if facts.is_file():
            card = _vouched(path, facts)
            if file_kind(path) == "onnx" and not _is_known(path):
                _card_of_onnx(path)
                _remember(path)
            return card
        if file_kind(path) != "onnx":
            raise ValueError(f"{facts.name!r} is not beside it, which says what the classes are")
        return _card_of_onnx(path)
    except (OSError, ValueError, RecursionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".")
        raise UsageError(f"{str(path)!r} is not an exported network: {reason}.", AGAIN) from error


def _vouched(path: Path, facts: Path) -> ModelCard:
    """The card of a file whose digest its JSON tells."""
    if facts.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{facts.name!r} has {facts.stat().st_size:,} bytes")
    try:
        # UTF-8 too, as an editor may leave it
        content = json.loads(facts.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        card = {k: v for k, v in content.items() if k not in ("input", "output", "files", "check")}
        result = ModelCard.from_json(json.dumps(card))
        files, shape = content.get("files"), content.get("input", {}).get("shape")
        if not isinstance(files, dict):
            raise ValueError("it does not say what its files are")
        px = result.preprocessing.crop_px
        if not isinstance(shape, list) or shape.count(px) < 2:
            raise ValueError(f"images of {px} px do not fit the file's input {shape}")
    except (ValueError, AttributeError, RecursionError) as error:
        reason = str(error).partition("; use sys.")[0]  # of numbers that are too long
        raise ValueError(f"{facts.name!r} beside it is damaged ({reason})") from error
    if path.suffix.lower() not in {Path(str(name)).suffix.lower() for name in files}:
        raise ValueError(f"{facts.name!r} beside it speaks of {sorted(map(str, files))}")
    for name, digest in files.items():
        beside = path.with_suffix(Path(str(name)).suffix)  # they may have been renamed together
        if not beside.is_file():
            raise ValueError(f"its other half {beside.name!r} is missing")
        if cached_sha256(beside) != digest:
            raise ValueError(f"the content of {beside.name!r} is not what {facts.name!r} says")
    check_export(result)
    return result


def check_export(card: ModelCard) -> None:
    """Whether a card says what its exported file is.

    Raises:
        ValueError: it does not.
    """
    about = card.export
    batch = about.get("batch", 0)
    if (
        about.get("target") not in get_args(TargetName)
        or not isinstance(about.get("include_preprocessing"), bool)
        or not (batch is None or (type(batch) is int and batch > 0))
        or about.get("precision") not in get_args(ExportPrecision)
        or about.get("quantize", 0) not in (None, *get_args(Quantization))
    ):
        raise ValueError("its header does not say what was exported")


def _card_of_onnx(path: Path) -> ModelCard:
    """The card in an ONNX file, once the whole file has been looked at."""
    from effnet_cli.models.onnx_file import checked_card

    card = checked_card(path)
    check_export(card)
    return card


def _is_known(path: Path) -> bool:
    """Whether these very bytes were looked at before: it takes as long as all else of a start."""
    return _known(path).is_file()


def _remember(path: Path) -> None:
    with suppress(EffnetError), atomic_write(_known(path)) as part:
        part.touch()


def _known(path: Path) -> Path:
    return cache_dir() / "checked" / cached_sha256(path)
