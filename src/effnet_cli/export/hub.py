"""Writes a folder in timm's format, ready for a model hub."""

import json
import math
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from effnet_cli.export.hub_page import write_page
from effnet_cli.export.source import ExportSource
from effnet_cli.models.build import HIDDEN_WEIGHT, OUTPUT_WEIGHT, to_timm_names
from effnet_cli.models.card import CARD_KEY, MODEL_FILE_NAME, ModelCard
from effnet_cli.models.example_head import EXAMPLES_WEIGHT
from effnet_cli.models.timm_config import CONFIG_FILE_NAME, PAGE_FILE_NAME, timm_model_name
from effnet_cli.models.variants import Variant
from effnet_cli.system.errors import UsageError

TAG = "effnet"
# Fields of the card that timm's config has itself, or that are about an exported file.
ELSEWHERE = ("classes", "preprocessing", "export")


def _check_has_classes(source: ExportSource) -> None:
    if source.card.label_scores is not None:
        raise UsageError(
            "timm's format has no place for the thresholds of several labels.",
            "Export to onnx, or share the model file itself.",
        )


def write_hub_folder(source: ExportSource, path: Path) -> None:
    """Write `config.json`, `model.safetensors` and `README.md` into the new folder `path`.

    Raises:
        UsageError: the classifier has a hidden layer, for which timm has no place.
    """
    _check_has_classes(source)
    tensors = source.module.state_dict()
    if EXAMPLES_WEIGHT in tensors:
        raise UsageError(
            f"The classifier of {str(source.model.path)!r} compares features with examples, for "
            "which timm's models have no layers.",
            "Train again with `effnet finetune --method train --hidden 0`, or export to onnx.",
        )
    if {HIDDEN_WEIGHT, OUTPUT_WEIGHT} <= tensors.keys():
        raise UsageError(
            f"The head of {str(source.model.path)!r} has a hidden layer, which timm's models lack.",
            "Train again with `effnet finetune --hidden 0`.",
        )
    variant, card = source.model.variant, source.card
    named = to_timm_names(source.module, {n: t.contiguous() for n, t in tensors.items()})
    config = make_config(variant, card, num_features=tensors[HIDDEN_WEIGHT].shape[1])
    path.mkdir()
    save_file(named, path / MODEL_FILE_NAME, metadata={"format": "pt"})
    text = json.dumps(config, allow_nan=False, indent=2)
    (path / CONFIG_FILE_NAME).write_text(text + "\n", encoding="ascii")
    (path / PAGE_FILE_NAME).write_text(write_page(variant, card), encoding="utf-8")


def make_config(variant: Variant, card: ModelCard, *, num_features: int) -> dict[str, Any]:
    """Return timm's `config.json`, with what only effnet uses under its own key."""
    name, arguments = timm_model_name(variant)
    about = {key: v for key, v in json.loads(card.to_json()).items() if key not in ELSEWHERE}
    return {
        "architecture": name,
        "num_classes": len(card.classes),
        "num_features": num_features,
        "global_pool": "avg",
        "label_names": list(card.classes),
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": _make_pretrained(variant, card),
        CARD_KEY: about,
    }


def _make_pretrained(variant: Variant, card: ModelCard) -> dict[str, Any]:
    images = card.preprocessing
    return {
        "tag": TAG,
        "custom_load": False,
        "input_size": [3, images.crop_px, images.crop_px],
        "fixed_input_size": False,
        "interpolation": images.interpolation,
        "crop_pct": find_crop_share(images.resize_px, images.crop_px),
        "crop_mode": "squash" if images.is_squashed else "center",
        "mean": list(images.mean),
        "std": list(images.std),
        "num_classes": len(card.classes),
        "pool_size": None,
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "license": variant.license.lower(),
    }


def find_crop_share(resize_px: int, crop_px: int) -> float:
    """Return the `crop_pct` from which timm computes `resize_px`, as floor(crop_px / crop_pct)."""
    share = crop_px / resize_px
    return share if math.floor(crop_px / share) == resize_px else math.nextafter(share, 0)
