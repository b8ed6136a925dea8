"""Exported files: each is a file for a runtime, with a JSON file next to it that holds the card.

The JSON (`model.onnx.json` for `model.onnx`) also describes input and output, and has the SHA-256
of the file, so that a runtime only loads files that effnet exported. An ONNX file may come without
the JSON, because it contains the card itself and can be checked before it runs.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from effnet_cli.models import timm_config
from effnet_cli.models.card import (
    FOLDS_FILE_NAME,
    LOCK_FILE_NAME,
    METRICS_FILE_NAME,
    MODEL_FILE_NAME,
    OPTIONS_FILE_NAME,
    REPORT_FILE_NAME,
    SPLIT_FILE_NAME,
    ModelCard,
    describe_read_error,
)
from effnet_cli.options import FileKind
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import atomic_write, cache_dir, cached_sha256, is_file

EXPORT_KINDS: Mapping[str, FileKind] = {
    ".onnx": "onnx",
    ".xml": "openvino",
    ".pt2": "pt2",
    ".tflite": "litert",
    ".pte": "executorch",
}
RUN_FILE_NAMES = (
    *(OPTIONS_FILE_NAME, METRICS_FILE_NAME, SPLIT_FILE_NAME, FOLDS_FILE_NAME),
    *(REPORT_FILE_NAME, LOCK_FILE_NAME),
)
COREML_SUFFIX = ".mlpackage"
JSON_SUFFIX = ".json"
MAX_EXPORT_JSON_BYTES = 64 * 2**20
# In the JSON besides the card's fields: dtype, shape and meaning of the input and the output,
# SHA-256 of the files by name, and the comparison with the source model.
JSON_FIELDS = ("input", "output", "features", "files", "check")


def file_kind(path: Path) -> FileKind:
    """Return what a file holds, judging by its suffix."""
    return EXPORT_KINDS.get(path.suffix.lower(), "tensors")


def json_path(path: Path) -> Path:
    """Return the path of the JSON that belongs to an exported file."""
    return path.with_name(path.name + JSON_SUFFIX)


def write_json(path: Path, card: ModelCard, about: Mapping[str, Any]) -> None:
    """Write the JSON next to `path` atomically; `about` has the `JSON_FIELDS`."""
    content = {**json.loads(card.to_json()), **about}
    text = json.dumps(content, allow_nan=False, sort_keys=True, indent=1)
    with atomic_write(json_path(path)) as part:
        part.write_text(text + "\n", encoding="ascii")


def export_owner(path: Path) -> Path | None:
    """Return the exported file that `path`, a JSON or weights file, belongs to, if any."""
    suffix = path.suffix.lower()
    if suffix not in (".bin", JSON_SUFFIX):
        return None
    owner = path.with_suffix(".xml" if suffix == ".bin" else "")
    return owner if file_kind(owner) != "tensors" and owner.is_file() else None


def is_export(path: Path) -> bool:
    """Return whether the JSON of `path` is that of an export; the file may be damaged or gone."""
    try:
        return "export" in json.loads(json_path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def is_model_file(path: Path) -> bool:
    """Return whether a file belongs to an export, a run or timm, or is named like weights."""
    if not path.is_file():
        return False
    if path.name in RUN_FILE_NAMES and path.with_name(OPTIONS_FILE_NAME).is_file():
        return True
    siblings = (MODEL_FILE_NAME, timm_config.TORCH_FILE_NAME)
    is_of_timm = path.name in (timm_config.CONFIG_FILE_NAME, timm_config.PAGE_FILE_NAME)
    has_config = timm_config.config_path(path).is_file()
    if is_of_timm and has_config and any(path.with_name(one).exists() for one in siblings):
        return True
    is_weights = path.suffix.lower() in (".safetensors", ".onnx", ".pth", ".pt")
    return is_weights or is_export(path) or export_owner(path) is not None


def read_card(path: Path) -> ModelCard:
    """Return the card of an exported file, after checking that the file is unchanged.

    `UsageError` with the reason if it or its JSON is missing, damaged or not from effnet, or if the
    file makes no predictions.
    """
    card = _read_any_card(path)
    if card.export.get("feature_maps"):
        raise UsageError(
            f"{str(path)!r} outputs feature maps for a detector, not predictions.",
            "Use the model file it was exported from, or export it without --feature-maps.",
        )
    return card


def _read_any_card(path: Path) -> ModelCard:
    json_file = json_path(path)
    try:
        if json_file.is_file():
            card = _read_json(path, json_file)
            if file_kind(path) == "onnx":
                _check_onnx_once(path)
            return card
        if file_kind(path) != "onnx":
            raise ValueError(f"{json_file.name!r}, which names the classes, is not beside it")
        return _read_onnx(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{str(path)!r} is not an exported model: {describe_read_error(error)}.",
            "Export it again.",
        ) from error


def _read_json(path: Path, json_file: Path) -> ModelCard:
    """Return the card in the JSON, after checking the digest of every file of the export."""
    if json_file.stat().st_size > MAX_EXPORT_JSON_BYTES:
        raise ValueError(f"{json_file.name!r} is too large ({json_file.stat().st_size:,} bytes)")
    try:
        card, files = _parse_json(json_file.read_text(encoding="utf-8-sig"))
    except (ValueError, AttributeError, RecursionError) as error:
        reason = str(error).partition("; use sys.")[0]  # Python's advice on very long integers
        raise ValueError(f"{json_file.name!r} beside it is damaged ({reason})") from error
    if path.suffix.lower() not in {Path(name).suffix.lower() for name in files}:
        raise ValueError(f"{json_file.name!r} beside it describes {sorted(files)}")
    for name, digest in files.items():
        part = path.with_suffix(Path(name).suffix)  # all files may have been renamed together
        if not part.is_file():
            raise ValueError(f"its other file {part.name!r} is missing")
        if cached_sha256(part) != digest:
            raise ValueError(f"the content of {part.name!r} does not match {json_file.name!r}")
    card.check_export()
    return card


def _parse_json(text: str) -> tuple[ModelCard, dict[str, str]]:
    """Return the card, and the digest of each file by name."""
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    card = ModelCard.from_json(
        json.dumps({name: v for name, v in content.items() if name not in JSON_FIELDS})
    )
    files, shape = content.get("files"), content.get("input", {}).get("shape")
    if not isinstance(files, dict):
        raise ValueError("it does not list its files")
    px, has_any_size = card.preprocessing.crop_px, card.export.get("feature_maps")
    if not has_any_size and (not isinstance(shape, list) or shape.count(px) < 2):
        raise ValueError(f"images of {px} px do not fit the file's input {shape}")
    return card, files


def _check_onnx_once(path: Path) -> None:
    """Check an ONNX file once per content, because the check doubles the start-up time."""
    stamp = cache_dir() / "checked" / cached_sha256(path)
    if not is_file(stamp):
        _read_onnx(path)
        with suppress(EffnetError), atomic_write(stamp) as part:
            part.touch()


def _read_onnx(path: Path) -> ModelCard:
    from effnet_cli.models.onnx_file import read_checked_card

    card = read_checked_card(path)
    card.check_export()
    return card
