"""timm's `config.json`: the padding, epsilon, preprocessing and classes of the weights beside it.

No weights file shows any of these. timm writes `config.json` with `save_for_hf`, and its own
repositories on the model hub have one.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effnet_cli.models import imagenet
from effnet_cli.models.card import (
    CARD_KEY,
    ModelCard,
    describe_read_error,
    is_number,
    is_side_px,
)
from effnet_cli.models.variants import (
    IMAGENET,
    VARIANTS,
    Variant,
    exclusion_reason,
    find_variant,
    modern_timm_name,
    names_weights,
)
from effnet_cli.system.errors import UsageError

CONFIG_FILE_NAME = "config.json"
PAGE_FILE_NAME = "README.md"  # the model hub's page of a repository
TORCH_FILE_NAME = "pytorch_model.bin"  # of timm's weights that are not safetensors
MAX_CONFIG_BYTES = 64 * 2**20
MODEL_NAME = re.compile(r"(?P<tf>tf_)?efficientnet(?P<v2>v2)?_(?P<size>\w+?)(_pruned)?")
WORDNET_ID = re.compile(r"n\d{8}")
SAME_PADDING_EPS, SYMMETRIC_PADDING_EPS = 1e-3, 1e-5  # timm's defaults, of tf_* and of the others
PADDINGS = {"": False, "same": True}  # timm's `pad_type`
MIN_CROP_PCT = 0.01  # timm's are from 0.8 to 1
# Other arguments of timm's models that have no effect on predictions.
TRAINING_ARGS = {"bn_momentum", "drop_path_rate", "drop_rate", "num_classes"}
# timm's values of what a config does not have.
DEFAULTS = {
    "input_size": [3, 224, 224],
    "crop_pct": 0.875,
    "crop_mode": "center",
    "interpolation": "bicubic",
    **IMAGENET,
}
MAX_SHOWN_CHARS = 100  # of a value in a message
HINT = "Use an EfficientNet that timm saved, or that `effnet export --to hub` wrote."
REPLACE_HINT = "Download it again, or move it to another folder."
LABELS_HINT = 'Add "label_names" to it: the list of class names, in the order of the outputs.'


@dataclass(frozen=True, slots=True)
class TimmConfig:
    """What `config.json` says about the weights beside it.

    `name` is timm's name of the model, with the tag of the weights if it is known. `variant` is a
    row with this architecture, padding and epsilon.
    """

    path: Path
    name: str
    variant: Variant
    card: ModelCard

    def select(self, name: str) -> "TimmConfig":
        """Return this config for the variant called `name`.

        Raises:
            UsageError: that variant is another model, or has other weights.
        """
        variant = find_variant(name)
        is_known = self.variant.weight_set == self.name
        if not is_same_model(variant, self.variant) or (
            is_known and is_other_weights(variant, self.variant, name)
        ):
            raise UsageError(
                f"--variant is {name!r}, but {str(self.path)!r} says {self.name!r}.",
                "Omit --variant." if is_known else f"Omit --variant, or move {self.path.name}.",
            )
        if not names_weights(name):
            return self
        return replace(self, variant=variant, card=replace(self.card, variant=variant.name))


def is_same_model(one: Variant, other: Variant) -> bool:
    """Return whether two variants differ in nothing but weights and preprocessing."""
    return timm_key(one) == timm_key(other)


def is_other_weights(variant: Variant, other: Variant, name: str) -> bool:
    """Return whether `name` stands for other published weights of timm than `other` has."""
    return variant.source.repo is not None and names_weights(name) and variant is not other


def timm_key(variant: Variant) -> tuple[str, bool, float]:
    """Return what makes a model, apart from its weights."""
    return variant.architecture.name, variant.has_same_padding, variant.eps


def timm_model_name(variant: Variant) -> tuple[str, dict[str, Any]]:
    """Return timm's name of a variant's model, and the arguments that it needs."""
    name = variant.weight_set.partition(".")[0]
    if variant.source.repo is None:
        prefix, version = "tf_" if variant.has_same_padding else "", ""
        size = variant.architecture.name
        if size.startswith("v2_"):
            version, size = "v2", size.removeprefix("v2_")
        name = f"{prefix}efficientnet{version}_{size}"
    is_default = variant.eps == _default_eps(variant.has_same_padding)
    return name, {} if is_default else {"bn_eps": variant.eps}


def _default_eps(has_same_padding: bool) -> float:
    return SAME_PADDING_EPS if has_same_padding else SYMMETRIC_PADDING_EPS


# --- reading ------------------------------------------------------------------------------------


def config_path(weights: Path) -> Path:
    """Return where the config of a weights file belongs."""
    return weights.with_name(CONFIG_FILE_NAME)


def read_beside(weights: Path) -> TimmConfig | None:
    """Return timm's config in the folder of a weights file; `None` if there is none."""
    return read_config(config_path(weights))


def read_config(path: Path) -> TimmConfig | None:
    """Return timm's config at `path`; `None` if there is none, or if it is not timm's.

    Raises:
        UsageError: it is damaged, or effnet does not have that model, or cannot tell its classes or
            preprocessing.
    """
    content = _read_json(path)
    if content is None:
        return None
    try:
        return _parse(path, content)
    except ValueError as error:
        reason, hint, *_ = (*error.args, HINT)
        raise UsageError(f"{str(path)!r} cannot be used: {reason}.", hint) from error


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a config that names one of timm's architectures."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_CONFIG_BYTES).decode("utf-8-sig"))
    except OSError as error:
        reason = describe_read_error(error)
        raise UsageError(f"{str(path)!r} cannot be read: {reason}.", REPLACE_HINT) from error
    except (ValueError, RecursionError) as error:
        message = f"{str(path)!r} is damaged: it cannot be parsed as JSON in UTF-8."
        raise UsageError(message, REPLACE_HINT) from error
    is_timms = isinstance(content, dict) and isinstance(content.get("architecture"), str)
    return content if is_timms else None


def _parse(path: Path, content: dict[str, Any]) -> TimmConfig:
    pretrained = _read_object(content, "pretrained_cfg", content)  # older files have one level
    name = modern_timm_name(content["architecture"])
    tag = pretrained.get("tag")
    if "." not in name and isinstance(tag, str) and tag:
        name = f"{name}.{tag}"
    about = _read_object(content, CARD_KEY, {})
    variant = _find_row(name, _read_model_args(content), about.get("variant"))
    card = {
        "format_version": 1,
        **about,
        "variant": variant.name,
        "classes": _read_classes(content, pretrained),
        "preprocessing": _read_preprocessing(pretrained),
    }
    return TimmConfig(path, name, variant, card=ModelCard.from_json(json.dumps(card)))


def _read_object(
    content: Mapping[str, Any], name: str, default: Mapping[str, Any]
) -> Mapping[str, Any]:
    value = content.get(name, default)
    if not isinstance(value, dict):
        raise ValueError(f"its {name} is {_show(value)}, not a JSON object")
    return value


def _show(value: object) -> str:
    return json.dumps(value)[:MAX_SHOWN_CHARS]


def _read_model_args(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's padding and epsilon, where they are not its default ones."""
    given = {**_read_object(content, "model_args", {})}
    if (given.pop("global_pool", None) or content.get("global_pool") or "avg") != "avg":
        raise ValueError("its model does not average over the image (global_pool)")
    if given.pop("in_chans", 3) != 3:
        raise ValueError("its model does not take RGB images (in_chans)")
    for name in given.keys() - {"bn_eps", "pad_type"} - TRAINING_ARGS:
        raise ValueError(f"its model has the argument {name!r}, which effnet does not know")
    if given.get("pad_type", "") not in list(PADDINGS):
        raise ValueError(f"its pad_type is {_show(given['pad_type'])}")
    return given


def _find_row(name: str, args: Mapping[str, Any], preferred: object) -> Variant:
    """Return a row with the model that timm calls `name`, the one with these weights if possible.

    `preferred` is the row from which effnet wrote the config.
    """
    model = name.partition(".")[0]
    match, reason = MODEL_NAME.fullmatch(model), exclusion_reason(model)
    if match is None or reason is not None:
        raise ValueError(f"{name!r:.100} is not available: {reason or 'no EfficientNet of timm'}")
    has_same_padding = match["tf"] is not None
    if "pad_type" in args:
        has_same_padding = PADDINGS[args["pad_type"]]
    eps = args.get("bn_eps", _default_eps(match["tf"] is not None))
    key = f"{'v2_' if match['v2'] else ''}{match['size']}", has_same_padding, eps
    rows = [row for row in VARIANTS.values() if timm_key(row) == key]
    if not rows:
        padding = "same" if has_same_padding else "symmetric"
        raise ValueError(f"effnet has no {model!r:.100} with {padding} padding and epsilon {eps!r}")
    return max(
        rows,
        key=lambda row: (
            row.name == preferred,
            row.weight_set == name,
            row.weight_set.partition(".")[0] == model,
        ),
    )


def _read_preprocessing(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing of timm's own evaluation, as in the card."""

    def find(*names: str) -> Any:
        values = (given.get(name) for name in names)
        return next((one for one in values if one is not None), DEFAULTS[names[-1]])

    size, crop_pct = find("test_input_size", "input_size"), find("test_crop_pct", "crop_pct")
    mode = find("crop_mode")
    if not (isinstance(size, list) and len(size) == 3 and size[0] == 3 and size[1] == size[2]):
        raise ValueError(f"its input_size is {_show(size)}, not that of square RGB images")
    if not is_side_px(size[1]):
        raise ValueError(f"its input_size is {_show(size)}")
    if not (is_number(crop_pct, MIN_CROP_PCT, size[1]) and is_side_px(int(size[1] / crop_pct))):
        raise ValueError(f"its crop_pct is {_show(crop_pct)}")
    if mode not in ("center", "squash"):
        raise ValueError(f"its crop_mode is {_show(mode)}, which effnet does not have")
    return {
        "resize_px": math.floor(size[1] / crop_pct),
        "crop_px": size[1],
        "interpolation": find("interpolation"),
        "mean": find("mean"),
        "std": find("std"),
        "is_squashed": mode == "squash",
    }


def _read_classes(content: Mapping[str, Any], pretrained: Mapping[str, Any]) -> list[str]:
    """Return the class names: ImageNet's if there are none for its 1,000 classes."""

    def find(name: str) -> Any:
        return content.get(name, pretrained.get(name))

    count, names = find("num_classes"), find("label_names") or find("labels")
    if type(count) is not int or count < 1:
        raise ValueError(f"its num_classes is {_show(count)}")
    if names is None and count == len(imagenet.class_names()):
        return list(imagenet.class_names())
    if names is None:
        raise ValueError(f"it has no label_names for its {count:,} classes", LABELS_HINT)
    if isinstance(names, dict):
        names = [names.get(str(index)) for index in range(len(names))]
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"its label_names are {_show(names)}, not a list of names", LABELS_HINT)
    if len(names) != count:
        raise ValueError(f"its label_names are {len(names):,} names, not {count:,}", LABELS_HINT)
    descriptions = {"label_descriptions": find("label_descriptions") or {}}
    return _make_readable(names, _read_object(descriptions, "label_descriptions", {}))


def _make_readable(names: list[str], descriptions: Mapping[str, Any]) -> list[str]:
    """Replace WordNet ids by names."""
    if tuple(names) == imagenet.wordnet_ids():
        return list(imagenet.class_names())
    readable = [descriptions.get(name) for name in names]
    if all(map(WORDNET_ID.fullmatch, names)) and all(isinstance(name, str) for name in readable):
        return [str(name) for name in readable]
    return list(names)
