"""HTTP requests whose waiting time is bounded."""

import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from effnet_cli.system.parallel import resolve_future

if TYPE_CHECKING:
    import httpx

SCHEMES = ("http", "https")
# Until the headers of a response have arrived. httpx has no limit for name look-ups, which can take
# minutes without an internet connection.
CONNECT_SECONDS = 4.0
STALL_SECONDS = 10.0  # between two parts of a body
MAX_REDIRECTS = 5
MAX_REASON_CHARS = 200

Kind = Literal["failed", "timeout", "incomplete"]


class HttpError(Exception):
    """A request that failed; its text is the reason, without a full stop.

    Args:
        status: that of the response, if there was one.
    """

    def __init__(self, reason: str, status: int | None = None, kind: Kind = "failed") -> None:
        super().__init__(reason)
        self.status = status
        self.kind = kind


class Body(NamedTuple):
    """The body of a response: a file from byte `start` on, of `total` bytes if the server says."""

    response: "httpx.Response"
    start: int
    total: int | None

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they arrive.

        Raises:
            HttpError: the connection closed early or stalled.
        """
        import httpx

        received = self.start
        try:
            for chunk in self.response.iter_raw():
                received += len(chunk)
                yield chunk
        except httpx.HTTPError as error:
            failure = _failure(error)
            if isinstance(error, httpx.RemoteProtocolError) and self.total is not None:
                reason = f"the connection closed after {received:,} of {self.total:,} bytes"
                failure = HttpError(reason, kind="incomplete")
            failure.status = self.response.status_code
            raise failure from error


@contextmanager
def open_url(url: str, start: int = 0) -> Iterator[Body]:
    """Request a file from byte `start` on; headers arrive within CONNECT_SECONDS.

    Raises:
        HttpError: there is no such file, or no response.
    """
    import httpx  # 100 ms, and only downloads need it

    headers = {"User-Agent": "effnet", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    future: Future[httpx.Response] = Future()
    try:
        timeout = httpx.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS)
        client = httpx.Client(headers=headers, timeout=timeout, verify=_tls_context())
    except (ImportError, ValueError) as error:  # a proxy in the environment that httpx cannot use
        raise _failure(error) from error
    with client:
        args = (future, lambda: _follow(client, url))
        threading.Thread(target=resolve_future, args=args, daemon=True).start()
        try:
            response = future.result(CONNECT_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, OverflowError) as error:
            raise _failure(error) from error
        yield _check(response, start)


def _follow(client: "httpx.Client", url: str) -> "httpx.Response":
    """The response after at most MAX_REDIRECTS redirects, none of them to another scheme."""
    request = client.build_request("GET", url)
    for _ in range(MAX_REDIRECTS):
        response = client.send(request, stream=True)
        following = response.next_request
        if following is None or following.url.scheme not in SCHEMES:
            return response
        response.close()
        request = following
    return client.send(request, stream=True)


def _check(response: "httpx.Response", start: int) -> Body:
    status = response.status_code
    if status not in (200, 206):
        reason = f"the server returned {status} {_shorten(response.reason_phrase)}".rstrip()
        following = response.next_request
        if following is not None and following.url.scheme not in SCHEMES:
            reason = f"{reason}, a redirect to a URL that is not http:// or https://"
        raise HttpError(reason, status)
    start = start if status == 206 else 0
    length = response.headers.get("Content-Length", "")
    return Body(response, start, start + int(length) if length.isdecimal() else None)


@cache
def _tls_context() -> ssl.SSLContext:
    """The system's certificates, which may include a company's own, and those of certifi."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _failure(error: Exception) -> HttpError:
    """`error` as one sentence, by the system's reason where there is one."""
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, OSError):
        reason = reason.__cause__ or reason.__context__
    if isinstance(reason, TimeoutError):
        return HttpError("the server does not respond", kind="timeout")
    if isinstance(reason, socket.gaierror):
        return HttpError("the host name cannot be resolved (no internet connection?)")
    words = getattr(reason, "strerror", None) or str(error) or type(error).__name__
    return HttpError(_shorten(words))


def _shorten(text: str) -> str:
    """A server's or library's words, which may be long and have several lines."""
    return " ".join(text.split())[:MAX_REASON_CHARS].rstrip(".")
