"""Indexes follow their folders, and only open what is new."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from effnet_cli.options import EmbedOptions, ImageOptions, ModelOptions
from effnet_cli.search import changes, update
from effnet_cli.search.index import Index
from effnet_cli.search.records import IndexSummary
from effnet_cli.system.errors import EffnetError, UsageError
from helpers import SAMPLES, save_image
from search_fixtures import MakeIndex
from training import CommandResult

Effnet = Callable[..., CommandResult]
pytestmark = pytest.mark.usefixtures("one_core", "caches", "own_folder")


def refresh(index: Index, *folders: Path, allow_empty: bool = False) -> IndexSummary:
    return index.update(folders, allow_empty=allow_empty)


def paths_of(index: Index) -> list[str]:
    with index.open() as opened:
        return sorted(os.fsdecode(path) for path in opened.entries())


def check_consistency(index: Index) -> None:
    """Check that every image has the vector of its content."""
    with index.open() as opened:
        vectors, holes = opened.vectors(), set(opened.holes().tolist())
        rows = [entry.row for entry in opened.entries().values() if entry.row is not None]
        assert set(rows).isdisjoint(holes)
        assert set(rows) | holes == set(range(len(vectors)))
        lengths = np.linalg.norm(vectors[sorted(set(rows))], axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)
        for path, entry in opened.entries().items():
            if entry.row is not None:
                again = index.embedder(os.fsdecode(path))
                assert float(again @ vectors[entry.row]) > 0.99999


def test_an_index_has_all_images(make_index: MakeIndex, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes((photos / "cat.jpg").read_bytes()[:3000])
    (photos / "notes.txt").write_text("no image")
    found = refresh(make_index(), photos)
    assert (found.images, found.failed, found.unchanged) == (5, 1, 0)
    assert found.changes == {"added": 5, "failed": 1}
    check_consistency(make_index())
    assert len(make_index()) == 5


def test_unchanged_files_are_not_opened(
    make_index: MakeIndex, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    refresh(make_index(), photos)
    opened: list[str] = []
    original = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *rest: (opened.append(path), original(path, *rest))[1]
    )
    found = refresh(make_index(), photos)
    assert (found.images, found.failed, found.unchanged, found.changes) == (5, 1, 6, {})
    assert [path for path in opened if str(photos) in str(path)] == []


def test_changes_are_followed(make_index: MakeIndex, photos: Path) -> None:
    refresh(make_index(), photos)
    save_image(photos / "new.png", 1, (80, 90))
    shutil.copy(SAMPLES / "shuttle.png", photos / "cat.jpg")  # another content
    (photos / "coffee.jpg").rename(photos / "more" / "moved.jpg")
    shutil.copy(photos / "rocket.jpg", photos / "copy.jpg")
    (photos / "flower.jpg").unlink()
    os.utime(photos / "rocket.jpg", (1, 1))  # the same content
    found = refresh(make_index(), photos)
    assert found.changes == {"added": 1, "changed": 1, "copied": 2, "removed": 2}
    assert found.unchanged == 2
    names = ["cat.jpg", "copy.jpg", "more/moved.jpg", "more/temple.jpg", "new.png", "rocket.jpg"]
    assert paths_of(make_index()) == [str(photos / name) for name in names]
    check_consistency(make_index())


def test_folders_are_independent(make_index: MakeIndex, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_image(other / "a.png", 3, (50, 50))
    refresh(make_index(), photos)
    refresh(make_index(), other)
    assert len(make_index()) == 6
    (other / "a.png").rename(other / "b.png")
    (photos / "cat.jpg").unlink()
    assert refresh(make_index(), other).changes == {"copied": 1, "removed": 1}
    assert len(make_index()) == 6
    assert refresh(make_index(), photos / "cat.jpg", allow_empty=True).changes == {"removed": 1}


def test_an_image_in_two_given_folders_is_indexed_once(make_index: MakeIndex, photos: Path) -> None:
    found = refresh(make_index(), photos, photos / "more")
    assert found.images == 5
    check_consistency(make_index())


@pytest.mark.linux
def test_names_of_any_bytes_are_kept(make_index: MakeIndex, photos: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.jpg")
    shutil.copy(photos / "cat.jpg", photos / name)
    refresh(make_index(), photos)
    assert str(photos / name) in paths_of(make_index())
    assert refresh(make_index(), photos).unchanged == 6


def test_an_emptied_folder_is_refused(make_index: MakeIndex, photos: Path) -> None:
    refresh(make_index(), photos)
    for path in (*photos.glob("*.jpg"), *photos.glob("more/*")):
        path.unlink()
    with pytest.raises(UsageError, match="has no images now, but the index has 5 of it"):
        refresh(make_index(), photos)
    assert len(make_index()) == 5
    assert refresh(make_index(), photos, allow_empty=True).changes["removed"] == 5
    shutil.rmtree(photos)
    with pytest.raises(UsageError, match="does not exist"):
        refresh(make_index(), photos)


def test_an_index_of_another_model_is_refused(make_index: MakeIndex, photos: Path) -> None:
    refresh(make_index(), photos)
    for index in (
        Index("mine", "lite0"),
        Index("mine", options=EmbedOptions(pool="avg"), model=make_index()._model),
        Index("mine", images=ImageOptions(fit="pad")),
    ):
        with pytest.raises(UsageError, match="was made with"):
            refresh(index, photos)
        with pytest.raises(UsageError, match="was made with"):
            index.query(photos / "cat.jpg")
    assert refresh(Index("mine"), photos).unchanged == 5, "the model of the index is the default"


def test_one_process_at_a_time(make_index: MakeIndex, photos: Path) -> None:
    with (
        make_index().open_update([photos]),
        pytest.raises(UsageError, match="Another process is changing the index"),
    ):
        refresh(make_index(), photos)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: os.truncate(folder / "vectors-0.f32", 100), "incomplete"),
        (lambda folder: (folder / "vectors-0.f32").unlink(), "vectors-0.f32"),
        (lambda folder: (folder / "index.sqlite").write_bytes(b"garbage" * 1000), "cannot be read"),
    ],
)
def test_damaged_files_are_told(
    make_index: MakeIndex, photos: Path, damage: Callable[[Path], object], words: str
) -> None:
    refresh(make_index(), photos)
    damage(make_index().folder)
    with pytest.raises(EffnetError, match=words):
        refresh(make_index(), photos)


def test_an_index_of_another_version_is_refused(make_index: MakeIndex, photos: Path) -> None:
    refresh(make_index(), photos)
    with sqlite3.connect(make_index().folder / "index.sqlite") as database:
        database.execute("UPDATE meta SET value = '99' WHERE name = 'format'")
    database.close()
    with pytest.raises(UsageError, match="another version of effnet"):
        refresh(make_index(), photos)


def test_compacting_keeps_every_match(make_index: MakeIndex, photos: Path) -> None:
    refresh(make_index(), photos)
    (photos / "cat.jpg").unlink()
    (photos / "flower.jpg").unlink()
    refresh(make_index(), photos)
    before = make_index().query(SAMPLES / "cat.jpg")
    size = (make_index().folder / "vectors-0.f32").stat().st_size
    assert make_index().compact() == 2
    assert make_index().compact() == 0
    after = make_index().query(SAMPLES / "cat.jpg")
    assert [one.path for one in after] == [one.path for one in before]
    similarities = [one.similarity for one in before]
    assert [one.similarity for one in after] == pytest.approx(similarities, abs=1e-6)
    (vectors,) = make_index().folder.glob("vectors-*")
    assert vectors.stat().st_size == size * 3 // 5
    check_consistency(make_index())
    save_image(photos / "new.png", 1, (80, 90))
    assert refresh(make_index(), photos).changes == {"added": 1}
    check_consistency(make_index())


def test_what_a_stopped_update_saved_is_kept(
    make_index: MakeIndex, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "IMAGES_PER_COMMIT", 2)
    with make_index().open_update([photos]) as running:
        changed = running.run()
        seen = [next(changed).path for _ in range(3)]
        changed.close()
    kept = paths_of(make_index())
    assert set(seen) <= set(kept)
    check_consistency(make_index())
    found = refresh(make_index(), photos)
    assert found.images == 5
    assert found.changes == {"added": 5 - len(kept)}


CODE = """
import sys
from effnet_cli.options import ModelOptions
from effnet_cli.search import update
from effnet_cli.search.index import Index
from pathlib import Path
from typing import Any
update.IMAGES_PER_COMMIT = 2
index = Index("mine", ModelOptions(model=Path(sys.argv[2])))
with index.open_update([sys.argv[1]]) as running:
    for one in running.run():
        print(one.path, flush=True)
"""


@pytest.mark.linux
@pytest.mark.parametrize(
    "kills", [3, pytest.param(20, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_killed_updates_lose_nothing(
    make_index: MakeIndex, small: ModelOptions, tmp_path: Path, kills: int
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3 * kills + 6):
        save_image(folder / f"{number:03}.png", number, (40, 40))
    rng = np.random.default_rng(0)
    reported: set[str] = set()
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", CODE, str(folder), str(small.model)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for _ in range(int(rng.integers(1, 5))):
                reported.add(process.stdout.readline().strip())
            time.sleep(float(rng.random() * 0.02))
            process.kill()
            reported.update(line.strip() for line in process.stdout)
        # the last line may be cut off
        known = {path for path in reported if path.endswith(".png")}
        assert known <= set(paths_of(make_index()))
    found = refresh(make_index(), folder)
    assert (found.images, found.failed) == (3 * kills + 6, 0)
    check_consistency(make_index())


@pytest.mark.linux
def test_a_full_disk_is_told_and_loses_nothing(
    make_index: MakeIndex, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh(make_index(), photos / "more")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(changes.os, "fsync", fail)
        with pytest.raises(EffnetError, match="No space left on device"):
            refresh(make_index(), photos)
    assert len(make_index()) == 1
    refresh(make_index(), photos)
    check_consistency(make_index())


def test_watching_finds_new_images(
    small: ModelOptions, photos: Path, effnet: Effnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effnet_cli.cli import search

    waits = iter([lambda: save_image(photos / "new.png", 1, (80, 90)), lambda: None])

    def wait(_: float) -> None:
        step = next(waits, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(search.time, "sleep", wait)
    done = effnet("search", "index", photos, "-i", "mine", "--watch", "-m", small.model)
    assert done.status == 130
    assert "new.png" in done.stdout.decode()
    assert len(Index("mine")) == 6


def test_formats_have_the_changes(small: ModelOptions, photos: Path, effnet: Effnet) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    command = ("search", "index", photos, "-i", "mine", "-m", small.model)
    done = effnet(*command, "-f", "jsonl")
    assert done.status == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["change"] for row in rows} == {"added", "failed"}
    (failed,) = [row for row in rows if row["change"] == "failed"]
    assert failed["error"]["kind"] in ("truncated", "not_an_image")
    assert "Index 'mine' has 5 images, and 1 that cannot be read" in done.stderr
    again = effnet(*command, "-f", "csv")
    assert again.status == 1, "what cannot be read is not forgotten"
    assert again.stdout.decode().splitlines() == ["path,change,error_kind,error"]
    listed = json.loads(effnet("search", "list", "-f", "json").stdout)
    assert [(row["name"], row["images"], row["failed"]) for row in listed] == [("mine", 5, 1)]
