"""Training and evaluation see DICOM images as the options say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from effnet_cli.options import FinetuneOptions, ImageOptions, ModelOptions
from images.dicom_files import PATIENT, encode, make_dataset
from training import CommandResult, make_task, quick_head, train

OPTIONS = FinetuneOptions(head_only=True, hidden=0, augment="none")
LEVELS = {"darker": 20, "lighter": 60}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, which differ in the second frame by a few of 4,000 grey values."""
    root = tmp_path_factory.mktemp("scans")
    numbers = np.random.default_rng(0)
    for name, level in LEVELS.items():
        (root / name).mkdir()
        for index in range(10):
            shown = numbers.integers(-1000, 3000, (48, 48))
            shown[8:40, 8:40] = level + numbers.integers(-5, 6, (32, 32))
            frames = np.stack([np.zeros_like(shown), shown]).astype(np.int16)
            data = encode(make_dataset(frames, syntax=uid.ImplicitVRLittleEndian))
            (root / name / f"IM{index}").write_bytes(data)
    return root


def test_window_and_frame_apply_in_training_and_are_recorded(
    scans: Path, small: ModelOptions, tmp_path: Path, effnet: Callable[..., CommandResult]
) -> None:
    images = ImageOptions(window=(40, 80), frame=2)
    with quick_head():
        run = train(make_task(scans, small, tmp_path / "run", OPTIONS, images=images))
    written = json.loads((tmp_path / "run" / "options.json").read_text("ascii"))
    assert written["images"]["window"] == [40.0, 80.0]
    assert (run.card.options["window"], run.card.options["frame"]) == ([40.0, 80.0], 2)
    model = ("--model", tmp_path / "run")
    same = effnet("predict", scans, *model, "--window", "40,80", "--frame", "2", "-f", "jsonl")
    assert same.status == 0, same.stderr
    assert "trained with" not in same.stderr
    right = [row for row in map(json.loads, same.stdout.splitlines()) if _is_right(row)]
    assert len(right) == 20
    other = effnet("evaluate", scans, *model, "--frame", "2")
    assert "run was trained with --window 40,80 --frame 2; add that" in other.stderr
    for path in (tmp_path / "run").iterdir():
        assert PATIENT.encode() not in path.read_bytes()


def _is_right(row: dict[str, object]) -> bool:
    return row["predictions"][0]["label"] == Path(row["path"]).parent.name  # type: ignore[index, arg-type]


def test_scan_reports_a_missing_frame(
    scans: Path, tmp_path: Path, effnet: Callable[..., CommandResult]
) -> None:
    done = effnet("finetune", scans, "--frame", "3", "--check")
    assert done.status == 2
    assert b"no frame 3" in done.stdout + done.stderr.encode()
