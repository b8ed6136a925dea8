"""The classes of ImageNet-1k, by index: their names and WordNet ids."""

from pathlib import Path

from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import Variant


def class_names() -> tuple[str, ...]:
    """Return the 1,000 names, as in the `meta["categories"]` of torchvision's weights."""
    return _read("imagenet_classes.txt")


def wordnet_ids() -> tuple[str, ...]:
    """Return the 1,000 ids (e.g. `n01440764`), the folder names of the published dataset."""
    return _read("imagenet_wordnet_ids.txt")


def imagenet_card(variant: Variant) -> ModelCard:
    """Return the card of a variant's published ImageNet-1k weights."""
    return ModelCard(variant.name, class_names(), variant.preprocessing)


def _read(file_name: str) -> tuple[str, ...]:
    return tuple(Path(__file__).with_name(file_name).read_text(encoding="utf-8").splitlines())
