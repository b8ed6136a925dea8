"""Audits of small datasets with planted problems, with the real model."""

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dataset_files import fill, make_splits, png, put, truncated_png
from effnet_cli.audit import page, table
from effnet_cli.audit.records import PROBLEM_KINDS, Audit, Problem
from effnet_cli.audit.run import audit
from effnet_cli.datasets import label_errors
from effnet_cli.options import AuditOptions, AuditTask, ModelOptions
from effnet_cli.output.terminal import render
from effnet_cli.system.errors import UsageError
from helpers import SAMPLES, RecordingReporter, save_image
from training import COLOURS, CommandResult, make_classes, read_tree

pytestmark = pytest.mark.usefixtures("one_core", "one_thread", "caches")

Effnet = Callable[..., CommandResult]
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\u202e"
EXTREMES = {"dark": (2, 0.02), "bright": (254, 0.02), "flat": (120, 0.01)}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def find(found: Audit, kind: str) -> list[Problem]:
    return [problem for problem in found.problems if problem.kind == kind]


def audit_folder(root: str = "d", **options: int) -> Audit:
    return audit(AuditTask(Path(root), options=AuditOptions(**options)))


# --- files and copies ----------------------------------------------------------------------------


def test_every_broken_file_is_listed_not_only_the_first() -> None:
    fill("d/cat", 6)
    fill("d/dog", 6)
    broken = {str(put(f"d/cat/{n}.jpg", truncated_png(n))) for n in range(9)}
    broken.add(str(put("d/dog/empty.png", b"")))
    problems = find(audit_folder(), "unreadable")
    assert {one.path for one in problems} == broken
    assert [one.rank for one in problems] == [*range(1, 11)]
    assert {one.action for one in problems} == {"remove"}
    assert any(one.reason.startswith("empty: ") for one in problems)


def test_copies_are_told_apart_by_split_and_class() -> None:
    make_splits()
    shutil.copy("d/train/cat/0.png", "d/val/cat/leak.png")
    shutil.copy("d/train/cat/1.png", "d/val/dog/conflict.png")
    shutil.copy("d/train/dog/2.png", "d/train/dog/copy.png")
    with Image.open("d/train/dog/3.png") as image:
        image.resize((64, 64), Image.Resampling.BICUBIC).save("d/val/dog/near.png")
        image.resize((96, 96), Image.Resampling.BICUBIC).save("d/val/cat/near.png")
    with Image.open("d/val/dog/4.png") as image:
        image.resize((64, 64), Image.Resampling.BICUBIC).save("d/val/dog/near copy.png")
    found = audit_folder()
    (leak,) = find(found, "leak")
    assert (leak.path, leak.other) == ("d/train/cat/0.png", "d/val/cat/leak.png")
    assert (leak.split, leak.action, leak.reason) == ("train", "remove", "also in val")
    conflicts = {one.path: one.other for one in find(found, "label_conflict")}
    pair = "d/train/cat/1.png", "d/val/dog/conflict.png"
    assert conflicts == dict([pair, pair[::-1]])
    (copy,) = find(found, "copy")
    assert {copy.path, copy.other} == {"d/train/dog/2.png", "d/train/dog/copy.png"}
    (near,) = find(found, "near_leak")
    assert (near.path, near.other) == ("d/train/dog/3.png", "d/val/dog/near.png")
    assert {"d/val/cat/near.png"} <= {
        path for one in find(found, "near_conflict") for path in (one.path, one.other)
    }
    (same,) = find(found, "near_copy")
    assert {same.path, same.other} == {"d/val/dog/4.png", "d/val/dog/near copy.png"}


def test_without_splits_copies_are_no_leaks() -> None:
    make_classes(Path("d"), images=8)
    shutil.copy("d/red/0.jpg", "d/red/again.jpg")
    found = audit_folder()
    assert [one.split for one in find(found, "copy")] == [None]
    assert not find(found, "leak")
    assert "automatically" not in found.layout


# --- labels --------------------------------------------------------------------------------------


def make_clear_classes(images: int = 20) -> None:
    """Create three classes that are easy to tell apart."""
    rng = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        for number in range(images):
            pixels = np.clip(rng.normal(colour, 30, (4, 6, 3)), 0, 255).astype(np.uint8)
            put(f"d/{label}/{number}.png")
            Image.fromarray(pixels).resize((90, 60)).save(f"d/{label}/{number}.png")


def plant_wrong_labels() -> set[str]:
    """Create three clear classes, with red images among the green ones."""
    make_clear_classes()
    names = {f"d/red/{n}.png": f"d/green/wrong {n}.png" for n in range(3)}
    return {str(Path(name).rename(wrong)) for name, wrong in names.items()}


def test_wrong_labels_come_first_with_the_right_label() -> None:
    moved = plant_wrong_labels()
    found = find(audit_folder(), "wrong_label")
    assert {one.path for one in found[: len(moved)]} == moved
    for one in found[: len(moved)]:
        assert (one.label, one.new_label, one.action) == ("green", "red", "relabel")
    scores = [one.score for one in found if one.score is not None]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == len(found)


def test_audit_is_repeatable_and_changes_no_file() -> None:
    plant_wrong_labels()
    before = read_tree(Path("d"))
    assert audit_folder() == audit_folder()
    assert read_tree(Path("d")) == before


def test_without_cleanlab_labels_are_still_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_errors, "LABEL_ERROR_LIBRARY", "no_such_library")
    moved = plant_wrong_labels()
    found = audit_folder()
    assert {one.path for one in find(found, "wrong_label")[: len(moved)]} == moved
    assert any("pip install 'effnet-cli[labels]'" in note for note in found.notes)


def test_copies_of_an_image_are_relabelled_together() -> None:
    plant_wrong_labels()
    shutil.copy("d/green/wrong 0.png", "d/green/wrong too.png")
    found = {one.path for one in find(audit_folder(), "wrong_label")}
    assert {"d/green/wrong 0.png", "d/green/wrong too.png"} <= found


def test_small_classes_are_not_called_wrong() -> None:
    make_classes(Path("d"), images=20)
    save_image(put("d/lonely/x.png"), 1)
    found = audit_folder()
    assert not [one for one in find(found, "wrong_label") if one.label == "lonely"]
    assert any("'lonely'" in note for note in found.notes)
    (lonely,) = [one for one in found.classes if one.name == "lonely"]
    assert lonely.accuracy is None


def test_classes_of_the_same_images_are_hard_to_tell_apart() -> None:
    make_classes(Path("d"), ("red", "green"), images=40)
    make_classes(Path("e"), ("red", "green"), images=40, first_seed=100)
    Path("e/red").rename("d/crimson")
    (pair,) = audit_folder().similar_classes
    assert {pair.first, pair.second} == {"red", "crimson"}
    assert min(pair.first_as_second, pair.second_as_first) >= 0.2


# --- appearance ----------------------------------------------------------------------------------


def test_odd_images_differ_from_most_others() -> None:
    make_classes(Path("d"), images=20)
    rng = np.random.default_rng(0)
    for name, (mean, spread) in EXTREMES.items():
        pixels = np.clip(rng.normal(mean, 255 * spread, (60, 90, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).filter(ImageFilter.BoxBlur(8)).save(f"d/red/{name}.png")
    save_image(Path("d/red/tiny.png"), 7, (9, 6))
    save_image(Path("d/red/wide.png"), 8, (900, 60))
    found = audit_folder()
    for kind in EXTREMES:
        assert f"d/red/{kind}.png" in {one.path for one in find(found, kind)}
    assert [one.path for one in find(found, "small")] == ["d/red/tiny.png"]
    assert [one.path for one in find(found, "odd_shape")] == ["d/red/wide.png"]
    assert not [
        one for kind in ("dark", "bright") for one in find(found, kind) if "0.jpg" in one.path
    ]


def test_a_blurred_photo_is_found_among_sharp_ones() -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        for number in range(15):
            pixels = rng.integers(0, 256, (80, 120, 3), dtype=np.uint8)
            put(f"d/{label}/{number}.png")
            Image.fromarray(pixels).save(f"d/{label}/{number}.png")
    with Image.open("d/a/0.png") as image:
        image.resize((6, 4)).resize((120, 80), Image.Resampling.BICUBIC).save("d/a/blurred.png")
    assert [one.path for one in find(audit_folder(), "blurred")] == ["d/a/blurred.png"]


def test_a_uniformly_dark_dataset_is_not_too_dark() -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        for number in range(15):
            put(f"d/{label}/{number}.png")
            pixels = rng.integers(0, 12, (4, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((90, 60)).save(f"d/{label}/{number}.png")
    found = audit_folder()
    assert not find(found, "dark")
    assert not find(found, "flat")


def test_a_foreign_image_is_an_outlier() -> None:
    make_classes(Path("d"), images=30)
    shutil.copy(SAMPLES / "cat.jpg", "d/red/foreign.jpg")
    assert find(audit_folder(), "outlier")[0].path == "d/red/foreign.jpg"


def test_backgrounds_that_give_the_class_away_are_a_warning() -> None:
    rng = np.random.default_rng(0)
    for has_frame in (False, True):
        for label, colour in (("a", (250, 220, 30)), ("b", (30, 220, 250))):
            for number in range(60):
                pixels = np.full((96, 96, 3), colour if has_frame else (128, 128, 128), np.uint8)
                # the object is in the centre, the same for both classes if there is a frame
                tint = np.array(colour if not has_frame else (90, 90, 90))
                noise = rng.integers(0, 90, (40, 40, 3))
                pixels[28:68, 28:68] = np.clip(tint - 40 + noise, 0, 255)
                put(f"frames{has_frame}/{label}/{number}.png")
                Image.fromarray(pixels).save(f"frames{has_frame}/{label}/{number}.png")
    plain, framed = audit_folder("framesFalse").border, audit_folder("framesTrue").border
    assert plain is not None
    assert framed is not None
    assert (plain.chance, plain.is_suspicious, framed.is_suspicious) == (0.5, False, True)
    assert framed.accuracy > 0.9
    assert plain.accuracy < 0.7


# --- datasets that cannot be audited, or hardly --------------------------------------------------


@pytest.mark.parametrize("layout", ["two images", "one class", "classes of one"])
def test_tiny_datasets_are_audited(layout: str) -> None:
    names = {"two images": "ab", "one class": "a" * 6, "classes of one": "abcdefg"}[layout]
    for number, name in enumerate(names):
        put(f"d/{name}/{number}.png")
    found = audit_folder()
    assert found.images == len(names)
    assert (found.accuracy, found.border, found.problems) == (None, None, ())
    assert any("Labels and borders were not checked" in note for note in found.notes)
    assert page.audit_page(found).startswith("<!doctype html>")


def test_a_dataset_without_readable_image_is_refused() -> None:
    put("d/a/x.jpg", b"hello")
    put("d/b/y.jpg", b"")
    with pytest.raises(UsageError, match=r"None of the 2 images in 'd' can be opened.*d/a/x\.jpg"):
        audit_folder()


@pytest.mark.parametrize("name", ["missing", "empty", "empty classes", "text.txt"])
def test_what_is_no_dataset_is_refused(name: str, effnet: Effnet) -> None:
    Path("empty").mkdir()
    Path("empty classes/a").mkdir(parents=True)
    put("text.txt", b"hello")
    done = effnet("audit", name)
    assert done.status == 2
    assert name in done.stderr
    assert done.stdout == b""


def test_a_model_without_features_is_refused(effnet: Effnet) -> None:
    make_classes(Path("d"), images=4)
    exported = effnet("export", "--to", "onnx", "-o", "plain.onnx", "--quiet")
    assert exported.status == 0, exported.stderr
    with pytest.raises(UsageError, match=r"does not output its features.*--include-features"):
        audit(AuditTask(Path("d"), ModelOptions(model=Path("plain.onnx"))))


def test_csv_dataset_with_a_missing_file() -> None:
    make_classes(Path("d"), images=10)
    rows = [(str(path), path.parent.name, "train") for path in sorted(Path("d").glob("*/*"))]
    rows += [("d/gone.jpg", "red", "val"), (*rows[0][:2], "val")]
    with Path("list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    found = audit_folder("list.csv")
    (missing,) = find(found, "unreadable")
    assert (missing.path, missing.split) == ("d/gone.jpg", "val")
    assert len(find(found, "leak")) == 1


# --- output --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Counts tags, and collects attributes that could run code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.dangerous: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.dangerous += [name for name, _ in attrs if name.startswith("on") or name == "href"]


@pytest.fixture
def hostile() -> Path:
    """A dataset whose names try to be markup, terminal commands and formulas."""
    for label in (HOSTILE, "=cmd()|x"):
        for number in range(6):
            put(f"d/{label}/{number}{HOSTILE}.png")
        put(f"d/{label}/bad{HOSTILE}.png", b"no image")
    put("d/=cmd()|x/conflict.png", Path(f"d/{HOSTILE}/0{HOSTILE}.png").read_bytes())
    return Path("d")


def test_hostile_names_are_data(hostile: Path, effnet: Effnet) -> None:
    done = effnet("audit", hostile, "--html", "a.html", "--fix", "a.csv")
    assert done.status == 0, done.stderr
    assert not re.search(rb"[\x1b\x07]|\xe2\x80\xae", done.stdout)
    text = Path("a.html").read_text(encoding="utf-8")
    assert "\x1b" not in text
    seen = Page(text)
    assert seen.tags["script"] == 0
    assert not seen.dangerous
    with Path("a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(Path(row["path"]).is_file() for row in rows)
    assert {row["label"] for row in rows} == {HOSTILE, "'=cmd()|x"}
    shown = [row for row in rows if row["problem"] != "unreadable"]
    assert seen.tags["img"] == len(shown) + sum(bool(row["other"]) for row in shown) > 2
    assert text.count("not opened") == 2


def test_all_formats_have_the_same_problems(effnet: Effnet) -> None:
    plant_wrong_labels()
    put("d/red/bad.png", b"no image")
    as_json = json.loads(effnet("audit", "d", "--format", "json", "-q").stdout)
    as_lines = effnet("audit", "d", "--format", "jsonl", "-q").stdout.splitlines()
    assert effnet("audit", "d", "-o", "a.csv", "--fix", "fix.csv", "-q").stdout == b""
    assert Path("a.csv").read_bytes() == Path("fix.csv").read_bytes()
    with Path("a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert as_json["schema"] == 1
    assert len(as_json["problems"]) == len(as_lines) == len(rows) > 3
    for whole, line, row in zip(as_json["problems"], as_lines, rows, strict=True):
        short = json.loads(line)
        assert short["problem"] == whole["kind"] == row["problem"]
        assert short["path"] == whole["path"]
        assert row["path"] == str(Path(whole["path"]).absolute())
        assert str(whole["rank"]) == row["rank"]


def test_outputs_never_overwrite_inputs(effnet: Effnet) -> None:
    make_classes(Path("d"), images=4)
    image = "d/red/0.jpg"
    put("list.csv", f"path,label\n{image},red\n".encode())
    before = read_tree(Path())
    for words in (
        ("d", "--fix", image),
        ("list.csv", "--fix", "list.csv"),
        ("d", "--fix", "x.csv", "--html", "x.csv"),
        ("d", "--output", "x.xlsx"),
    ):
        assert effnet("audit", *words).status == 2
    assert read_tree(Path()) == before


def test_page_says_how_many_problems_it_does_not_show() -> None:
    image = put("x.png", png(0))
    number = page.MAX_FIGURES + 7
    problems = tuple(
        Problem("outlier", n, str(image), "a", None, action="check", score=1 / n)
        for n in range(1, number + 1)
    )
    put("d/a/0.png")
    found = replace(audit_folder(), problems=problems)
    reporter = RecordingReporter()
    text = page.audit_page(found, reporter)
    assert Page(text).tags["figure"] == page.MAX_FIGURES
    assert "7 more are in the CSV." in text
    assert reporter.steps[-1][1:] == (page.MAX_FIGURES, page.MAX_FIGURES)


def test_table_names_every_kind_and_the_notes() -> None:
    put("d/a/0.png")
    found = audit_folder()
    problems = tuple(
        Problem(kind.name, 1, "d/a/0.png", "a", "train", action="check") for kind in PROBLEM_KINDS
    )
    text = "".join(render(table.blocks(replace(found, problems=problems))))
    for kind in PROBLEM_KINDS:
        assert kind.title in text
        assert kind.note in text
    for note in found.notes:
        assert note in text


def test_clear_classes_have_no_wrong_label() -> None:
    make_clear_classes()
    found = audit_folder(folds=3)
    assert found.accuracy == 1
    assert {one.name for one in found.classes} == set(COLOURS)
    assert find(found, "wrong_label") == []
