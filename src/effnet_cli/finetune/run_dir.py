"""The run folder: what is kept, so that a training can be killed at any instant and go on."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from effnet_cli import __version__
from effnet_cli.models import checkpoint
from effnet_cli.models.card import ModelCard
from effnet_cli.models.checkpoint import MODEL_FILE_NAME, OPTIONS_FILE_NAME, Arrays
from effnet_cli.options import (
    DatasetOptions,
    FinetuneOptions,
    FinetuneTask,
    ImageOptions,
    ModelOptions,
)
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import atomic_write, remove_partial_files

RUNS = Path("runs")
STATE_FILE_NAME = "state.safetensors"
METRICS_FILE_NAME = "metrics.jsonl"
LOCK_FILE_NAME = ".lock"
# What may be another on `--resume`.
CHANGEABLE = frozenset({"epochs", "minutes", "patience", "offline"})


@dataclass(slots=True)
class State:
    """Where a training stands: `step` updates of epoch `epoch` are done, on `seen` images with
    the summed loss `loss`. `rows` are the epochs so far, `best` tells which of them the model file
    holds, `stale` how many came after it.
    """

    epoch: int = 1
    step: int = 0
    seen: int = 0
    loss: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    stale: int = 0
    piece_size: int | None = None
    scaler: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    classes: list[str] = field(default_factory=list)


class RunFolder:
    """One run's folder, held by one process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def model(self) -> Path:
        return self.path / MODEL_FILE_NAME

    def write_options(self, task: FinetuneTask) -> None:
        """All that was asked for, but not where the result goes: for `--resume` and for people."""
        content = asdict(task)
        del content["output"], content["resume"]
        for name in ("model", "weights"):  # found from any working directory
            if content["model"][name] is not None:
                content["model"][name] = content["model"][name].absolute()
        content |= {"effnet": __version__, "root": task.root.absolute()}
        text = json.dumps(content, indent=2, allow_nan=False, default=str)
        _write_text(self.path / OPTIONS_FILE_NAME, text + "\n")

    def write_model(self, card: ModelCard, network: torch.nn.Module) -> None:
        """The model file: the best epoch so far."""
        checkpoint.write(self.model, card, arrays(network.state_dict()))

    def write_state(
        self, state: State, file_keys: npt.NDArray[np.uint64], tensors: Mapping[str, Tensor]
    ) -> None:
        """What `--resume` needs."""
        content = {**arrays(tensors), "file_keys": file_keys}
        checkpoint.write_state(self.path / STATE_FILE_NAME, asdict(state), content)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """The figures of all epochs so far, a line each."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        _write_text(self.path / METRICS_FILE_NAME, lines)

    def read_state(self) -> tuple[State, Arrays] | None:
        """The state that was written last; `None` if the run was stopped before its first."""
        path = self.path / STATE_FILE_NAME
        if not path.exists():
            return None
        header, tensors = checkpoint.read_state(path)
        return State(**header), tensors


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="ascii")


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Tensors as NumPy arrays on the CPU."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def restore_task(task: FinetuneTask, typed: frozenset[str]) -> FinetuneTask:
    """The task of the run in `task.resume`, with what may change on the way taken from `task`.

    Args:
        task: what a person asks for now; `typed` are the names of the options that they typed.

    Raises:
        UsageError: the folder holds no run, or an option was typed that cannot change any more.
    """
    kept = _kept_task(task.resume or Path())
    before, now = _all_options(kept), _all_options(task)
    for name in sorted(typed & now.keys() - CHANGEABLE):
        if before[name] != now[name]:
            was = "not given" if before[name] is None else repr(before[name])
            raise UsageError(
                f"--{name.replace('_', '-')} was {was} when this training began.",
                "Leave it out, or start a new training without --resume.",
            )
    changed = {name: now[name] for name in CHANGEABLE & typed & asdict(kept.options).keys()}
    return replace(
        kept,
        root=task.root if "root" in typed else kept.root,
        model=replace(kept.model, offline=kept.model.offline or task.model.offline),
        options=replace(kept.options, **changed),
        device=task.device,
        workers=task.workers,
        resume=task.resume,
    )


def _all_options(task: FinetuneTask) -> dict[str, Any]:
    """By the names that people type; paths as text."""
    parts = (task.model, task.dataset, task.images, task.options)
    found = {name: value for part in parts for name, value in asdict(part).items()}
    for name in ("model", "weights"):
        if found[name] is not None:
            found[name] = found[name].absolute()
    return {n: str(v) if isinstance(v, Path) else v for n, v in found.items()}


def _kept_task(folder: Path) -> FinetuneTask:
    """What `RunFolder.write_options` has written."""
    try:
        kept = json.loads((folder / OPTIONS_FILE_NAME).read_text("ascii"))
        return FinetuneTask(
            Path(kept["root"]),
            ModelOptions(**_with_paths(kept["model"], "model", "weights")),
            DatasetOptions(**_with_paths(kept["dataset"], "val")),
            ImageOptions(**kept["images"]),
            FinetuneOptions(**kept["options"]),
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{str(folder)!r} holds no training that can go on.",
            "Give the folder of a run after --resume, or leave --resume out to start one.",
        ) from error


def _with_paths(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return options | {name: Path(options[name]) for name in names if options[name] is not None}


@contextmanager
def held(path: Path) -> Iterator[RunFolder]:
    """The run folder at `path`, made if need be, held until the block ends.

    Raises:
        UsageError: another process trains into it, or it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK_FILE_NAME, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"Another training writes into {str(path)!r}.",
            "Wait for its end, or name another folder with --output.",
        ) from error
    except OSError as error:
        raise UsageError(
            f"{str(path)!r} cannot be written: {error.strerror}.",
            "Name another folder with --output.",
        ) from error
    try:
        remove_partial_files(path, "")
        yield RunFolder(path)
    finally:
        lock.release()


def check_output(output: Path | None) -> None:
    """Before anything that takes time: is there room for a new run at `output`?

    Raises:
        UsageError: `output` is there and holds something.
    """
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(
            f"--output {str(output)!r} is there already.",
            f"Name a new folder, or go on with that run: --resume {output}",
        )


def new_path(output: Path | None, dataset: Path, variant: str) -> Path:
    """The folder of a new run: `output`, or the next free `runs/DATASET-VARIANT`."""
    if output is not None:
        return output
    path = dataset.resolve()
    name = f"{(path.name if path.is_dir() else path.stem) or 'dataset'}-{variant}"
    number = 1
    while True:
        path = RUNS / (name if number == 1 else f"{name}-{number}")
        if not os.path.lexists(path):  # noqa: PTH117
            return path
        number += 1
