"""The seam behind which engines are swapped."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from effnet_cli.options import Precision

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
