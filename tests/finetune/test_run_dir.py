"""The run directory and the task that it restores."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.finetune import run_dir
from effnet_cli.models import build, checkpoint
from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import find_variant
from effnet_cli.options import (
    DatasetOptions,
    FinetuneOptions,
    FinetuneTask,
    ImageOptions,
    ModelOptions,
)
from effnet_cli.system.errors import UsageError
from training_parts import (
    CLASSES,
    PREPROCESSING,
    assert_same_tensors,
    with_head,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


STARTED = FinetuneTask(
    Path("/data/birds"),
    ModelOptions(variant="lite1", weights=Path("/w/lite1.pth")),
    DatasetOptions(val=Path("/data/val"), val_fraction=0.25),
    ImageOptions(max_pixels=1234),
    FinetuneOptions(epochs=9, lr=1e-3, hidden=0, augment="light", minutes=2.5, seed=7),
)


def started(task: FinetuneTask, folder: Path) -> FinetuneTask:
    """`task` was started in `folder`; the task of a bare --resume."""
    folder.mkdir(exist_ok=True)
    run_dir.RunDir(folder).write_task(task)
    return FinetuneTask(Path(), resume=folder)


def test_restored_task_is_the_original_one(here: Path) -> None:
    bare = started(STARTED, here / "run")
    task = run_dir.restore_task(bare, frozenset({"resume"}))
    assert task == replace(STARTED, resume=here / "run")
    assert isinstance(task.model.weights, Path)
    assert isinstance(task.dataset.val, Path)
    assert task.model.model is None


def test_changeable_options_change_if_given(here: Path) -> None:
    bare = started(STARTED, here / "run")
    options = replace(STARTED.options, epochs=20, minutes=None, patience=3, lr=7.0)
    given_ = replace(bare, root=Path("/moved"), options=options, workers=3, device="cuda")
    given_ = replace(given_, model=replace(given_.model, offline=True))
    given_names = frozenset({"root", "epochs", "patience", "workers", "device", "resume"})
    task = run_dir.restore_task(given_, given_names)
    assert task.options == replace(STARTED.options, epochs=20, patience=3)  # not given: unchanged
    assert (task.root, task.workers, task.device) == (Path("/moved"), 3, "cuda")
    assert run_dir.restore_task(given_, given_names | {"minutes"}).options.minutes is None


@pytest.mark.parametrize(
    ("name", "change", "was"),
    [
        ("lr", {"options": FinetuneOptions(lr=1e-2)}, "0.001"),
        ("weight_decay", {"options": FinetuneOptions(weight_decay=0.5)}, "0.05"),
        ("augment", {"options": FinetuneOptions(augment="none")}, "'light'"),
        ("head_only", {"options": FinetuneOptions(head_only=True)}, "False"),
        ("seed", {"options": FinetuneOptions(seed=1)}, "7"),
        ("variant", {"model": ModelOptions(variant="b0")}, "'lite1'"),
        ("weights", {"model": ModelOptions(weights=Path("/other.pth"))}, "'/w/lite1.pth'"),
        ("model", {"model": ModelOptions(model=Path("/m"))}, "not set"),
        ("val", {"dataset": DatasetOptions(val=Path("/data/other"))}, "'/data/val'"),
        ("val_fraction", {"dataset": DatasetOptions(val_fraction=0.1)}, "0.25"),
        ("max_pixels", {"images": ImageOptions(max_pixels=99)}, "1234"),
    ],
)
def test_other_options_are_refused_with_their_value(
    name: str, change: dict[str, Any], was: str, here: Path
) -> None:
    bare = replace(started(STARTED, here / "run"), **change)
    with pytest.raises(UsageError) as caught:
        run_dir.restore_task(bare, frozenset({name}))
    assert caught.value.message == (
        f"--{name.replace('_', '-')} was {was} when this training was started."
    )
    run_dir.restore_task(bare, frozenset())  # options that were not given have defaults


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lr", {"options": FinetuneOptions(lr=1e-3)}),
        ("variant", {"model": ModelOptions(variant="lite1")}),
        ("weights", {"model": ModelOptions(weights=Path("/w/lite1.pth"))}),
        ("val", {"dataset": DatasetOptions(val=Path("/data/val"))}),
    ],
)
def test_options_given_again_are_no_change(name: str, change: dict[str, Any], here: Path) -> None:
    bare = replace(started(STARTED, here / "run"), **change)
    assert run_dir.restore_task(bare, frozenset({name})).options == STARTED.options


paths = st.binary(min_size=1, max_size=20).map(
    lambda name: Path("/") / os.fsdecode(name.replace(b"\0", b"x").replace(b"/", b"y"))
)


@given(root=paths, model_=st.none() | paths, val=st.none() | paths)
def test_paths_of_any_bytes_survive_in_the_options(
    root: Path, model_: Path | None, val: Path | None, session_folder: Path
) -> None:
    task = FinetuneTask(root, ModelOptions(model=model_), DatasetOptions(val=val))
    folder = session_folder / "any-bytes"
    assert run_dir.restore_task(started(task, folder), frozenset()) == replace(task, resume=folder)


def test_relative_root_is_valid_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = started(FinetuneTask(Path("birds")), here / "run")
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    assert run_dir.restore_task(bare, frozenset()).root == here / "birds"


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"\xff\xfe", b"[]", b"{}", b'"x"', b'{"root": 3}', b'{"model": {}}'],
    ids=str,
)
def test_directory_without_a_run_is_refused(content: bytes | None, here: Path) -> None:
    folder = here / "run"
    folder.mkdir()
    if content is not None:
        (folder / run_dir.OPTIONS_FILE_NAME).write_bytes(content)
    task = FinetuneTask(Path(), resume=folder)
    with pytest.raises(UsageError, match="has no training to resume"):
        run_dir.restore_task(task, frozenset({"lr"}))


@pytest.mark.parametrize("change", ["more", "less"])
def test_options_of_another_version_are_refused(change: str, here: Path) -> None:
    bare = started(STARTED, here / "run")
    path = here / "run" / run_dir.OPTIONS_FILE_NAME
    content = json.loads(path.read_text())
    if change == "more":
        content["options"]["mixup"] = 0.3
    else:
        del content["model"]["weights"]
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError):
        run_dir.restore_task(bare, frozenset())


def test_new_runs_are_numbered(here: Path) -> None:
    birds = here / "birds"
    made = []
    for _ in range(3):
        path = run_dir.choose_path(None, birds, "lite0")
        path.mkdir(parents=True)
        made.append(str(path))
    assert made == [f"runs/birds-lite0{end}" for end in ("", "-2", "-3")]
    (here / "runs" / "birds-lite0-4").symlink_to("nowhere")
    assert run_dir.choose_path(None, birds, "lite0") == Path("runs/birds-lite0-5")
    assert run_dir.choose_path(None, here / "list.csv", "b0") == Path("runs/list-b0")
    assert run_dir.choose_path(None, Path("/"), "b0") == Path("runs/dataset-b0")
    assert run_dir.choose_path(None, Path(), "b0") == Path(f"runs/{here.name}-b0")


def test_output_may_be_new_or_empty(here: Path) -> None:
    (here / "empty").mkdir()
    for name in ("new", "empty", "new/deeper"):
        run_dir.check_output(here / name)
        assert run_dir.choose_path(here / name, here, "b0") == here / name


@pytest.mark.parametrize("name", ["file", "full"])
def test_existing_output_is_refused(name: str, here: Path) -> None:
    (here / "full").mkdir()
    for path in (here / "file", here / "full" / "x"):
        path.write_text("x")
    with pytest.raises(UsageError, match="already exists") as caught:
        run_dir.check_output(here / name)
    assert "--resume" in caught.value.hint


def test_run_directory_is_locked_and_cleaned_of_partial_files(here: Path) -> None:
    folder = here / "a" / "run"
    with run_dir.lock_run_dir(folder) as run:
        assert run.path == folder
        assert run.model == folder / checkpoint.MODEL_FILE_NAME
        (folder / ".model.safetensors.0123.part").write_bytes(b"half")
        with (
            pytest.raises(UsageError, match="Another training is writing to"),
            run_dir.lock_run_dir(folder),
        ):
            pass
        assert (folder / ".model.safetensors.0123.part").exists()  # perhaps being written
    with run_dir.lock_run_dir(folder):
        assert not (folder / ".model.safetensors.0123.part").exists()


def test_run_directory_is_unlocked_after_an_error(here: Path) -> None:
    with pytest.raises(KeyError), run_dir.lock_run_dir(here / "run"):
        raise KeyError
    with run_dir.lock_run_dir(here / "run"):
        pass


def test_unwritable_place_is_an_error(here: Path) -> None:
    (here / "file").write_text("x")
    for place in (here / "file", here / "file" / "run", here / ("x" * 300)):
        with pytest.raises(UsageError, match="Cannot write to"), run_dir.lock_run_dir(place):
            pass


def test_run_files_are_plain_and_complete(here: Path) -> None:
    run = run_dir.RunDir(here)
    assert run.read_state() is None
    run.write_metrics([{"epoch": 1, "top1": 0.5}, {"epoch": 2, "top1": 1.0}])
    lines = (here / run_dir.METRICS_FILE_NAME).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    card = ModelCard("lite0", CLASSES, PREPROCESSING)
    module = with_head()
    run.write_model(card, module)
    assert checkpoint.read_card(run.model) == card
    assert_same_tensors(build.load(find_variant("lite0"), 3, run.model), module)
    assert {path.name for path in here.iterdir()} == {"metrics.jsonl", "model.safetensors"}
