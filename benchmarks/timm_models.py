"""Compare each model with timm's in float64: random weights, real BatchNorm statistics, even size.

    python benchmarks/timm_models.py [NAME ...]

For each of timm's checkpoints that effnet can build, both models get the same tensors (8 GB of
memory for the largest). At an odd size, wrong padding would give right logits. The files are also
offered to torchvision's variant of the same architecture, and timm's other EfficientNets to every
architecture: both must be refused. Needs timm.
"""

import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from effnet_cli.models import build
from effnet_cli.models.timm_weights import EXCLUDED
from effnet_cli.models.variants import VARIANTS, Variant, find_variant
from effnet_cli.system.errors import UsageError

SIZE_PX = 64
# Checkpoints with other classes, which are no variants, and the variant of the same model.
OTHER_CLASSES = {
    "tf_efficientnetv2_s.in21k": ("v2_s.tf", 21_843),
    "tf_efficientnetv2_m.in21k": ("v2_m.tf", 21_843),
    "tf_efficientnetv2_l.in21k": ("v2_l.tf", 21_843),
    "tf_efficientnetv2_xl.in21k": ("v2_xl.in21k", 21_843),
    "tf_efficientnetv2_b3.in21k": ("v2_b3.tf", 21_843),
    "efficientnet_b5.sw_in12k": ("b5.in12k", 11_821),
}


def randomise(module: nn.Module) -> None:
    """Give BatchNorm the statistics that its inputs have, from two images."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    module.train()
    with torch.inference_mode():
        module(torch.randn(2, 3, SIZE_PX, SIZE_PX))
    module.eval()


def compare(
    variant: Variant, timm_name: str, num_classes: int, folder: Path
) -> tuple[float, float]:
    """Return the largest difference of the logits, and their largest value."""
    torch.manual_seed(0)
    theirs = timm.create_model(timm_name, num_classes=num_classes)
    randomise(theirs)
    path = folder / "model.safetensors"
    save_file(theirs.state_dict(), path)
    bare = variant.architecture.name
    if bare in VARIANTS:
        check_refused(VARIANTS[bare], num_classes, path)
    ours = build.load(variant, num_classes, path)
    pixels = torch.randn(2, 3, SIZE_PX, SIZE_PX, dtype=torch.float64)
    with torch.inference_mode():
        expected = theirs.double()(pixels)
        del theirs
        difference = (ours.double()(pixels) - expected).abs().max()
    return float(difference), float(expected.abs().max())


def check_refused(variant: Variant, num_classes: int, path: Path) -> None:
    """Raise AssertionError if `variant` accepts a file."""
    with suppress(UsageError):
        build.load(variant, num_classes, path)
        raise AssertionError(f"{variant.name} accepts {path}")


def refuse_others(folder: Path) -> None:
    """Offer timm's EfficientNets that are no variants to every architecture."""
    names = [name for name in timm.list_models("*efficientnet*") if "." not in name]
    architectures = {row.architecture.name: row for row in VARIANTS.values() if row.source.repo}
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in EXCLUDED):
            path = folder / "model.safetensors"
            save_file(timm.create_model(name).state_dict(), path)
            for variant in architectures.values():
                check_refused(variant, 1000, path)
            print(f"{name:44} refused by {len(architectures)} architectures", flush=True)


def main() -> None:
    """Compare all checkpoints, or those named in the arguments."""
    rows = [row for row in VARIANTS.values() if row.source.repo is not None]
    jobs = [(row, row.weight_set, 1000) for row in rows]
    for name, (same_model, num_classes) in OTHER_CLASSES.items():
        jobs.append((replace(find_variant(same_model), name=name), name, num_classes))
    wanted = sys.argv[1:]
    exact = close = 0
    with tempfile.TemporaryDirectory() as folder:
        if not wanted:
            refuse_others(Path(folder))
        for variant, timm_name, num_classes in jobs:
            if wanted and variant.name not in wanted:
                continue
            difference, size = compare(variant, timm_name, num_classes, Path(folder))
            exact += difference == 0
            close += difference <= 1e-9
            print(f"{timm_name:44} {difference:8.1e} of {size:.1e}", flush=True)
    print(f"{exact} equal, {close} within 1e-9, of {len(wanted or jobs)}")


if __name__ == "__main__":
    main()
