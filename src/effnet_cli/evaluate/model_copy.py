"""Write a copy of a model with another card."""

from pathlib import Path

from effnet_cli.models import checkpoint
from effnet_cli.models.card import ModelCard
from effnet_cli.models.hub_repo import parse_repo
from effnet_cli.models.weights import Model, expected_kind
from effnet_cli.options import ModelOptions
from effnet_cli.system.errors import UsageError

MODEL_SUFFIX = ".safetensors"


def check_copy(path: Path, option: str, model: ModelOptions) -> None:
    """Raise UsageError unless a copy of `model` can be written to `path`, the value of `option`."""
    repo = parse_repo(path)
    if repo is not None:
        raise UsageError(f"{option} '{repo}' is a repository.", "Use a file on this machine.")
    if path.suffix.lower() != MODEL_SUFFIX:
        raise UsageError(
            f"{option} {str(path)!r} does not end in {MODEL_SUFFIX}.",
            f"Use {option} {path.with_suffix(MODEL_SUFFIX)}",
        )
    if path.exists():
        raise UsageError(f"{option} {str(path)!r} already exists.", "Use a new file.")
    if expected_kind(model) != "tensors":
        raise UsageError(
            f"{str(model.model)!r} is an exported file, of which {option} cannot write a copy.",
            "Use the model file that it was exported from, and export the copy.",
        )


def write_copy(path: Path, model: Model, card: ModelCard) -> None:
    """Write the tensors of `model` with `card`; raise EffnetError if the file cannot be written."""
    from effnet_cli.models import build  # imports torch

    state = build.load_module(model).state_dict()
    checkpoint.write(path, card, {name: tensor.numpy() for name, tensor in state.items()})
