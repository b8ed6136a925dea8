"""The model card: all that a prediction needs besides the weights, and how the model was made."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_args

from effnet_cli.images.preprocessing import Interpolation, Preprocessing

CARD_VERSION = 1
CARD_KEY = "effnet"  # the card's key in the metadata of a model file or of an export
MAX_SIDE_PX = 10_000  # far beyond any model: an image of that side would fill the memory
STORED_TEMPERATURES = (1e-3, 1e3)  # plausible range; fitted ones stay well within


@dataclass(frozen=True, slots=True)
class ModelCard:
    """All that a network's answers need besides its weights, and how it was made.

    `classes` are in the order of the logits. Probabilities are softmax(logits / `temperature`).
    `options`, `dataset` and `metrics` record the training: the options, a fingerprint of the data,
    the figures of the best epoch. Below the top probability `unknown_below` validation had too many
    wrong answers, so that they can be called unknown; `None` where nobody knows. `export` says what
    an exported file is; it is empty elsewhere.
    """

    variant: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float = 1.0
    unknown_below: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """ASCII JSON without NaN; class names of any bytes survive as surrogate escapes."""
        return json.dumps(
            {"format_version": CARD_VERSION, **asdict(self)}, allow_nan=False, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """The card that `to_json` wrote.

        Raises:
            ValueError: the text is no such card; the message names the first difference.
        """
        content = json.loads(text, parse_constant=_refuse)
        if not isinstance(content, dict):
            raise ValueError("its header is not a JSON object")
        version = content.pop("format_version", None)
        if version != CARD_VERSION:
            raise ValueError(f"its format version is {version!r}; this effnet reads {CARD_VERSION}")
        _check_names(cls, content, "its header")
        if not isinstance(content["classes"], list):
            raise ValueError("its class names are not a list of text")
        given = content["preprocessing"]
        _check_names(Preprocessing, given, "its preprocessing")
        preprocessing = Preprocessing(**{name: _hashable(value) for name, value in given.items()})
        classes = tuple(content["classes"])
        card = cls(**{**content, "classes": classes, "preprocessing": preprocessing})
        card._check()
        return card

    def _check(self) -> None:
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise ValueError("its class names are not a list of text")
        temperature = self.temperature
        if not (
            isinstance(temperature, int | float)
            and STORED_TEMPERATURES[0] <= temperature <= STORED_TEMPERATURES[1]
        ):
            raise ValueError(f"its temperature is {temperature!r}")
        limit = self.unknown_below
        if limit is not None and not (isinstance(limit, int | float) and 0 <= limit <= 1):
            raise ValueError(f"its threshold unknown_below is {limit!r}")
        if not isinstance(self.variant, str):
            raise ValueError(f"its variant is {self.variant!r}")
        for name in ("options", "dataset", "metrics", "export"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"its {name!r} is not a JSON object")
        p = self.preprocessing
        faults = {
            "resize_px": not (isinstance(p.resize_px, int) and 0 < p.resize_px <= MAX_SIDE_PX),
            "crop_px": not (isinstance(p.crop_px, int) and 0 < p.crop_px <= MAX_SIDE_PX),
            "interpolation": p.interpolation not in get_args(Interpolation),
            "mean": not _numbers(p.mean),
            "std": not _numbers(p.std, above=0),
        }
        for name, is_fault in faults.items():
            if is_fault:
                raise ValueError(f"its {name} is {getattr(p, name)!r}")


def _check_names(kind: type, content: object, what: str) -> None:
    """Whether `content` has the names of a dataclass, those without a default at least."""
    if not isinstance(content, dict):
        raise ValueError(f"{what} is not complete: it is not a JSON object")
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    lacking = ", ".join(repr(name) for name in needed if name not in content)
    if lacking:
        raise ValueError(f"{what} is not complete: it lacks {lacking}")
    for name in content.keys() - {one.name for one in fields(kind)}:
        raise ValueError(f"{what} holds {name!r}, which this effnet does not know")


def _refuse(constant: str) -> None:
    raise ValueError(f"its header holds {constant}")


def _numbers(values: object, above: float = -math.inf) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) == 3
        and all(isinstance(v, int | float) and above < v < math.inf for v in values)
    )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
