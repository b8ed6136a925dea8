"""Images behind an address: fetched into memory, within limits."""

import time
import urllib.error
import urllib.parse
from http.client import HTTPException
from typing import Any

from effnet_cli.system.errors import ImageError
from effnet_cli.system.http import describe_failure, open_url

MAX_BYTES = 100_000_000  # of one image's file
FETCH_SECONDS = 30.0  # for one image, where no --timeout says otherwise
CHUNK_BYTES = 1 << 16
GONE = (404, 410)  # answers that mean that there is no such file


def fetched(url: str, timeout_s: float | None) -> bytes:
    """The bytes behind an address.

    Raises:
        ImageError: `missing`, `too_large`, `timeout` or `unreadable`.
    """
    limit_s = timeout_s or FETCH_SECONDS
    deadline = time.monotonic() + limit_s
    try:
        with open_url(_escaped(url)) as response:
            return _read(response, deadline, limit_s)
    except urllib.error.HTTPError as error:
        error.close()
        kind = "missing" if error.code in GONE else "unreadable"
        raise _failed(kind, error) from error
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        kind = "timeout" if isinstance(reason, TimeoutError) else "unreadable"
        raise _failed(kind, error) from error


def _escaped(url: str) -> str:
    """An address as browsers make it: what it cannot hold is escaped, what is escaped stays so.

    Raises:
        ValueError: it is none.
        ImageError: it brings a user's name.
    """
    if "@" in urllib.parse.urlsplit(url).netloc:
        raise ImageError(
            "unreadable", "Addresses with a user name are not fetched.", "Download it first."
        )
    return urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")


def _read(response: Any, deadline: float, limit_s: float) -> bytes:
    length = response.headers.get("Content-Length") or ""
    if length.isdecimal() and int(length) > MAX_BYTES:
        raise _too_large(int(length))
    content = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_BYTES:
            raise _too_large(len(content))
        if time.monotonic() > deadline:
            raise ImageError(
                "timeout",
                f"Fetching it took longer than {limit_s:g} s.",
                "Try again, or raise --timeout.",
            )
    if length.isdecimal() and len(content) < int(length):
        raise ImageError(
            "truncated",
            f"The connection broke off after {len(content):,} of {int(length):,} bytes.",
            "Try again.",
        )
    return bytes(content)


def _too_large(size_bytes: int) -> ImageError:
    return ImageError(
        "too_large",
        f"The file has {size_bytes:,} bytes or more, above the limit of {MAX_BYTES:,}.",
        "Download it yourself if you trust it.",
    )


def _failed(kind: str, error: Exception) -> ImageError:
    return ImageError(
        kind, f"It cannot be fetched: {describe_failure(error)}.", "Check the address."
    )
