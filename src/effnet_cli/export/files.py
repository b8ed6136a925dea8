"""Writes an export's files to a scratch folder, then moves them to their final place."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from effnet_cli.export.source import ExportSource
from effnet_cli.export.targets import TARGETS, Target
from effnet_cli.models.architectures import MAX_MAP_STRIDE
from effnet_cli.models.export_file import json_path, write_json
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.files import cannot_write, partial_path, sha256

MIN_FREE_BYTES = 2**20  # with less than this, a failure is that of the disk


@contextmanager
def scratch_folder(final: Path) -> Iterator[Path]:
    """Create a folder beside the final file, and remove it with its contents on exit."""
    scratch, temporary = partial_path(final.absolute()), tempfile.tempdir
    try:
        scratch.mkdir(parents=True)
        # libraries leave copies in the folder for temporary files, some of them for good
        tempfile.tempdir = str(scratch)
        yield scratch
    except OSError as error:
        raise cannot_write(final, error) from error
    except Exception as error:
        if _is_full(scratch):  # libraries have many words for it
            raise cannot_write(final, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
        raise
    finally:
        tempfile.tempdir = temporary
        shutil.rmtree(scratch, ignore_errors=True)


def _is_full(folder: Path) -> bool:
    return folder.exists() and shutil.disk_usage(folder).free < MIN_FREE_BYTES


def write_target(source: ExportSource, path: Path) -> None:
    """Write the exported file and, beside it, the JSON that loading needs, without a comparison.

    Raises:
        EffnetError: the target's library cannot be imported.
    """
    target = TARGETS[source.options.target]
    module, function = target.writer.split(":")
    try:
        write = getattr(import_module(module), function)
    except ImportError as error:
        raise EffnetError(
            f"Cannot import {target.library}: {error}.", f"Install it: {target.install}"
        ) from error
    path.parent.mkdir(exist_ok=True)
    write(source, path)
    describe(source, path)


def describe(source: ExportSource, path: Path, check: Mapping[str, Any] = {}) -> None:
    """Write the JSON beside an exported file; a folder has its own."""
    options, card = source.options, source.card
    target, px = TARGETS[options.target], card.preprocessing.crop_px
    if not target.has_graph:
        return
    files = {file.name: sha256(file) for file in target.list_files(path) if file.is_file()}
    if options.feature_maps:
        about = _describe_maps(options.batch or "batch")
        write_json(path, card, {**about, "files": files, "check": check})
        return
    resize_px = card.preprocessing.resize_px
    sides = f"shorter side to {resize_px}, longer side to floor({resize_px} * long / short)"
    if card.preprocessing.is_squashed:
        sides = f"both sides to {resize_px}"
    batch = options.batch or "batch"
    layout = "NHWC" if options.include_preprocessing else target.layout
    shape = [batch, px, px, 3] if layout == "NHWC" else [batch, 3, px, px]
    input_ = {
        "layout": layout,
        "shape": shape,
        "colour": "RGB",
        "resize": f"{sides}; {card.preprocessing.interpolation}, antialiased as in Pillow",
        "crop": f"{px} x {px} from (side - {px}) / 2, rounded half to even as in Python",
    }
    output = {"dtype": "float32", "shape": [batch, len(card.classes)]}
    if options.include_preprocessing:
        input_ |= {"dtype": target.image, "values": "0 to 255"}
        output["values"] = "probabilities"
    else:
        input_ |= {"dtype": "float32", "values": "(value / 255 - mean) / std"}
        output["values"] = "logits"
    about = {"input": input_, "output": output}
    if options.include_features:
        width = source.module.get_submodule("classifier.1").in_features
        about["features"] = {"dtype": "float32", "shape": [batch, width], "values": "features"}
    write_json(path, card, {**about, "files": files, "check": check})


def _describe_maps(batch: int | str) -> dict[str, Any]:
    """Describe input and output of a file with feature maps; the card's `export` lists the maps."""
    input_ = {
        "layout": "NCHW",
        "shape": [batch, 3, "height", "width"],
        "multiple_of_px": MAX_MAP_STRIDE,
        "colour": "RGB",
        "dtype": "float32",
        "values": "(value / 255 - mean) / std",
    }
    shape = [batch, "channels", "height / stride", "width / stride"]
    return {
        "input": input_,
        "output": {"dtype": "float32", "shape": shape, "values": "feature maps"},
    }


def put_in_place(path: Path, final: Path, target: Target) -> None:
    """Move the files from the scratch folder to their final place, the main file last.

    A folder without a graph replaces nothing but an empty folder.
    """
    if not target.has_graph:
        _sync(path)
        if final.is_dir():
            final.rmdir()
        path.replace(final)
        return
    for file in (*target.list_files(path)[1:], json_path(path), path):
        _sync(file)
        final_file = final.with_name(file.name)
        if final_file.is_dir():
            final_file.replace(path.with_name("replaced"))
        file.replace(final_file)


def _sync(path: Path) -> None:
    """Write a file, or all files of a folder, to the disk."""
    for part in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if part.is_file():
            with part.open("rb+") as opened:
                os.fsync(opened.fileno())
