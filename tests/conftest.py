"""What the tests share: caches, the command in a subprocess, pictures, a fake engine."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Several processes test side by side: each on a core of its own, as threads that wait by spinning
# would take the cores from one another. Also for the commands that are started; before torch is
# imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of commands are started; each would compile what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    CORES = sorted(os.sched_getaffinity(0))
    NUMBER = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.sched_setaffinity(0, {CORES[NUMBER % len(CORES)]})

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import nn

from effnet_cli.models.checkpoint import ModelCard
from effnet_cli.models.variants import Preprocessing
from effnet_cli.system.parallel import usable_cores

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_images"
UNREACHABLE = (
    "http://127.0.0.1:9"  # the discard port: nothing listens, and nothing leaves the machine
)

settings.register_profile("any machine", deadline=None, max_examples=50)
settings.load_profile("any machine")

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: tests wait a third of their time, for processes that
    they start.
    """
    return usable_cores() + 1


# Minutes and not seconds: they come first, so that no process ends long after the others.
LONG_FILES = ("test_export.py", "test_finetune.py", "test_finetune_resume.py", "test_readme.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in the order of their names."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


def pytest_collection_finish() -> None:
    """What is there before the first test stays, and is not looked through for garbage again."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as `effnet` has it


@dataclass
class Heard:
    """A listener that keeps what it hears; `hook` is called with each note."""

    notes: list[str] = field(default_factory=list)
    steps: list[tuple[str, int, int | None]] = field(default_factory=list)
    hook: Callable[[str], object] | None = None

    def note(self, text: str) -> None:
        self.notes.append(text)
        if self.hook is not None:
            self.hook(text)

    def progress(self, what: str, done: int, total: int | None, unit: str = "pictures") -> None:
        assert total is None or 0 <= done <= total
        self.steps.append((what, done, total))

    @property
    def text(self) -> str:
        return "\n".join(self.notes)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On busy cores torch's threads wait for one another sixty times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no test pulls the plug


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


def lively(
    network: nn.Module, seed: int = 0, size_px: int = 64, pixels: torch.Tensor | None = None
) -> nn.Module:
    """`network` with seeded weights and with statistics as training on `pixels` leaves them
    (float32 [N,3,H,W]; noise without), so that logits differ by several; in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    head = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    if pixels is None:
        pixels = torch.randn(8, 3, size_px, size_px, generator=generator)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of what training drops
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            offset = 0.0 if parameter.ndim > 1 else 0.1
            parameter.copy_(offset + spread * torch.randn(parameter.shape, generator=generator))
        for norm in norms:
            norm.weight.add_(0.9)
            norm.momentum = None  # the statistics become those of the next batch
        network.train()(pixels)
        head.weight.mul_(3 / network.eval()(pixels).std())
    return network
