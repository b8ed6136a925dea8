"""Runs as JSON and CSV, and the summary of a finished run."""

import csv
import io
import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.finetune import formats
from effnet_cli.finetune.records import Epoch, TrainingResult
from effnet_cli.output.text import json_array, json_lines
from training_records import FIRST, NAMES, RECORDS, SECOND, TRAINED, VAL, make_result

# --- rows -----------------------------------------------------------------------------------------


def test_epoch_row_has_its_fields() -> None:
    assert formats.to_row(FIRST) == {
        "row": "epoch",
        "phase": "head",
        "epoch": 1,
        "epochs": 8,
        "loss": 1.25,
        "val_loss": 0.5,
        "top1": 0.875,
        "balanced_accuracy": 0.75,
        "macro_f1": 0.625,
        "is_best": True,
        "images_per_s": 1234.5,
        "seconds": 2.5,
    }


def test_result_row_has_the_model_and_the_metrics() -> None:
    row = formats.to_row(replace(TRAINED, test=VAL))
    assert row["row"] == "trained"
    assert row["model"] == "runs/pets-lite0/model.safetensors"
    assert (row["phase"], row["epoch"], row["seconds"]) == ("full", 2, 83.4)
    assert row["val"] == row["test"] == asdict(VAL)
    assert formats.to_row(TRAINED)["test"] is None


@given(
    st.lists(
        st.sampled_from([FIRST, SECOND])
        | st.lists(NAMES, min_size=1).map(lambda n: make_result(*n)),
        max_size=4,
    )
)
def test_json_round_trip(records: list[Epoch | TrainingResult]) -> None:
    expected = json.loads(json.dumps([formats.to_row(record) for record in records]))
    lines = list(json_lines(map(formats.to_row, records)))
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    assert [json.loads(line.encode("utf-8")) for line in lines] == expected
    assert json.loads("".join(json_array(map(formats.to_row, records))).encode("utf-8")) == expected


@pytest.mark.parametrize("encode", [json_array, json_lines])
def test_nan_is_never_written(encode: Callable[[Iterable[Any]], Iterator[str]]) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        list(encode([formats.to_row(replace(FIRST, val_loss=math.nan))]))


def test_csv_has_one_line_per_epoch() -> None:
    text = "".join(formats.csv_lines(RECORDS))
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert header == list(FIRST.to_json())
    assert len(lines) == 2
    assert lines[0] == [str(value) for value in FIRST.to_json().values()]
    assert text.count("\n") == 3


def test_csv_lines_are_streamed() -> None:
    consumed: list[Epoch | TrainingResult] = []

    def records() -> Iterator[Epoch | TrainingResult]:
        for record in RECORDS:
            consumed.append(record)
            yield record

    lines = formats.csv_lines(records())
    assert next(lines).startswith("phase,epoch,")
    assert next(lines).startswith("head,1,8,")
    assert consumed == [FIRST]
    assert next(lines).startswith("full,2,5,")
    assert list(lines) == []


def test_summary_names_the_file_the_epoch_and_the_commands() -> None:
    text = "\n".join(formats.describe_result(TRAINED))
    assert text.startswith("Saved epoch 2 of the full model to runs/pets-lite0/model.safetensors ")
    assert "(83 s of training)" in text
    for command in ("predict IMAGE", "evaluate FOLDER", "export --to onnx"):
        assert f"  effnet {command} --model runs/pets-lite0" in text.splitlines()
    assert "classifier head" in next(formats.describe_result(replace(TRAINED, phase="head")))


@given(NAMES.filter(lambda name: name not in ("", ".", "..") and not set(name) & {"/", "\0"}))
def test_commands_can_be_pasted(name: str) -> None:
    for command in formats.list_commands(Path("runs") / name):
        assert shlex.split(command)[-2:] == ["--model", f"runs/{name}"]
