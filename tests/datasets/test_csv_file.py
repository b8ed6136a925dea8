"""Datasets as CSV files."""

import csv
import io
import os
from pathlib import Path

import pytest

from dataset_files import (
    counts,
    dataset,
    fill,
    get_error,
    get_finding,
    kinds,
    make_two_classes,
    names,
)
from effnet_cli.datasets.scan import scan


def write_csv(*rows: tuple[str, ...], name: str = "d/list.csv", start: str = "") -> str:
    Path(name).parent.mkdir(exist_ok=True)
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    Path(name).write_bytes((start + text.getvalue()).encode(errors="surrogateescape"))
    return name


def make_rows(folder: str, *more: str) -> list[tuple[str, ...]]:
    return [(f"{folder}/{n}.png", folder.split("/")[-1], *more) for n in range(10)]


def test_csv_without_splits_is_split_like_the_folder() -> None:
    make_two_classes()
    rows = [*make_rows("cat"), *make_rows("dog")]
    listed = dataset(write_csv(("path", "label"), *rows))
    assert listed.classes == ("cat", "dog")
    assert names(listed.val) == names(dataset().val)
    reordered = dataset(write_csv(("path", "label"), *rows[::-1], name="d/reordered.csv"))
    assert reordered.fingerprint == listed.fingerprint
    assert reordered.train.paths == listed.train.paths


def test_csv_can_have_any_order_of_columns_and_a_byte_order_mark() -> None:
    make_two_classes()
    rows = [(label, "Train" if n < 7 else "dev", path, "x") for n in range(10)
            for label in ("cat", "dog") for path in [f"{label}/{n}.png"]]  # fmt: skip
    header = ("Label", "split", " Path", "extra")
    result = scan(Path(write_csv(header, *rows, start="\ufeff")))
    assert counts(result) == {"cat": (7, 3, None), "dog": (7, 3, None)}


@pytest.mark.linux
def test_csv_keeps_paths_of_any_bytes() -> None:
    folder = os.fsdecode(b"caf\xe9")
    fill(b"d/caf\xe9")
    fill("d/a,b\nc")
    rows = [(path, "café") for path, _ in make_rows(folder)] + make_rows("a,b\nc")
    data = dataset(write_csv(("path", "label"), *rows))
    assert data.classes == ("a,b\nc", "café")
    assert data.train.count(2).tolist() == [8, 8]


def test_labels_that_are_not_utf8_are_refused() -> None:
    make_two_classes()
    rows = [(path, os.fsdecode(b"caf\xe9")) for path, _ in make_rows("cat")] + make_rows("dog")
    finding = get_finding(scan(Path(write_csv(("path", "label"), *rows))), "bad_text")
    assert (finding.level, finding.count) == ("error", 10)
    assert "not valid UTF-8" in finding.message
    assert "\udce9" not in finding.message


def test_csv_row_without_a_file_is_a_broken_file() -> None:
    make_two_classes()
    rows = [*make_rows("cat"), *make_rows("dog"), ("cat/nothing.png", "cat")]
    error = get_error(write_csv(("path", "label"), *rows))
    assert get_finding(error.scan, "broken_files").paths == ("d/cat/nothing.png",)
    assert "1 missing" in error.message


def test_csv_errors_name_their_lines() -> None:
    make_two_classes()
    rows = [*make_rows("cat", "train"), *make_rows("dog", "train"), ("cat/1.png", "", "train"),
            ("cat/2.png", "cat", "holdout"), ("", "cat", "val")]  # fmt: skip
    error = get_error(write_csv(("path", "label", "split"), *rows))
    assert kinds(error.scan, "error") == ["unknown_split", "empty_label", "empty_path"]
    for words in ("line 22", "line 23 ('holdout')", "line 24"):
        assert words in error.message


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"path,label\n", "empty"),
        (b"a,b,c\nd,e,f\n", "missing_column"),
        (b"path,split\na,train\n", "missing_column"),
        (b'path,label\n"a,b\n', "bad_csv"),
        ("path,label\n".encode("utf-16"), "empty"),
        (b"\0path,label\n", "not_csv"),
        (b"label,pixel0,pixel1\n3,0,255\n", "pixels"),
    ],
)
def test_invalid_csv_is_refused(content: bytes, kind: str) -> None:
    Path("list.csv").write_bytes(content)
    assert kinds(get_error("list.csv").scan) == [kind]


def test_csv_lists_each_file_once_and_reports_conflicts() -> None:
    make_two_classes()
    rows = [*make_rows("cat"), *make_rows("dog"), ("./cat/1.png", "cat"), ("cat/2.png", "dog")]
    result = scan(Path(write_csv(("path", "label"), *rows)))
    assert get_finding(result, "listed_twice").count == 1
    assert get_finding(result, "label_conflict").count == 2
    assert sum(counts(result)["cat"][:2]) == 9
