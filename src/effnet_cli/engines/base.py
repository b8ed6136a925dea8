"""The protocol of engines: crops in, scores out."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from effnet_cli.models.card import ModelCard
from effnet_cli.models.familiarity import Features
from effnet_cli.models.weights import Model
from effnet_cli.options import Precision
from effnet_cli.system.errors import UsageError
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import SILENT, Reporter

Crops = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]
ScoresAre = Literal["logits", "probabilities"]
Item = TypeVar("Item")


class ModelOutputs(NamedTuple):
    """What a model says of N images.

    `scores` are float32 [N,C]. `features` are the pooled features that its classifier starts from,
    float32 [N,D]; `None` if an exported file does not output them.
    """

    scores: Scores
    features: Features | None = None


class Engine(Protocol):
    """Runs a model: takes crops, `uint8 [N,H,W,3]`, and returns its outputs.

    It is safe to call from as many threads at once as it was loaded for.

    Raises:
        EffnetError: when called, if the device runs out of memory.
    """

    precision: Precision
    scores_are: ScoresAre

    def __call__(self, crops: Crops) -> ModelOutputs: ...


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What an engine is created from; `callers` threads will call it at once."""

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
    """An engine that can time its forward passes with the device's clock."""

    def device_times_ms(self, crops: Crops, calls: int) -> list[float] | None:
        """Return the milliseconds of each of `calls` passes, with the input already on the device.

        Returns `None` if the device works synchronously.
        """


class CannotRunError(UsageError):
    """A runtime cannot run an exported file."""


@contextmanager
def translate_errors(
    library: str, model: Model, errors: tuple[type[Exception], ...] = (RuntimeError, ValueError)
) -> Iterator[None]:
    """Turn the `errors` that `library` raises for a file it cannot run into `CannotRunError`.

    Errors in a graph that effnet compiled itself are bugs and pass through unchanged.
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
    """Return what a model outputs: a file exported with its preprocessing ends in probabilities."""
    return "probabilities" if card.export.get("include_preprocessing") else "logits"


def pad(crops: Crops, size: int) -> Crops:
    """Append black images to `crops` to make `size` images."""
    missing = size - len(crops)
    if not missing:
        return crops
    return np.concatenate([crops, np.zeros((missing, *crops.shape[1:]), dtype=crops.dtype)])


class PerThread(threading.local, Generic[Item]):
    """Items that each thread creates for itself, one for each batch size."""

    def __init__(self, create: Callable[[int], Item]) -> None:  # runs in each thread
        self.get = cache(create)


def card_probabilities(
    card: ModelCard, scores: Scores, scores_are: ScoresAre
) -> npt.NDArray[np.float64]:
    """Return the calibrated probabilities of a model's scores, float64 [N,C]: of one class each, or
    of each label.
    """
    if card.label_scores is not None and scores_are == "logits":
        return card.label_scores.to_probabilities(scores)
    return to_probabilities(scores, scores_are, card.temperature)


def to_probabilities(
    scores: Scores, scores_are: ScoresAre, temperature: float = 1.0
) -> npt.NDArray[np.float64]:
    """Return probabilities, float64 [N,C]: softmax(logits / `temperature`) of each row.

    Scores that are already probabilities are only converted: they include the temperature.
    """
    values = scores.astype(np.float64)
    if scores_are == "logits":
        values /= temperature
        values -= values.max(axis=1, keepdims=True)
        np.exp(values, out=values)
        values /= values.sum(axis=1, keepdims=True)
    return values
