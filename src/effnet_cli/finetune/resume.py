"""Resuming a run: its task, its state, and what has changed since."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from effnet_cli.datasets.saved_split import load_split
from effnet_cli.finetune.run_dir import RESTORE, RunDir, TrainingState, suggest_restoring
from effnet_cli.finetune.setup import AUTO_VARIANT, TrainingSetup
from effnet_cli.models import checkpoint
from effnet_cli.models.card import MODEL_FILE_NAME, STATE_FILE_NAME
from effnet_cli.models.checkpoint import Arrays
from effnet_cli.models.hub_repo import make_absolute
from effnet_cli.options import FinetuneOptions, FinetuneTask
from effnet_cli.system.errors import UsageError
from effnet_cli.system.text import pluralize

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
        is_chosen = name == "variant" and now[name] == AUTO_VARIANT
        if before[name] != now[name] and not is_chosen:
            value = "not given" if before[name] in (None, False) else repr(before[name])
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
            values[name] = make_absolute(values[name])
    return {n: str(v) if isinstance(v, Path) else v for n, v in values.items()}


def load_progress(setup: TrainingSetup) -> tuple[TrainingState, Arrays | None]:
    """Return the saved state and tensors of a resumed run, or a new state without tensors.

    Raises:
        UsageError: the state or the model file is damaged, the classes have changed, or this is
            another dataset, or a complete run whose dataset has changed.
    """
    if setup.task.resume is None:
        return TrainingState(), None
    saved = setup.processes.broadcast(lambda: _read_state(setup.run_dir))
    setup.processes.broadcast(lambda: _check_run(setup, None if saved is None else saved[0]))
    if saved is None:
        return TrainingState(), None
    state, tensors = saved
    state.loss /= setup.processes.count
    return state, tensors


def _read_state(run_dir: RunDir) -> tuple[TrainingState, Arrays] | None:
    with suggest_restoring():
        return run_dir.read_state()


def _check_run(setup: TrainingSetup, state: TrainingState | None) -> None:
    """Check that this dataset can continue the run; `state` is `None` before the full model."""
    run_dir = setup.run_dir
    if state is not None:
        _check_classes(state.classes, setup.dataset.classes)
    elif run_dir.has_trained_full_model():
        raise UsageError(
            f"{STATE_FILE_NAME!r} of this run is missing.",
            f"Restore it, or start a new run with --model {shlex.quote(str(run_dir.path))}",
        )
    if state is not None and state.best and not run_dir.model.exists():
        raise UsageError(f"{MODEL_FILE_NAME!r} of this run is missing.", RESTORE)
    if run_dir.model.exists():
        with suggest_restoring():
            card, _ = checkpoint.read_arrays(run_dir.model)
        _check_classes(list(card.classes), setup.dataset.classes)
    _check_images(setup, is_complete=state is not None and _is_complete(setup.options, state))


def _is_complete(options: FinetuneOptions, state: TrainingState) -> bool:
    """Return whether nothing is left to train. The state of a head-only run is saved at its end."""
    return (
        not options.has_full_phase
        or state.is_over
        or state.epoch > (options.epochs or state.epochs)
    )


def _check_images(setup: TrainingSetup, *, is_complete: bool) -> None:
    """Compare the dataset with the one of the run: refuse another dataset, report changes."""
    saved = load_split(setup.run_dir.path)
    removed, added = (0, 0) if saved is None else saved.count_changes(setup.dataset)
    if saved is None or not (removed or added):
        return
    changes = f"{pluralize(removed, 'file')} removed or changed, {added:,} added or changed"
    if removed > len(saved.rows) / 2:
        message = f"{str(setup.task.root)!r} is not the dataset of this run ({changes})."
    elif is_complete:
        message = f"This run is complete, and its dataset has changed since ({changes})."
    else:
        setup.reporter.note(f"The dataset has changed since this run started: {changes}.")
        return
    raise UsageError(message, "Use the same dataset, or start a new run without --resume.")


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
