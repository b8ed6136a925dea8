"""Groups of images, and maps of them."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from effnet_cli.options import ModelOptions
from effnet_cli.search import cluster, layout, page
from effnet_cli.search.index import Index
from helpers import SAMPLES
from training import CommandResult, make_classes

Effnet = Callable[..., CommandResult]
pytestmark = pytest.mark.usefixtures("one_core", "caches", "own_folder")


@pytest.fixture
def photos_index(small: ModelOptions, tmp_path: Path) -> Index:
    """An index of three photos, and seven darker ones of each."""
    for name in ("cat", "rocket", "coffee"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        with Image.open(SAMPLES / f"{name}.jpg") as image:
            for number in range(8):
                darker = ImageEnhance.Brightness(image.convert("RGB")).enhance(1 - 0.03 * number)
                darker.save(folder / f"{number}.png")
    index = Index("photos", small)
    index.update([tmp_path / "photos"])
    return index


def test_images_that_look_alike_are_in_one_group(photos_index: Index, effnet: Effnet) -> None:
    command = ("search", "cluster", "-i", "photos", "--clusters", "3")
    done = effnet(*command, "-f", "json", "--html", "page.html")
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    groups = [{Path(path).parent.name for path in one["paths"]} for one in found]
    assert sorted(map(len, groups)) == [1, 1, 1]
    assert sum(len(one["paths"]) for one in found) == len(photos_index) == 24
    assert [one["number"] for one in found] == [1, 2, 3]
    assert effnet(*command, "-f", "json").stdout == done.stdout, "the seed decides"
    lines = effnet(*command, "-f", "csv").stdout.decode().splitlines()
    assert len(lines) == 25
    text = Path("page.html").read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 24
    assert "http" not in text.replace("http-equiv", "")


def test_the_number_of_groups(photos_index: Index, effnet: Effnet) -> None:
    assert [cluster.choose_count(n) for n in (1, 50, 800, 10**6)] == [1, 5, 20, 200]
    assert len(json.loads(effnet("search", "cluster", "-i", "photos", "-f", "json").stdout)) == 3
    done = effnet("search", "cluster", "-i", "photos", "--clusters", "25")
    assert done.status == 2
    assert "--clusters 25 is more than the 24 different images" in done.stderr


def test_removed_images_are_in_no_group(photos_index: Index, tmp_path: Path) -> None:
    shutil.rmtree(next((tmp_path / "photos").iterdir()))
    photos_index.update([tmp_path / "photos"])
    with photos_index.open() as opened:
        found = cluster.find_clusters(opened, 2, seed=0)
        assert sum(len(one.paths) for one in found) == opened.count()[0] == 16


def test_reduced_vectors_are_principal_components() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 6)) * [5, 4, 3, 0.1, 0.1, 0.1]).astype(np.float32)
    rows = np.arange(0, 50, 2)
    found = cluster.reduce_vectors(vectors, rows, 3)
    own = vectors[rows] - vectors[rows].mean(axis=0)
    lengths = np.linalg.svd(own, compute_uv=False)[:3]
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), lengths, rtol=1e-4)


def test_the_map_has_every_image_once(photos_index: Index, effnet: Effnet, tmp_path: Path) -> None:
    odd = tmp_path / "photos" / "<script>alert(1)<"
    odd.mkdir()
    shutil.copy(next((tmp_path / "photos").rglob("*.png")), odd / "a.png")
    photos_index.update([tmp_path / "photos"])
    done = effnet("search", "map", "-i", "photos", "--html", "map.html")
    assert done.status == 0, done.stderr
    text = Path("map.html").read_text(encoding="utf-8")
    content = re.search(r'id="points">(.*?)</script>', text, re.DOTALL)
    assert content is not None
    points = json.loads(content[1])
    assert len(points) == 24, "a copy is at the place of its image"
    places = np.array([point[:2] for point in points])
    assert places.min() == 0
    assert places.max() == 1
    assert {len(point) for point in points} == {5}
    # no script but ours, whose digest the page's policy names; names are data
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "alert(1)" not in text.replace("\\u003cscript>alert(1)\\u003c", "")
    assert "http" not in text.replace("http-equiv", "")
    again = effnet("search", "map", "-i", "photos", "--html", "again.html")
    assert again.status == 0
    assert Path("again.html").read_text(encoding="utf-8") == text


def test_large_indexes_are_sampled(
    photos_index: Index, effnet: Effnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "MAX_PLACED", 10)
    done = effnet("search", "map", "-i", "photos", "--html", "map.html")
    assert "10 of 24 images are shown" in done.stderr
    assert "10 of 24 images" in Path("map.html").read_text(encoding="utf-8")


def test_a_map_needs_some_images(small: ModelOptions, tmp_path: Path, effnet: Effnet) -> None:
    make_classes(tmp_path / "few", ["one"], images=3)
    Index("few", small).update([tmp_path / "few"])
    done = effnet("search", "map", "-i", "few", "--html", "map.html")
    assert done.status == 2
    assert "too few for a map" in done.stderr
    assert not Path("map.html").exists()


def test_other_pages_have_no_script(photos_index: Index) -> None:
    with photos_index.open() as opened:
        text = page.clusters_page(opened, cluster.find_clusters(opened, 3, seed=0))
    assert "<script" not in text
    assert "script-src" not in text
