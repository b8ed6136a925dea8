"""The model card: everything a prediction needs besides the weights, and how the model was made."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_args

from effnet_cli.images.preprocessing import Interpolation, Preprocessing
from effnet_cli.models.familiarity import Familiarity
from effnet_cli.models.label_scores import LabelScores
from effnet_cli.models.operating_point import SHARES, OperatingPoint, Share
from effnet_cli.options import ExportPrecision, Precision, Quantization, TargetName

CARD_VERSION = 1
CARD_KEY = "effnet"  # in the metadata of a model file or an exported file
MAX_FLOAT = sys.float_info.max
MAX_SIDE_PX = 10_000  # far beyond any model: an input of that size would exhaust the memory
STORED_TEMPERATURES = (1e-3, 1e3)  # plausible range; `evaluate.metrics` searches a narrower one
# The files in a run folder, besides its report.
MODEL_FILE_NAME, STATE_FILE_NAME = "model.safetensors", "state.safetensors"
OPTIONS_FILE_NAME, METRICS_FILE_NAME, SPLIT_FILE_NAME = "options.json", "metrics.jsonl", "split.csv"
FOLDS_FILE_NAME = "folds.csv"
REPORT_FILE_NAME, LOCK_FILE_NAME = "report.html", ".lock"
RECORDS = ("options", "dataset", "metrics", "export")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model predicts and how it was made; stored as JSON in model files and exports.

    `classes` are in the order of the logits. Probabilities are softmax(logits / `temperature`).
    Predictions with a probability below `unknown_below` are best called unknown, because too many
    of them were wrong in validation; `None` if no limit was determined. `familiarity` tells images
    of another kind from those trained on; `None` if the model was not trained by effnet, if there
    were too few validation images, or if the file does not output its features.
    With `label_scores`, an image has several labels or none, and neither `temperature` nor
    `unknown_below` apply. `operating_points` were found by `effnet evaluate --at`, each under
    another name. `options`, `dataset` and `metrics` record the training run: its options, a
    fingerprint of the data, and the metrics of the best epoch. `export` describes an exported file
    and is empty otherwise.
    """

    variant: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float = 1.0
    unknown_below: float | None = None
    familiarity: Familiarity | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    label_scores: LabelScores | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)

    @property
    def precision(self) -> Precision | None:
        """The precision an exported file computes in; `None` for a model file."""
        precision: Precision | None = self.export.get("quantize") or self.export.get("precision")
        return precision

    @property
    def is_calibrated(self) -> bool:
        """Whether a temperature was fitted, so that probabilities are close to accuracies."""
        return self.temperature != 1.0 or self.label_scores is not None

    def to_json(self) -> str:
        """Return ASCII JSON without NaN. Non-UTF-8 class names survive as surrogate escapes."""
        content = {"format_version": CARD_VERSION, **asdict(self)}
        return json.dumps(content, allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """Parse what `to_json` wrote; `ValueError` with the first problem if it is invalid."""
        content = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(content, dict):
            raise ValueError("its header is not a JSON object")
        version = content.pop("format_version", None)
        if version != CARD_VERSION:
            raise ValueError(f"its format version is {version!r}, expected {CARD_VERSION}")
        _check_fields(cls, content, "its header")
        names, given = content["classes"], content["preprocessing"]
        if not (names and isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise ValueError("its class names are not a list of strings")
        for name in names:
            _check_class_name(name)
        _check_fields(Preprocessing, given, "its preprocessing")
        read = {
            "classes": tuple(names),
            "preprocessing": Preprocessing(**_with_tuples(given)),
            "familiarity": _read_familiarity(content.get("familiarity")),
            "operating_points": _read_points(content.get("operating_points", []), names),
            "label_scores": _read_label_scores(content.get("label_scores"), names),
        }
        card = cls(**{**content, **read})
        card._check_values()
        return card

    def _check_values(self) -> None:
        limit, p = self.unknown_below, self.preprocessing
        checks = [
            ("variant", self.variant, isinstance(self.variant, str)),
            ("temperature", self.temperature, is_number(self.temperature, *STORED_TEMPERATURES)),
            ("unknown_below", limit, limit is None or is_number(limit, 0, 1)),
            ("resize_px", p.resize_px, is_side_px(p.resize_px)),
            ("crop_px", p.crop_px, is_side_px(p.crop_px)),
            ("is_squashed", p.is_squashed, isinstance(p.is_squashed, bool)),
            ("interpolation", p.interpolation, p.interpolation in get_args(Interpolation)),
            ("mean", p.mean, _is_triple(p.mean)),
            ("std", p.std, _is_triple(p.std) and min(p.std) > 0),
        ]
        for name, value, is_valid in checks:
            if not is_valid:
                raise ValueError(f"its {name} is {value!r:.100}")
        for name in RECORDS:
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"its {name!r} is not a JSON object")

    def check_export(self) -> None:
        """Raise `ValueError` unless `export` describes an exported file."""
        about, batch = self.export, self.export.get("batch", 0)
        if (
            about.get("target") not in get_args(TargetName)
            or not isinstance(about.get("include_preprocessing"), bool)
            or not isinstance(about.get("feature_maps", False), bool)
            or not (batch is None or (type(batch) is int and batch > 0))
            or about.get("precision") not in get_args(ExportPrecision)
            or about.get("quantize", 0) not in (None, *get_args(Quantization))
        ):
            raise ValueError("its header does not say what was exported")


def describe_read_error(error: Exception) -> str:
    """Return why a file cannot be read, as a phrase for use in a sentence."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".")


def _check_fields(kind: type, content: object, what: str) -> None:
    """Check that `content` has all required fields of a dataclass, and no unknown ones."""
    if not isinstance(content, dict):
        raise ValueError(f"{what} is not a JSON object")
    required = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    missing = ", ".join(repr(name) for name in required if name not in content)
    if missing:
        raise ValueError(f"{what} has no {missing}")
    for name in content.keys() - {f.name for f in fields(kind)}:
        raise ValueError(f"{what} contains the unknown field {name!r}")


def _read_familiarity(content: Any) -> Familiarity | None:
    if content is None:
        return None
    _check_fields(Familiarity, content, "its familiarity")
    familiarity = Familiarity(**content)
    familiarity.check()
    return familiarity


def _read_points(content: object, classes: Sequence[str]) -> tuple[OperatingPoint, ...]:
    if not isinstance(content, list):
        raise ValueError("its operating points are not a list")
    points = tuple(_read_point(one) for one in content)
    for point in points:
        point.check(classes)
    if len({point.name for point in points}) < len(points):
        raise ValueError("two of its operating points have the same name")
    return points


def _read_label_scores(content: Any, classes: Sequence[str]) -> LabelScores | None:
    if content is None:
        return None
    _check_fields(LabelScores, content, "its labels")
    if not all(isinstance(values, list) for values in content.values()):
        raise ValueError("the values of its labels are not lists")
    scores = LabelScores(**_with_tuples(content))
    scores.check(classes)
    return scores


def _read_point(content: Any) -> OperatingPoint:
    _check_fields(OperatingPoint, content, "its operating point")
    read: dict[str, Any] = {}
    for name in SHARES:
        if content[name] is not None:
            _check_fields(Share, content[name], f"the {name} of its operating point")
            read[name] = Share(**_with_tuples(content[name]))
    return OperatingPoint(**{**content, **read})


def _with_tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object from JSON, which has lists in place of tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}


def _check_class_name(name: str) -> None:
    """Refuse a name that is no text; surrogate escapes are bytes of a folder's name."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"its class name {name!r:.100} contains an unpaired surrogate") from error


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"its header contains {constant}")


def is_number(value: object, low: float, high: float) -> bool:
    """Return whether a value from JSON is a number from `low` to `high`."""
    return isinstance(value, int | float) and low <= value <= high


def is_side_px(value: object) -> bool:
    """Return whether a value from JSON can be the side of a model's input."""
    return isinstance(value, int) and 0 < value <= MAX_SIDE_PX


def _is_triple(values: object) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) == 3
        and all(is_number(v, -MAX_FLOAT, MAX_FLOAT) for v in values)
    )
