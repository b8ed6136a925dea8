"""Run folders: names, locks and files."""

import json
from pathlib import Path

import pytest

from effnet_cli.finetune import run_dir
from effnet_cli.models import build, checkpoint
from effnet_cli.models.card import MODEL_FILE_NAME, ModelCard
from effnet_cli.models.variants import find_variant
from effnet_cli.system.errors import UsageError
from training_parts import CLASSES, PREPROCESSING, assert_same_tensors, build_with_head


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.linux
def test_new_runs_are_numbered(here: Path) -> None:
    birds = here / "birds"
    names = []
    for _ in range(3):
        path = run_dir.choose_path(None, birds, "lite0")
        path.mkdir(parents=True)
        names.append(str(path))
    assert names == [f"runs/birds-lite0{end}" for end in ("", "-2", "-3")]
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


@pytest.mark.parametrize("name", ["file", "full", "run"])
def test_existing_output_is_refused(name: str, here: Path) -> None:
    for path in (here / "file", here / "full" / "x", here / "run" / "options.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    with pytest.raises(UsageError, match="already exists") as caught:
        run_dir.check_output(here / name)
    assert ("--resume" in caught.value.hint) == (name == "run")


def test_run_folder_is_locked_and_cleaned_of_partial_files(here: Path) -> None:
    folder = here / "a" / "run"
    with run_dir.lock_run_dir(folder) as run:
        assert run.path == folder
        assert run.model == folder / MODEL_FILE_NAME
        (folder / ".model.safetensors.0123.part").write_bytes(b"half")
        with (
            pytest.raises(UsageError, match="Another run is using"),
            run_dir.lock_run_dir(folder),
        ):
            pass
        assert (folder / ".model.safetensors.0123.part").exists()  # it may still be written to
    with run_dir.lock_run_dir(folder):
        assert not (folder / ".model.safetensors.0123.part").exists()


def test_run_folder_is_unlocked_after_an_error(here: Path) -> None:
    with pytest.raises(KeyError), run_dir.lock_run_dir(here / "run"):
        raise KeyError
    with run_dir.lock_run_dir(here / "run"):
        pass


def test_unwritable_folder_is_an_error(here: Path) -> None:
    (here / "file").write_text("x")
    for path in (here / "file", here / "file" / "run", here / ("x" * 300)):
        with pytest.raises(UsageError, match="Cannot write to"), run_dir.lock_run_dir(path):
            pass


def test_run_files_can_be_read_back(here: Path) -> None:
    run = run_dir.RunDir(here)
    assert run.read_state() is None
    run.write_metrics([{"epoch": 1, "top1": 0.5}, {"epoch": 2, "top1": 1.0}])
    lines = (here / run_dir.METRICS_FILE_NAME).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    card = ModelCard("lite0", CLASSES, PREPROCESSING)
    module = build_with_head()
    run.write_model(card, module)
    assert checkpoint.read_card(run.model) == card
    assert_same_tensors(build.load(find_variant("lite0"), 3, run.model), module)
    assert {path.name for path in here.iterdir()} == {"metrics.jsonl", "model.safetensors"}
