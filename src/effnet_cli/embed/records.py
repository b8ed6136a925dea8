"""What `embed` yields: one vector per image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from effnet_cli.options import Pool
from effnet_cli.predict.records import ErrorInfo

Vector = npt.NDArray[np.float32]  # [D], of length 1
Vectors = npt.NDArray[np.float32]  # [N,D], each row of length 1


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """The vector of one image, float32 [D] of length 1, or the error.

    `path` is the input as given. `sha256` is the digest of the file, in hexadecimal; it is empty
    for what is no file: URLs and decoded images.
    """

    path: str
    vector: Vector | None = None
    sha256: str = ""
    error: ErrorInfo | None = None

    @property
    def status(self) -> str:
        """`ok` or `error`."""
        return "ok" if self.error is None else "error"


@dataclass(frozen=True, slots=True)
class VectorSource:
    """What vectors depend on besides the images: only those of equal sources can be compared.

    `model` is the name of a variant or file, `sha256` the digest of its weights, and `settings`
    the options for images that are not the defaults.
    """

    model: str
    sha256: str
    pool: Pool
    precision: str
    settings: dict[str, Any]

    def differences(self, other: "VectorSource") -> list[str]:
        """Return what differs, as texts such as `pool avg instead of gem`; names do not count."""
        return [
            f"{name} {mine!r} instead of {theirs!r}"
            for name in ("sha256", "pool", "precision", "settings")
            if (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]
