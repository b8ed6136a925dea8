"""`effnet embed`: rows, files, and interrupted runs."""

import csv
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from effnet_cli import Embedder
from effnet_cli.options import ModelOptions
from effnet_cli.output.journal import Journal, Row
from helpers import SAMPLES
from training import CommandResult

Effnet = Callable[..., CommandResult]
pytestmark = pytest.mark.usefixtures("one_core", "caches")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("photos")
    folder.mkdir()
    for name in ("cat.jpg", "coffee.jpg", "flower.jpg", "rocket.jpg"):
        shutil.copy(SAMPLES / name, folder)
    (folder / "broken.jpg").write_bytes((SAMPLES / "cat.jpg").read_bytes()[:3000])
    return folder


@pytest.fixture
def embed(effnet: Effnet, small: ModelOptions, photos: Path) -> Effnet:
    return lambda *words: effnet("embed", photos, "--model", small.model, *words)


def test_stdout_has_a_row_for_each_image(embed: Effnet, small: ModelOptions, photos: Path) -> None:
    done = embed()
    assert done.status == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in sorted(photos.iterdir())]
    assert [row["status"] for row in rows] == ["error", "ok", "ok", "ok", "ok"]
    assert rows[0]["error"]["kind"] == "truncated"
    expected = Embedder(small)(photos / "cat.jpg")
    np.testing.assert_allclose(rows[1]["vector"], expected, atol=1e-7)
    assert len(rows[1]["sha256"]) == 64
    assert "5 images" in done.stderr
    assert "1 failed: 1 truncated" in done.stderr


def test_all_files_have_the_same_vectors(embed: Effnet, small: ModelOptions, photos: Path) -> None:
    for name in ("a.parquet", "a.npy", "b.jsonl"):
        assert embed("-o", name).status == 1
    table = pq.read_table("a.parquet")
    about = json.loads(table.schema.metadata[b"effnet"])
    assert (about["pool"], about["dtype"], about["dim"]) == ("gem", "float32", None)
    assert about["sha256"] == Embedder(small).source.sha256
    rows = table.to_pylist()
    lines = [json.loads(line) for line in Path("b.jsonl").read_text().splitlines()]
    index = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    array = np.load("a.npy")
    assert (array.shape, array.dtype) == ((4, 1280), np.float32)
    assert [row["path"] for row in rows] == [row["path"] for row in lines]
    assert [row["path"] for row in index] == [row["path"] for row in lines]
    assert [row.get("row") for row in index] == [None, 0, 1, 2, 3]
    for row, line, entry in zip(rows, lines, index, strict=True):
        if line["status"] == "error":
            assert row["vector"] is None
            assert (row["error_kind"], entry["error"]["kind"]) == ("truncated", "truncated")
            continue
        expected = Embedder(small)(line["path"])
        assert np.array_equal(np.array(row["vector"], np.float32), expected)
        assert np.array_equal(array[entry["row"]], expected)
        np.testing.assert_allclose(line["vector"], expected, atol=1e-7)
        assert row["sha256"] == line["sha256"] == entry["sha256"]


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1e-3), ("int8", 1e-2)])
def test_smaller_numbers_are_close(
    embed: Effnet, small: ModelOptions, dtype: str, error: float
) -> None:
    for name in ("a.parquet", "a.npy", "b.jsonl"):
        embed("-o", name, "--dtype", dtype)
    rows = pq.read_table("a.parquet").to_pylist()[1:]
    index = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()][1:]
    lines = [json.loads(line) for line in Path("b.jsonl").read_text().splitlines()][1:]
    array = np.load("a.npy")
    assert array.dtype == np.dtype(dtype)
    for row, entry, line, stored in zip(rows, index, lines, array, strict=True):
        expected = Embedder(small)(row["path"])
        for values, scale in ((row["vector"], row.get("scale")), (stored, entry.get("scale")),
                              (line["vector"], line.get("scale"))):  # fmt: skip
            assert (scale is not None) == (dtype == "int8")
            vector = np.asarray(values, np.float32) * (scale or 1)
            assert float(np.linalg.norm(vector - expected)) < error


def test_vectors_are_reduced_as_before(embed: Effnet, photos: Path) -> None:
    embed("-o", "all.npy")
    assert embed("-o", "few.npy", "--dim", "3").status == 1
    few, whole = np.load("few.npy"), np.load("all.npy")
    assert few.shape == (4, 3)
    np.testing.assert_allclose(np.linalg.norm(few, axis=1), 1, atol=1e-5)
    embed("-o", "again.npy", "--projection", "few.projection.safetensors")
    np.testing.assert_allclose(np.load("again.npy"), few, atol=1e-5)
    done = embed("--projection", "few.projection.safetensors")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    np.testing.assert_allclose(rows[1]["vector"], few[0], atol=1e-5)
    # close in few numbers what is close in many
    assert np.argsort(few @ few[0])[-1] == np.argsort(whole @ whole[0])[-1] == 0
    other = embed("--projection", "few.projection.safetensors", "--pool", "avg")
    assert other.status == 2
    assert "is for other vectors: pool 'gem' instead of 'avg'" in other.stderr
    many = embed("-o", "many.npy", "--dim", "5")
    assert many.status == 2
    assert "--dim 5 is more than the 4 images" in many.stderr


def test_an_interrupted_run_ends_with_the_same_bytes(
    embed: Effnet, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed("-o", "whole.parquet")
    append, numbers = Journal.append, itertools.count(1)

    def stop(self: Journal, row: Row) -> None:
        append(self, row)
        if next(numbers) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", stop)
        assert embed("-o", "part.parquet").status == 130
    assert not Path("part.parquet").exists()
    refused = embed("-o", "part.parquet")
    assert refused.status == 2
    assert "--resume" in refused.stderr
    other = embed("-o", "part.parquet", "--resume", "--pool", "avg")
    assert other.status == 2
    done = embed("-o", "part.parquet", "--resume")
    assert done.status == 1
    assert "3 of them from the interrupted run" in done.stderr
    assert Path("part.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    assert not list(Path().glob("*.part"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dim", "2"), "--dim requires --output"),
        (("--resume",), "--resume requires --output"),
        (("--dtype", "int8"), "--dtype int8 requires --output"),
        (("-o", "a.csv"), "Unsupported output format '.csv'"),
        (("-o", "photos/cat.jpg"), "Unsupported output format '.jpg'"),
        (("-o", "a.npy", "--dim", "2", "--projection", "x"), "--dim finds a projection"),
        (("--projection", "photos/cat.jpg"), "is not a projection that can be read"),
        (("-o", "photos"), "photos"),
    ],
)
def test_impossible_options_are_refused(
    embed: Effnet, words: tuple[str, ...], message: str
) -> None:
    done = embed(*words)
    assert done.status == 2
    assert message in done.stderr
    assert done.stdout == b""


def test_inputs_are_never_overwritten(effnet: Effnet, small: ModelOptions, photos: Path) -> None:
    with Path("list.jsonl").open("w") as file:
        file.write(json.dumps({"path": "photos/cat.jpg", "label": "cat"}) + "\n")
    before = Path("list.jsonl").read_bytes()
    words = ("embed", "list.jsonl", "--model", small.model)
    for output in ("list.jsonl", "list.npy"):  # whose second file is the list
        done = effnet(*words, "-o", output)
        assert done.status == 2
        assert "is an input and would be overwritten" in done.stderr
    assert Path("list.jsonl").read_bytes() == before
    done = effnet(*words)
    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert row["path"] == "photos/cat.jpg"


def test_tables_of_images_are_read(effnet: Effnet, small: ModelOptions, photos: Path) -> None:
    with Path("list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "x"), ("photos/rocket.jpg", 1), ("photos/cat.jpg", 2)])
    done = effnet("embed", "list.csv", "--model", small.model, "-o", "v.parquet")
    assert done.status == 0, done.stderr
    paths = pq.read_table("v.parquet").column("path").to_pylist()
    assert paths == ["photos/rocket.jpg", "photos/cat.jpg"]


def test_nothing_but_failures_is_written_too(
    effnet: Effnet, small: ModelOptions, photos: Path
) -> None:
    for name in ("a.parquet", "a.npy", "b.jsonl"):
        done = effnet("embed", photos / "broken.jpg", "--model", small.model, "-o", name)
        assert done.status == 1
    assert pq.read_table("a.parquet").column("vector").to_pylist() == [None]
    assert np.load("a.npy").shape[0] == 0
    assert json.loads(Path("b.jsonl").read_text())["status"] == "error"
