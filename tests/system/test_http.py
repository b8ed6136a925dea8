"""HTTP requests: proxies and errors. Downloads are tested where they are used."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from effnet_cli.system import http
from effnet_cli.system.http import HttpError, open_url
from weight_server import WeightServer, redirect_to, redirect_to_itself, status

PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


CERTIFICATE = Path(__file__).with_name("server.pem")  # valid until 2120, with its key
CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


def test_proxy_of_the_environment_gets_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with WeightServer(b"from the proxy") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with open_url("http://models.invalid/weights.pth") as body:
            assert b"".join(body.chunks()) == b"from the proxy"
    assert proxy.requests[0].path == "http://models.invalid/weights.pth"


@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1:9", "http://127.0.0.1:9"])
def test_unusable_proxy_is_an_error(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(HttpError) as caught, open_url("http://models.invalid/weights.pth"):
        pytest.fail("there is no response")
    assert "\n" not in str(caught.value)
    assert str(caught.value)


# --- certificates -------------------------------------------------------------------------------


@pytest.fixture
def tls_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightServer]:
    """A server whose certificate no system trusts."""
    for name in CERTIFICATE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    http._tls_context.cache_clear()
    with WeightServer(b"over TLS", certificate=CERTIFICATE) as server:
        yield server
    http._tls_context.cache_clear()


def test_unknown_certificate_is_an_error(tls_server: WeightServer) -> None:
    with pytest.raises(HttpError, match="(?i)certificate"), open_url(tls_server.url):
        pytest.fail("there is no response")
    assert tls_server.requests == []


@pytest.mark.parametrize("variable", CERTIFICATE_VARIABLES)
def test_certificate_of_the_environment_is_trusted(
    variable: str, tls_server: WeightServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(CERTIFICATE))
    with open_url(tls_server.url, token="secret") as body:
        assert b"".join(body.chunks()) == b"over TLS"
    assert tls_server.requests[0].authorization == "Bearer secret"


def test_certificates_of_the_environment_are_added(
    tls_server: WeightServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(http._tls_context().get_ca_certs())
    http._tls_context.cache_clear()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    assert len(http._tls_context().get_ca_certs()) == before + 1
    assert http._tls_context().verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    "content", [None, b"", b"no certificate"], ids=["missing", "empty", "text"]
)
def test_unusable_certificates_are_named(
    content: bytes | None,
    tmp_path: Path,
    tls_server: WeightServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "company.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with pytest.raises(HttpError, match="REQUESTS_CA_BUNDLE") as caught, open_url(tls_server.url):
        pytest.fail("there is no response")
    assert str(path) in str(caught.value)


# --- redirects and tokens -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "following", "is_sent"),
    [
        ("https://hub.test/a", "https://hub.test/b", True),
        ("https://hub.test/a", "/b", True),
        ("https://hub.test/a", "https://hub.test:443/b", True),
        ("https://hub.test/a", "https://cdn.test/b", False),
        ("https://hub.test/a", "https://cdn.hub.test/b", False),
        ("https://hub.test/a", "https://hub.test.evil.test/b", False),
        ("https://hub.test/a", "https://hub.test@evil.test/b", False),
        ("https://hub.test/a", "//cdn.test/b", False),
        ("https://hub.test/a", "https://hub.test:8443/b", False),
        ("https://hub.test/a", "http://hub.test/b", False),
        ("https://hub.test/a", "http://hub.test:443/b", False),
        ("http://hub.test/a", "https://hub.test/b", False),
        ("http://localhost:1/a", "http://localhost:2/b", False),
        ("http://localhost:1/a", "http://127.0.0.1:1/b", False),
    ],
)
def test_token_stays_with_its_server(first: str, following: str, is_sent: bool) -> None:
    tokens: list[str | None] = []

    def respond(request: httpx.Request) -> httpx.Response:
        tokens.append(request.headers.get("Authorization"))
        if len(tokens) < 4:  # there, and back to the first server, and there again
            target = following if len(tokens) % 2 else first
            return httpx.Response(302, headers={"Location": target})
        return httpx.Response(200)

    with httpx.Client(transport=httpx.MockTransport(respond)) as client:
        request = client.build_request("GET", first, headers={"Authorization": "Bearer secret"})
        assert http._follow(client, request, http.ignore_response).status_code == 200
    assert tokens[0] == "Bearer secret"
    assert [token == "Bearer secret" for token in tokens[1:]] == [is_sent] * 3


def test_watch_sees_every_response_and_can_refuse() -> None:
    seen: list[int] = []

    def refuse(response: httpx.Response) -> None:
        seen.append(response.status_code)
        raise HttpError("not this one", response.status_code)

    with (
        WeightServer(b"there") as there,
        WeightServer(b"", redirect_to(there.url)) as here,
    ):
        with open_url(here.url, watch=lambda response: seen.append(response.status_code)) as body:
            assert b"".join(body.chunks()) == b"there"
        assert seen == [302, 200]
        with pytest.raises(HttpError, match="not this one"), open_url(here.url, watch=refuse):
            pytest.fail("there is no response")
    assert seen == [302, 200, 302]
    assert len(there.requests) == 1


def test_redirect_loop_is_named() -> None:
    with (
        WeightServer(b"", redirect_to_itself) as server,
        pytest.raises(HttpError, match="302 Found again after 5 redirects"),
        open_url(server.url),
    ):
        pytest.fail("there is no response")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 0), ("7", 7), ("-1", 0), ("Fri, 01 Jan 2038", 0), ("9" * 400, 1e9)],
)
def test_requested_pause_is_read(value: str | None, seconds: float) -> None:
    with (
        WeightServer(b"", status(503, Retry_After=value)) as server,
        pytest.raises(HttpError) as caught,
        open_url(server.url),
    ):
        pytest.fail("there is no response")
    assert min(caught.value.retry_after_s, 1e9) == seconds


@pytest.mark.parametrize("sent", ["bytes 4-9/10", "bytes 0-9/10", "items 5-9/10"])
def test_other_part_of_the_file_is_refused(sent: str) -> None:
    with (
        WeightServer(
            b"", lambda handler, _: handler.send(206, b"56789", Content_Range=sent)
        ) as server,
        pytest.raises(HttpError, match="instead of byte 5"),
        open_url(server.url, 5),
    ):
        pytest.fail("there is no response")
