"""Download files atomically: resume broken connections and earlier runs, check the digest."""

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from effnet_cli.images.sniff import HEAD_BYTES, sniff
from effnet_cli.models.hub import COMMIT
from effnet_cli.models.variants import Variant
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import (
    cannot_write,
    commit_part,
    git_sha1,
    kept_part,
    kept_parts,
    sha256,
)
from effnet_cli.system.http import BUSY_STATUSES, Body, HttpError, is_same_origin, open_url
from effnet_cli.system.reporter import Reporter

if TYPE_CHECKING:
    import httpx

MODELS_URL = "https://download.pytorch.org/models"  # torchvision's
MIRROR_VARIABLE = "EFFNET_MIRROR"
ATTEMPTS = 4
PAUSE_SECONDS = 0.5  # before each retry, multiplied by the number of attempts so far
MAX_PAUSE_SECONDS = 10.0  # a server may ask for longer pauses than people wait
GIT_DIGEST = re.compile(r"[0-9a-f]{40}")  # SHA-1
LFS_DIGEST = re.compile(r"[0-9a-f]{64}")  # SHA-256
URL_CREDENTIALS = re.compile(r"(?<=://)[^/?#]*@")
SHOWN_CHARS = 8  # of a digest in a message
PLACEHOLDERS = ("an HTML page", "a Git LFS pointer")  # what servers send instead of a file

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a server.

    Args:
        sha256: the first digits of its digest, or all of them; empty if it is unknown.
        token: what to identify with at the server of `url`, and nowhere else.
    """

    url: str
    sha256: str = ""
    token: str = ""

    @property
    def shown_url(self) -> str:
        """The URL for messages, without credentials."""
        return URL_CREDENTIALS.sub("", self.url)

    @property
    def host(self) -> str:
        """The server, with its port, for messages."""
        return self.shown_url.partition("://")[2].partition("/")[0]


class FilePart(NamedTuple):
    """A downloaded file before it has its name, and the commit that the hub says it is of."""

    path: Path
    commit: str


class FileHeaders:
    """What a server says about a file before it sends it.

    `digest` is that of the file: the expected SHA-256, else the one that a model hub sends (for
    small files the SHA-1 that git uses), else empty. `version` changes with the file's content,
    and is empty if nothing is known about the content. `commit` is that of the repository, if a
    model hub sends it.
    """

    def __init__(self, remote: RemoteFile) -> None:
        self.has_response, self.has_length = False, False
        self.digest = self.version = remote.sha256
        self.commit = ""
        self._remote = remote
        self._first: httpx.URL | None = None

    def read(self, response: "httpx.Response") -> None:
        """Take what a response says; called for redirects too, on which hubs send the digest.

        Raises:
            HttpError: the server has another file than the expected one.
        """
        self.has_response = True
        self._first = self._first or response.url
        linked = _opaque_tag(response.headers.get("X-Linked-Etag", ""))
        expected = self._remote.sha256
        if expected and LFS_DIGEST.fullmatch(linked) and not linked.startswith(expected):
            reason = f"the server has another file ({_difference(linked, expected)})"
            raise HttpError(reason, response.status_code)
        self._use(linked)
        commit = response.headers.get("X-Repo-Commit", "")
        if is_same_origin(response.url, self._first) and COMMIT.fullmatch(commit):
            self.commit = commit
        # a connection that closes early is noticed with either of them
        self.has_length = bool({"content-length", "transfer-encoding"} & set(response.headers))
        # the tags of other servers, to which a hub redirects, are no digests of the content
        if response.is_success and is_same_origin(response.url, self._first):
            etag = response.headers.get("ETag", "")
            tag = _opaque_tag(etag)
            if GIT_DIGEST.fullmatch(tag) or not etag.startswith("W/"):
                self._use(tag, is_digest=GIT_DIGEST.fullmatch(tag) is not None)

    def _use(self, tag: str, is_digest: bool = True) -> None:
        """Use a tag, unless an earlier response or the caller knew better."""
        if is_digest and (LFS_DIGEST.fullmatch(tag) or GIT_DIGEST.fullmatch(tag)):
            self.digest = self.digest or tag
        self.version = self.version or tag


def download(variant: Variant, path: Path, reporter: Reporter, alternative: str) -> None:
    """Download the weights of a variant to `path`, whose lock the caller holds.

    `EffnetError` if the download fails or differs from the published file; its hint has the
    `alternative`. In that case, whatever was at `path` is left as it was.
    """
    source = variant.source
    remote = RemoteFile(download_url(variant), source.sha256)
    reporter.note(
        f"Downloading the weights of {variant.name} ({source.size_mb:.0f} MB) "
        f"from {remote.shown_url}"
    )
    try:
        part = fetch_part(remote, path, partial(reporter.progress, path.name, unit="bytes"))
    except HttpError as error:
        raise download_error(remote, error, alternative) from error
    commit_part(part.path, path)


def download_error(remote: RemoteFile, error: HttpError, alternative: str) -> EffnetError:
    """Return the error to show if `remote` cannot be downloaded.

    Args:
        alternative: what to do instead, as a sentence that starts in lowercase.
    """
    hint = f"Try again later, or {alternative}" if error.is_temporary else capitalize(alternative)
    return EffnetError(f"Cannot download {remote.shown_url}: {error}.", hint)


def capitalize(sentence: str) -> str:
    """Return a sentence with a capital letter, and the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def download_url(variant: Variant) -> str:
    """Return the URL of a variant's weights; `EFFNET_MIRROR` replaces `MODELS_URL`."""
    return f"{base_url(MODELS_URL, MIRROR_VARIABLE)}/{variant.source.file_name}"


def base_url(default: str, *variables: str) -> str:
    """Return the URL in the first of the environment's `variables` that is set, else `default`."""
    for name in variables:
        if base := os.environ.get(name):
            if not base.startswith(("https://", "http://")):
                raise UsageError(
                    f"{name} is {base!r}, not a URL.",
                    "Set it to a URL that starts with https:// or http://.",
                )
            return base.rstrip("/")
    return default


def fetch_part(remote: RemoteFile, path: Path, progress: Progress) -> FilePart:
    """Download a file and check it; return the partial file, which `commit_part` moves to `path`.

    If the connection is lost for good, or the process is killed, the partial file is kept, and
    continued by the next call if the server still has the same version.

    Raises:
        HttpError: there is no such file, or the server did not send all of it, or another one.
        EffnetError: the folder or the file cannot be written.
    """
    try:
        headers = _fetch(remote, path, progress)
        part = kept_part(path, headers.version)
        reason = _find_fault(part, headers)
    except OSError as error:
        _remove_parts(path)  # a full disk needs the space
        raise cannot_write(path, error) from error
    if reason:
        _remove_parts(path)
        raise HttpError(reason, 200)
    return FilePart(part, headers.commit)


def _fetch(remote: RemoteFile, path: Path, progress: Progress) -> FileHeaders:
    """Download `remote` into a part of `path`, resuming after a lost connection.

    Retry after a server error (5xx) or a lost connection, but not if the server never responded.
    """
    failure, has_response = HttpError("no response"), False
    for attempt in range(ATTEMPTS):
        time.sleep(max(PAUSE_SECONDS * attempt, min(failure.retry_after_s, MAX_PAUSE_SECONDS)))
        headers = FileHeaders(remote)
        done = max((part.stat().st_size for part in _continuable_parts(path)), default=0)
        try:
            with open_url(remote.url, done, token=remote.token, watch=headers.read) as body:
                _append(body, _claim_part(path, headers, body.start), progress)
            return headers
        except HttpError as error:
            failure, has_response = error, has_response or headers.has_response
            if error.status == 416:  # the part is not shorter than the server's file
                _remove_parts(path)
            elif not has_response or _is_final(error.status):
                break
    useful = [part for part in _continuable_parts(path) if part.stat().st_size]
    _remove_parts(path, keep=useful)
    raise failure


def _continuable_parts(path: Path) -> list[Path]:
    """Return the parts of known versions: others may not fit to what the server has now."""
    return [part for part in kept_parts(path) if part != kept_part(path, "")]


def _is_final(status: int | None) -> bool:
    return status is not None and 300 <= status < 500 and status not in BUSY_STATUSES


def _claim_part(path: Path, headers: FileHeaders, start: int) -> Path:
    """Return the part to write from byte `start` on; parts of other versions are deleted.

    Raises:
        HttpError: the part that the request was to continue is of another version.
    """
    part = kept_part(path, headers.version)
    _remove_parts(path, keep=[part])
    if start and not part.exists():
        raise HttpError("the file on the server has changed", 206)
    part.touch()
    return part


def _append(body: Body, part: Path, progress: Progress) -> None:
    """Write a response's body to `part`, starting at byte `body.start`."""
    done = body.start
    with part.open("rb+") as file:
        file.truncate(body.start)
        file.seek(body.start)
        for chunk in body.chunks():
            file.write(chunk)
            done += len(chunk)
            progress(done, body.total)


def _remove_parts(path: Path, keep: Sequence[Path] = ()) -> None:
    for part in kept_parts(path):
        if part not in keep:
            with suppress(OSError):
                part.unlink()


def _find_fault(part: Path, headers: FileHeaders) -> str:
    """Return what is wrong with a downloaded file; empty if it is what the server promised."""
    digest = headers.digest
    if digest:
        actual = git_sha1(part) if GIT_DIGEST.fullmatch(digest) else sha256(part)
        if actual.startswith(digest):
            return ""
    with part.open("rb") as file:
        content = sniff(file.read(HEAD_BYTES), "")
    if content is not None and content.description in PLACEHOLDERS:
        return f"the server sent {content.description} instead"
    if digest:
        return f"checksum mismatch ({_difference(actual, digest)})"
    return "" if headers.has_length else "the server sent neither a checksum nor a length"


def _difference(actual: str, expected: str) -> str:
    return f"got {actual[:SHOWN_CHARS]}, expected {expected[:SHOWN_CHARS]}"


def _opaque_tag(etag: str) -> str:
    """Return what is between the quotes of an ETag."""
    return etag.removeprefix("W/").strip('"')
