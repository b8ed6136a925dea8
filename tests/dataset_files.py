"""Small datasets for the tests, below the working directory."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
from PIL import Image

seeds = itertools.count()


def png(seed: int, px: int = 32) -> bytes:
    blobs = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blobs).resize((px, px), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def truncated_png(seed: int) -> bytes:
    return png(seed)[:-40]


def put(name: str | bytes, data: bytes | None = None) -> Path:
    """A file; an image unlike all others unless its bytes are given."""
    path = Path(os.fsdecode(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(next(seeds)) if data is None else data)
    return path


def fill(folder: str | bytes, count: int = 10) -> None:
    for number in range(count):
        put(b"%s/%d.png" % (os.fsencode(folder), number))


def two_classes(root: str = "d", count: int = 10) -> None:
    fill(f"{root}/cat", count)
    fill(f"{root}/dog", count)


def splits(root: str = "d", val: str = "val", count: int = 10) -> None:
    two_classes(f"{root}/train", count)
    two_classes(f"{root}/{val}", count)
