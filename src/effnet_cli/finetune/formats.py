"""A training's records as JSON and CSV, and the commands that use its model."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from effnet_cli.datasets import Scan
from effnet_cli.finetune.records import Epoch, TrainingResult
from effnet_cli.options import Format
from effnet_cli.output.text import csv_line, json_array, json_lines

PHASES = {"head": "classifier", "network": "whole network"}


def as_row(record: Epoch | TrainingResult) -> dict[str, Any]:
    """The JSON object of one record; `row` tells which it is."""
    content = asdict(record)
    if "model" not in content:
        return {"row": "epoch", **content}
    return {"row": "trained", **content, "model": str(content["model"])}


def _csv_lines(records: Iterable[Epoch | TrainingResult]) -> Iterator[str]:
    """The epochs; the record at the end has no place in a table of them."""
    is_first = True
    for record in records:
        row = as_row(record)
        if row.pop("row") == "epoch":
            if is_first:
                yield csv_line(field.name for field in fields(record))
            is_first = False
            yield csv_line(row.values())


ENCODERS: Mapping[Format, Callable[[Iterable[Epoch | TrainingResult]], Iterator[str]]] = {
    "json": lambda records: json_array(map(as_row, records)),
    "jsonl": lambda records: json_lines(map(as_row, records)),
    "csv": _csv_lines,
}


def remembered(records: Iterator[Any], last: list[Any]) -> Iterator[Any]:
    """The same records; `last` holds the latest one."""
    for record in records:
        last[:] = [record]
        yield record


def farewell(trained: TrainingResult) -> Iterator[str]:
    """Where the model is, and the commands that use it."""
    yield (
        f"{trained.model} holds epoch {trained.epoch} of the {PHASES[trained.phase]} "
        f"({trained.seconds:.0f} s of training). Use it:"
    )
    yield from (f"  {command}" for command in commands(trained.model.parent))


def commands(folder: Path) -> Iterator[str]:
    """What is typed next with the model in a run's folder."""
    model = f"--model {shlex.quote(str(folder))}"
    yield f"effnet predict IMAGE {model}"
    yield f"effnet evaluate FOLDER {model}"
    yield f"effnet export --to onnx {model}"


# --- the scan ----------------------------------------------------------------------------------


def scan_rows(scan: Scan) -> list[list[object]]:
    """Classes and their images in each split, and the sums."""
    rows: list[list[object]] = [[row.name, row.train, row.val, row.test] for row in scan.classes]
    sums = [sum(count or 0 for count in column) for column in list(zip(*rows, strict=True))[1:]]
    return [*rows, ["all", *sums]] if rows else rows
