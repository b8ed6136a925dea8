"""Models in repositories of a model hub, given to `--model` as `hf://OWNER/NAME[@REVISION]`."""

import re
from dataclasses import dataclass
from pathlib import Path

from effnet_cli.models import checkpoint
from effnet_cli.models.card import MODEL_FILE_NAME
from effnet_cli.models.hub import (
    DEFAULT_REVISION,
    HubFile,
    NotOnHubError,
    fetch_hub_file,
    is_repo_name,
    known_commit,
)
from effnet_cli.models.timm_config import CONFIG_FILE_NAME
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.reporter import Reporter

# `Path` drops the second slash of `hf://`. timm writes `hf-hub:`.
HUB_PREFIX = re.compile(r"hf:(/+|$)|hf[-_]hub:/*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository with a model, at a branch, tag or commit."""

    name: str
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        suffix = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"hf://{self.name}{suffix}"

    def fetch(self, *, offline: bool, reporter: Reporter) -> tuple[Path, Path | None]:
        """Return the weights and their config of one commit, downloading them if needed.

        A model file of effnet needs no config: it is `None`.

        Raises:
            UsageError: the name or the revision of the repository is not valid.
            EffnetError: a file is not there, cannot be downloaded, or is of another commit.
        """
        if not is_repo_name(self.name) or "/" not in self.name or not self.revision:
            raise UsageError(f"'{self}' is not a repository.", "Use hf://OWNER/NAME.")
        alternative = "download the repository and use --model FOLDER."

        def fetch_file(name: str, commit: str = "") -> tuple[Path, str]:
            file = HubFile(self.name, name, self.revision, commit=commit)
            path = fetch_hub_file(file, offline=offline, reporter=reporter, alternative=alternative)
            return path, known_commit(file, path)

        weights, commit = fetch_file(MODEL_FILE_NAME)
        if checkpoint.is_model_file(weights):
            return weights, None
        try:
            config, config_commit = fetch_file(CONFIG_FILE_NAME, commit)
        except NotOnHubError:  # it may have been added after that commit
            config, config_commit = fetch_file(CONFIG_FILE_NAME)
        if config_commit != commit:
            weights, commit = fetch_file(MODEL_FILE_NAME, config_commit)
        if config_commit != commit:
            raise EffnetError(
                f"The files of '{self}' are of different commits.", f"Try again, or {alternative}"
            )
        return weights, None if checkpoint.is_model_file(weights) else config


def parse_repo(path: Path) -> HubRepo | None:
    """Return the repository that `path` stands for; `None` if it is a path on this machine."""
    text = path.as_posix()
    prefix = HUB_PREFIX.match(text)
    if prefix is None:
        return None
    name, at, revision = text[prefix.end() :].partition("@")
    return HubRepo(name, revision if at else DEFAULT_REVISION)


def make_absolute(path: Path) -> Path:
    """Return a path that is valid in any working directory; that of a repository already is."""
    return path.absolute() if parse_repo(path) is None else path
