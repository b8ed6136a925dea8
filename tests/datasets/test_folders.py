"""Datasets as folders: layouts, and what is not a dataset."""

import os
import shutil
from pathlib import Path

import pytest

from dataset_files import counts, get_error, kinds, make_two_classes, put
from effnet_cli.datasets.scan import scan
from effnet_cli.options import DatasetOptions


def test_val_can_be_outside_or_beside_the_classes() -> None:
    make_two_classes()
    make_two_classes("d/holdout", 4)
    make_two_classes("other", 3)
    assert counts(scan(Path("d"), DatasetOptions(val=Path("holdout"))))["cat"] == (10, 4, None)
    shutil.rmtree("d/holdout")
    assert counts(scan(Path("d"), DatasetOptions(val=Path("other"))))["cat"] == (10, 3, None)
    assert kinds(get_error(val=Path("nothing")).scan) == ["no_val_folder"]


def test_validation_without_train_is_refused() -> None:
    make_two_classes("d/val")
    make_two_classes("d/test")
    assert kinds(get_error().scan) == ["no_train"]


def test_empty_validation_is_refused() -> None:
    make_two_classes("d/train")
    Path("d/val").mkdir()
    assert kinds(get_error().scan, "error") == ["empty_val"]


@pytest.mark.linux
@pytest.mark.parametrize("root", ["nothing", "empty", "image.png", "x" * 300, "fifo", "a.zip"])
@pytest.mark.timeout(20)
def test_other_files_are_refused_by_name(root: str) -> None:
    Path("empty").mkdir()
    put("image.png")
    put("a.zip", b"PK\3\4")
    os.mkfifo("fifo")
    error = get_error(root)
    assert root in error.message
    assert error.hint
    assert error.scan.to_json()["ok"] is False
