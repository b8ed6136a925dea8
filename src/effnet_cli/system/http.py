"""HTTP requests with bounded waiting times."""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path
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
BUSY_STATUSES = (408, 429)  # of the 4xx, those that may be gone a moment later
# Files of a company's certificates, beside SSL_CERT_FILE and SSL_CERT_DIR, which OpenSSL reads.
CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
MAX_REASON_CHARS = 200  # reasons from servers and libraries may be longer and have several lines

Kind = Literal["failed", "timeout", "incomplete"]


class HttpError(Exception):
    """A failed request. Its text is the reason; `status` is that of the response, if any.

    `retry_after_s` is how long the server asks to wait before another request. `is_elsewhere`: the
    response is of another server, to which the requested one redirects.
    """

    retry_after_s = 0.0
    is_elsewhere = False

    def __init__(self, reason: str, status: int | None = None, kind: Kind = "failed") -> None:
        super().__init__(" ".join(reason.split())[:MAX_REASON_CHARS].rstrip(" ."))
        self.status, self.kind = status, kind

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later."""
        is_busy = self.status is None or self.status >= 500 or self.status in BUSY_STATUSES
        return is_busy or self.kind != "failed"


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


def ignore_response(response: "httpx.Response") -> None:
    """Accept a response without a look at it."""


@contextmanager
def open_url(
    url: str,
    start: int = 0,
    *,
    token: str = "",
    watch: "Callable[[httpx.Response], None]" = ignore_response,
) -> Iterator[Body]:
    """Request a file from byte `start` on; its headers must arrive within CONNECT_SECONDS.

    Args:
        token: sent to the server of `url` only, and not to others that it redirects to.
        watch: called with each response, those with a redirect included. If it raises HttpError,
            the redirect is not followed.

    Raises:
        HttpError: there is no such file, or no response.
    """
    import httpx  # takes 100 ms, and only downloads need it

    headers = {"User-Agent": "effnet", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    timeout = httpx.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS)
    try:
        client = httpx.Client(timeout=timeout, verify=_tls_context())
    except (ImportError, ValueError) as error:  # a proxy in the environment that httpx cannot use
        raise _translate(error) from error
    with client:
        future: Future[httpx.Response] = Future()

        def follow() -> httpx.Response:
            return _follow(client, client.build_request("GET", url, headers=headers), watch)

        threading.Thread(target=resolve_future, args=(future, follow), daemon=True).start()
        try:
            response = future.result(CONNECT_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, OverflowError) as error:
            raise _translate(error) from error
        if response.status_code not in (200, 206):
            raise _refusal(response, httpx.URL(url))
        yield _open_body(response, start)


def _open_body(response: "httpx.Response", requested: int) -> Body:
    start = requested if response.status_code == 206 else 0
    sent = response.headers.get("Content-Range", f"bytes {start}-")
    if start and not sent.startswith(f"bytes {start}-"):
        raise HttpError(f"the server sent {sent} instead of byte {start:,} on", 206)
    length = response.headers.get("Content-Length", "")
    return Body(response, start, start + int(length) if length.isdecimal() else None)


def _follow(
    client: "httpx.Client", request: "httpx.Request", watch: "Callable[[httpx.Response], None]"
) -> "httpx.Response":
    """Return the response after at most MAX_REDIRECTS redirects, all to a URL in SCHEMES."""
    first, redirects = request.url, 0
    while True:
        response = client.send(request, stream=True)
        watch(response)
        following = response.next_request
        if following is None or following.url.scheme not in SCHEMES or redirects == MAX_REDIRECTS:
            return response
        response.close()
        if not is_same_origin(following.url, first):  # httpx makes exceptions for http to https
            following.headers.pop("Authorization", None)
        request, redirects = following, redirects + 1


def is_same_origin(one: "httpx.URL", other: "httpx.URL") -> bool:
    """Return whether two URLs have the same scheme, host and port."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


@cache
def _tls_context() -> ssl.SSLContext:
    """Trust the system's certificates, which may include a company's own, and those of certifi."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    for name in CERTIFICATE_VARIABLES:
        if path := os.environ.get(name):
            _add_certificates(context, name, Path(path))
    return context


def _add_certificates(context: ssl.SSLContext, variable: str, path: Path) -> None:
    try:
        if path.is_dir():
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(path)
    except OSError as error:  # SSLError is one
        reason = f"{variable} is {str(path)!r}, which has no readable certificates"
        raise HttpError(reason) from error


def _refusal(response: "httpx.Response", requested: "httpx.URL") -> HttpError:
    is_elsewhere = response.url.netloc != requested.netloc
    server = response.url.netloc.decode("ascii") if is_elsewhere else "the server"
    reason = f"{server} returned {response.status_code} {response.reason_phrase}"
    following = response.next_request
    if following is not None and following.url.scheme not in SCHEMES:
        reason += ", a redirect to a URL that is not http:// or https://"
    elif following is not None:
        reason += f" again after {MAX_REDIRECTS} redirects"
    error = HttpError(reason, response.status_code)
    error.is_elsewhere = is_elsewhere
    seconds = response.headers.get("Retry-After", "")
    error.retry_after_s = float(seconds) if seconds.isdecimal() else 0.0
    return error


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
