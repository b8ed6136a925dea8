"""The page of a model on a hub."""

from collections.abc import Iterator, Mapping
from typing import Any

from effnet_cli.models.card import ModelCard
from effnet_cli.models.timm_config import timm_model_name
from effnet_cli.models.variants import Variant
from effnet_cli.system.text import pluralize

HEAD = """---
library_name: timm
license: {license}
pipeline_tag: image-classification
tags:
- image-classification
- timm
- effnet
---

# {title}

An EfficientNet that classifies images into {classes}. The class names are in `config.json`.

| | |
|---|---|
"""
USAGE = """
## Use it

With effnet, which also applies the calibrated probabilities (`pip install effnet-cli`):

```sh
effnet predict IMAGE --model hf://OWNER/NAME
```

With timm:

```python
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**data, is_training=False)
image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
with torch.inference_mode():
    probabilities = (model(transform(image)[None]) / {temperature!r}).softmax(-1)[0]
index = int(probabilities.argmax())
print(model.pretrained_cfg["label_names"][index], float(probabilities[index]))
```

For a folder on your disk, use `--model FOLDER` in effnet and `local-dir:FOLDER` in timm.

## Share it

```sh
hf upload OWNER/NAME FOLDER
```
"""


def write_page(variant: Variant, card: ModelCard) -> str:
    """Return the page in Markdown, with the metadata that a hub reads."""
    name, _ = timm_model_name(variant)
    head = HEAD.format(
        license=variant.license.lower(),
        title=name,
        classes=pluralize(len(card.classes), "class", "classes"),
    )
    rows = "".join(f"| {label} | {value} |\n" for label, value in _rows(variant, card))
    return head + rows + USAGE.format(temperature=card.temperature)


def _rows(variant: Variant, card: ModelCard) -> Iterator[tuple[str, str]]:
    images = card.preprocessing
    yield "Architecture", f"`{timm_model_name(variant)[0]}`, {variant.name} in effnet"
    yield "Input", f"{images.crop_px} x {images.crop_px} px"
    yield "Probabilities", f"softmax(logits / {card.temperature:.4g})"
    if card.unknown_below is not None:
        yield "Unknown", f"predictions with a probability below {card.unknown_below:.3f}"
    trained = card.metrics.get("metrics")
    if isinstance(trained, dict) and card.dataset.get("val") != 0:  # else they are of another model
        yield from _figures(card, trained)


def _figures(card: ModelCard, metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the figures of the best epoch on the validation images."""
    num_trained, top1 = card.dataset.get("train"), metrics.get("top1")
    if isinstance(num_trained, int):
        yield "Training", pluralize(num_trained, "image")
    if isinstance(metrics.get("images"), int):
        yield "Validation", pluralize(metrics["images"], "image")
    if isinstance(top1, float):
        yield "Top-1", f"{top1:.1%}"
    for label, name in (("Balanced accuracy", "balanced_accuracy"), ("Macro F1", "macro_f1")):
        if isinstance(metrics.get(name), float):
            yield label, f"{metrics[name]:.3f}"
