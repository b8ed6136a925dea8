"""The records of a run as JSON and CSV, and the commands that use its model."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from effnet_cli.finetune.records import (
    PHASE_TITLES,
    AllImagesResult,
    Epoch,
    TrainingRecord,
    TrainingResult,
)
from effnet_cli.output.text import csv_line


def to_row(record: TrainingRecord) -> dict[str, Any]:
    """Return the JSON object of a record; its `row` field is the kind of record."""
    if isinstance(record, Epoch):
        return {"row": "epoch", **record.to_json()}
    content = asdict(record)
    row = "trained" if isinstance(record, TrainingResult) else "trained_on_all"
    return {"row": row, **content, "model": str(record.model)}


def csv_lines(records: Iterable[TrainingRecord]) -> Iterator[str]:
    """Yield a header and a line per epoch; the result has other columns and is left out."""
    is_first = True
    for record in records:
        if isinstance(record, Epoch):
            if is_first:
                yield csv_line(record.to_json())
            is_first = False
            yield csv_line(record.to_json().values())


def describe_result(result: TrainingResult) -> Iterator[str]:
    """Yield a line that says where the model is, and the commands that use it."""
    yield (
        f"Saved epoch {result.epoch} of the {PHASE_TITLES[result.phase]} to {result.model} "
        f"({result.seconds:.0f} s of training). Use it:"
    )
    yield from (f"  {command}" for command in list_commands(result.model.parent))


def describe_all_images(result: AllImagesResult) -> str:
    """Return a line that says how to use the model that was trained on all images."""
    model = shlex.quote(str(result.model.parent))
    return (
        f"Trained another model on all {result.images:,} training and validation images. To use "
        f"it: --model {model}. The validation figures are those of the first model."
    )


def list_commands(run_dir: Path) -> Iterator[str]:
    """Yield the commands that use the model in a run folder."""
    model = f"--model {shlex.quote(str(run_dir))}"
    yield f"effnet predict IMAGE {model}"
    yield f"effnet evaluate FOLDER {model}"
    yield f"effnet export --to onnx {model}"
