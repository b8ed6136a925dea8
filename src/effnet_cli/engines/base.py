"""The seam behind which engines are swapped: what goes in, what comes out."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from effnet_cli.options import Precision
from effnet_cli.system.errors import UsageError

Pixels = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """`float32 [N,3,H,W]` -> logits `float32 [N,C]`; may be called from as many threads as it was
    made for.

    Raises:
        EffnetError: when called, if the device cannot do it (out of memory).
    """

    name: str
    device: str
    precision: Precision

    def __call__(self, pixels: Pixels) -> Logits: ...


@runtime_checkable
class DeviceClock(Protocol):
    """What an engine also has whose device works on its own: its time by that device's clock."""

    def device_times_ms(self, pixels: Pixels, calls: int) -> list[float] | None:
        """Milliseconds of each of `calls` passes through the network, the images being on the
        device before; `None` where calls are over when they return.
        """


class CannotRunError(UsageError):
    """A runtime refuses a file."""


def cannot_run_error(library: str, path: Path) -> CannotRunError:
    """What a person is told of a file that `library` refuses; its own words are for its authors."""
    return CannotRunError(
        f"{library} cannot run {str(path)!r}: the file is damaged, or made for a newer {library}.",
        "Export it again.",
    )


def softmax(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """softmax(`logits` / `temperature`) of each row [N,C], in float64."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result
