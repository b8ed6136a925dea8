"""Small datasets below the working directory, and what a scan finds in them."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_cli.datasets.findings import Finding
from effnet_cli.datasets.records import Dataset, DatasetError, Scan, Subset
from effnet_cli.datasets.scan import scan
from effnet_cli.options import DatasetOptions

seeds = itertools.count()


def png(seed: int, px: int = 32) -> bytes:
    blobs = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blobs).resize((px, px), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def truncated_png(seed: int) -> bytes:
    return png(seed)[:-40]


def put(name: str | bytes, data: bytes | None = None) -> Path:
    """Write a file; by default an image unlike all others."""
    path = Path(os.fsdecode(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(next(seeds)) if data is None else data)
    return path


def fill(folder: str | bytes, count: int = 10) -> None:
    for number in range(count):
        put(b"%s/%d.png" % (os.fsencode(folder), number))


def make_two_classes(root: str = "d", count: int = 10) -> None:
    fill(f"{root}/cat", count)
    fill(f"{root}/dog", count)


def make_splits(root: str = "d", val: str = "val", count: int = 10) -> None:
    make_two_classes(f"{root}/train", count)
    make_two_classes(f"{root}/{val}", count)


def get_finding(result: Scan, kind: str) -> Finding:
    """Return the only finding of a kind."""
    (one,) = [finding for finding in result.findings if finding.kind == kind]
    return one


def kinds(result: Scan, *levels: str) -> list[str]:
    return [one.kind for one in result.findings if one.level in (levels or ("error", "warning"))]


def names(subset: Subset) -> list[str]:
    """Return paths relative to the root."""
    return [path.partition("/")[2] for path in subset.paths]


def counts(result: Scan) -> dict[str, tuple[int, int, int | None]]:
    return {row.name: (row.train, row.val, row.test) for row in result.classes}


def dataset(root: str = "d", seed: int = 0, **options: object) -> Dataset:
    return scan(Path(root), DatasetOptions(**options), seed=seed).require_dataset()  # type: ignore[arg-type]


def get_error(root: str = "d", **options: object) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        dataset(root, **options)
    assert caught.value.exit_status == 2
    return caught.value
