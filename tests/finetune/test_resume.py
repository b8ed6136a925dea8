"""Trainings that are killed, stopped and changed on the way, and what `--resume` makes of them."""

import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effnet_cli.finetune import trainer as training
from effnet_cli.finetune.phases import NetworkPhase
from effnet_cli.finetune.run import finetune
from effnet_cli.finetune.run_dir import restore_task
from effnet_cli.finetune.signals import TrainingStopped
from effnet_cli.models import checkpoint
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import FinetuneOptions, FinetuneTask, ModelOptions
from effnet_cli.system.errors import UsageError
from forked import Ended, ended
from helpers import RecordingReporter
from training import (
    HEAD_EPOCHS,
    Ran,
    go_on,
    kept_state,
    make_classes,
    rows_of,
    save_blobs,
    script,
    task_of,
    timeless,
    train,
    tree,
)

pytestmark = pytest.mark.usefixtures("one_core", "caches", "quick")

STEPS = 3  # of an epoch
OPTIONS = FinetuneOptions(epochs=2, hidden=0, batch_size=6)
ARGUMENTS = ["--epochs", "2", "--hidden", "0", "--batch-size", "6", "--format", "jsonl"]
# The state is kept after every step.
EAGER = "training.SAVE_SECONDS = 0\n"
# Dies at the `count`-th time that a file called `name` becomes whole, right before or after it.
DIES = """
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
# Dies when half of a file's bytes are written.
DIES_WRITING = """
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
# Sends itself signals within a step.
SIGNALS = """
import os
from effnet_cli.finetune.phases import NetworkPhase
after_step, left = NetworkPhase.after_step, [{step}]
def signalled(self):
    left[0] -= 1
    if not left[0]:
        for number in {numbers}:
            os.kill(os.getpid(), number)
    after_step(self)
NetworkPhase.after_step = signalled
"""
# Sends itself a signal while features are computed.
IN_FIRST_PHASE = """
import os
from effnet_cli.output.progress import PlainReporter
progress = PlainReporter.progress
def signalled(self, what, *rest):
    if what == "{what}":
        os.kill(os.getpid(), {number})
    progress(self, what, *rest)
PlainReporter.progress = signalled
"""


@pytest.fixture(scope="module")
def unbroken(
    colours: Path, small: ModelOptions, session_folder: Path, one_core: object, caches: None
) -> Ran:
    """The run that nothing happens to, in a process of its own like those that are killed."""
    folder = session_folder / "unbroken"
    done = started(colours, small, folder)
    assert done.status == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "SAVE_SECONDS", 0)
        ran = go_on(folder)  # which is over: only its end comes
    assert not ran.epochs
    return ran


def started(colours: Path, small: ModelOptions, folder: Path, code: str = "") -> Ended:
    """`effnet finetune`, after running `code`."""
    assert small.model is not None
    return ended(
        script(code), ["finetune", colours, "--model", small.model, "-o", folder, *ARGUMENTS]
    )


def assert_alike(ran: Ran, unbroken: Ran) -> None:
    """All that was learned is the same to the last bit."""
    (state, tensors), (wanted_state, wanted) = map(kept_state, (ran.folder, unbroken.folder))
    assert tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        assert tensors[name].tobytes() == value.tobytes(), name
    assert timeless(ran.rows) == timeless(unbroken.rows)
    assert timeless(state.pop("rows")) == timeless(wanted_state.pop("rows"))
    assert {**state, "seconds": 0} == {**wanted_state, "seconds": 0}
    assert ran.model == unbroken.model
    assert not list(ran.folder.glob(".*.part"))


# --- killed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "step"),
    [
        pytest.param(DIES.format(name="metrics.jsonl", count=1, moment="after"), None, id="head"),
        pytest.param(DIES_WRITING.format(count=2), None, id="writing the classifier"),
        pytest.param(
            EAGER + DIES.format(name="state.safetensors", count=3, moment="after"),
            (1, 2),
            id="between two steps",
        ),
        pytest.param(
            EAGER + DIES.format(name="state.safetensors", count=7, moment="before"),
            (2, 1),
            id="before the state appears",
        ),
        pytest.param(
            DIES.format(name="metrics.jsonl", count=HEAD_EPOCHS + 1, moment="before"),
            (1, 0),
            id="between the model and the state",
        ),
        pytest.param(
            DIES.format(name="state.safetensors", count=3, moment="after"), (3, 0), id="at the end"
        ),
    ],
)
def test_killed_training_goes_on_to_the_same_bits(
    code: str,
    step: tuple[int, int] | None,
    colours: Path,
    small: ModelOptions,
    tmp_path: Path,
    unbroken: Ran,
) -> None:
    folder = tmp_path / "run"
    done = started(colours, small, folder, code)
    assert done.status == -signal.SIGKILL, done.stderr
    assert (folder / "state.safetensors").exists() == (step is not None)
    if step is not None:
        header, _ = kept_state(folder)
        assert (header["epoch"], header["step"]) == step
        checkpoint.read_arrays(folder / "model.safetensors")  # whole
    ran = go_on(folder)
    assert_alike(ran, unbroken)
    assert (ran.end.phase, ran.end.epoch) == (unbroken.end.phase, unbroken.end.epoch)
    assert ran.end.val == unbroken.end.val


@pytest.mark.parametrize("seed", [1, 3])
def test_training_left_anywhere_goes_on_to_the_same_bits(
    seed: int,
    colours: Path,
    small: ModelOptions,
    tmp_path: Path,
    unbroken: Ran,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gone(BaseException):
        """The process is no more."""

    rng = np.random.default_rng(seed)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)
    after_step, folder = NetworkPhase.after_step, tmp_path / "run"
    left = 0

    def perhaps_the_last(self: NetworkPhase) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Gone
        after_step(self)

    monkeypatch.setattr(NetworkPhase, "after_step", perhaps_the_last)
    task = task_of(colours, small, folder, OPTIONS)
    for _ in range(2):
        left = int(rng.integers(1, STEPS + 1))
        with pytest.raises(Gone):
            train(task)
        task = restore_task(FinetuneTask(Path(), resume=folder), frozenset())
    left = 0
    assert_alike(go_on(folder), unbroken)


# --- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_after_the_running_step_and_says_how_to_go_on(
    number: signal.Signals, colours: Path, small: ModelOptions, tmp_path: Path, unbroken: Ran
) -> None:
    folder = tmp_path / "a run"
    done = started(colours, small, folder, SIGNALS.format(step=STEPS + 2, numbers=[int(number)]))
    assert done.status == 128 + number
    assert f"Stopped by {number.name}" in done.stderr
    assert f"effnet finetune --resume '{folder}'" in done.stderr
    assert "Traceback" not in done.stderr
    header, _ = kept_state(folder)
    assert (header["epoch"], header["step"]) == (2, 2)
    assert len(done.stdout.splitlines()) == HEAD_EPOCHS + 1  # one of the network
    assert_alike(go_on(folder), unbroken)


def test_second_signal_ends_at_once(
    colours: Path, small: ModelOptions, tmp_path: Path, unbroken: Ran
) -> None:
    folder = tmp_path / "run"
    code = SIGNALS.format(step=2, numbers=[int(signal.SIGTERM), int(signal.SIGINT)])
    done = started(colours, small, folder, code)
    assert done.status == 128 + signal.SIGINT
    assert "Traceback" not in done.stderr
    header, _ = kept_state(folder)
    assert (header["epoch"], header["step"]) == (1, 0)  # nothing was kept on the way out
    assert_alike(go_on(folder), unbroken)


def test_signal_during_validation_ends_after_the_epoch(
    colours: Path, small: ModelOptions, tmp_path: Path, unbroken: Ran
) -> None:
    folder = tmp_path / "run"

    class Sends(RecordingReporter):
        def progress(self, what: str, done: int, total: int | None, unit: str = "") -> None:
            if what == "Validation" and done == total:
                signal.raise_signal(signal.SIGTERM)

    rows = []
    with pytest.raises(TrainingStopped) as caught:
        for record in finetune(task_of(colours, small, folder, OPTIONS), Sends()):
            rows.append(record)
    assert caught.value.exit_status == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    header, _ = kept_state(folder)
    assert (header["epoch"], header["step"]) == (2, 0)
    assert len(rows_of(folder)) == HEAD_EPOCHS + 1
    assert len(rows) == HEAD_EPOCHS + 1  # the epoch that is over is told
    assert_alike(go_on(folder), unbroken)


@pytest.mark.parametrize("what", ["Features", "Validation features"])
def test_signal_before_the_network_learns_says_how_to_go_on(
    what: str, colours: Path, small: ModelOptions, tmp_path: Path, unbroken: Ran
) -> None:
    folder = tmp_path / "a run"
    code = IN_FIRST_PHASE.format(what=what, number=int(signal.SIGINT))
    done = started(colours, small, folder, code)
    assert done.status == 128 + signal.SIGINT
    assert "Error: Stopped by SIGINT; the classifier begins anew.\n" in done.stderr
    assert f"Go on with: effnet finetune --resume '{folder}'" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(UsageError, match="has no checkpoint yet") as caught:
        resolve_model(ModelOptions(model=folder))
    assert caught.value.hint == f"Go on with it: effnet finetune --resume '{folder}'"
    assert_alike(go_on(folder), unbroken)


# --- changed on the way -----------------------------------------------------------------------


@pytest.fixture
def begun(small: ModelOptions, tmp_path: Path) -> tuple[Path, Path]:
    """A dataset of its own, and a run of one epoch that is over."""
    root, folder = tmp_path / "data", tmp_path / "run"
    make_classes(root)
    train(task_of(root, small, folder, replace(OPTIONS, epochs=1)))
    return root, folder


def test_more_epochs(begun: tuple[Path, Path]) -> None:
    _, folder = begun
    ran = go_on(folder, epochs=3)
    assert [(row.phase, row.epoch, row.epochs) for row in ran.epochs] == [
        ("network", 2, 3),
        ("network", 3, 3),
    ]
    rows = rows_of(folder)
    assert [row["epoch"] for row in rows] == [*range(1, HEAD_EPOCHS + 1), 1, 2, 3]
    heard = RecordingReporter()
    over = go_on(folder, heard)
    assert not over.epochs
    assert "None of them is left to do: --epochs with a larger number goes on." in heard.text
    assert over.end == replace(ran.end, seconds=over.end.seconds)
    assert over.model == ran.model


def test_other_options_are_refused_by_name(begun: tuple[Path, Path]) -> None:
    _, folder = begun
    before = tree(folder)
    for name, value in (("lr", 1e-5), ("batch_size", 9), ("augment", "none"), ("freeze", 2)):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} was") as caught:
            go_on(folder, **{name: value})
        assert "--resume" in caught.value.hint
    assert tree(folder) == before


def test_other_classes_are_refused(begun: tuple[Path, Path]) -> None:
    root, folder = begun
    before = tree(folder)
    (root / "red").rename(root / "scarlet")
    with pytest.raises(UsageError, match="1 gone, such as 'red'; 1 new, such as 'scarlet'"):
        go_on(folder)
    after = tree(folder)
    assert after == before
    (root / "scarlet").rename(root / "red")
    assert go_on(folder, epochs=2).end.val.images == 6


def test_changed_files_are_counted(begun: tuple[Path, Path]) -> None:
    root, folder = begun
    (root / "red" / "0.jpg").unlink()
    save_blobs(root / "blue" / "new.png", (50, 50, 200), 99)
    save_blobs(root / "blue" / "newer.png", (50, 50, 200), 100)
    heard = RecordingReporter()
    ran = go_on(folder, heard, epochs=2)
    said = re.search(r"changed since: (\d+) files are gone .* (\d+) are new", heard.text)
    assert said is not None
    gone, new = map(int, said.groups())
    assert new - gone == 1
    assert gone >= 1
    assert [row.epoch for row in ran.epochs] == [2]


def test_damaged_state_is_said(begun: tuple[Path, Path]) -> None:
    _, folder = begun
    path = folder / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        go_on(folder, epochs=2)


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no training"):
        go_on(tmp_path)


def test_head_only_run_begins_anew(colours: Path, small: ModelOptions, tmp_path: Path) -> None:
    options = replace(OPTIONS, head_only=True)
    whole = train(task_of(colours, small, tmp_path / "whole", options))
    records = finetune(task_of(colours, small, tmp_path / "run", options))
    next(records)
    records.close()  # type: ignore[attr-defined]
    ran = go_on(tmp_path / "run")
    assert len(ran.epochs) == HEAD_EPOCHS
    assert ran.model == whole.model
