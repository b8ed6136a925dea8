"""The run folder: everything needed to use, inspect and resume a run."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from effnet_cli import __version__
from effnet_cli.finetune.records import NO_SCORES, Epoch
from effnet_cli.finetune.view_choice import ViewTrial
from effnet_cli.images.augment import AugmentPolicy
from effnet_cli.models import checkpoint
from effnet_cli.models.card import (
    FOLDS_FILE_NAME,
    LOCK_FILE_NAME,
    METRICS_FILE_NAME,
    MODEL_FILE_NAME,
    OPTIONS_FILE_NAME,
    SPLIT_FILE_NAME,
    STATE_FILE_NAME,
    ModelCard,
)
from effnet_cli.models.checkpoint import Arrays
from effnet_cli.models.hub_repo import make_absolute
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
RUN_FILES = (
    *(MODEL_FILE_NAME, STATE_FILE_NAME, OPTIONS_FILE_NAME),
    *(METRICS_FILE_NAME, SPLIT_FILE_NAME, FOLDS_FILE_NAME),
)
RESTORE = "Restore it, or start a new run without --resume."


@dataclass(slots=True)
class TrainingState:
    """The progress of a run.

    `step` updates of epoch `epoch` are done, on `seen` images with a summed loss of `loss`. `rows`
    are the finished epochs, `best` is the one in the model file, and `stale` counts those after it.
    `epochs` and `views` are how the full model is trained: its epochs and the fields of its
    `AugmentPolicy`; `trials` are the fields of the `ViewTrial`s it was chosen by. `is_over`:
    it was worse than its start.
    """

    epoch: int = 1
    step: int = 0
    seen: int = 0
    loss: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    stale: int = 0
    micro_batch_size: int | None = None
    scaler: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    classes: list[str] = field(default_factory=list)
    epochs: int = 0
    views: dict[str, float] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    is_over: bool = False

    def plan_full(
        self, epochs: int, policy: AugmentPolicy, trials: Sequence[ViewTrial] = ()
    ) -> None:
        """Record how the full model will be trained, and what was tried to choose its views."""
        self.epochs, self.views = epochs, asdict(policy)
        self.trials = [asdict(trial) for trial in trials]

    @property
    def policy(self) -> AugmentPolicy:
        """What the training views of the full model are."""
        return AugmentPolicy(**self.views)


class RunDir:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def model(self) -> Path:
        return self.path / MODEL_FILE_NAME

    def write_task(self, task: FinetuneTask) -> None:
        """Write the options of a run, without `output` and `resume`."""
        content = asdict(task)
        del content["output"], content["resume"]
        for name in ("model", "weights"):  # valid in any working directory
            if content["model"][name] is not None:
                content["model"][name] = make_absolute(content["model"][name])
        content |= {"effnet": __version__, "root": task.root.absolute()}
        text = json.dumps(content, indent=2, allow_nan=False, default=str)
        self._write_text(OPTIONS_FILE_NAME, text + "\n")

    def read_task(self) -> FinetuneTask:
        """Read the task that `write_task` wrote.

        Raises:
            UsageError: it is missing or invalid.
        """
        try:
            content = json.loads((self.path / OPTIONS_FILE_NAME).read_text("ascii"))
            return FinetuneTask(
                root=Path(content["root"]),
                model=ModelOptions(**_with_paths(content["model"], "model", "weights")),
                dataset=DatasetOptions(**_with_paths(content["dataset"], "val")),
                images=ImageOptions(**content["images"]),
                options=FinetuneOptions(**content["options"]),
            )
        except (OSError, ValueError, LookupError, TypeError, UsageError) as error:
            raise self._cannot_read_task(error) from error

    def _cannot_read_task(self, error: Exception) -> UsageError:
        path = self.path / OPTIONS_FILE_NAME
        if not any((self.path / name).exists() for name in RUN_FILES):
            return UsageError(
                f"{str(self.path)!r} contains no run to resume.",
                "Pass a run folder to --resume, or omit it to start a new run.",
            )
        if not path.exists():
            return UsageError(f"{str(path)!r} is missing.", RESTORE)
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        if isinstance(error, UsageError):
            reason = error.message.rstrip(".")
        return UsageError(f"{str(path)!r} does not have the options of a run: {reason}.", RESTORE)

    def write_model(self, card: ModelCard, module: torch.nn.Module) -> None:
        """Write the model file."""
        checkpoint.write(self.model, card, to_arrays(module.state_dict()))

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write the finished epochs, one JSON object per line."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        self._write_text(METRICS_FILE_NAME, lines)

    def has_trained_full_model(self) -> bool:
        """Return whether an epoch of the full model has been written."""
        metrics = self.path / METRICS_FILE_NAME
        return metrics.is_file() and '"phase": "full"' in metrics.read_text("ascii", "replace")

    def write_state(self, state: TrainingState, tensors: Mapping[str, Tensor]) -> None:
        """Write what `--resume` needs."""
        checkpoint.write_state(self.path / STATE_FILE_NAME, asdict(state), to_arrays(tensors))

    def read_state(self) -> tuple[TrainingState, Arrays] | None:
        """Read the last saved state and its tensors; `None` if none was saved yet."""
        path = self.path / STATE_FILE_NAME
        if not path.exists():
            return None
        header, tensors = checkpoint.read_state(path)
        state = TrainingState(**header)
        # keys in their usual order
        state.rows = [Epoch(**NO_SCORES | row).to_json() for row in state.rows]
        return state, tensors

    def _write_text(self, name: str, text: str) -> None:
        with atomic_write(self.path / name) as part:
            part.write_text(text, encoding="ascii")


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Convert tensors on any device to NumPy arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _with_paths(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return options | {name: Path(options[name]) for name in names if options[name] is not None}


@contextmanager
def suggest_restoring() -> Iterator[None]:
    """Replace the hint of an error about a file of the run."""
    try:
        yield
    except UsageError as error:
        raise UsageError(error.message, RESTORE) from error


@contextmanager
def lock_run_dir(path: Path) -> Iterator[RunDir]:
    """Create the run folder if needed and lock it until the block ends.

    Raises:
        UsageError: another run has locked it, or it is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK_FILE_NAME, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"Another run is using {str(path)!r}.",
            "Wait for it to finish, or use another folder with --output.",
        ) from error
    except OSError as error:
        raise UsageError(
            f"Cannot write to {str(path)!r}: {error.strerror}.",
            "Use another folder with --output.",
        ) from error
    try:
        remove_partial_files(path, "")
        yield RunDir(path)
    finally:
        lock.release()


def check_output(output: Path | None) -> None:
    """Check early that a new run can be created at `output`.

    Raises:
        UsageError: it exists and is not an empty folder.
    """
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        hint = "Use a new folder."
        if (output / OPTIONS_FILE_NAME).is_file():
            command = f"--resume {shlex.quote(str(output))}"
            hint = f"Use a new folder, or continue that run with {command}"
        raise UsageError(f"--output {str(output)!r} already exists.", hint)


def choose_path(output: Path | None, dataset: Path, variant: str) -> Path:
    """Return the folder of a new run: `output`, or the next free `runs/DATASET-VARIANT`."""
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
