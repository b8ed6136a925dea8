"""A new dataset format takes one function and one row."""

from pathlib import Path

import pytest

from dataset_files import counts, make_splits, put
from effnet_cli.datasets import formats
from effnet_cli.datasets.labelled import load_labelled
from effnet_cli.datasets.listing import LabelledFile, Source
from effnet_cli.datasets.scan import scan
from effnet_cli.datasets.split import TRAIN, VAL
from effnet_cli.options import DatasetOptions


class ListSource(Source):
    """A dataset in a text file: a split, a class and a path on each line."""

    lines: list[list[str]]

    def read(self, split: int) -> tuple[list[str], list[LabelledFile]]:
        rows = [line for line in self.lines if line[0] == str(split)]
        return sorted({row[1] for row in rows}), [LabelledFile(row[2], row[1]) for row in rows]


def open_list(file: Path, options: DatasetOptions | None) -> ListSource:
    source = ListSource(layout="a list", has_splits=True, splits={TRAIN, VAL})
    source.lines = [line.split() for line in file.read_text().splitlines()]
    return source


def test_scan_and_evaluation_read_a_format_of_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    make_splits(count=10)
    paths = sorted(Path("d").glob("*/*/*"))
    lines = [f"{int(p.parts[1] == 'val')} {p.parts[2]} {p}" for p in paths]
    file = put("data.list", "\n".join(lines).encode())
    row = (lambda root: root.suffix == ".list", open_list)
    monkeypatch.setattr(formats, "FORMATS", (row, *formats.FORMATS))
    result = scan(file)
    assert result.layout == "a list"
    assert counts(result) == {"cat": (10, 10, None), "dog": (10, 10, None)}
    data = load_labelled(file)
    assert (data.split, data.classes, len(data.labels)) == ("val", ("cat", "dog"), 20)
