"""The files of an export: written in a folder of their own, moved to their names at the end."""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from effnet_cli.export.source import ExportSource
from effnet_cli.export.targets import TARGETS, Target
from effnet_cli.models.export_file import ExportInfo, json_path
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.files import cannot_write, sha256


@contextmanager
def scratch_folder(final: Path) -> Iterator[Path]:
    """A folder beside the final file, which vanishes with all that is still in it."""
    scratch = final.with_name(f".{final.name[:50]}.{secrets.token_hex(8)}.part")
    try:
        scratch.mkdir(parents=True)
        yield scratch
    except OSError as error:
        raise cannot_write(final, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def written(source: ExportSource, target: Target, path: Path) -> Path:
    """The target's file with a first JSON beside it, so that it can be loaded as any other."""
    module, function = target.path.split(":")
    try:
        write = getattr(import_module(module), function)
    except ImportError as error:
        raise EffnetError(
            f"The installed {target.library} cannot be loaded: {error}.",
            f"Install it: {target.install}",
        ) from error
    path.parent.mkdir(exist_ok=True)
    write(source, path)
    facts(source, path, {}).write(path)
    return path


def facts(source: ExportSource, path: Path, check: Mapping[str, Any]) -> ExportInfo:
    """What the JSON says."""
    options, card = source.options, source.card
    target, px = TARGETS[options.target], card.preprocessing.crop_px
    batch = options.batch or "batch"
    if options.include_preprocessing:
        given = {"dtype": target.image, "layout": "NHWC", "values": "0 to 255"}
    else:
        values = "(value / 255 - mean) / std"
        given = {"dtype": "float32", "layout": target.layout, "values": values}
    shape = [batch, px, px, 3] if given["layout"] == "NHWC" else [batch, 3, px, px]
    output = {
        "dtype": "float32",
        "shape": [batch, len(card.classes)],
        "values": "probabilities" if options.include_preprocessing else "logits",
    }
    files = {file.name: sha256(file) for file in files_of(path) if file.is_file()}
    return ExportInfo(card, {**given, "shape": shape, "colour": "RGB"}, output, files, check)


def files_of(path: Path) -> list[Path]:
    """The file and what belongs to it, but not the JSON."""
    weights = path.with_suffix(".bin")
    return [path, *([weights] if weights.exists() else [])]


def put_in_place(scratch: Path, path: Path, final: Path) -> None:
    """Move the files to their names, the one that a person calls last."""
    for file in (*files_of(path)[1:], json_path(path), path):
        for part in [file, *file.rglob("*")] if file.is_dir() else [file]:
            if part.is_file():
                with part.open("rb+") as written_file:
                    os.fsync(written_file.fileno())
        goal = final.with_name(file.name)
        if goal.is_dir():
            goal.replace(scratch / "replaced")
        file.replace(goal)
