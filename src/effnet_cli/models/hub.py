"""Files of model hubs: find them in the hub library's cache or ours, or download them."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import (
    atomic_write,
    cache_dir,
    cached_sha256,
    commit_part,
    git_sha1,
    is_file,
    list_files,
    process_lock,
    sha256,
)
from effnet_cli.system.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from effnet_cli.models.download import RemoteFile
    from effnet_cli.system.http import HttpError

HUB_URL = "https://huggingface.co"
HUB_VARIABLE = "HF_ENDPOINT"
DEFAULT_REVISION = "main"
TRUE_VALUES = ("1", "ON", "YES", "TRUE")  # of the hub library's variables
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
DIGEST_SUFFIX = ".sha256"
RESERVED_SUFFIXES = (DIGEST_SUFFIX, ".lock")  # of our own files beside a downloaded one
HUB_REPO = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
MAX_NAME_CHARS = 240  # of a revision or file name, encoded for a path: file systems have 255
COMMIT = re.compile(r"[0-9A-Za-z]+")
HUB_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's SHA-1, or SHA-256
TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository of a model hub.

    Args:
        repo: `OWNER/NAME`.
        name: its path in the repository.
        revision: a branch, tag or commit.
        sha256: the only digest that is accepted, in lowercase; empty if it is unknown.
        commit: the only commit of which it is accepted; empty if any commit of `revision` will do.
    """

    repo: str
    name: str
    revision: str = DEFAULT_REVISION
    sha256: str = ""
    commit: str = ""


class NotOnHubError(EffnetError):
    """The hub has no such file."""


def find_hub_file(file: HubFile) -> Path | None:
    """Return where a file is on this machine, intact, without accessing the internet.

    The hub library's cache comes first: it has what timm downloaded. It is only read. A file
    without any known digest is accepted in our own cache, and must stay the same from then on.

    Raises:
        UsageError: the repository, name or revision is not safe to use in a path.
    """
    _check_names(file)
    own = _own_path(file)
    for path in _library_paths(file):
        if has_digest(path, known_digest(file, path)):
            return path
    return own if _is_own_intact(file, own) else None


def fetch_hub_file(
    file: HubFile, *, offline: bool = False, reporter: Reporter = SILENT, alternative: str
) -> Path:
    """Return where a file is on this machine, downloading it if needed.

    A file that is not intact is never used, but downloaded again. A server that does not know
    commits may send one of another commit: `known_commit` tells.

    Args:
        alternative: what to do if it cannot be had, as a sentence that starts in lowercase.

    Raises:
        UsageError: the repository, name or revision is not safe to use in a path.
        NotOnHubError: the hub does not have it.
        EffnetError: the file cannot be had for another reason.
    """
    found = find_hub_file(file)
    if found is not None:
        return found
    path = _own_path(file)
    if offline or _is_true("HF_HUB_OFFLINE"):
        state = "damaged" if is_file(path) else "missing"
        if file.commit and find_hub_file(replace(file, commit="")) is not None:
            state = "of another commit than the rest"
        cause = "" if offline else ", and HF_HUB_OFFLINE is set"
        switch = "Omit --offline" if offline else "Unset HF_HUB_OFFLINE"
        message = f"{file.name!r} of {file.repo} is {state}{cause}."
        raise EffnetError(message, f"{switch}, or {alternative}")
    with process_lock(path):
        found = find_hub_file(file)  # another process may have downloaded it meanwhile
        return found or _download(file, path, reporter=reporter, alternative=alternative)


def locate_hub_file(file: HubFile) -> Path:
    """Return where a file is on this machine, intact or not, or else where it would be."""
    _check_names(file)
    own = _own_path(file)
    return next(filter(is_file, _library_paths(file)), own)


def known_digest(file: HubFile, path: Path) -> str:
    """Return the digest that the file at `path` must have; empty if nothing is known."""
    return file.sha256 or _blob_digest(path) or _read_record(_own_path(file)).digest


def known_commit(file: HubFile, path: Path) -> str:
    """Return the commit that the file at `path` is of; empty if it is not known."""
    if path == _own_path(file):
        return _read_record(path).commit
    return path.relative_to(_snapshots(file)).parts[0]


def hub_url(file: HubFile) -> str:
    """Return the URL of a file; `EFFNET_MIRROR` or `HF_ENDPOINT` replaces `HUB_URL`.

    Raises:
        UsageError: one of these variables is not a URL, or a name is not safe.
    """
    from effnet_cli.models.download import MIRROR_VARIABLE, base_url

    _check_names(file)
    base = base_url(HUB_URL, MIRROR_VARIABLE, HUB_VARIABLE)
    revision = quote(file.commit or file.revision, safe="")
    return f"{base}/{file.repo}/resolve/{revision}/{quote(file.name)}"


def has_digest(path: Path, digest: str) -> bool:
    """Return whether `path` is a readable file with this digest: SHA-256, or git's SHA-1."""
    if not is_file(path) or not HUB_DIGEST.fullmatch(digest):
        return False
    try:
        return digest == (cached_sha256(path) if len(digest) == 64 else git_sha1(path))
    except (OSError, EffnetError):  # not readable, or deleted meanwhile
        return False


# --- names --------------------------------------------------------------------------------------


def is_repo_name(text: str) -> bool:
    """Return whether a hub accepts `text`, which is safe to use in a path then, as a name."""
    return bool(HUB_REPO.fullmatch(text)) and "--" not in text and ".." not in text


def _check_names(file: HubFile) -> None:
    """Refuse names that lead out of the cache, or to our own files in it."""
    if not is_repo_name(file.repo):
        raise UsageError(f"{file.repo!r} is not a repository.", "Use OWNER/NAME.")
    for what, text in (("file name", file.name), ("revision", file.revision)):
        parts = text.split("/")
        is_odd = "\\" in text or ":" in text or not text.isprintable()
        is_odd = is_odd or len(quote(text, safe="")) > MAX_NAME_CHARS
        if is_odd or any(part.strip(" .") == "" for part in parts):
            raise UsageError(f"{text!r} is not a safe {what}.", "Use one without '..' and '\\'.")
    if file.name.lower().endswith(RESERVED_SUFFIXES):
        raise UsageError(
            f"{file.name!r} has a reserved suffix.",
            f"Use a file that does not end with {' or '.join(RESERVED_SUFFIXES)}.",
        )


def _folder_name(file: HubFile) -> str:
    return file.repo.replace("/", "--")


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in TRUE_VALUES


# --- the hub library's cache ----------------------------------------------------------------------


def library_home() -> Path:
    """Return the hub library's folder, found the way it does."""
    home = os.environ.get("HF_HOME")
    return _expand(home or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface")


def library_cache() -> Path:
    """Return the hub library's folder of downloaded files."""
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expand(cache) if cache else library_home() / "hub"


def _expand(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))  # noqa: PTH111 (see weights.py)


def _library_paths(file: HubFile) -> Iterator[Path]:
    """Yield where the hub library may have the file.

    A pinned digest says which file is right, whatever its snapshot; otherwise only the snapshot of
    the revision counts, or the only one if the library has not recorded what "main" is.
    """
    snapshots = _snapshots(file)
    ref = snapshots.with_name("refs") / file.revision
    commit = file.commit or _read_line(ref) or file.revision
    if COMMIT.fullmatch(commit):
        yield snapshots / commit / file.name
    others = [path / file.name for path in sorted(list_files(snapshots, "*"))]
    is_only = len(others) == 1 and commit == file.revision == DEFAULT_REVISION
    if file.sha256 or is_only:
        yield from others


def _snapshots(file: HubFile) -> Path:
    return library_cache() / f"models--{_folder_name(file)}" / "snapshots"


def _blob_digest(path: Path) -> str:
    """Return the digest that the hub library has put into the name of a snapshot's file.

    That is the name which the link has, not the one at the end of a chain of links: blobs may be
    links themselves, to files that are named by another kind of digest.
    """
    try:
        name = path.readlink().name
    except OSError:  # a copy, where links are not supported
        return ""
    return name if HUB_DIGEST.fullmatch(name) else ""


def _read_line(path: Path) -> str:
    """Return the text of a small file; empty if there is none that can be read."""
    try:
        return path.read_text(encoding="ascii").strip() if is_file(path) else ""
    except (OSError, ValueError):
        return ""


# --- our own cache --------------------------------------------------------------------------------


def _own_path(file: HubFile) -> Path:
    revision = quote(file.revision, safe="")
    return cache_dir() / "hub" / _folder_name(file) / revision / file.name


class Record(NamedTuple):
    """What is known about a file in our cache; either may be empty."""

    digest: str
    commit: str


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + DIGEST_SUFFIX)


def _read_record(path: Path) -> Record:
    """Return the digest and the commit that are recorded beside our file."""
    digest, _, commit = _read_line(_record_path(path)).partition(" ")
    return Record(digest, commit if COMMIT.fullmatch(commit) else "")


def _write_record(path: Path, record: Record) -> None:
    with atomic_write(_record_path(path)) as part:
        part.write_text(" ".join(filter(None, record)) + "\n", encoding="ascii")


def _is_own_intact(file: HubFile, path: Path) -> bool:
    recorded = _read_record(path)
    if file.commit not in ("", recorded.commit):
        return False
    if file.sha256 or is_file(_record_path(path)):
        return has_digest(path, file.sha256 or recorded.digest)
    if not is_file(path):
        return False
    try:
        digest = cached_sha256(path)
    except (OSError, EffnetError):
        return False
    with suppress(EffnetError):  # a filled cache may be read-only
        _write_record(path, Record(digest, ""))
    return True


# --- downloads ------------------------------------------------------------------------------------


def _download(file: HubFile, path: Path, *, reporter: Reporter, alternative: str) -> Path:
    """Download a file to `path`, whose lock the caller holds."""
    from effnet_cli.models.download import RemoteFile, fetch_part
    from effnet_cli.system.http import HttpError

    url = hub_url(file)
    remote = RemoteFile(url, file.sha256, token=_find_token(url))
    reporter.note(f"Downloading {file.name} of {file.repo} from {remote.host}")
    try:
        part = fetch_part(remote, path, partial(reporter.progress, path.name, unit="bytes"))
    except HttpError as error:
        raise _explain(file, remote, error, alternative=alternative) from error
    # the record first: if the process is killed in between, the old file does not have its digest
    _write_record(path, Record(sha256(part.path), part.commit or file.commit))
    commit_part(part.path, path)
    return path


def _explain(
    file: HubFile, remote: "RemoteFile", error: "HttpError", *, alternative: str
) -> EffnetError:
    """Return the error to show: some statuses have a meaning if the hub itself responds so."""
    from effnet_cli.models.download import download_error

    where = f"{file.repo} (revision {file.commit or file.revision})"
    status = None if error.is_elsewhere else error.status
    if status == 404:
        return NotOnHubError(
            f"There is no {file.name!r} in {where} on {remote.host}.",
            f"Check the repository, or {alternative}",
        )
    if status in (401, 403):
        lack = "the token has no access to it" if remote.token else "HF_TOKEN is not set"
        return EffnetError(
            f"{remote.host} denies access ({status}) to {where}: it does not exist, or {lack}.",
            f"Check the repository and HF_TOKEN, or {alternative}",
        )
    return download_error(remote, error, alternative)


def _find_token(url: str) -> str:
    """Return the user's token for the hub; empty if there is none or others could read it.

    Raises:
        UsageError: the token cannot be sent. The message does not contain it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # an invalid URL, which the request will report
        return ""
    is_private = parts.scheme == "https" or parts.hostname in LOCAL_HOSTS
    if not is_private or _is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        return ""
    file = _expand(os.environ.get("HF_TOKEN_PATH") or str(library_home() / "token"))
    token = os.environ.get("HF_TOKEN", "").strip() or _read_line(file)
    if token and not TOKEN.fullmatch(token):
        raise UsageError(
            "The hub's token contains spaces or special characters.",
            f"Correct HF_TOKEN, or the file {str(file)!r}.",
        )
    return token
