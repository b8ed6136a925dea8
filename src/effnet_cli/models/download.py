"""Fetching weights: resumed, checked, whole or not at all."""

import http.client
import os
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

from effnet_cli.models.variants import Variant
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import atomic_write, remove_partial_files, sha256
from effnet_cli.system.http import describe_failure, open_url
from effnet_cli.system.reporter import Reporter

MODELS_URL = "https://download.pytorch.org/models"  # torchvision's
MIRROR_VARIABLE = "EFFNET_MIRROR"
ATTEMPTS = 4
PAUSE_SECONDS = 0.5  # before another attempt, times the number of attempts
CHUNK_BYTES = 1 << 18


def download(variant: Variant, path: Path, reporter: Reporter, hint: str) -> None:
    """Fetch the published weights of a variant to `path`; the caller holds the lock of `path`.

    Args:
        hint: what a person can do if it fails.

    Raises:
        EffnetError: they cannot be had, or are not the published ones; nothing is left at `path`
            that was not there before.
    """
    url = download_url(variant)
    remove_partial_files(path.parent, path.name)
    size_mb = variant.source.size_mb
    reporter.note(f"Fetching the weights of {variant.name} ({size_mb:.0f} MB) from {url}")
    with atomic_write(path) as part:
        problem = _fetch(
            url, part, lambda done, total: reporter.progress(path.name, done, total, "bytes")
        )
        if problem:
            raise EffnetError(f"{url} cannot be fetched: {problem}.", hint)
        digest = sha256(part)
        if not digest.startswith(variant.source.sha256):
            raise EffnetError(
                f"{url} gave a wrong file: its SHA-256 starts with {digest[:8]}, "
                f"not {variant.source.sha256[:8]}.",
                hint,
            )


def download_url(variant: Variant) -> str:
    """The address of a variant's weights; `EFFNET_MIRROR` replaces torchvision's folder."""
    base = os.environ.get(MIRROR_VARIABLE) or MODELS_URL
    if not base.startswith(("https://", "http://")):
        raise UsageError(
            f"{MIRROR_VARIABLE} is {base!r}.",
            "Give an address that starts with https:// or http://.",
        )
    return f"{base.rstrip('/')}/{variant.source.file_name}"


def _fetch(url: str, part: Path, progress: Callable[[int, int | None], None]) -> str | None:
    """Fetch `url` into `part`, going on where a broken connection stopped; the problem in words if
    it fails.

    A server that cannot be reached is not tried again; one that breaks off is.
    """
    problem: str | None = None
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS * attempt)
        done = part.stat().st_size
        try:
            response = open_url(url, done)
        except urllib.error.HTTPError as error:
            error.close()
            problem = describe_failure(error)
            if error.code == 416:  # what we have is not the start of what it has
                part.write_bytes(b"")
            elif error.code < 500:
                return problem
            continue
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem = describe_failure(error)
            if done == 0:
                return problem
            continue
        with response:
            problem = _append(response, part, done if response.status == 206 else 0, progress)
        if problem is None:
            return None
    return problem


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
                return describe_failure(error)
            if not chunk:
                break
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
    if total is not None and done != total:
        return f"the connection broke off after {done:,} of {total:,} bytes"
    return None
