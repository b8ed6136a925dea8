"""Each kind of TIFF is seen as the array that it was made from, or refused."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.sources import ImageError
from effnet_cli.models.variants import VARIANTS
from images import tiff_files

LOADER = ImageLoader(VARIANTS["lite0"].preprocessing)
MAX_DIFFERENCE = 3.0  # of 255, on average, most of it by JPEG
REFUSED = {"complex", "five bands"}  # no image


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the packages of the extra."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("tifffile", "imagecodecs") else find_spec(name, *rest),
    )
    yield


def difference(file: tiff_files.TiffFile) -> float | None:
    """Return the mean difference of what is seen, or `None` for a refusal in words."""
    try:
        seen = np.asarray(LOADER.open(file.content))
    except ImageError as error:
        assert error.kind == "unsupported_format", f"{file.name}: {error}"
        return None
    return float(np.abs(seen.astype(float) - file.image).mean())


def test_every_kind_is_seen_as_it_is() -> None:
    found = {file.name: difference(file) for file in tiff_files.list_files()}
    assert len(found) >= 231
    assert {name for name, value in found.items() if value is None} == REFUSED
    wrong = {name: value for name, value in found.items() if value and value > MAX_DIFFERENCE}
    assert wrong == {}


@pytest.mark.usefixtures("without_libraries")
def test_without_the_extra_nothing_is_seen_wrongly() -> None:
    found = {file.name: difference(file) for file in tiff_files.list_files()}
    wrong = {name: value for name, value in found.items() if value and value > MAX_DIFFERENCE}
    assert wrong == {}
    seen = [name for name, value in found.items() if value is not None]
    assert len(seen) >= 100
    planes = next(file for file in tiff_files.list_files() if "float32" in file.name)
    assert difference(planes) is not None


@pytest.mark.usefixtures("without_libraries")
def test_a_refusal_names_the_extra() -> None:
    file = next(file for file in tiff_files.list_files() if "RGB in planes" in file.name[-13:]
                and file.name.startswith("uint16 little-endian plain"))  # fmt: skip
    with pytest.raises(ImageError, match="needs the packages tifffile and imagecodecs") as caught:
        LOADER.open(file.content)
    assert "effnet-cli[science]" in caught.value.hint


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_orientation_is_applied(dtype: str, tmp_path: Path) -> None:
    rgb = tiff_files.make_rgb()
    path = tmp_path / "turned.tif"
    values = tiff_files.convert(rgb, dtype)
    tifffile.imwrite(path, values, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    seen = np.asarray(LOADER.open(path)).astype(float)
    assert np.abs(seen - np.rot90(rgb, -1)).mean() <= MAX_DIFFERENCE


def test_missing_strips_are_no_image(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    rgb = tiff_files.convert(tiff_files.make_rgb(), "float32")
    tifffile.imwrite(path, rgb, photometric="rgb", rowsperstrip=8)
    with tifffile.TiffFile(path, mode="r+") as opened:
        page = opened.pages.first
        assert isinstance(page, tifffile.TiffPage)
        counts = list(page.databytecounts)
        page.tags["StripByteCounts"].overwrite([0, *counts[1:]])
    with pytest.raises(ImageError, match="Parts of this TIFF image are missing"):
        LOADER.open(path)
