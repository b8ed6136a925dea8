"""The images of tables and archives, for commands that need no labels."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset_files import png, put
from effnet_cli.datasets.list_images import list_images
from effnet_cli.datasets.other_formats import ARCHIVE_SUFFIXES
from effnet_cli.datasets.table_files import TABLE_SUFFIXES
from effnet_cli.images.finder import LIST_SUFFIXES, Finder
from effnet_cli.options import LabelOptions
from training import CommandResult


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        put(f"d/img/{number}.png", png(number))


def find(*inputs: str, **options: str) -> list[str]:
    labels = LabelOptions(**options)  # type: ignore[arg-type]
    return [one.name for one in Finder(inputs, open_list=lambda path: list_images(path, labels))]


def test_every_suffix_is_offered() -> None:
    assert TABLE_SUFFIXES | set(ARCHIVE_SUFFIXES) == LIST_SUFFIXES


def test_a_table_names_its_images_in_order_and_repeatedly() -> None:
    put("d/list.csv", b"id,other\n2,a\n0,b\n2,c\n7,d\n")
    assert find("d/list.csv") == ["d/img/2.png", "d/img/0.png", "d/img/2.png", "d/7"]
    put("d/list.jsonl", b'{"x": "img/1.png", "image": "img/0.png"}\n')
    assert find("d/list.jsonl") == ["d/img/0.png"]
    assert find("d/list.jsonl", image_column="x") == ["d/img/1.png"]


def test_an_archive_has_its_images_in_order() -> None:
    with zipfile.ZipFile("d/a.zip", "w") as file:
        for name in ("b/2.png", "a.png", "notes.txt", "../c.png"):
            file.writestr(name, png(1))
    assert find("d/a.zip") == ["d/a.zip/b/2.png", "d/a.zip/a.png"]


def test_predictions_of_a_table_and_an_archive_are_those_of_the_images(
    effnet: Callable[..., CommandResult],
) -> None:
    put("d/list.csv", b"path\nimg/0.png\nimg/1.png\nimg/9.png\n")
    with zipfile.ZipFile("d/a.zip", "w") as file:
        for number in range(2):
            file.write(f"d/img/{number}.png", f"{number}.png")
    put("d/broken.zip", b"PK")
    put("d/other.json", b"[1]")
    done = effnet("predict", "d/list.csv", "d/a.zip", "d/broken.zip", "d/other.json", "-f", "json")
    rows = json.loads(done.stdout)
    assert [row["path"] for row in rows] == [
        "d/img/0.png", "d/img/1.png", "d/img/9.png", "d/a.zip/0.png", "d/a.zip/1.png",
        "d/broken.zip", "d/other.json",
    ]  # fmt: skip
    assert [row["status"] for row in rows] == ["ok", "ok", "error", "ok", "ok", "error", "error"]
    assert rows[0]["predictions"] == rows[3]["predictions"]
    assert done.status == 1
