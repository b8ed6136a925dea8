"""Download images from URLs into memory, within limits."""

import time
from urllib.parse import urlsplit

from effnet_cli.system.errors import ImageError
from effnet_cli.system.http import Body, HttpError, open_url

MAX_BYTES = 100_000_000  # per image file
FETCH_SECONDS = 30.0  # for one image, unless --timeout says otherwise
NOT_FOUND = (404, 410)
ERROR_KINDS = {"failed": "unreadable", "timeout": "timeout", "incomplete": "truncated"}


def fetch_image(url: str, timeout_s: float | None) -> bytes:
    """Download the file at an http:// or https:// URL.

    Raises:
        ImageError: `missing`, `too_large`, `timeout`, `truncated` or `unreadable`.
    """
    limit_s = timeout_s or FETCH_SECONDS
    deadline = time.monotonic() + limit_s
    try:
        parts = urlsplit(url)
        if not parts.hostname:
            raise ImageError("unreadable", "The URL names no server.", "Check the URL.")
        if "@" in parts.netloc:
            raise ImageError(
                "unreadable", "URLs with credentials are not supported.", "Download it first."
            )
        with open_url(url) as body:
            return _read(body, deadline, limit_s)
    except (HttpError, ValueError) as error:  # ValueError: not a URL
        raise _translate(error) from error


def _read(body: Body, deadline: float, limit_s: float) -> bytes:
    _check_size(body.total or 0)
    content = bytearray()
    for chunk in body.chunks():
        content += chunk
        _check_size(len(content))
        if time.monotonic() > deadline:
            message = f"The download took longer than {limit_s:g} s."
            raise ImageError("timeout", message, "Try again, or use a longer --timeout.")
    return bytes(content)


def _check_size(size_bytes: int) -> None:
    if size_bytes > MAX_BYTES:
        message = f"The file has at least {size_bytes:,} bytes; the limit is {MAX_BYTES:,} bytes."
        raise ImageError("too_large", message, "Download it manually if you trust it.")


def _translate(error: HttpError | ValueError) -> ImageError:
    kind = "unreadable"
    if isinstance(error, HttpError):
        kind = "missing" if error.status in NOT_FOUND else ERROR_KINDS[error.kind]
    return ImageError(kind, f"The download failed: {error}.", "Check the URL.")
