"""Images into a folder for each class: nothing is replaced, nothing is lost."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.options import OrganizeOptions
from effnet_cli.predict.organize import Filing, folder_name, new_file
from effnet_cli.predict.records import ErrorInfo, ImageResult, Prediction
from effnet_cli.system.errors import EffnetError, UsageError
from helpers import RecordingReporter, Run, save_image


def filed(path: Path, options: OrganizeOptions, label: str = "cat") -> ImageResult:
    row = ImageResult(str(path), (Prediction(1, 0, label, 0.9),))
    (result,) = Filing(options, [str(path)]).watch([row])
    return result


def image(folder: Path, name: str, content: bytes = b"bytes") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.fixture
def options(tmp_path: Path) -> OrganizeOptions:
    return OrganizeOptions(tmp_path / "sorted")


def test_a_copy_lies_in_the_folder_of_its_class(tmp_path: Path, options: OrganizeOptions) -> None:
    path = image(tmp_path, "a.jpg")
    row = filed(path, options)
    assert row.filed == str(tmp_path / "sorted" / "cat" / "a.jpg")
    assert not row.is_moved
    assert Path(row.filed).read_bytes() == path.read_bytes()


def test_no_file_is_replaced_and_no_copy_made_twice(
    tmp_path: Path, options: OrganizeOptions
) -> None:
    first = filed(image(tmp_path / "x", "a.jpg", b"one"), options)
    second = filed(image(tmp_path / "y", "a.jpg", b"two"), options)
    again = filed(image(tmp_path / "z", "a.jpg", b"one"), options)
    third = filed(image(tmp_path / "y", "a.jpg", b"two"), options)
    assert (first.filed, second.filed) == (again.filed, third.filed)
    lying = {path.name: path.read_bytes() for path in (options.folder / "cat").iterdir()}
    assert lying == {"a.jpg": b"one", "a (2).jpg": b"two"}


def test_moving_happens_only_when_asked_and_loses_nothing(tmp_path: Path) -> None:
    moves = OrganizeOptions(tmp_path / "sorted", moves=True)
    path = image(tmp_path, "a.jpg", b"one")
    row = filed(path, moves)
    assert row.is_moved and not path.exists()
    assert Path(str(row.filed)).read_bytes() == b"one"
    link = tmp_path / "link.jpg"
    link.symlink_to(image(tmp_path, "real.jpg", b"real"))
    filed(link, moves)
    assert (tmp_path / "sorted" / "cat" / "link.jpg").read_bytes() == b"real"
    assert not link.is_symlink() and (tmp_path / "real.jpg").read_bytes() == b"real"


def test_moving_to_where_it_is_keeps_it(tmp_path: Path) -> None:
    path = image(tmp_path / "cat", "a.jpg", b"one")
    row = filed(path, OrganizeOptions(tmp_path, moves=True))
    assert row.filed == str(path)
    assert path.read_bytes() == b"one"


def test_a_file_system_without_links_replaces_nothing_either(
    tmp_path: Path, options: OrganizeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    filed(image(tmp_path / "x", "a.jpg", b"one"), options)
    filed(image(tmp_path / "y", "a.jpg", b"two"), options)
    lying = {path.name: path.read_bytes() for path in (options.folder / "cat").iterdir()}
    assert lying == {"a.jpg": b"one", "a (2).jpg": b"two"}


def test_what_is_no_file_stays_and_is_told(tmp_path: Path, options: OrganizeOptions) -> None:
    heard = RecordingReporter()
    filing = Filing(options, [], heard.note)
    fault = ImageResult("broken.jpg", error=ErrorInfo("empty", "The file is empty."))
    address = ImageResult("https://example.org/cat.jpg", (Prediction(1, 0, "cat", 0.9),))
    assert list(filing.watch([fault, address])) == [fault, address]
    assert filing.failed == 1
    assert "https://example.org/cat.jpg stays where it is" in heard.text


def test_a_full_disk_ends_it(
    tmp_path: Path, options: OrganizeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = image(tmp_path, "a.jpg")
    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(EffnetError, match="No space left"):
        filed(path, options)
    assert path.exists()


def test_unknown_images_and_one_folder_for_all(tmp_path: Path) -> None:
    path = image(tmp_path, "a.jpg")
    sorted_ = OrganizeOptions(tmp_path / "s")
    assert filed(path, sorted_, "unknown").filed == f"{tmp_path}/s/unknown/a.jpg"
    together = OrganizeOptions(tmp_path / "t", group_by="none")
    assert filed(path, together).filed == f"{tmp_path}/t/a.jpg"


def test_failed_images_stay_where_they_are(tmp_path: Path) -> None:
    path = image(tmp_path, "a.jpg")
    row = ImageResult(str(path), error=ErrorInfo("truncated", "It is cut off."))
    filing = Filing(OrganizeOptions(tmp_path / "s", moves=True), [str(path)])
    assert list(filing.watch([row])) == [row]
    assert path.exists() and not (tmp_path / "s").exists()
    assert filing.failed == 0


def test_it_is_told_what_was_there_already(tmp_path: Path, options: OrganizeOptions) -> None:
    rows = [
        ImageResult(str(image(tmp_path, name)), (Prediction(1, 0, "cat", 0.9),))
        for name in ("a.jpg", "b.jpg")
    ]
    filed(tmp_path / "a.jpg", options)
    filing = Filing(options, [])
    assert len(list(filing.watch(rows))) == 2
    assert "1 image is copied into" in filing.summary
    assert "1 had the same file there already" in filing.summary


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--copy-to .* is no folder"):
        Filing(OrganizeOptions(image(tmp_path, "a.jpg")), [])


def test_a_folder_among_the_inputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for folder in (tmp_path / "photos" / "sorted", tmp_path / "photos"):
        with pytest.raises(UsageError, match="lies in the input"):
            Filing(OrganizeOptions(folder), [str(tmp_path / "photos")])


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
        new_file(tmp_path, name, lambda part, n=number: part.write_text(str(n)))[0]
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
    assert b"1 image is copied into 's'." in done.stderr
    moved = run(
        "predict",
        "a.png",
        "--copy-to",
        "t",
        "--move",
        "--group-by",
        "none",
        "-f",
        "json",
        cwd=tmp_path,
    )
    assert json.loads(moved.stdout)[0]["moved_to"] == "t/a.png"
    assert not (tmp_path / "a.png").exists()
