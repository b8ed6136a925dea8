"""What the tests share: caches, the command in a subprocess, pictures, a fake engine."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_cli.checkpoint import ModelCard
from effnet_cli.variants import Preprocessing

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_images"
UNREACHABLE = (
    "http://127.0.0.1:9"  # the discard port: nothing listens, and nothing leaves the machine
)

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


@pytest.fixture(autouse=True)
def own_caches(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for the whole run: to compile the default network once is enough for most."""
    monkeypatch.setenv("EFFNET_CACHE", str(session_folder / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(session_folder / "torch"))
    monkeypatch.setenv("EFFNET_MIRROR", UNREACHABLE)
    monkeypatch.delenv("EFFNET_DEBUG", raising=False)


@pytest.fixture
def run() -> Run:
    """`run("predict", "x.jpg", stdin=b"", cwd=..., env={...})`: as a shell starts it."""

    def run_effnet(
        *arguments: str | bytes | Path,
        stdin: bytes = b"",
        cwd: Path = ROOT,
        env: dict[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [sys.executable, "-m", "effnet_cli", *arguments],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=100,
            check=False,
        )

    return run_effnet


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small picture with some structure."""
    path = tmp_path / "photo.jpg"
    save_picture(path, seed=0)
    return path


def save_picture(
    path: Path, seed: int, size: tuple[int, int] = (96, 64), **options: object
) -> None:
    """Write soft, seeded blobs of colour in the format that the name says."""
    blobs = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC).save(path, **options)


class MeanEngine:
    """A fake engine: the logits of the classes 0, 1, 2 are the means of red, green and blue."""

    name, device, precision = "fake", "cpu", "fp32"

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.batch_sizes.append(len(pixels))
        return pixels.mean(axis=(2, 3)).astype(np.float32)


RGB_CARD = ModelCard(
    "lite0",
    ("red", "green", "blue"),
    Preprocessing(40, 32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)
