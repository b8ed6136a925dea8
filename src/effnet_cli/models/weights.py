"""Resolve model options into a model, and find the published weights on this machine."""

import hashlib
import importlib.util
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from effnet_cli.images.sniff import HEAD_BYTES, sniff
from effnet_cli.models import checkpoint, export_file, hub_repo, timm_config
from effnet_cli.models.card import MODEL_FILE_NAME, OPTIONS_FILE_NAME, ModelCard
from effnet_cli.models.hub import (
    HubFile,
    fetch_hub_file,
    find_hub_file,
    known_digest,
    locate_hub_file,
)
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import (
    DEFAULT_VARIANT,
    VARIANTS,
    Variant,
    find_published,
    find_variant,
    names_weights,
    timm_variants,
)
from effnet_cli.options import FileKind, ModelOptions, Pool
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import cached_sha256, is_file, process_lock
from effnet_cli.system.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from torch import nn

WeightsState = Literal["available", "missing", "package not installed"]


@dataclass(frozen=True, slots=True)
class Model:
    """A variant, its card, and its weights: the file at `path`, or a torch `module`.

    `module` is used in training and for random weights; nothing is cached for such a model. `pool`
    says how its features are pooled, which changes no score; exported files have `avg`.
    `is_described`: the variant follows from timm's config beside the file, whose content is part of
    `sha256` then.
    """

    variant: Variant
    card: ModelCard
    path: Path = Path()
    sha256: str = ""
    module: "nn.Module | None" = None
    is_described: bool = False
    pool: Pool = "avg"

    @property
    def file_kind(self) -> FileKind:
        """What the file contains: tensors, or a whole exported model."""
        return export_file.file_kind(self.path) if self.card.export else "tensors"


def resolve_model(options: ModelOptions, reporter: Reporter = SILENT) -> Model:
    """Return the model that `options` select, downloading published weights if missing.

    Raises:
        UsageError: unknown variant, or a file that cannot be used.
        EffnetError: the weights cannot be downloaded.
    """
    if options.model is not None:
        if options.variant is not None or options.weights is not None:
            raise UsageError(
                f"--model {str(options.model)!r} has its own variant and weights.",
                "Omit --variant and --weights.",
            )
        repo = hub_repo.parse_repo(options.model)
        if repo is not None:
            return _read_repo(repo, offline=options.offline, reporter=reporter)
        return _read_model(_find_model_file(options.model))
    if options.weights is not None:
        return _read_weights(options.weights, options.variant)
    variant = find_variant(options.variant or DEFAULT_VARIANT)
    path = fetch_weights(variant, offline=options.offline, reporter=reporter)
    _check_readable(path)
    return Model(variant, imagenet_card(variant), path, sha256=cached_sha256(path))


def expected_kind(options: ModelOptions) -> FileKind:
    """Return what the selected file holds, judging by names: nothing is opened or downloaded."""
    path = options.model
    if path is None or path.is_dir() or hub_repo.parse_repo(path) is not None:
        return "tensors"
    return export_file.file_kind(path)


def _read_repo(repo: hub_repo.HubRepo, *, offline: bool, reporter: Reporter) -> Model:
    path, config_path = repo.fetch(offline=offline, reporter=reporter)
    if config_path is None:
        return _read_model(path)
    config = timm_config.read_config(config_path)
    if config is None:
        raise UsageError(
            f"The {config_path.name} of '{repo}' does not describe a model of timm.",
            "Use a repository with an EfficientNet of timm or effnet.",
        )
    return _describe(path, config)


def _read_model(path: Path) -> Model:
    _check_readable(path)
    if export_file.file_kind(path) != "tensors":
        card = export_file.read_card(path)
    else:
        _check_format(path)
        config = None if checkpoint.is_model_file(path) else timm_config.read_beside(path)
        if config is not None:
            return _describe(path, config)
        card = checkpoint.read_card(path)
    return Model(find_variant(card.variant), card, path, sha256=cached_sha256(path))


def _read_weights(path: Path, name: str | None) -> Model:
    """Return the model of plain weights: the variant called `name`, or that of a config."""
    _check_readable(path)
    if checkpoint.is_model_file(path):
        raise UsageError(
            f"{str(path)!r} is a model file with its own classes.",
            f"Use --model {shlex.quote(str(path))} instead of --weights.",
        )
    config = timm_config.read_beside(path)
    if config is not None:
        return _describe(path, config if name is None else config.select(name))
    variant, digest = find_variant(name or DEFAULT_VARIANT), cached_sha256(path)
    published = find_published(digest)
    if published is not None and published is not variant:
        raise UsageError(
            f"{str(path)!r} has the published weights of {published.name}, not of {variant.name}.",
            f"Use --variant {published.name}.",
        )
    if published is None and name is not None and not names_weights(name):
        choices = ", ".join(row.name for row in timm_variants(variant.architecture))
        raise UsageError(
            f"--variant {name!r} does not say which preprocessing {str(path)!r} needs.",
            f"Say which weights they are: --variant with one of {choices}.",
        )
    return Model(variant, imagenet_card(variant), path, sha256=digest)


def _describe(path: Path, config: timm_config.TimmConfig) -> Model:
    """Return the model that timm's config describes."""
    weights_digest = cached_sha256(path)
    published = find_published(weights_digest)
    if published is not None and not timm_config.is_same_model(published, config.variant):
        raise UsageError(
            f"{str(path)!r} has the published weights of {published.name}, but "
            f"{str(config.path)!r} says {config.name!r}.",
            f"Move the weights to another folder and use --variant {published.name}.",
        )
    digests = weights_digest + cached_sha256(config.path)
    return Model(
        config.variant,
        config.card,
        path,
        sha256=hashlib.sha256(digests.encode("ascii")).hexdigest(),
        is_described=True,
    )


def _find_model_file(path: Path) -> Path:
    """Return the file that `--model` selects: `path` itself, or the model in a run folder."""
    _check_selectable(path)
    if path.is_symlink() and not _has_json(path):
        path = path.resolve()  # the JSON is next to the target
    if not path.is_dir():
        return path
    if (path / MODEL_FILE_NAME).exists():
        return path / MODEL_FILE_NAME
    if (path / OPTIONS_FILE_NAME).is_file():
        raise UsageError(
            f"{str(path)!r} has no checkpoint yet (first epoch unfinished).",
            f"Continue the run: effnet finetune --resume {shlex.quote(str(path))}",
        )
    if (path / timm_config.TORCH_FILE_NAME).is_file():
        weights = shlex.quote(str(path / timm_config.TORCH_FILE_NAME))
        raise UsageError(
            f"The folder {str(path)!r} contains no {MODEL_FILE_NAME}.", f"Use --weights {weights}"
        )
    exports = [one for one in sorted(path.glob("*")) if export_file.file_kind(one) != "tensors"]
    raise UsageError(
        f"The folder {str(path)!r} contains no {MODEL_FILE_NAME}.",
        f"Use a file in it: --model {shlex.quote(str(exports[0]))}"
        if exports
        else "Use a model file, or a folder created by `effnet finetune` or timm.",
    )


def _has_json(path: Path) -> bool:
    """Return whether a file has the JSON of an export, or the config of timm, beside it."""
    return export_file.json_path(path).exists() or timm_config.config_path(path).exists()


def _check_selectable(path: Path) -> None:
    """Refuse a path that needs another option, another file or another machine."""
    if path.suffix.lower() == export_file.COREML_SUFFIX:
        raise UsageError(
            f"{str(path)!r} is a Core ML package, which runs only on Apple devices.",
            "See docs/export/coreml.md.",
        )
    if str(path) in VARIANTS and not path.exists():
        raise UsageError(f"No such file: {str(path)!r}.", f"Use --variant {path}.")
    owner = export_file.export_owner(path)
    if owner is not None:
        raise UsageError(
            f"{str(path)!r} is part of the model in {owner.name!r}.",
            f"Use --model {shlex.quote(str(owner))}",
        )


def _check_format(path: Path) -> None:
    """Refuse a file that is not safetensors; the message says what it is instead."""
    if checkpoint.is_safetensors(path):
        return
    with path.open("rb") as file:
        content = sniff(file.read(HEAD_BYTES), path.name)
    what = "its format is unknown" if content is None else f"it is {content.description}"
    raise UsageError(
        f"{str(path)!r} is not a model file: {what}.",
        "Use a file that `effnet finetune` or `effnet export` wrote; load other weights with "
        "--weights and --variant.",
    )


def _check_readable(path: Path) -> None:
    if not path.is_file():
        what = "Not a regular file" if path.exists() else "No such file"
        raise UsageError(f"{what}: {str(path)!r}.", "Check the path.")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{str(path)!r} cannot be read.", "Check its permissions.")


def hub_file(variant: Variant) -> HubFile | None:
    """Return the file of weights on the model hub; `None` if they are elsewhere."""
    source = variant.source
    if source.repo is None:
        return None
    return HubFile(source.repo, source.file_name, sha256=source.sha256)


def expected_path(variant: Variant) -> Path | None:
    """Return where the published weights belong; `None` if their package is not installed."""
    on_hub = hub_file(variant)
    if on_hub is not None:
        return locate_hub_file(on_hub)
    if variant.source.package is None:
        return hub_folder() / variant.source.file_name
    spec = importlib.util.find_spec(variant.source.package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "models" / variant.source.file_name


def hub_folder() -> Path:
    """Return torch.hub's download folder, found the way torch does but without importing it."""
    home = os.environ.get("TORCH_HOME")
    if not home:
        home = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
    home = os.path.expanduser(home)  # noqa: PTH111 (Path.expanduser raises for an unknown user)
    return Path(home) / "hub" / "checkpoints"


def weights_state(variant: Variant) -> WeightsState:
    """Return whether the published weights are on this machine, without checking the digest."""
    path = expected_path(variant)
    if path is None:
        return "package not installed"
    return "available" if is_file(path) else "missing"


def is_intact(variant: Variant, path: Path, digest: Callable[[Path], str] = cached_sha256) -> bool:
    """Return whether `path` has the published SHA-256, of which only a prefix may be known.

    Of weights on the model hub whose digest is not pinned, it is the one that the hub has stated.
    """
    on_hub = hub_file(variant)
    expected = variant.source.sha256 if on_hub is None else known_digest(on_hub, path)
    return is_file(path) and bool(expected) and digest(path).startswith(expected)


def find_local_weights(variant: Variant) -> Path | None:
    """Return the path of a variant's published weights, if they are here and intact."""
    on_hub = hub_file(variant)
    if on_hub is not None:
        return find_hub_file(on_hub)
    path = expected_path(variant)
    return path if path is not None and is_intact(variant, path) else None


def fetch_weights(variant: Variant, *, offline: bool = False, reporter: Reporter = SILENT) -> Path:
    """Return the path of a variant's published weights, downloading them if needed.

    A file whose digest is not the published one is never used: a cached file is downloaded again,
    a file in a package is refused. `EffnetError` if there are no usable weights; its hint says
    what to install, or which file to put where.
    """
    on_hub = hub_file(variant)
    if on_hub is not None:
        by_hand = f"use --variant {variant.name} --weights FILE."
        return fetch_hub_file(on_hub, offline=offline, reporter=reporter, alternative=by_hand)
    path, source = expected_path(variant), variant.source
    if path is None:
        raise EffnetError(
            f"The weights of {variant.name} are in the package {source.package}, "
            "which is not installed.",
            f"Install it: {source.install}",
        )
    if is_intact(variant, path):
        return path
    if source.package is not None:
        raise EffnetError(
            f"The weights of {variant.name} in {str(path)!r} are missing or damaged.",
            f"Reinstall them: {source.reinstall}",
        )
    by_hand = f"put {path.name} into {path.parent}, or use --weights FILE."
    if offline:
        what = "damaged" if is_file(path) else "missing"
        raise EffnetError(
            f"The weights of {variant.name} are {what}.", f"Omit --offline, or {by_hand}"
        )
    with process_lock(path):
        if not is_intact(variant, path):  # another process may have downloaded it meanwhile
            from effnet_cli.models.download import download  # slow to import, and rarely needed

            download(variant, path, reporter, alternative=by_hand)
    return path


def weights_hint(variants: Sequence[Variant]) -> str:
    """Return a hint that says how to get the weights of `variants`."""
    pull = f"run: effnet weights pull {' '.join(variant.name for variant in variants)}"
    sources = [variant.source for variant in variants]
    files = [one.file_name for one in sources if one.package is None and one.repo is None]
    return f"Put {', '.join(files)} into {hub_folder()}, or {pull}" if files else pull.capitalize()
