"""Sorting images into a folder per class: nothing is replaced or lost."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.options import OrganizeOptions
from effnet_cli.predict.organize import Organizer, check_folder, folder_name, write_new_file
from effnet_cli.predict.records import ErrorInfo, ImageResult, PlacedFile, Prediction
from effnet_cli.system.errors import EffnetError, UsageError
from helpers import RecordingReporter, Run, save_image


def placed(path: Path, options: OrganizeOptions, label: str = "cat") -> PlacedFile:
    placement = Organizer(options).place(ImageResult(str(path), (Prediction(1, 0, label, 0.9),)))
    assert placement is not None
    return placement


def image(folder: Path, name: str, content: bytes = b"bytes") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.fixture
def options(tmp_path: Path) -> OrganizeOptions:
    return OrganizeOptions(tmp_path / "sorted")


def test_a_copy_lies_in_the_folder_of_its_class(tmp_path: Path, options: OrganizeOptions) -> None:
    path = image(tmp_path, "a.jpg")
    row = placed(path, options)
    assert row.path == str(tmp_path / "sorted" / "cat" / "a.jpg")
    assert not row.is_moved
    assert Path(row.path).read_bytes() == path.read_bytes()


def test_no_file_is_replaced_and_no_copy_made_twice(
    tmp_path: Path, options: OrganizeOptions
) -> None:
    first = placed(image(tmp_path / "x", "a.jpg", b"one"), options)
    second = placed(image(tmp_path / "y", "a.jpg", b"two"), options)
    again = placed(image(tmp_path / "z", "a.jpg", b"one"), options)
    third = placed(image(tmp_path / "y", "a.jpg", b"two"), options)
    assert (first.path, second.path) == (again.path, third.path)
    lying = {path.name: path.read_bytes() for path in (options.folder / "cat").iterdir()}
    assert lying == {"a.jpg": b"one", "a (2).jpg": b"two"}


@pytest.mark.linux
def test_moving_happens_only_when_asked_and_loses_nothing(tmp_path: Path) -> None:
    moves = OrganizeOptions(tmp_path / "sorted", moves=True)
    path = image(tmp_path, "a.jpg", b"one")
    row = placed(path, moves)
    assert row.is_moved and not path.exists()
    assert Path(row.path).read_bytes() == b"one"
    link = tmp_path / "link.jpg"
    link.symlink_to(image(tmp_path, "real.jpg", b"real"))
    placed(link, moves)
    assert (tmp_path / "sorted" / "cat" / "link.jpg").read_bytes() == b"real"
    assert not link.is_symlink() and (tmp_path / "real.jpg").read_bytes() == b"real"


def test_moving_to_where_it_is_keeps_it(tmp_path: Path) -> None:
    path = image(tmp_path / "cat", "a.jpg", b"one")
    row = placed(path, OrganizeOptions(tmp_path, moves=True))
    assert row.path == str(path)
    assert path.read_bytes() == b"one"


def test_an_image_that_cannot_be_deleted_is_not_copied_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image(tmp_path / "source", "a.jpg")
    unlink = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    organizer = Organizer(OrganizeOptions(tmp_path / "sorted", moves=True))
    assert organizer.place(ImageResult(str(path), (Prediction(1, 0, "cat", 0.9),))) is None
    assert (organizer.failed, path.exists()) == (1, True)
    assert not list((tmp_path / "sorted" / "cat").iterdir())


def test_a_file_system_without_links_replaces_nothing_either(
    tmp_path: Path, options: OrganizeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    placed(image(tmp_path / "x", "a.jpg", b"one"), options)
    placed(image(tmp_path / "y", "a.jpg", b"two"), options)
    lying = {path.name: path.read_bytes() for path in (options.folder / "cat").iterdir()}
    assert lying == {"a.jpg": b"one", "a (2).jpg": b"two"}


def test_what_is_no_file_stays_and_is_told(tmp_path: Path, options: OrganizeOptions) -> None:
    recorder = RecordingReporter()
    organizer = Organizer(options, recorder.note)
    fault = ImageResult("broken.jpg", error=ErrorInfo("empty", "The file is empty."))
    address = ImageResult("https://example.org/cat.jpg", (Prediction(1, 0, "cat", 0.9),))
    assert [organizer.place(fault), organizer.place(address)] == [None, None]
    assert organizer.failed == 1
    assert "Cannot copy https://example.org/cat.jpg: not a local file." in recorder.text


def test_a_full_disk_ends_it(
    tmp_path: Path, options: OrganizeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = image(tmp_path, "a.jpg")
    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(EffnetError, match="No space left"):
        placed(path, options)
    assert path.exists()


def test_unknown_images_and_one_folder_for_all(tmp_path: Path) -> None:
    path = image(tmp_path, "a.jpg")
    sorted_ = OrganizeOptions(tmp_path / "s")
    assert placed(path, sorted_, "unknown").path == f"{tmp_path}/s/unknown/a.jpg"
    together = OrganizeOptions(tmp_path / "t", group_by="none")
    assert placed(path, together).path == f"{tmp_path}/t/a.jpg"


def test_failed_images_stay_where_they_are(tmp_path: Path) -> None:
    path = image(tmp_path, "a.jpg")
    row = ImageResult(str(path), error=ErrorInfo("truncated", "It is cut off."))
    organizer = Organizer(OrganizeOptions(tmp_path / "s", moves=True))
    assert organizer.place(row) is None
    assert path.exists() and not (tmp_path / "s").exists()
    assert organizer.failed == 0


def test_it_is_told_what_was_there_already(tmp_path: Path, options: OrganizeOptions) -> None:
    rows = [
        ImageResult(str(image(tmp_path, name)), (Prediction(1, 0, "cat", 0.9),))
        for name in ("a.jpg", "b.jpg")
    ]
    placed(tmp_path / "a.jpg", options)
    organizer = Organizer(options)
    assert [one is not None for one in map(organizer.place, rows)] == [True, True]
    assert "Copied 1 image to" in organizer.summarize()
    assert "1 already there" in organizer.summarize()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--copy-to .* is not a folder"):
        check_folder(image(tmp_path, "a.jpg"), "--copy-to", [])


def test_a_folder_among_the_inputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for folder in (tmp_path / "photos" / "sorted", tmp_path / "photos"):
        with pytest.raises(UsageError, match="is inside the input"):
            check_folder(folder, "--copy-to", [str(tmp_path / "photos")])


@pytest.mark.linux
@given(st.text(st.characters(codec="utf-8"), max_size=300))
def test_any_class_name_is_one_folder(label: str) -> None:
    name = folder_name(label)
    assert name and name not in (".", "..")
    assert not set(name) & {"/", "\\", "\0"}
    assert not name.startswith(".")
    assert len(os.fsencode(name)) <= 200


@pytest.mark.parametrize("name", ["a.jpg", "noending", ".hidden", "a.b.c"])
def test_names_get_numbers_until_one_is_free(tmp_path: Path, name: str) -> None:
    files = {
        write_new_file(tmp_path, name, lambda part, n=number: part.write_text(str(n)))[0]
        for number in range(4)
    }
    assert len(files) == 4
    assert sorted(path.read_text() for path in files) == ["0", "1", "2", "3"]
    assert set(tmp_path.iterdir()) == files


def test_the_command_copies_and_says_where(run: Run, tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", seed=1)
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    done = run("predict", "a.png", "cut.jpg", "--copy-to", "s", "-f", "json", cwd=tmp_path)
    good, bad = json.loads(done.stdout)
    label = good["predictions"][0]["label"]
    assert good["copied_to"] == f"s/{label}/a.png"
    assert (tmp_path / good["copied_to"]).read_bytes() == (tmp_path / "a.png").read_bytes()
    assert "copied_to" not in bad
    assert b"Copied 1 image to 's'." in done.stderr
    options = ("--copy-to", "t", "--move", "--group-by", "none", "-f", "json")
    moved = run("predict", "a.png", *options, cwd=tmp_path)
    assert json.loads(moved.stdout)[0]["moved_to"] == "t/a.png"
    assert not (tmp_path / "a.png").exists()


@pytest.mark.linux
def test_a_run_that_stops_says_what_was_moved(run: Run, tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", seed=1)
    command = ("predict", "a.png", "@/dev/stdin", "--copy-to", "s", "--move")
    done = run(*command, stdin="b.png".encode("utf-16"), cwd=tmp_path)
    assert done.returncode == 2
    assert b"Moved 1 image to 's'." in done.stderr
    assert b"must be UTF-8, not UTF-16" in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_a_file_that_is_named_twice_is_moved_once(run: Run, tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", seed=1)
    done = run("predict", "a.png", "a.png", "--copy-to", "s", "--move", cwd=tmp_path)
    assert done.returncode == 1
    # the second one may be opened before or after the first one is moved
    is_opened = b"1 failed: 1 missing" not in done.stderr
    why = b"Cannot move a.png: it is no longer there; another input may have" in done.stderr
    assert why == is_opened
    assert b"Moved 1 image to 's'" in done.stderr


@pytest.mark.linux
def test_a_link_to_a_moved_image_is_no_failure(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for number in range(20):
        save_image(tmp_path / "p" / f"{number}.png", seed=number)
    (tmp_path / "p" / "z.png").symlink_to("0.png")
    done = run("predict", "p", "--copy-to", "s", "--move", cwd=tmp_path)
    assert done.returncode == 0
    assert b"skipped 1 duplicate link" in done.stderr
    assert b"Moved 20 images to 's'." in done.stderr


def test_classes_that_differ_in_forbidden_characters_have_their_own_folders() -> None:
    labels = ["a/b", "a_b", "a|b", "a\\b", ".a", "_a", "a.", "a"]
    assert len({folder_name(label) for label in labels}) == len(labels)
    assert folder_name("a_b") == "a_b"
