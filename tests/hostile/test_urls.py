"""Images at URLs of servers that misreport sizes, stall, redirect and never end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from effnet_cli.images import remote
from effnet_cli.images.finder import Finder, Url
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.variants import VARIANTS
from effnet_cli.options import ImageOptions, ModelOptions
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system import http
from effnet_cli.system.errors import ImageError
from good import photo
from written import encoded

LITE0 = VARIANTS["lite0"].preprocessing
IMAGE = encoded(photo(), "PNG")
LIMIT_BYTES = 300_000

# as the command does
pytestmark = pytest.mark.filterwarnings("ignore")


class Handler(BaseHTTPRequestHandler):
    """Misbehaves as the path says."""

    protocol_version = "HTTP/1.1"
    closing = threading.Event()

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        with suppress(OSError):  # the client went away
            RESPONSES[name.partition("/")[0]](self)
        self.close_connection = True

    def start(self, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


def image(handler: Handler) -> None:
    handler.start(Content_Length=len(IMAGE), Content_Type="text/html")  # a lie of no account
    handler.wfile.write(IMAGE)


def without_length(handler: Handler) -> None:
    handler.start()
    handler.wfile.write(IMAGE)


def in_chunks(handler: Handler) -> None:
    handler.start(Transfer_Encoding="chunked")
    for start in range(0, len(IMAGE), 5000):
        chunk = IMAGE[start : start + 5000]
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
    handler.wfile.write(b"0\r\n\r\n")


def page(handler: Handler) -> None:
    handler.start()
    handler.wfile.write(b"<!doctype html><title>Log in</title>")


def cut(handler: Handler) -> None:
    handler.start(Content_Length=len(IMAGE))
    handler.wfile.write(IMAGE[:5000])


def huge(handler: Handler) -> None:
    handler.start(Content_Length=10**13)
    handler.wfile.write(IMAGE)


def endless(handler: Handler) -> None:
    handler.start()
    while not handler.closing.is_set():
        handler.wfile.write(bytes(1 << 16))


def drip(handler: Handler) -> None:
    handler.start(Content_Length=len(IMAGE))
    for byte in IMAGE:
        if handler.closing.wait(0.05):
            return
        handler.wfile.write(bytes([byte]))


def silent(handler: Handler) -> None:
    handler.closing.wait(60)


def stalled(handler: Handler) -> None:
    handler.start(Content_Length=len(IMAGE))
    handler.wfile.write(IMAGE[:100])
    handler.closing.wait(60)


def gibberish(handler: Handler) -> None:
    handler.wfile.write(b"\xff\x00 nothing of the kind\r\n\r\n" * 9)


def status(number: int) -> Callable[[Handler], None]:
    return lambda handler: handler.start(number, Content_Length=0)


def redirect(target: str) -> Callable[[Handler], None]:
    return lambda handler: handler.start(302, Location=target, Content_Length=0)


def countdown(handler: Handler) -> None:
    """Redirect as often as the path says, then send the image."""
    left = int(handler.path.rpartition("/")[2])
    if left == 0:
        image(handler)
    else:
        handler.start(302, Location=f"/countdown/{left - 1}", Content_Length=0)


RESPONSES: dict[str, Callable[[Handler], None]] = {
    "image": image,
    "without-length": without_length,
    "in-chunks": in_chunks,
    "page": page,
    "cut": cut,
    "huge": huge,
    "endless": endless,
    "drip": drip,
    "silent": silent,
    "stalled": stalled,
    "gibberish": gibberish,
    "404": status(404),
    "410": status(410),
    "403": status(403),
    "500": status(500),
    "empty": status(200),
    "to-image": redirect("/image"),
    "to-file": redirect("file:///etc/passwd"),
    "to-ftp": redirect("ftp://127.0.0.1/x.png"),
    "to-itself": redirect("/to-itself"),
    "to-nothing": redirect(""),
    "countdown": countdown,
}


class Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect, which some tests do."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    Handler.closing.clear()
    http = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    Handler.closing.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def narrow_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", LIMIT_BYTES)
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(http, "STALL_SECONDS", 0.5)


def opened(address: str, **options: object) -> np.ndarray:
    return ImageLoader(LITE0, ImageOptions(**options)).load(Url(address))


@pytest.mark.parametrize(
    "path",
    ["image", "image/a.jpg?b=c", "without-length", "in-chunks", "to-image", "countdown/5"],
)
def test_image_is_loaded_from_a_url(server: str, path: str) -> None:
    here = ImageLoader(LITE0).load(IMAGE)
    np.testing.assert_array_equal(opened(f"{server}/{path}"), here)


FAULTS = {
    "404": ("missing", "404"),
    "410": ("missing", "410"),
    "403": ("unreadable", "403"),
    "500": ("unreadable", "500"),
    "empty": ("empty", "0 bytes"),
    "page": ("not_an_image", "HTML"),
    "cut": ("truncated", "5,000 of"),
    "huge": ("too_large", "10,000,000,000,000 bytes"),
    "endless": ("too_large", f"the limit is {LIMIT_BYTES:,} bytes"),
    "silent": ("timeout", "does not respond"),
    "stalled": ("timeout", "does not respond"),
    "gibberish": ("unreadable", "download failed"),
    "to-file": ("unreadable", "302"),
    "to-ftp": ("unreadable", "not http:// or https://"),
    "to-itself": ("unreadable", "302"),
    "to-nothing": ("unreadable", "302"),
    "countdown/9": ("unreadable", "302"),
}


@pytest.mark.parametrize(("path", "wanted"), FAULTS.items(), ids=FAULTS)
def test_url_without_an_image_is_one_error(server: str, path: str, wanted: tuple[str, str]) -> None:
    with pytest.raises(ImageError) as caught:
        opened(f"{server}/{path}")
    kind, words = wanted
    assert (caught.value.kind, words in caught.value.message) == (kind, True), caught.value
    assert "\n" not in caught.value.message


def test_slow_server_times_out(server: str) -> None:
    with pytest.raises(ImageError) as caught:
        opened(f"{server}/drip", timeout_s=0.3)
    assert caught.value.kind == "timeout"
    assert "0.3 s" in caught.value.message


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:9/x.png", "http://[::1/x.png", "http://127.0.0.1:99999/", "http:///x.png"],
)
def test_unreachable_url_is_one_error(address: str) -> None:
    with pytest.raises(ImageError) as caught:
        opened(address)
    assert caught.value.kind == "unreadable"


def test_offline_sends_no_request(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "open_url", lambda *_: pytest.fail("a request was sent"))
    classifier = Classifier(ModelOptions(offline=True))
    (result,) = classifier.predict(f"{server}/image")
    assert result.error is not None
    assert result.error.kind == "unreadable"
    assert "--offline" in result.error.message


@pytest.mark.parametrize("scheme", ["file", "ftp", "s3", "gopher", "FILE"])
def test_url_of_another_scheme_is_one_error(scheme: str) -> None:
    (found,) = Finder([f"{scheme}:///etc/passwd"])
    assert found.source is None
    assert found.error is not None
    assert found.error.kind == "unreadable"
    assert f"{scheme}://" in found.error.message


@pytest.mark.parametrize("url", ["http://", "https:///a.jpg", "https://:80/a.jpg"])
def test_url_without_a_server_is_said_to_have_none(url: str) -> None:
    (result,) = Classifier("lite0").predict([url])
    assert result.error is not None
    assert result.error.kind == "unreadable"
    assert result.error.message == "The URL names no server. Check the URL."
