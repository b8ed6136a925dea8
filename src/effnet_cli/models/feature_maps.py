"""Feature maps of a model, for the detectors of torchvision and other programs."""

from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models import build
from effnet_cli.models.architectures import Architecture
from effnet_cli.models.variants import is_variant
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import ModelOptions
from effnet_cli.system.errors import UsageError

MAP_NAMES = ("c2", "c3", "c4", "c5")


class FeatureMaps(nn.Module):
    """Returns the maps that detectors start from, `c2` to `c5`, for pixels `float32 [N,3,H,W]`.

    Each is `float32 [N,channels,H/stride,W/stride]`; H and W must be multiples of 32. BatchNorm
    always uses its stored statistics, because detectors are trained with few images per batch.

    Args:
        module: an EfficientNet, which shares its weights with this module.
        architecture: that of `module`.
        preprocessing: how the images for `module` are normalised.
        names: which maps to return.

    Attributes:
        maps: name, channels and stride of each map.
        mean: per channel, with which values from 0 to 1 are normalised.
        std: per channel, with which values from 0 to 1 are normalised.
    """

    def __init__(
        self,
        module: nn.Module,
        architecture: Architecture,
        preprocessing: Preprocessing,
        *,
        names: Collection[str] = MAP_NAMES,
    ) -> None:
        super().__init__()
        self.maps = [one for one in architecture.feature_maps() if one.name in names]
        stages = list(module.get_submodule("features").children())
        self.features = nn.Sequential(*stages[: self.maps[-1].number + 1])
        self.mean, self.std = list(preprocessing.mean), list(preprocessing.std)

    @property
    def channels(self) -> list[int]:
        """The channels of each map."""
        return [one.channels for one in self.maps]

    def forward(self, pixels: Tensor) -> OrderedDict[str, Tensor]:
        names = {one.number: one.name for one in self.maps}
        maps = OrderedDict[str, Tensor]()
        for number, stage in enumerate(self.features.children()):
            pixels = stage(pixels)
            if number in names:
                maps[names[number]] = pixels
        return maps

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        return self


def load_feature_maps(
    model: str | Path | ModelOptions = ModelOptions(), names: Collection[str] = MAP_NAMES
) -> FeatureMaps:
    """Load a model without its classifier: in evaluation mode, float32, on the CPU.

    Its weights are frozen; call `requires_grad_()` on the result to train them.

    Args:
        model: the name of a variant, the path of a model or run, or all of `ModelOptions`.
        names: which maps to return.

    Raises:
        UsageError: unknown variant or map, or a file that is not a model.
        EffnetError: the weights are not available.
    """
    if isinstance(names, str) or not names or not set(names) <= set(MAP_NAMES):
        raise UsageError(f"Invalid feature maps {names!r}.", f"Use some of {MAP_NAMES}.")
    options = model
    if isinstance(options, str):
        is_name = is_variant(options)
        options = ModelOptions(variant=options) if is_name else ModelOptions.parse(options)
    elif isinstance(options, Path):
        options = ModelOptions(model=options)
    found = resolve_model(options)
    module = build.load_module(found).eval()
    architecture, preprocessing = found.variant.architecture, found.card.preprocessing
    return FeatureMaps(module, architecture, preprocessing, names=names).eval()
