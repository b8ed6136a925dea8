"""HTTP requests: proxies and errors. Downloads are tested where they are used."""

import pytest

from effnet_cli.system.http import HttpError, open_url
from weight_server import WeightServer

PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


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
