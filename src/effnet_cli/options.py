"""The names and defaults that several rooms share. A default is written once, here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Fit = Literal["crop", "pad", "stretch"]
EngineName = Literal["torch", "onnxruntime", "openvino"]
EngineChoice = Literal["auto", "torch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Format = Literal["table", "json", "jsonl", "csv"]
FaultKind = Literal[
    "empty",
    "truncated",
    "not_an_image",
    "unsupported_format",
    "too_large",
    "unreadable",
    "not_a_file",
    "missing",
    "timeout",
    "crashed",
]

MAX_PIXELS = 89_000_000  # pixels in one picture; about 270 MB once decoded


@dataclass(frozen=True)
class ModelOptions:
    """Which network answers, and with which weights.

    `model` is a model file (or the folder that holds it) and excludes `variant` and `weights`;
    `weights` replaces the published weights of `variant`; `offline` forbids every connection.
    """

    variant: str | None = None
    model: Path | None = None
    weights: Path | None = None
    offline: bool = False


@dataclass(frozen=True)
class EngineOptions:
    """What runs the network; `auto` picks by what is here, and only what answers like torch in
    fp32.

    `device` is `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
    """

    device: str = "auto"
    engine: EngineChoice = "auto"
    precision: Precision = "fp32"


@dataclass(frozen=True)
class PictureOptions:
    """How pictures are opened and fitted to the network's square input."""

    fit: Fit = "crop"
    exact_decode: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class PredictOptions:
    """How many answers a picture gets, and how the work is cut; `None` is `auto`."""

    top_k: int = 5
    batch_size: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for value in (self.top_k, self.batch_size, self.workers):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{value!r} is not a whole number from 1")


class Listener(Protocol):
    """Hears what a person waits for while something long goes on."""

    def note(self, text: str) -> None:
        """One line about what is being done, and why it takes time."""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """`done` of `total` units (bytes of a download) of the work called `what`."""


class _Silent:
    def note(self, text: str) -> None:
        """Nobody listens."""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Nobody listens."""


SILENT: Listener = _Silent()
