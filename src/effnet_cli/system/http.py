"""HTTP requests with bounded waiting times."""

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
# Limit for the headers of a response to arrive. httpx does not limit name look-ups, which can take
# minutes without an internet connection.
CONNECT_SECONDS = 4.0
STALL_SECONDS = 10.0  # between two chunks of a body
MAX_REDIRECTS = 5
MAX_REASON_CHARS = 200  # reasons from servers and libraries may be longer and have several lines

Kind = Literal["failed", "timeout", "incomplete"]


class HttpError(Exception):
    """A failed request. Its text is the reason; `status` is that of the response, if any."""

    def __init__(self, reason: str, status: int | None = None, kind: Kind = "failed") -> None:
        super().__init__(" ".join(reason.split())[:MAX_REASON_CHARS].rstrip(" ."))
        self.status, self.kind = status, kind


class Body(NamedTuple):
    """A file's content from byte `start` on; `total` is the file's size, if the server sends it."""

    response: "httpx.Response"
    start: int
    total: int | None

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes as they arrive.

        Raises:
            HttpError: the connection stalled or closed early.
        """
        import httpx

        received = self.start
        try:
            for chunk in self.response.iter_raw():
                received += len(chunk)
                yield chunk
        except httpx.TimeoutException as error:
            raise _translate(error, self.response.status_code) from error
        except httpx.HTTPError as error:
            of = "" if self.total is None else f" of {self.total:,}"
            reason = f"the connection closed after {received:,}{of} bytes"
            raise HttpError(reason, self.response.status_code, "incomplete") from error


@contextmanager
def open_url(url: str, start: int = 0) -> Iterator[Body]:
    """Request a file from byte `start` on; its headers must arrive within CONNECT_SECONDS.

    Raises:
        HttpError: there is no such file, or no response.
    """
    import httpx  # takes 100 ms, and only downloads need it

    headers = {"User-Agent": "effnet", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = httpx.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS)
    try:
        client = httpx.Client(headers=headers, timeout=timeout, verify=_tls_context())
    except (ImportError, ValueError) as error:  # a proxy in the environment that httpx cannot use
        raise _translate(error) from error
    with client:
        future: Future[httpx.Response] = Future()
        args = (future, lambda: _follow(client, url))
        threading.Thread(target=resolve_future, args=args, daemon=True).start()
        try:
            response = future.result(CONNECT_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, OverflowError) as error:
            raise _translate(error) from error
        if response.status_code not in (200, 206):
            raise _refusal(response)
        start = start if response.status_code == 206 else 0
        length = response.headers.get("Content-Length", "")
        yield Body(response, start, start + int(length) if length.isdecimal() else None)


def _follow(client: "httpx.Client", url: str) -> "httpx.Response":
    """Return the response after at most MAX_REDIRECTS redirects, all to a URL in SCHEMES."""
    request = client.build_request("GET", url)
    for _ in range(MAX_REDIRECTS):
        response = client.send(request, stream=True)
        following = response.next_request
        if following is None or following.url.scheme not in SCHEMES:
            return response
        response.close()
        request = following
    return client.send(request, stream=True)


@cache
def _tls_context() -> ssl.SSLContext:
    """Trust the system's certificates, which may include a company's own, and those of certifi."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _refusal(response: "httpx.Response") -> HttpError:
    reason = f"the server returned {response.status_code} {response.reason_phrase}"
    following = response.next_request
    if following is not None and following.url.scheme not in SCHEMES:
        reason += ", a redirect to a URL that is not http:// or https://"
    return HttpError(reason, response.status_code)


def _translate(error: Exception, status: int | None = None) -> HttpError:
    """Convert `error` to an HttpError, with the operating system's reason if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, TimeoutError):
        return HttpError("the server does not respond", status, "timeout")
    if isinstance(cause, socket.gaierror):
        return HttpError("the host name cannot be resolved (no internet connection?)")
    return HttpError(getattr(cause, "strerror", None) or str(error) or type(error).__name__, status)
