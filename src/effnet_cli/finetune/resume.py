"""Resuming a run: its task, its state, and what has changed since."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from effnet_cli.datasets.saved_split import load_split
from effnet_cli.finetune.run_dir import RunDir, TrainingState
from effnet_cli.finetune.setup import TrainingSetup
from effnet_cli.models import checkpoint
from effnet_cli.models.checkpoint import Arrays
from effnet_cli.options import FinetuneTask
from effnet_cli.system.errors import UsageError

# Options that may change on --resume.
CHANGEABLE = frozenset({"epochs", "minutes", "patience", "offline"})


def restore_task(task: FinetuneTask, given: frozenset[str]) -> FinetuneTask:
    """Return the task of the run in `task.resume`, with the changeable options of `task`.

    Args:
        given: names of the options that were given explicitly.

    Raises:
        UsageError: there is no such run, or a given option can no longer be changed.
    """
    saved = RunDir(task.resume or Path()).read_task()
    before, now = _options_by_name(saved), _options_by_name(task)
    for name in sorted(given & now.keys() - CHANGEABLE):
        if before[name] != now[name]:
            value = "not set" if before[name] is None else repr(before[name])
            raise UsageError(
                f"--{name.replace('_', '-')} was {value} when this run started.",
                "Omit it, or start a new run without --resume.",
            )
    changed = {name: now[name] for name in CHANGEABLE & given & asdict(saved.options).keys()}
    return replace(
        saved,
        root=task.root if "root" in given else saved.root,
        model=replace(saved.model, offline=saved.model.offline or task.model.offline),
        options=replace(saved.options, **changed),
        device=task.device,
        workers=task.workers,
        resume=task.resume,
    )


def _options_by_name(task: FinetuneTask) -> dict[str, Any]:
    """Return all options by their command-line names, with paths as text."""
    groups = (task.model, task.dataset, task.images, task.options)
    values = {name: value for group in groups for name, value in asdict(group).items()}
    for name in ("model", "weights"):
        if values[name] is not None:
            values[name] = values[name].absolute()
    return {n: str(v) if isinstance(v, Path) else v for n, v in values.items()}


def load_progress(setup: TrainingSetup) -> tuple[TrainingState, Arrays | None]:
    """Return the saved state and tensors of a resumed run, or a new state without tensors.

    Raises:
        UsageError: the state is damaged, or the classes of the dataset have changed.
    """
    saved = None
    if setup.task.resume is not None:
        saved = setup.processes.broadcast(setup.run_dir.read_state)
    if saved is None:
        if setup.run_dir.model.exists():  # stopped while the head was trained
            card = checkpoint.read_card(setup.run_dir.model)
            _check_classes(list(card.classes), setup.dataset.classes)
        return TrainingState(), None
    state, tensors = saved
    _check_classes(state.classes, setup.dataset.classes)
    if setup.processes.is_first:
        _note_changes(setup)
    state.loss /= setup.processes.count
    return state, tensors


def _note_changes(setup: TrainingSetup) -> None:
    saved = load_split(setup.run_dir.path)
    removed, added = (0, 0) if saved is None else saved.count_changes(setup.dataset)
    if removed or added:
        setup.reporter.note(
            f"The dataset has changed since this run started: {removed:,} files removed or changed,"
            f" {added:,} added or changed."
        )


def _check_classes(before: list[str], now: tuple[str, ...]) -> None:
    if before == list(now):
        return
    removed, added = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    changes = [
        f"{len(names)} {change}, such as {names[0]!r}"
        for names, change in ((removed, "removed"), (added, "added"))
        if names
    ]
    raise UsageError(
        f"The classes have changed since this run started: {'; '.join(changes) or 'order'}.",
        "Use the same dataset, or start a new run without --resume.",
    )
