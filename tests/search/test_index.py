"""Queries through the command and from Python."""

import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from effnet_cli import Index as PublicIndex
from effnet_cli.options import MatchOptions, ModelOptions
from effnet_cli.search.index import Index
from effnet_cli.system.errors import ImageError, UsageError
from helpers import SAMPLES
from search_fixtures import MakeIndex
from training import CommandResult

Effnet = Callable[..., CommandResult]
pytestmark = pytest.mark.usefixtures("one_core", "caches", "own_folder")


@pytest.fixture
def index(make_index: MakeIndex, photos: Path) -> Index:
    index = make_index()
    index.update([photos])
    return index


def names(index: Index, query: object, **options: object) -> list[str]:
    matches = index.query(query, MatchOptions(**options))  # type: ignore[arg-type]
    assert [one.rank for one in matches] == list(range(1, len(matches) + 1))
    similarities = [one.similarity for one in matches]
    assert similarities == sorted(similarities, reverse=True)
    return [Path(one.path).name for one in matches]


def test_the_image_itself_comes_first(index: Index, photos: Path) -> None:
    assert PublicIndex is Index
    for name in ("cat.jpg", "rocket.jpg"):
        with Image.open(SAMPLES / name) as image:
            found = names(index, image.convert("RGB"))
        assert found[0] == name
        assert len(found) == 5
    small = Image.open(SAMPLES / "cat.jpg").convert("RGB").resize((150, 100))
    assert names(index, small, k=1) == ["cat.jpg"]
    with pytest.raises(ImageError):
        index.query(b"no image")


def test_copies_are_matches_of_their_own(index: Index, photos: Path) -> None:
    shutil.copy(photos / "cat.jpg", photos / "again.jpg")
    index.update([photos])
    assert names(index, photos / "cat.jpg", k=2) == ["again.jpg", "cat.jpg"]
    assert names(index, photos / "cat.jpg", k=1) == ["again.jpg"]


def test_filters_choose_among_the_images(index: Index, photos: Path) -> None:
    cat = photos / "cat.jpg"
    assert names(index, cat, folder=photos / "more") == ["temple.jpg"]
    assert names(index, cat, since=date(2001, 1, 1), until=date(2001, 1, 2)) == []
    assert len(names(index, cat, since=date(2001, 1, 1))) == 5
    label = index.query(cat)[0].label
    assert "cat.jpg" in names(index, cat, label=label)
    with pytest.raises(UsageError, match="neither a file nor a class"):
        names(index, cat, label="no such class")
    with pytest.raises(UsageError, match="could be"):
        names(index, cat, label="cat")


def test_words_find_images_of_a_class(index: Index, photos: Path) -> None:
    label = index.query(photos / "rocket.jpg")[0].label
    (found,) = index.search([label])
    assert found.query == label
    assert found.matches[0].label == label
    assert all(0 < one.similarity <= 1 for one in found.matches)
    with pytest.raises(UsageError, match="'nothing like it' is neither a file nor a class"):
        list(index.search(["nothing like it"]))


def test_rows_are_in_order_and_failures_are_rows(
    index: Index, photos: Path, effnet: Effnet
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    queries = (photos / "rocket.jpg", photos / "broken.jpg", photos / "more")
    done = effnet("search", "query", *queries, "-i", "mine", "-k", "2", "-f", "jsonl")
    assert done.status == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["query"]).name for row in rows] == ["rocket.jpg", "broken.jpg", "temple.jpg"]
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert [len(row.get("matches", ())) for row in rows] == [2, 0, 2]
    lines = effnet("search", "query", *queries, "-i", "mine", "-k", "2", "-f", "csv").stdout
    assert len(lines.splitlines()) == 1 + 2 + 1 + 2
    shown = effnet("search", "query", photos / "rocket.jpg", "-i", "mine").stdout.decode()
    assert "rocket.jpg" in shown


def test_a_missing_index_is_told(effnet: Effnet, photos: Path) -> None:
    done = effnet("search", "query", photos / "cat.jpg", "-i", "none")
    assert done.status == 2
    assert "There is no index" in done.stderr
    assert "effnet search index" in done.stderr
    done = effnet("search", "query", photos / "cat.jpg", "-i", "x", "--since", "yesterday")
    assert "Use YEAR-MONTH-DAY" in done.stderr


def test_an_index_can_have_a_path(small: ModelOptions, photos: Path, tmp_path: Path) -> None:
    index = Index(tmp_path / "here" / "photos.index", small)
    index.update([photos])
    assert (tmp_path / "here" / "photos.index" / "index.sqlite").exists()
    assert len(Index("here/photos.index")) == 5


def test_the_page_shows_matches_with_inert_names(
    make_index: MakeIndex, photos: Path, effnet: Effnet
) -> None:
    shutil.copy(photos / "cat.jpg", photos / "<b>&.jpg")
    make_index().update([photos])
    page = photos.parent / "page.html"
    query = photos / "cat.jpg"
    done = effnet("search", "query", query, "-i", "mine", "--html", page)
    assert done.status == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;.jpg" in text
    assert "<b>&.jpg" not in text
    assert text.count("data:image/jpeg;base64,") == 7
    assert "http" not in text.replace("http-equiv", "")
