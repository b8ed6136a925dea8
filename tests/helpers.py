"""Helpers for all tests: a recording reporter, small images, a fake engine."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from effnet_cli.engines.base import ModelOutputs
from effnet_cli.engines.normalise import normalise
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.sources import ImageSource
from effnet_cli.models.card import ModelCard

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_images"
UNREACHABLE = "http://127.0.0.1:9"  # the discard port, on which nothing listens
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@dataclass
class RecordingReporter:
    """A reporter that records notes and progress; `hook` is called with each note."""

    notes: list[str] = field(default_factory=list)
    steps: list[tuple[str, int, int | None]] = field(default_factory=list)
    hook: Callable[[str], object] | None = None

    def note(self, text: str) -> None:
        self.notes.append(text)
        if self.hook is not None:
            self.hook(text)

    def progress(self, what: str, done: int, total: int | None, unit: str = "images") -> None:
        assert total is None or 0 <= done <= total
        self.steps.append((what, done, total))

    @property
    def text(self) -> str:
        return "\n".join(self.notes)


def wait_until(condition: Callable[[], object], timeout_s: float = 10) -> bool:
    """Wait until `condition()` is true; return whether it became true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def save_image(path: Path, seed: int, size: tuple[int, int] = (96, 64), **options: object) -> None:
    """Write a smooth random image, in the format of the path's suffix."""
    blobs = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC).save(path, **options)


class MeanEngine:
    """A fake engine: the logits of classes 0, 1, 2 are the means of red, green and blue, 0 to 1.

    These are the features, too.
    """

    precision, scores_are = "fp32", "logits"

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def __call__(self, crops: np.ndarray) -> ModelOutputs:
        self.batch_sizes.append(len(crops))
        means = (crops / 255).mean(axis=(1, 2)).astype(np.float32)
        return ModelOutputs(means, means)


def load_pixels(loader: ImageLoader, source: ImageSource) -> np.ndarray:
    """Return the model's input for one image, float32 [3,crop_px,crop_px]."""
    crop = loader.crop(loader.open(source))
    return normalise(crop[None], loader.preprocessing)[0]


RGB_CARD = ModelCard(
    "lite0",
    ("red", "green", "blue"),
    Preprocessing(40, 32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)


def lively(
    module: nn.Module, seed: int = 0, size_px: int = 64, pixels: torch.Tensor | None = None
) -> nn.Module:
    """Seed the weights of `module`, fit its BatchNorm to `pixels` (float32 [N,3,H,W], by default
    noise) so that logits differ by several units, and set it to evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    if pixels is None:
        pixels = torch.randn(8, 3, size_px, size_px, generator=generator)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        for parameter in module.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            offset = 0.0 if parameter.ndim > 1 else 0.1
            parameter.copy_(offset + spread * torch.randn(parameter.shape, generator=generator))
        for norm in norms:
            norm.weight.add_(0.9)
            norm.momentum = None  # the statistics become those of the next batch
        module.train()(pixels)
        head.weight.mul_(3 / module.eval()(pixels).std())
    return module


def read_recipe(target: str) -> str:
    """Return the first Python example on a target's page in the docs."""
    page = (ROOT / "docs" / "export" / f"{target}.md").read_text(encoding="utf-8")
    return page.partition("```python\n")[2].partition("```")[0]
