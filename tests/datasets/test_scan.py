"""Scans of 28 kinds of datasets."""

import hashlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_files import (
    counts,
    dataset,
    fill,
    get_error,
    get_finding,
    kinds,
    make_splits,
    make_two_classes,
    names,
    png,
    put,
    seeds,
    truncated_png,
)
from effnet_cli.datasets import inspect_files
from effnet_cli.datasets.saved_split import load_split, save_split
from effnet_cli.datasets.scan import scan
from effnet_cli.options import DatasetOptions, ImageOptions
from effnet_cli.system.errors import UsageError
from helpers import save_image


def test_each_of_several_errors_keeps_its_hint() -> None:
    fill("a set/good")
    put("a set/broken/x.jpg", b"not an image")
    Path("a set/empty").mkdir()
    error = get_error("a set")
    errors = list(error.scan.errors())
    assert len(errors) > 1
    for one in errors:
        assert f"- {one.message} {one.hint}" in error.message.splitlines()
    assert error.hint == "Check again with: effnet finetune 'a set' --check"


# --- the 28 cases ------------------------------------------------------------------------------


def test_case_01_empty_class_folder_is_refused_or_skipped() -> None:
    make_two_classes()
    Path("d/fox").mkdir()
    put("d/owl/notes.txt", b"not an image")
    error = get_error()
    assert "'fox', 'owl'" in error.message
    assert "--skip-empty" in error.hint
    assert get_finding(error.scan, "empty_class").count == 2
    kept = scan(Path("d"), DatasetOptions(skip_empty=True))
    assert kept.require_dataset().classes == ("cat", "dog")
    assert get_finding(kept, "empty_class").level == "note"


def test_case_01_skipped_class_is_skipped_in_validation_too() -> None:
    make_splits()
    Path("d/train/fox").mkdir()
    fill("d/val/fox")
    assert dataset(skip_empty=True).classes == ("cat", "dog")


def test_case_02_one_class_only_is_refused() -> None:
    fill("d/cat")
    error = get_error()
    assert kinds(error.scan, "error") == ["one_class"]
    assert "'cat'" in error.message
    assert "second class" in error.hint
    assert "'d/cat'" not in error.hint


def test_case_02_folder_around_the_classes_is_suggested() -> None:
    make_two_classes("d/pets")
    assert "use 'd/pets'" in get_error().hint


def test_case_03_split_that_leaves_a_side_empty_is_refused() -> None:
    make_two_classes(count=1)
    error = get_error()
    assert kinds(error.scan, "error") == ["cannot_split"]
    assert "'cat', 'dog'" in error.message
    assert "--val" in error.hint


def test_case_03_one_image_per_class_with_a_val_folder_is_a_warning() -> None:
    make_splits(count=1)
    result = scan(Path("d"))
    assert counts(result) == {"cat": (1, 1, None), "dog": (1, 1, None)}
    assert kinds(result) == ["few_images"]
    assert result.require_dataset().train.count(2).tolist() == [1, 1]


def test_case_04_two_images_per_class_are_split_evenly() -> None:
    make_two_classes(count=2)
    assert counts(scan(Path("d"))) == {"cat": (1, 1, None), "dog": (1, 1, None)}


class ReversedScandir:
    """A folder that lists its entries in reverse order."""

    def __init__(self, path: object) -> None:
        with real_scandir(path) as entries:  # type: ignore[call-overload]
            self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

    def __enter__(self) -> Iterator[object]:
        return iter(self.entries)

    def __exit__(self, *error: object) -> None:
        pass


real_scandir = os.scandir


def test_case_04_split_is_the_same_for_every_order_and_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_two_classes(count=12)
    before = dataset()
    shutil.copytree("d", "elsewhere/e")
    monkeypatch.setattr(os, "scandir", ReversedScandir)
    after = dataset("elsewhere/e")
    assert [name.partition("/")[2] for name in names(after.val)] == names(before.val)
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(after.files.digests, before.files.digests)
    assert dataset(seed=1).fingerprint != before.fingerprint


ODD_NAMES = [
    "[red]",
    "[",
    "=cmd()",
    "<b>",
    "a,b",
    "new\nline",
    "-x",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "🐈",
    "%s",
    "x" * 200,
]


def test_case_05_odd_names_of_classes_are_kept_as_they_are() -> None:
    for name in ODD_NAMES:
        fill(f"d/{name}", 2)
    result = scan(Path("d"))
    assert result.require_dataset().classes == tuple(sorted(ODD_NAMES))
    listed = json.loads(json.dumps(result.to_json()))["classes"]
    assert [row["name"] for row in listed] == sorted(ODD_NAMES)
    assert "similar_names" in kinds(result)  # the two é
    with Image.open(result.require_dataset().train.paths[0]) as image:
        assert image.size == (32, 32)


@pytest.mark.linux
def test_case_06_class_name_of_invalid_utf8_is_recoverable() -> None:
    fill(b"d/caf\xe9")
    fill(b"d/dog")
    result = scan(Path("d"))
    assert [os.fsencode(name) for name in result.require_dataset().classes] == [b"caf\xe9", b"dog"]
    name = json.loads(json.dumps(result.to_json()))["classes"][0]["name"]
    assert os.fsencode(name) == b"caf\xe9"
    assert result.require_dataset().train.paths.encoded(0).startswith(b"d/caf\xe9/")


def test_case_07_similar_names_are_never_merged() -> None:
    for name in ("Cat", "cat", "cat ", "cat_", "dog", "-1", "1", "dog 2"):
        fill(f"d/{name}")
    result = scan(Path("d"))
    assert len(result.require_dataset().classes) == 8
    assert get_finding(result, "similar_names").level == "warning"
    assert "'Cat', 'cat', 'cat ', 'cat_'." in get_finding(result, "similar_names").message


def test_case_08_numeric_names_are_in_code_point_order() -> None:
    for name in ("10", "2", "1"):
        fill(f"d/{name}")
    assert dataset().classes == ("1", "10", "2")


def test_case_09_folders_inside_a_class_are_its_data() -> None:
    make_two_classes()
    put("d/cat/indoor/lying/1.png")
    put("d/cat/outdoor/1.png")
    result = scan(Path("d"))
    assert counts(result)["cat"] == (10, 2, None)
    assert get_finding(result, "nested").count == 2
    assert get_finding(result, "nested").paths[0] == "d/cat/indoor/lying/1.png"
    assert set(counts(result)) == {"cat", "dog"}


def test_case_10_class_that_val_lacks_keeps_the_indexes_of_train() -> None:
    make_splits()
    fill("d/train/bat")
    result = scan(Path("d"))
    data = result.require_dataset()
    assert data.classes == ("bat", "cat", "dog")
    assert set(data.val.labels.tolist()) == {1, 2}
    assert "'bat'" in get_finding(result, "missing_in_val").message
    assert counts(result)["bat"] == (10, 0, None)


def test_case_11_class_that_train_lacks_is_refused() -> None:
    make_splits()
    fill("d/val/fox")
    fill("d/test/owl")
    error = get_error()
    assert kinds(error.scan, "error") == ["unknown_in_val", "unknown_in_test"]
    assert "'fox'" in error.message
    assert "'owl'" in error.message


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev", "EVAL"])
def test_case_12_common_names_of_validation_are_recognised(name: str) -> None:
    make_splits(val=name)
    result = scan(Path("d"))
    assert result.layout == f"train/ and {name}/"
    assert counts(result)["cat"] == (10, 10, None)


def test_case_12_two_candidates_need_a_choice() -> None:
    make_splits()
    make_two_classes("d/dev")
    error = get_error()
    assert "'dev', 'val'" in error.message
    assert "--val" in error.hint
    for val in (Path("dev"), Path("d/dev"), Path("d/dev").absolute()):
        result = scan(Path("d"), DatasetOptions(val=val))
        assert {path.split("/")[-3] for path in result.require_dataset().val.paths} == {"dev"}
        assert get_finding(result, "not_used").paths == ("d/val",)


def test_case_12_test_never_becomes_validation() -> None:
    make_two_classes("d/train")
    make_two_classes("d/test")
    result = scan(Path("d"))
    assert counts(result)["cat"] == (8, 2, 10)
    assert all(name.startswith("train/") for name in names(result.require_dataset().val))
    assert "split off" in result.layout


def test_case_13_test_folder_is_a_separate_split() -> None:
    make_splits()
    assert dataset().test is None
    make_two_classes("d/Testing", count=3)
    data = dataset()
    assert data.test is not None
    assert data.test.count(2).tolist() == [3, 3]
    assert data.val.count(2).tolist() == [10, 10]


def test_case_14_parent_of_the_splits_is_recognised() -> None:
    make_splits("d/archive/pets")
    put("d/.DS_Store", b"")
    put("d/readme.txt", b"hello")
    result = scan(Path("d"))
    assert counts(result)["cat"] == (10, 10, None)
    assert "d/archive/pets" in get_finding(result, "parent").message


def test_case_14_train_among_other_classes_is_a_class() -> None:
    for name in ("train", "bus", "car"):
        fill(f"d/{name}")
    assert dataset().classes == ("bus", "car", "train")


def test_case_15_images_directly_in_the_root_are_refused() -> None:
    fill("d", 7)
    error = get_error()
    assert "7 images" in error.message
    assert "d/cat/1.jpg" in error.hint
    assert "d/train/cat/1.jpg" in error.hint
    assert len(get_finding(error.scan, "no_classes").paths) == 5


def test_case_15_images_directly_in_a_split_are_refused() -> None:
    fill("d/train")
    fill("d/val")
    error = get_error()
    assert "'d/train'" in error.message
    assert "d/train/cat/1.jpg" in error.hint


def test_case_15_images_beside_class_folders_are_reported() -> None:
    make_two_classes()
    put("d/loose.png")
    assert get_finding(scan(Path("d")), "no_class").paths == ("d/loose.png",)


def test_case_16_system_files_are_ignored_in_one_line() -> None:
    make_two_classes()
    for name in ("__MACOSX/cat/._1.jpg", ".ipynb_checkpoints/1.png", "@eaDir/1.png", ".git/x"):
        put(f"d/{name}")
    for name in (".DS_Store", "Thumbs.db", "._1.jpg", "@eaDir/1.jpg"):
        put(f"d/cat/{name}")
    result = scan(Path("d"))
    assert counts(result) == {"cat": (8, 2, None), "dog": (8, 2, None)}
    assert get_finding(result, "system_files").count == 8
    assert kinds(result) == ["few_images"]


def test_case_17_corrupt_files_are_found_by_decoding_them() -> None:
    make_two_classes(count=150)
    put("d/cat/bad.png", truncated_png(next(seeds)))
    put("d/dog/empty.png", b"")
    result = scan(Path("d"))
    broken = get_finding(result, "broken_files")
    assert (broken.level, broken.count) == ("warning", 2)
    assert broken.paths == ("d/cat/bad.png", "d/dog/empty.png")
    assert "1 empty, 1 truncated" in broken.message
    assert "empty" in broken.reasons[1]
    assert counts(result)["cat"] == (120, 30, None)
    assert not {"cat/bad.png", "dog/empty.png"} & {*names(result.require_dataset().train)}


def test_case_17_more_than_a_hundredth_is_refused_unless_allowed() -> None:
    make_two_classes(count=50)
    put("d/cat/bad.png", truncated_png(1))
    assert dataset().classes == ("cat", "dog")  # 1 of 101 is under 1 %
    put("d/cat/bad2.png", truncated_png(2))
    error = get_error()
    assert "2 of 102 images" in error.message
    assert "--allow-bad" in error.hint
    assert len(dataset(allow_bad=True).train.paths) == 80


def test_case_17_more_than_a_tenth_of_a_class_is_refused() -> None:
    fill("d/cat", 8)
    fill("d/dog", 150)
    put("d/cat/bad.png", truncated_png(1))
    error = get_error()
    assert kinds(error.scan, "error") == ["broken_files"]
    assert "over 10 % of 'cat'" in error.message


def test_case_17_class_without_a_good_image_is_refused_in_any_case() -> None:
    make_two_classes()
    put("d/owl/1.png", truncated_png(1))
    error = get_error(allow_bad=True)
    assert kinds(error.scan, "error") == ["no_good_images"]
    assert "'owl'" in error.message


def test_case_18_files_of_validation_that_fail_are_counted_not_dropped() -> None:
    make_splits(count=100)
    for number in range(3):
        put(f"d/val/dog/bad{number}.png", truncated_png(number))
    result = scan(Path("d"))
    val = result.require_dataset().val
    assert val.failed.tolist() == [1, 1, 1]
    assert val.count(2).tolist() == [100, 100]
    assert result.require_dataset().train.failed.tolist() == []
    assert get_finding(result, "broken_files").level == "warning"


def test_case_19_images_are_found_by_content_and_skipped_files_reported() -> None:
    make_two_classes()
    for name in ("photo", "photo.data", "photo.txt", "photo.JPG"):
        put(f"d/cat/{name}")
    put("d/cat/notes.txt", b"hello")
    put("d/dog/labels.json", b"{}")
    result = scan(Path("d"))
    assert counts(result)["cat"][:2] == (11, 3)
    skipped = get_finding(result, "not_images")
    assert (skipped.level, skipped.count) == ("note", 2)
    assert skipped.paths == ("d/cat/notes.txt", "d/dog/labels.json")


@pytest.mark.linux
def test_case_20_linked_class_and_files_are_followed_once() -> None:
    fill("elsewhere/owls")
    make_two_classes()
    Path("d/owl").symlink_to("../elsewhere/owls")
    single = put("elsewhere/one.png")
    Path("d/cat/x.png").symlink_to(single.absolute())
    Path("d/cat/y.png").symlink_to(single.absolute())
    Path("d/cat/again.png").symlink_to("0.png")
    result = scan(Path("d"))
    assert counts(result)["owl"] == (8, 2, None)
    assert sum(counts(result)["cat"][:2]) == 11
    assert "copies" not in kinds(result, "note")


@pytest.mark.linux
@pytest.mark.timeout(20)
def test_case_21_loops_of_links_end_with_a_warning() -> None:
    make_two_classes()
    Path("d/cat/up").symlink_to("..")
    Path("d/cat/here").symlink_to(".")
    Path("d/dog/far").symlink_to(Path().absolute())
    Path("d/again").symlink_to(".")
    result = scan(Path("d"))
    assert counts(result) == {"cat": (8, 2, None), "dog": (8, 2, None)}
    assert get_finding(result, "link_loop").count == 4
    assert get_finding(result, "link_loop").level == "warning"
    assert "label_conflict" not in kinds(result)


@pytest.mark.linux
def test_case_22_link_into_another_class_is_a_label_conflict() -> None:
    make_two_classes()
    Path("d/dog/x.png").symlink_to("../cat/3.png")
    result = scan(Path("d"))
    conflict = get_finding(result, "label_conflict")
    assert (conflict.level, conflict.count) == ("warning", 2)
    assert set(conflict.paths) == {"d/cat/3.png", "d/dog/x.png"}
    assert sum(counts(result)["cat"][:2]) == 9
    assert sum(counts(result)["dog"][:2]) == 10


@pytest.mark.linux
@pytest.mark.timeout(20)
def test_case_23_special_files_are_reported_and_never_opened() -> None:
    make_two_classes(count=100)
    os.mkfifo("d/cat/fifo.png")
    os.mkfifo("d/cat/nameless")
    Path("d/cat/folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("d/cat/socket.png")
    Path("d/cat/device.png").symlink_to("/dev/zero")
    Path("d/cat/dangling.png").symlink_to("nowhere.png")
    result = scan(Path("d"), DatasetOptions(allow_bad=True))
    broken = get_finding(result, "broken_files")
    assert broken.count == 5
    assert "1 missing, 4 not_a_file" in broken.message
    assert sum(counts(result)["cat"][:2]) == 100


@pytest.mark.linux
@pytest.mark.skipif(getattr(os, "getuid", int)() == 0, reason="root reads everything")
def test_case_23_unreadable_file_is_reported() -> None:
    make_two_classes(count=100)
    Path("d/cat/0.png").chmod(0)
    assert "1 unreadable" in get_finding(scan(Path("d")), "broken_files").message


class ProgressRecorder:
    """Records progress; a note fails the test."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int | None]] = []

    def note(self, text: str) -> None:
        raise AssertionError(text)

    def progress(self, what: str, done: int, total: int | None, unit: str = "") -> None:
        self.steps.append((what, done, total))


def test_case_24_many_files_are_scanned_with_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2000):
        put(f"d/{number % 100:02}/{number}.png", png(number, px=4))
    monkeypatch.setattr(inspect_files, "SECONDS_BETWEEN_REPORTS", 0.02)
    progress = ProgressRecorder()
    result = scan(Path("d"), reporter=progress)
    assert counts(result)["42"] == (16, 4, None)
    assert progress.steps[-1] == ("Scanning images", 2000, 2000)
    assert 2 <= len(progress.steps) < 1000
    done = [step for _, step, _ in progress.steps]
    assert done == sorted(done)
    assert len(pickle.dumps(result.require_dataset().train.paths)) < 1600 * 30


def test_case_25_imbalance_suggests_balancing() -> None:
    fill("d/train/cat", 50)
    fill("d/train/dog", 5)
    make_two_classes("d/val")
    result = scan(Path("d"))
    warning = get_finding(result, "imbalance")
    assert "'cat' has 50 training images" in warning.message
    assert "'dog' has 5" in warning.message
    assert "--balance" in warning.hint
    put("d/train/dog/more.png")
    assert "imbalance" not in kinds(scan(Path("d")))


def test_case_26_same_bytes_in_two_classes_are_excluded_from_both() -> None:
    make_splits()
    data = Path("d/train/cat/1.png").read_bytes()
    put("d/train/dog/copy.png", data)
    put("d/val/dog/copy.png", data)
    result = scan(Path("d"))
    conflict = get_finding(result, "label_conflict")
    assert conflict.count == 3
    assert set(conflict.paths) == {
        "d/train/cat/1.png",
        "d/train/dog/copy.png",
        "d/val/dog/copy.png",
    }
    assert counts(result) == {"cat": (9, 10, None), "dog": (10, 10, None)}


def test_case_26_copies_within_a_class_are_reported_and_kept() -> None:
    make_splits()
    put("d/train/cat/copy.png", Path("d/train/cat/1.png").read_bytes())
    result = scan(Path("d"))
    assert get_finding(result, "copies").count == 1
    assert get_finding(result, "copies").paths == ("d/train/cat/copy.png",)
    assert counts(result)["cat"] == (11, 10, None)


def test_case_27_same_image_in_train_and_val_is_refused_unless_allowed() -> None:
    make_splits()
    make_two_classes("d/test")
    for split in ("val", "test"):
        put(f"d/{split}/cat/copy.png", Path("d/train/cat/1.png").read_bytes())
    error = get_error()
    assert kinds(error.scan, "error") == ["leak", "leak"]
    assert "d/train/cat/1.png" in error.message
    assert "d/test/cat/copy.png" in error.message
    assert error.message.count("--allow-leak") == 2
    allowed = scan(Path("d"), DatasetOptions(allow_leak=True))
    assert allowed.require_dataset().val.count(2).tolist() == [11, 10]
    assert {one.level for one in allowed.findings if one.kind == "leak"} == {"warning"}


def put_image(path: str, seed: int, px: int = 200, **options: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_image(Path(path), seed, (px, px * 3 // 4), **options)


def test_case_27_near_copies_in_train_and_val_are_a_warning() -> None:
    for seed in range(12):
        put_image(f"d/train/{'ab'[seed % 2]}/{seed}.png", seed)
        put_image(f"d/val/{'ab'[seed % 2]}/{seed}.png", 100 + seed)
    assert "near_leak" not in kinds(scan(Path("d")))
    put_image("d/val/a/again.jpg", 4, px=100, quality=60)
    result = scan(Path("d"))
    near = get_finding(result, "near_leak")
    assert (near.level, near.count) == ("warning", 1)
    assert near.paths == ("d/train/a/4.png", "d/val/a/again.jpg")
    assert result.dataset is not None


@pytest.mark.parametrize("seed", range(5))
def test_case_27_automatic_split_keeps_copies_on_one_side(seed: int) -> None:
    for number in range(10):
        name = f"d/{'ab'[number % 2]}/{number}"
        put_image(f"{name}.png", number)
        put_image(f"{name}.jpg", number, px=100, quality=70)
        shutil.copy(f"{name}.png", f"{name}_copy.png")
    result = scan(Path("d"), seed=seed)
    data = result.require_dataset()
    sides = [{Path(p).stem.removesuffix("_copy") for p in s.paths} for s in (data.train, data.val)]
    assert not sides[0] & sides[1]
    assert data.val.count(2).tolist() == [3, 3]
    assert not any(one.kind == "near_leak" for one in result.findings)


@pytest.mark.parametrize("px", [8, 28])
def test_case_27_digits_are_not_near_copies(px: int) -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = Path(f"d/{'train' if number % 2 else 'val'}/{label}")
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * 15.9).astype(np.uint8))
        image.resize((px, px), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    near = [one.count for one in scan(Path("d")).findings if one.kind == "near_leak"]
    assert sum(near) <= 2


def test_case_28_changed_files_are_counted() -> None:
    make_splits()
    before = dataset()
    Path("d/train/cat/0.png").unlink()
    put("d/val/dog/new.png")
    put("d/train/dog/3.png")
    after = dataset()
    save_split(before, Path())
    split = load_split(Path())
    assert split is not None
    assert split.count_changes(after) == (2, 2)
    assert split.count_changes(before) == (0, 0)
    assert before.fingerprint != after.fingerprint


def test_case_28_class_that_is_renamed_changes_the_fingerprint() -> None:
    make_splits()
    before = dataset()
    for split in ("train", "val"):
        Path(f"d/{split}/cat").rename(f"d/{split}/cow")
    after = dataset()
    assert after.classes != before.classes
    assert after.fingerprint != before.fingerprint


def test_case_28_moved_dataset_is_the_same_dataset() -> None:
    make_splits()
    before = dataset()
    Path("d").rename("e")
    assert dataset("e").fingerprint == before.fingerprint


# --- all errors, limits and sizes -----------------------------------------------------------


def test_val_fraction_is_between_0_and_1() -> None:
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="Invalid val_fraction"):
            dataset(val_fraction=share)


def test_all_errors_are_reported_together() -> None:
    make_splits()
    Path("d/train/fox").mkdir()
    fill("d/val/owl")
    put("d/train/cat/bad.png", truncated_png(1))
    put("d/val/dog/leak.png", Path("d/train/dog/1.png").read_bytes())
    error = get_error()
    expected = ["empty_class", "unknown_in_val", "broken_files", "leak"]
    assert kinds(error.scan, "error") == expected
    for words in ("'fox'", "'owl'", "bad.png", "leak.png"):
        assert words in error.message
    assert pickle.loads(pickle.dumps(error)).message == error.message


def test_max_pixels_is_respected() -> None:
    make_two_classes()
    result = scan(Path("d"), images=ImageOptions(max_pixels=1000))
    assert "20 too_large" in get_finding(result, "broken_files").message


def test_mixed_sizes_are_measured_in_the_files() -> None:
    make_splits()
    put_image("d/train/cat/large.jpg", 1, px=2000)
    sizes = get_finding(scan(Path("d")), "mixed_sizes")
    assert "32 to 1,500 px (median 32 px)" in sizes.message


# --- side effects ------------------------------------------------------------------------------


def tree_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        digest.update(f"{path} {status.st_mode} {status.st_mtime_ns} {status.st_size}\n".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.mark.linux
def test_scan_changes_nothing() -> None:
    make_splits()
    put("d/train/cat/bad.png", truncated_png(1))
    Path("d/train/cat/up").symlink_to("..")
    before = tree_digest(Path("d"))
    scan(Path("d"))
    assert tree_digest(Path("d")) == before


def test_scan_imports_neither_torch_nor_rich() -> None:
    make_two_classes()
    code = (
        "import sys; from pathlib import Path; "
        "from effnet_cli.datasets.scan import scan; "
        "scan(Path('d')).require_dataset(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "torchvision", "typer", "rich"} & set(done.stdout.split())
    assert "effnet_cli.datasets.scan" in done.stdout


def test_number_of_workers_changes_nothing() -> None:
    make_two_classes()
    one, many = (scan(Path("d"), workers=workers).require_dataset() for workers in (1, 5))
    assert one.fingerprint == many.fingerprint
    assert one.val.paths == many.val.paths
