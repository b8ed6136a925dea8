"""The dataset that a model was trained on, divided again as its training divided it."""

from pathlib import Path

from effnet_cli.datasets.labelled import load_labelled
from effnet_cli.datasets.records import Dataset
from effnet_cli.datasets.scan import scan
from effnet_cli.models.card import ModelCard
from effnet_cli.options import DatasetOptions, ImageOptions
from effnet_cli.system.errors import UsageError
from effnet_cli.system.reporter import SILENT, Reporter


def restore_split(
    root: Path, card: ModelCard, images: ImageOptions, reporter: Reporter = SILENT
) -> Dataset | None:
    """The dataset at `root` if `card`'s model was trained on it and it has no splits of its own:
    the images that its training had set aside are `val`.
    """
    about = card.dataset
    if not {"fingerprint", "seed", "val_fraction"} <= about.keys():
        return None
    try:
        listed = load_labelled(root)
    except UsageError:  # images without classes, say
        return None
    if listed.split is not None or set(listed.classes) != set(card.classes):
        return None  # told from the names alone: a scan opens every image
    options = DatasetOptions(None, about["val_fraction"], about["seed"], True, True, True)
    found = scan(root, options, images, reporter).dataset
    return found if found is not None and found.fingerprint == about["fingerprint"] else None
