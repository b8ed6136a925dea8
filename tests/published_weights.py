"""Weights of a variant that only exists in the tests, and a server for them."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import weight_server as serve
from effnet_cli.models import download, weights
from effnet_cli.models.variants import Variant, WeightsSource, find_variant
from weight_server import WeightServer

PAYLOAD = np.random.default_rng(0).bytes(1_000_003)
OTHER = np.random.default_rng(1).bytes(len(PAYLOAD))
CUT = 400_000
HANG_SECONDS = 8  # an upper bound: effnet gives up after 5 s at most


def variant_for(content: bytes) -> Variant:
    """Return a variant whose weights file is `content`."""
    digest = hashlib.sha256(content).hexdigest()[:8]
    source = WeightsSource(
        file_name=f"efficientnet_test-{digest}.pth", sha256=digest, size_mb=len(content) / 1e6
    )
    return replace(find_variant("b0"), name="test", source=source)


VARIANT = variant_for(PAYLOAD)


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)


Mirror = Callable[..., WeightServer]


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch):
    """`mirror(response, ...)` starts a server of PAYLOAD for all downloads."""
    servers: list[WeightServer] = []

    def start(*responses: serve.Response) -> WeightServer:
        server = WeightServer(PAYLOAD, *responses).__enter__()
        servers.append(server)
        monkeypatch.setenv("EFFNET_MIRROR", server.url)
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def weights_path() -> Path:
    """The installed path of VARIANT's weights."""
    path = weights.expected_path(VARIANT)
    assert path is not None
    return path


def put(content: bytes, path: Path | None = None) -> Path:
    path = path or weights_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def leftovers() -> set[str]:
    """Return the files beside the weights, except for their lock."""
    files = {path.name for path in weights_path().parent.iterdir()}
    return files - {weights_path().name, f"{weights_path().name}.lock"}


def effnet(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "effnet_cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
