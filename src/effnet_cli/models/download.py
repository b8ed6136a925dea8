"""Download published weights atomically: resume broken connections and check the digest."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from effnet_cli.models.variants import Variant
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import atomic_write, remove_partial_files, sha256
from effnet_cli.system.http import Body, HttpError, open_url
from effnet_cli.system.reporter import Reporter

MODELS_URL = "https://download.pytorch.org/models"  # torchvision's
MIRROR_VARIABLE = "EFFNET_MIRROR"
ATTEMPTS = 4
PAUSE_SECONDS = 0.5  # before each retry, multiplied by the number of attempts so far


def download(variant: Variant, path: Path, reporter: Reporter, hint: str) -> None:
    """Download the weights of a variant to `path`, whose lock the caller holds.

    `EffnetError` with `hint` if the download fails or differs from the published file. In that
    case, whatever was at `path` is left as it was.
    """
    url, source = download_url(variant), variant.source
    remove_partial_files(path.parent, path.name)
    reporter.note(f"Downloading the weights of {variant.name} ({source.size_mb:.0f} MB) from {url}")
    with atomic_write(path) as part:
        reason = _fetch(url, part, partial(reporter.progress, path.name, unit="bytes"))
        if reason:
            raise EffnetError(f"Cannot download {url}: {reason}.", hint)
        digest = sha256(part)
        if not digest.startswith(source.sha256):
            raise EffnetError(
                f"Checksum mismatch for {url}: got {digest[:8]}, expected {source.sha256[:8]}.",
                hint,
            )


def download_url(variant: Variant) -> str:
    """Return the URL of a variant's weights; `EFFNET_MIRROR` replaces `MODELS_URL`."""
    base = os.environ.get(MIRROR_VARIABLE) or MODELS_URL
    if not base.startswith(("https://", "http://")):
        raise UsageError(
            f"{MIRROR_VARIABLE} is {base!r}, not a URL.",
            "Set it to a URL that starts with https:// or http://.",
        )
    return f"{base.rstrip('/')}/{variant.source.file_name}"


def _fetch(url: str, part: Path, progress: Callable[[int, int | None], None]) -> str | None:
    """Download `url` into `part`, resuming after a lost connection; return the reason if it fails.

    Retry after a server error (5xx) or a lost connection, but not if the server never responded.
    """
    reason: str | None = None
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS * attempt)
        done = part.stat().st_size
        try:
            with open_url(url, done) as body:
                _append(body, part, progress)
            return None
        except HttpError as error:
            reason = str(error)
            if error.status == 416:  # the part is not shorter than the server's file
                part.write_bytes(b"")
            elif done == 0 if error.status is None else 300 <= error.status < 500:
                return reason
    return reason


def _append(body: Body, part: Path, progress: Callable[[int, int | None], None]) -> None:
    """Write a response's body to `part`, starting at byte `body.start`."""
    done = body.start
    with part.open("rb+") as file:
        file.truncate(body.start)
        file.seek(body.start)
        for chunk in body.chunks():
            file.write(chunk)
            done += len(chunk)
            progress(done, body.total)
