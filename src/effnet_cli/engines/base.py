"""The protocol of engines: crops in, scores out."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from effnet_cli.models.card import ModelCard
from effnet_cli.models.weights import Model
from effnet_cli.options import Precision
from effnet_cli.system.errors import UsageError
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import SILENT, Reporter

Crops = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]
ScoresAre = Literal["logits", "probabilities"]
Item = TypeVar("Item")


class Engine(Protocol):
    """Runs a model: crops, `uint8 [N,H,W,3]`, in; scores, `float32 [N,C]`, out.

    Safe to call from as many threads at once as it was loaded for.

    Raises:
        EffnetError: when called, if the device runs out of memory.
    """

    precision: Precision
    scores_are: ScoresAre

    def __call__(self, crops: Crops) -> Scores: ...


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What an engine is created with; `callers` threads will call it at once."""

    model: Model
    device: str = "cpu"
    precision: Precision = "fp32"
    callers: int = 1
    reporter: Reporter = SILENT

    @property
    def threads_per_caller(self) -> int:
        return max(1, usable_cores() // self.callers)


@runtime_checkable
class DeviceClock(Protocol):
    """An engine that times its passes by the clock of its device."""

    def device_times_ms(self, crops: Crops, calls: int) -> list[float] | None:
        """Milliseconds of each of `calls` passes through the model, its input already on the
        device; `None` if the device works synchronously.
        """


class CannotRunError(UsageError):
    """A runtime refuses an exported file."""


@contextmanager
def translate_errors(
    library: str, model: Model, errors: tuple[type[Exception], ...] = (RuntimeError, ValueError)
) -> Iterator[None]:
    """Raise `CannotRunError` for what `library` raises for a file that it cannot run.

    Errors in a graph that effnet compiled itself are bugs, and stay what they are.
    """
    try:
        yield
    except errors as error:
        if model.file_kind == "tensors":
            raise
        raise CannotRunError(
            f"{library} cannot run {str(model.path)!r}: the file is damaged, or made for a newer "
            f"{library}.",
            "Export it again.",
        ) from error


def scores_of(card: ModelCard) -> ScoresAre:
    """What a model gives: a file exported with its preprocessing ends in a softmax."""
    return "probabilities" if card.export.get("include_preprocessing") else "logits"


def pad(crops: Crops, size: int) -> Crops:
    """`crops` with black images behind them, `size` in all."""
    missing = size - len(crops)
    if not missing:
        return crops
    return np.concatenate([crops, np.zeros((missing, *crops.shape[1:]), dtype=crops.dtype)])


class PerThread(threading.local, Generic[Item]):
    """What each thread creates for itself, once for each batch size."""

    def __init__(self, create: Callable[[int], Item]) -> None:  # in each thread
        self.get = cache(create)


def to_probabilities(
    scores: Scores, scores_are: ScoresAre, temperature: float = 1.0
) -> npt.NDArray[np.float64]:
    """Probabilities, float64 [N,C]: softmax(logits / `temperature`) of each row.

    Scores that are probabilities already include the temperature.
    """
    values = scores.astype(np.float64)
    if scores_are == "logits":
        values /= temperature
        values -= values.max(axis=1, keepdims=True)
        np.exp(values, out=values)
        values /= values.sum(axis=1, keepdims=True)
    return values
