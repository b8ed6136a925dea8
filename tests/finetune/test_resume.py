"""Resuming runs that were killed, stopped or changed."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.finetune import run_dir
from effnet_cli.finetune import trainer as training
from effnet_cli.finetune.phases import FullPhase
from effnet_cli.finetune.resume import restore_task
from effnet_cli.finetune.run import finetune
from effnet_cli.finetune.signals import TrainingStopped
from effnet_cli.models import checkpoint
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import (
    DatasetOptions,
    FinetuneOptions,
    FinetuneTask,
    ImageOptions,
    ModelOptions,
)
from effnet_cli.system.errors import UsageError
from forked import ForkedResult, run_forked
from helpers import RecordingReporter
from training import (
    HEAD_EPOCHS,
    CommandResult,
    FinishedRun,
    build_script,
    drop_times,
    make_classes,
    make_task,
    quick_head,
    read_rows,
    read_state,
    read_tree,
    resume,
    save_blobs,
    train,
)

pytestmark = pytest.mark.usefixtures("one_core", "caches", "quick")

STEPS = 3  # per epoch
OPTIONS = FinetuneOptions(epochs=2, hidden=0, batch_size=6)
ARGUMENTS = ["--epochs", "2", "--hidden", "0", "--batch-size", "6"]
# Save the state after every step.
EAGER = "training.SAVE_SECONDS = 0\n"
# Die before or after the `count`-th new file called `name` replaces the old one.
DIE_REPLACING = """
import os
from pathlib import Path
replaced, left = Path.replace, [{count}]
def replace(self, target):
    left[0] -= Path(target).name == "{name}"
    if not left[0] and "{moment}" == "before":
        os.kill(os.getpid(), 9)
    replaced(self, target)
    if not left[0]:
        os.kill(os.getpid(), 9)
Path.replace = replace
"""
# Die halfway through writing the `count`-th file.
DIE_WRITING = """
import os
from pathlib import Path
written, left = Path.write_bytes, [{count}]
def write_bytes(self, content):
    left[0] -= 1
    if not left[0]:
        written(self, content[:len(content) // 2])
        os.kill(os.getpid(), 9)
    return written(self, content)
Path.write_bytes = write_bytes
"""
# Send signals to this process during a training step.
SIGNAL_IN_STEP = """
import os
from effnet_cli.finetune.phases import FullPhase
update, left = FullPhase._update_average, [{step}]
def signalled(self):
    left[0] -= 1
    if not left[0]:
        for number in {numbers}:
            os.kill(os.getpid(), number)
    update(self)
FullPhase._update_average = signalled
"""
# Send a signal to this process while features are computed.
SIGNAL_IN_FEATURES = """
import os
from effnet_cli.output.progress import StderrReporter
progress = StderrReporter.progress
def signalled(self, what, *rest):
    if what == "{what}":
        os.kill(os.getpid(), {number})
    progress(self, what, *rest)
StderrReporter.progress = signalled
"""


@pytest.fixture(scope="module")
def uninterrupted(
    colours: Path, small: ModelOptions, session_folder: Path, one_core: None, caches: None
) -> FinishedRun:
    """An uninterrupted run in a separate process, as the interrupted ones."""
    folder = session_folder / "uninterrupted"
    done = start_or_resume(colours, small, folder)
    assert done.status == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "SAVE_SECONDS", 0)
        ran = resume(folder)  # the run is complete: this only loads its result
    assert not ran.epochs
    return ran


def start_or_resume(
    colours: Path, small: ModelOptions, folder: Path, code: str = ""
) -> ForkedResult:
    """Run `effnet finetune`, or `--resume` if a run exists, after running `code`."""
    assert small.model is not None
    if (folder / "options.json").exists():
        arguments = ["--resume", folder]
    else:
        arguments = [colours, "--model", small.model, "-o", folder, *ARGUMENTS]
    return run_forked(build_script(code), ["finetune", *arguments, "--format", "jsonl"])


def read_step(folder: Path) -> tuple[int, int] | None:
    """Return the epoch and step of the saved state, if there is one."""
    if not (folder / "state.safetensors").exists():
        return None
    header, _ = read_state(folder)
    return header["epoch"], header["step"]


def assert_identical(ran: FinishedRun, uninterrupted: FinishedRun) -> None:
    """Compare the files and results of two runs."""
    (state, tensors), (expected_state, expected) = map(
        read_state, (ran.folder, uninterrupted.folder)
    )
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].tobytes() == value.tobytes(), name
    assert drop_times(ran.rows) == drop_times(uninterrupted.rows)
    assert drop_times(state.pop("rows")) == drop_times(expected_state.pop("rows"))
    assert {**state, "seconds": 0} == {**expected_state, "seconds": 0}
    assert ran.model == uninterrupted.model
    assert (ran.end.phase, ran.end.epoch) == (uninterrupted.end.phase, uninterrupted.end.epoch)
    assert ran.end.val == uninterrupted.end.val
    assert not list(ran.folder.glob(".*.part"))


# --- killed -----------------------------------------------------------------------------------

# Code that kills a run, and the epoch and step of the state it leaves.
KILLS = (
    # while the head is written
    (DIE_WRITING.format(count=2), None),
    # after an epoch of the head
    (DIE_REPLACING.format(name="metrics.jsonl", count=1, moment="after"), None),
    # between the model file and the state
    (
        DIE_REPLACING.format(name="metrics.jsonl", count=HEAD_EPOCHS + 1, moment="before"),
        (1, 0),
    ),
    # between two steps
    (EAGER + DIE_REPLACING.format(name="state.safetensors", count=2, moment="after"), (1, 2)),
    # before the state of (2, 2) replaces that of (2, 1)
    (EAGER + DIE_REPLACING.format(name="state.safetensors", count=4, moment="before"), (2, 1)),
    # after the last epoch
    (DIE_REPLACING.format(name="state.safetensors", count=1, moment="after"), (3, 0)),
)


def test_killed_run_resumes_to_identical_bits(
    colours: Path, small: ModelOptions, tmp_path: Path, uninterrupted: FinishedRun
) -> None:
    folder = tmp_path / "run"
    for code, step in KILLS:
        done = start_or_resume(colours, small, folder, code)
        assert done.status == -signal.SIGKILL, done.stderr
        assert read_step(folder) == step
        if step is not None:
            checkpoint.read_arrays(folder / "model.safetensors")  # complete
    assert_identical(resume(folder), uninterrupted)


def test_run_killed_at_random_steps_resumes_to_identical_bits(
    colours: Path,
    small: ModelOptions,
    tmp_path: Path,
    uninterrupted: FinishedRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        """The process was killed."""

    rng = np.random.default_rng(1)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)
    update, folder = FullPhase._update_average, tmp_path / "run"
    left = 0

    def update_or_die(self: FullPhase) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        update(self)

    monkeypatch.setattr(FullPhase, "_update_average", update_or_die)
    task = make_task(colours, small, folder, OPTIONS)
    for _ in range(2):
        left = int(rng.integers(1, STEPS + 1))
        with pytest.raises(Killed):
            train(task)
        task = restore_task(FinetuneTask(Path(), resume=folder), frozenset())
    left = 0
    assert_identical(resume(folder), uninterrupted)


# --- signals ----------------------------------------------------------------------------------


def test_run_stopped_by_signals_resumes_to_identical_bits(
    colours: Path, small: ModelOptions, tmp_path: Path, uninterrupted: FinishedRun
) -> None:
    folder = tmp_path / "a run"

    def stop(code: str, number: signal.Signals) -> ForkedResult:
        done = start_or_resume(colours, small, folder, code)
        assert done.status == 128 + number
        assert "Traceback" not in done.stderr
        assert f"Resume with: effnet finetune --resume '{folder}'" in done.stderr
        return done

    for what in ("Features", "Validation features"):
        code = SIGNAL_IN_FEATURES.format(what=what, number=int(signal.SIGINT))
        done = stop(code, signal.SIGINT)
        assert (
            "Error: Stopped by SIGINT; --resume restarts with the classifier head.\n" in done.stderr
        )
        with pytest.raises(UsageError, match="has no checkpoint yet") as caught:
            resolve_model(ModelOptions(model=folder))
        assert caught.value.hint == f"Continue the run: effnet finetune --resume '{folder}'"
    # a second signal stops immediately
    both = [int(signal.SIGTERM), int(signal.SIGINT)]
    stop(SIGNAL_IN_STEP.format(step=2, numbers=both), signal.SIGINT)
    assert read_step(folder) == (1, 0)  # nothing was saved
    # a single signal stops after the current step
    lines = 0
    for number, steps, step in ((signal.SIGINT, 2, (1, 2)), (signal.SIGTERM, STEPS, (2, 2))):
        done = stop(SIGNAL_IN_STEP.format(step=steps, numbers=[int(number)]), number)
        assert f"Stopped by {number.name}; progress is saved" in done.stderr
        assert read_step(folder) == step
        lines += len(done.stdout.splitlines())
    assert lines == 1  # an epoch of the full model
    assert_identical(resume(folder), uninterrupted)


def test_signal_during_validation_stops_after_the_epoch(
    colours: Path, small: ModelOptions, tmp_path: Path, uninterrupted: FinishedRun
) -> None:
    folder = tmp_path / "run"

    class SignalInValidation(RecordingReporter):
        def progress(self, what: str, done: int, total: int | None, unit: str = "") -> None:
            if what == "Validation" and done == total:
                signal.raise_signal(signal.SIGTERM)

    rows = []
    with pytest.raises(TrainingStopped) as caught:
        for record in finetune(make_task(colours, small, folder, OPTIONS), SignalInValidation()):
            rows.append(record)
    assert caught.value.exit_status == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert read_step(folder) == (2, 0)
    assert len(read_rows(folder)) == HEAD_EPOCHS + 1
    assert len(rows) == HEAD_EPOCHS + 1  # including the epoch that just finished
    assert_identical(resume(folder), uninterrupted)


# --- changed before resuming ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_once(small: ModelOptions, session_folder: Path, one_core: None) -> Path:
    """A folder with a dataset, `data`, and a finished run of one epoch, `run`."""
    folder = session_folder / "finished"
    make_classes(folder / "data")
    options = replace(OPTIONS, epochs=1)
    with quick_head():
        train(make_task(folder / "data", small, folder / "run", options))
    return folder


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the dataset and the finished run."""
    shutil.copytree(finished_once, tmp_path, dirs_exist_ok=True)
    options = tmp_path / "run" / "options.json"
    options.write_text(options.read_text().replace(str(finished_once), str(tmp_path)))
    return tmp_path / "data", tmp_path / "run"


def test_run_continues_with_more_epochs(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    ran = resume(folder, epochs=3)
    assert [(row.phase, row.epoch, row.epochs) for row in ran.epochs] == [
        ("full", 2, 3),
        ("full", 3, 3),
    ]
    rows = read_rows(folder)
    assert [row["epoch"] for row in rows] == [*range(1, HEAD_EPOCHS + 1), 1, 2, 3]
    reporter = RecordingReporter()
    complete = resume(folder, reporter)
    assert not complete.epochs
    assert "Already complete; increase --epochs to continue." in reporter.text
    assert complete.end == replace(ran.end, seconds=complete.end.seconds)
    assert complete.model == ran.model


def test_changed_options_are_refused(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    before = read_tree(folder)
    for name, value in (("lr", 1e-5), ("batch_size", 9), ("augment", "none"), ("freeze", 2)):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} was") as caught:
            resume(folder, **{name: value})
        assert "--resume" in caught.value.hint
    assert read_tree(folder) == before


def test_changed_classes_are_refused(finished: tuple[Path, Path]) -> None:
    root, folder = finished
    before = read_tree(folder)
    (root / "red").rename(root / "scarlet")
    with pytest.raises(UsageError, match="1 removed, such as 'red'; 1 added, such as 'scarlet'"):
        resume(folder)
    after = read_tree(folder)
    assert after == before
    (root / "scarlet").rename(root / "red")
    assert resume(folder, epochs=2).end.val.images == 6


def test_changed_files_are_counted(finished: tuple[Path, Path]) -> None:
    root, folder = finished
    (root / "red" / "0.jpg").unlink()
    save_blobs(root / "blue" / "new.png", (50, 50, 200), 99)
    save_blobs(root / "blue" / "newer.png", (50, 50, 200), 100)
    reporter = RecordingReporter()
    ran = resume(folder, reporter, epochs=2)
    counts = re.search(
        r"changed since this run started: (\d+) files? removed .* (\d+) added", reporter.text
    )
    assert counts is not None
    removed, added = map(int, counts.groups())
    assert added - removed == 1
    assert removed >= 1
    assert [row.epoch for row in ran.epochs] == [2]


@pytest.mark.parametrize("epochs", [1, 2])
def test_another_dataset_with_the_same_classes_is_refused(
    epochs: int, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    _, folder = finished
    make_classes(tmp_path / "other", first_seed=1000)
    before = read_tree(folder)
    task = FinetuneTask(tmp_path / "other", options=FinetuneOptions(epochs=epochs), resume=folder)
    with pytest.raises(UsageError, match="other' is not the dataset of this run"):
        train(restore_task(task, frozenset({"root", "epochs"})))
    assert read_tree(folder) == before


def test_complete_run_with_a_changed_dataset_is_refused(finished: tuple[Path, Path]) -> None:
    root, folder = finished
    save_blobs(root / "blue" / "new.png", (50, 50, 200), 99)
    before = read_tree(folder)
    with pytest.raises(UsageError, match=r"complete, and its dataset has changed .* 1 added"):
        resume(folder)
    assert read_tree(folder) == before


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
def test_missing_or_damaged_files_are_refused(name: str, finished: tuple[Path, Path]) -> None:
    _, folder = finished
    path = folder / name
    for content in (path.read_bytes()[:-100], None):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        before = read_tree(folder)
        for epochs in (1, 3):
            with pytest.raises(UsageError, match=name) as caught:
                resume(folder, epochs=epochs)
            assert caught.value.hint.startswith("Restore it, or start a new run")
        assert read_tree(folder) == before


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_metrics_of_a_complete_run_are_restored(
    content: bytes | None, finished: tuple[Path, Path], effnet: Callable[..., CommandResult]
) -> None:
    _, folder = finished
    path = folder / "metrics.jsonl"
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    done = effnet("finetune", "--resume", folder)
    assert done.status == 0, done.stderr
    assert "Starting from" not in done.stderr
    assert path.read_bytes() == before
    assert (folder / "report.html").exists()


@pytest.mark.parametrize("content", [b"", b"nothing", b"path,label,split,sha256\n1,2\n"])
def test_damaged_split_is_refused(content: bytes, finished: tuple[Path, Path]) -> None:
    _, folder = finished
    (folder / "split.csv").write_bytes(content)
    before = read_tree(folder)
    with pytest.raises(
        UsageError, match=r"run/split.csv' is not a saved split: (line|it)"
    ) as caught:
        resume(folder, epochs=2)
    assert caught.value.hint.startswith("Restore it, or start a new run")
    assert read_tree(folder) == before


def test_damaged_state_is_an_error(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    path = folder / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        resume(folder, epochs=2)


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no run to resume"):
        resume(tmp_path)


def test_head_only_run_starts_over(colours: Path, small: ModelOptions, tmp_path: Path) -> None:
    options = replace(OPTIONS, head_only=True)
    uninterrupted = train(make_task(colours, small, tmp_path / "whole", options))
    records = finetune(make_task(colours, small, tmp_path / "run", options))
    next(records)
    records.close()  # type: ignore[attr-defined]
    ran = resume(tmp_path / "run")
    assert len(ran.epochs) == HEAD_EPOCHS
    assert ran.model == uninterrupted.model


# --- the task of a run --------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


STARTED = FinetuneTask(
    Path("/data/birds"),
    ModelOptions(variant="lite1", weights=Path("/w/lite1.pth")),
    DatasetOptions(val=Path("/data/val"), val_fraction=0.25),
    ImageOptions(max_pixels=1234, window=(40, 400), frame=2),
    FinetuneOptions(epochs=9, lr=1e-3, hidden=0, augment="light", minutes=2.5, seed=7),
)


def start_run(task: FinetuneTask, folder: Path) -> FinetuneTask:
    """Save `task` in a run folder and return the task of `--resume` without options."""
    folder.mkdir(exist_ok=True)
    run_dir.RunDir(folder).write_task(task)
    return FinetuneTask(Path(), resume=folder)


def test_restored_task_is_the_original_one(here: Path) -> None:
    bare = start_run(STARTED, here / "run")
    task = restore_task(bare, frozenset({"resume"}))
    assert task == replace(STARTED, resume=here / "run")
    assert isinstance(task.model.weights, Path)
    assert isinstance(task.dataset.val, Path)
    assert task.model.model is None


def test_changeable_options_can_be_changed(here: Path) -> None:
    bare = start_run(STARTED, here / "run")
    options = replace(STARTED.options, epochs=20, minutes=None, patience=3, lr=7.0)
    changed = replace(bare, root=Path("/moved"), options=options, workers=3, device="cuda")
    changed = replace(changed, model=replace(changed.model, offline=True))
    given_names = frozenset({"root", "epochs", "patience", "workers", "device", "resume"})
    task = restore_task(changed, given_names)
    # other options are unchanged
    assert task.options == replace(STARTED.options, epochs=20, patience=3)
    assert (task.root, task.workers, task.device) == (Path("/moved"), 3, "cuda")
    assert restore_task(changed, given_names | {"minutes"}).options.minutes is None


@pytest.mark.parametrize(
    ("name", "change", "original"),
    [
        ("lr", {"options": FinetuneOptions(lr=1e-2)}, "0.001"),
        ("weight_decay", {"options": FinetuneOptions(weight_decay=0.5)}, "0.05"),
        ("augment", {"options": FinetuneOptions(augment="none")}, "'light'"),
        ("head_only", {"options": FinetuneOptions(head_only=True)}, "not given"),
        ("seed", {"options": FinetuneOptions(seed=1)}, "7"),
        ("variant", {"model": ModelOptions(variant="b0")}, "'lite1'"),
        ("weights", {"model": ModelOptions(weights=Path("/other.pth"))}, "'/w/lite1.pth'"),
        ("model", {"model": ModelOptions(model=Path("/m"))}, "not given"),
        ("val", {"dataset": DatasetOptions(val=Path("/data/other"))}, "'/data/val'"),
        ("val_fraction", {"dataset": DatasetOptions(val_fraction=0.1)}, "0.25"),
        ("max_pixels", {"images": ImageOptions(max_pixels=99)}, "1234"),
        ("window", {"images": ImageOptions(window=(40, 80))}, "(40.0, 400.0)"),
        ("frame", {"images": ImageOptions(frame=1)}, "2"),
    ],
)
def test_changed_options_are_refused_with_their_original_value(
    name: str, change: dict[str, Any], original: str, here: Path
) -> None:
    bare = replace(start_run(STARTED, here / "run"), **change)
    with pytest.raises(UsageError) as caught:
        restore_task(bare, frozenset({name}))
    assert caught.value.message == (
        f"--{name.replace('_', '-')} was {original} when this run started."
    )
    restore_task(bare, frozenset())  # defaults are not changes


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lr", {"options": FinetuneOptions(lr=1e-3)}),
        ("variant", {"model": ModelOptions(variant="lite1")}),
        ("weights", {"model": ModelOptions(weights=Path("/w/lite1.pth"))}),
        ("val", {"dataset": DatasetOptions(val=Path("/data/val"))}),
    ],
)
def test_repeated_options_are_accepted(name: str, change: dict[str, Any], here: Path) -> None:
    bare = replace(start_run(STARTED, here / "run"), **change)
    assert restore_task(bare, frozenset({name})).options == STARTED.options


paths = st.binary(min_size=1, max_size=20).map(
    lambda name: Path("/") / os.fsdecode(name.replace(b"\0", b"x").replace(b"/", b"y"))
)


@given(root=paths, model_=st.none() | paths, val=st.none() | paths)
def test_paths_of_any_bytes_are_restored(
    root: Path, model_: Path | None, val: Path | None, session_folder: Path
) -> None:
    task = FinetuneTask(root, ModelOptions(model=model_), DatasetOptions(val=val))
    folder = session_folder / "any-bytes"
    assert restore_task(start_run(task, folder), frozenset()) == replace(task, resume=folder)


def test_relative_root_becomes_absolute(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = start_run(FinetuneTask(Path("birds")), here / "run")
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    assert restore_task(bare, frozenset()).root == here / "birds"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'"x"', b'{"root": 3}', b'{"model": {}}'],
    ids=str,
)
def test_damaged_options_are_refused(content: bytes, here: Path) -> None:
    folder = here / "run"
    folder.mkdir()
    (folder / run_dir.OPTIONS_FILE_NAME).write_bytes(content)
    task = FinetuneTask(Path(), resume=folder)
    with pytest.raises(UsageError, match=r"run/options.json' does not have .*: it is damaged\."):
        restore_task(task, frozenset({"lr"}))


def test_invalid_options_are_named(here: Path) -> None:
    task = start_run(STARTED, here / "run")
    path = here / "run" / run_dir.OPTIONS_FILE_NAME
    path.write_text(path.read_text().replace('"epochs": 9', '"epochs": -9'))
    with pytest.raises(UsageError, match=r"options.json' .*: Invalid epochs -9\."):
        restore_task(task, frozenset())


def test_missing_options_of_a_run_are_named(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    (folder / run_dir.OPTIONS_FILE_NAME).unlink()
    with pytest.raises(UsageError, match=r"options.json' is missing"):
        resume(folder)


@pytest.mark.parametrize("change", ["more", "less"])
def test_options_of_another_version_are_refused(change: str, here: Path) -> None:
    bare = start_run(STARTED, here / "run")
    path = here / "run" / run_dir.OPTIONS_FILE_NAME
    content = json.loads(path.read_text())
    if change == "more":
        content["options"]["mixup"] = 0.3
    else:
        del content["model"]["weights"]
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError):
        restore_task(bare, frozenset())


# --- a refused command changes nothing ------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, except the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize("head_only", [True, False])
def test_other_classes_never_touch_a_run(
    head_only: bool,
    colours: Path,
    small: ModelOptions,
    tmp_path: Path,
    effnet: Callable[..., CommandResult],
) -> None:
    run = tmp_path / "run"
    options = ["--head-only"] if head_only else ["--epochs", "1"]
    done = effnet("finetune", colours, "--model", small.model, *options, "-o", run, "--no-report")
    assert done.status == 0
    before = snapshot(run)
    other = tmp_path / "other"
    for label, color in (("black", (9, 9, 9)), ("white", (240, 240, 240))):
        (other / label).mkdir(parents=True)
        for number in range(6):
            save_blobs(other / label / f"{number}.png", color, number)
    for arguments in ([other, "--resume", run], ["--resume", run, "--output", tmp_path / "o"]):
        refused = effnet("finetune", *arguments, "--no-report")
        assert refused.status == 2, refused.stderr
        assert snapshot(run) == before
    again = effnet("finetune", "--resume", run, "--no-report")
    assert again.status == 0, again.stderr
    model = run / "model.safetensors"
    assert model.read_bytes() == before[str(model)]
