"""Fixtures of the tests of indexes. Loaded as a plugin by `conftest.py`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_cli.options import ModelOptions
from effnet_cli.search.index import Index
from helpers import SAMPLES

NAMES = ("cat.jpg", "coffee.jpg", "flower.jpg", "rocket.jpg", "temple.jpg")
MakeIndex = Callable[[], Index]


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFNET_INDEXES", str(tmp_path / "indexes"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of sample images, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in NAMES:
        shutil.copy(SAMPLES / name, folder / ("more" if name == "temple.jpg" else "") / name)
    return folder


@pytest.fixture
def make_index(small: ModelOptions) -> MakeIndex:
    """Open the index of this test, with a small model if it is new."""
    return lambda: Index("mine", small)
