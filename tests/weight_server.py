"""A local server of weights that misbehaves on request."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

HANG_SECONDS = 60.0  # an upper bound: responses end when the server closes

Response = Callable[["Handler", bytes], None]


@dataclass(frozen=True)
class Request:
    """A client's request; `start` is the first byte of its Range, if there is one."""

    path: str
    start: int | None
    authorization: str | None = None


class WeightServer:
    """Serves `content` under every path on 127.0.0.1. Requests get `responses` in order, and then
    always the last one. With a `certificate` (and its key, in one file), the server uses TLS.
    """

    def __init__(
        self, content: bytes, *responses: Response, certificate: Path | None = None
    ) -> None:
        self.content = content
        self.responses = responses or (whole,)
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._http = _HttpServer(("127.0.0.1", 0), Handler)
        self._http.weights = self
        self._scheme = "http"
        if certificate is not None:
            self._scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._http.server_port}"

    @property
    def starts(self) -> list[int | None]:
        """The first byte of each request; `None` for the whole file."""
        return [request.start for request in self.requests]

    def next_response(self, request: Request) -> Response:
        with self._lock:
            self.requests.append(request)
            return self.responses[min(len(self.requests), len(self.responses)) - 1]

    def __enter__(self) -> "WeightServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for the threads and their sockets
    request_queue_size = 64
    weights: WeightServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect, which tests do."""


class Handler(BaseHTTPRequestHandler):
    """Handles one request, then closes the connection."""

    server: _HttpServer

    def do_GET(self) -> None:
        start = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        self.current_request = Request(
            self.path, int(start) if start else None, self.headers.get("Authorization")
        )
        respond = self.server.weights.next_response(self.current_request)
        with suppress(ConnectionError):
            respond(self, self.server.weights.content)

    do_HEAD = do_GET  # only redirects are asked for, and they have no body

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the requests are recorded."""

    @property
    def start(self) -> int:
        return self.current_request.start or 0

    def send(self, status: int, body: bytes = b"", **headers: object) -> None:
        """Send a response; `Content_Length` is the body's unless it is given (`None`: not sent)."""
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def wait_for_close(self) -> None:
        self.server.weights.closing.wait(HANG_SECONDS)


# --- responses ----------------------------------------------------------------------------------


def whole(handler: Handler, content: bytes) -> None:
    """Send everything, or what `Range` asks for."""
    _send_from(handler, content, len(content))


def whole_ignoring_range(handler: Handler, content: bytes) -> None:
    handler.send(200, content)


def silent(handler: Handler, content: bytes) -> None:
    """Accept the request and never respond."""
    handler.wait_for_close()


def shifted(handler: Handler, content: bytes) -> None:
    """Respond to a Range with other bytes."""
    handler.send(206, content[max(handler.start - 1, 0) :])


def unsized(handler: Handler, content: bytes) -> None:
    """Send no length and stop halfway: the body looks complete."""
    handler.send(200, content[: len(content) // 2], Content_Length=None)


def redirect_to_itself(handler: Handler, content: bytes) -> None:
    handler.send(302, Location=handler.path)


def redirect_to(url: str) -> Response:
    return lambda handler, content: handler.send(302, Location=url)


def status(code: int, **headers: object) -> Response:
    return lambda handler, content: handler.send(code, b"<html>no</html>", **headers)


def tagged(etag: str, end: int | None = None, content: bytes | None = None) -> Response:
    """Send the file, or `content`, up to byte `end`, with an ETag."""

    def respond(handler: Handler, served: bytes) -> None:
        served = served if content is None else content
        end_byte = len(served) if end is None else end
        _send_from(handler, served, end_byte, headers={"ETag": etag})

    return respond


def other(content: bytes) -> Response:
    """Send `content` instead of the file."""
    return lambda handler, _: whole(handler, content)


def cut(end: int) -> Response:
    """Promise the whole file and close the connection after byte `end`."""
    return lambda handler, content: _send_from(handler, content, end)


def cut_by_reset(end: int) -> Response:
    """Like `cut`, but reset the connection, which loses data in transit."""

    def respond(handler: Handler, content: bytes) -> None:
        _send_from(handler, content, end)
        handler.wfile.flush()
        linger_no_second = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_no_second)
        handler.connection.close()

    return respond


def stalled(end: int) -> Response:
    """Send the file up to byte `end`, and then nothing on an open connection."""

    def respond(handler: Handler, content: bytes) -> None:
        _send_from(handler, content, end)
        handler.wfile.flush()
        handler.wait_for_close()

    return respond


def too_short(missing: int) -> Response:
    """Always promise `missing` bytes more than the file has."""
    return lambda handler, content: _send_from(
        handler, content, len(content), len(content) + missing
    )


def _send_from(
    handler: Handler,
    content: bytes,
    end: int,
    length: int | None = None,
    headers: dict[str, object] | None = None,
) -> None:
    """Send the bytes from the request's start to `end` of a file that claims `length` bytes."""
    length, start, headers = length or len(content), handler.start, headers or {}
    if start and start >= length:
        handler.send(416, Content_Range=f"bytes */{length}")
        return
    if start:
        headers = {**headers, "Content_Range": f"bytes {start}-{length - 1}/{length}"}
    status = 206 if start else 200
    handler.send(status, content[start:end], Content_Length=length - start, **headers)
