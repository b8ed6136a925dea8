"""Convert embedded images to JSON objects, for people's programs and for the journal of a run."""

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from effnet_cli.embed.records import EmbeddedImage
from effnet_cli.predict.records import ErrorInfo

VECTOR_DIGITS = 8  # of numbers of about 0.03: as exact as float32


def to_row(image: EmbeddedImage) -> dict[str, Any]:
    """Return one image's row as a JSON object, its vector as a list of numbers."""
    content = _describe(image)
    if image.vector is not None:
        content["vector"] = np.round(image.vector.astype(np.float64), VECTOR_DIGITS).tolist()
    return content


def to_record(image: EmbeddedImage) -> dict[str, Any]:
    """Return the row for the journal, its vector as base64 of float32: fast, short and exact."""
    content = _describe(image)
    if image.vector is not None:
        content["vector"] = base64.b64encode(image.vector.astype("<f4").tobytes()).decode("ascii")
    return content


def from_record(content: Mapping[str, Any]) -> EmbeddedImage:
    """Undo `to_record`."""
    error, vector = content.get("error"), content.get("vector")
    return EmbeddedImage(
        content["path"],
        None if vector is None else np.frombuffer(base64.b64decode(vector), "<f4"),
        content.get("sha256", ""),
        error=None if error is None else ErrorInfo(**error),
    )


def _describe(image: EmbeddedImage) -> dict[str, Any]:
    content: dict[str, Any] = {"path": image.path, "status": image.status}
    if image.error is not None:
        return content | {"error": asdict(image.error)}
    return content | ({"sha256": image.sha256} if image.sha256 else {})
