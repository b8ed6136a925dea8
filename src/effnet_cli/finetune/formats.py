"""The records of a run as JSON and CSV, and the commands that use its model."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from effnet_cli.finetune.records import PHASE_TITLES, Epoch, TrainingResult
from effnet_cli.output.text import csv_line


def to_row(record: Epoch | TrainingResult) -> dict[str, Any]:
    """Return the JSON object of a record; its `row` field is the kind of record."""
    content = asdict(record)
    if isinstance(record, Epoch):
        return {"row": "epoch", **content}
    folder = record.all_images
    paths = {"model": str(record.model), "all_images": None if folder is None else str(folder)}
    return {"row": "trained", **content, **paths}


def csv_lines(records: Iterable[Epoch | TrainingResult]) -> Iterator[str]:
    """Yield a header and a line per epoch; the result has other columns and is left out."""
    is_first = True
    for record in records:
        if isinstance(record, Epoch):
            if is_first:
                yield csv_line(field.name for field in fields(record))
            is_first = False
            yield csv_line(asdict(record).values())


def keep_last(records: Iterable[Any], last: list[Any]) -> Iterator[Any]:
    """Yield the same records, keeping the latest one in `last`."""
    for record in records:
        last[:] = [record]
        yield record


def describe_result(result: TrainingResult) -> Iterator[str]:
    """Yield a line that says where the model is, and the commands that use it."""
    yield (
        f"Saved epoch {result.epoch} of the {PHASE_TITLES[result.phase]} to {result.model} "
        f"({result.seconds:.0f} s of training). Use it:"
    )
    yield from (f"  {command}" for command in list_commands(result.model.parent))
    if result.all_images is not None:
        model = shlex.quote(str(result.all_images))
        yield (
            f"The model of all images is --model {model}; expect it to be at least as good as the "
            "validated one. No image is left to measure it."
        )


def list_commands(run_dir: Path) -> Iterator[str]:
    """Yield the commands that use the model in a run folder."""
    model = f"--model {shlex.quote(str(run_dir))}"
    yield f"effnet predict IMAGE {model}"
    yield f"effnet evaluate FOLDER {model}"
    yield f"effnet export --to onnx {model}"
