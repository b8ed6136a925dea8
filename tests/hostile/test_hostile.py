"""Predictions and errors for a corpus of odd and hostile inputs."""

import csv
import io
import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

import corpus
from bad import Bad
from corpus import Input
from effnet_cli.images.finder import Finder
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.variants import VARIANTS
from effnet_cli.options import ErrorKind, ImageOptions
from effnet_cli.predict import formats
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.records import ResultRow
from effnet_cli.system.errors import ImageError
from good import ODD_NAMES, Good
from terminal import COMMAND, in_a_terminal
from written import encoded

Row = dict[str, Any]

# What a mean difference of one level (of 255) moves a probability by, at most.
CHANCE_OF_LEVEL = 0.03
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069\ufeff]")
INTERNAL_WORDS = r"object at 0x|_io\.|Error\(|corrupt \(-?\d+\)|\(\)|b'|literal for"
GROUPS = [
    "orientation",
    "broken EXIF",
    "broken notes",
    "deep gray",
    "transparency",
    "clear colour",
    "inks",
    "colours",
    "gray",
    "palette",
    "two colours",
    "exact colours",
    "frames",
    "profiles",
    "shapes",
    "structure",
    "wrong suffix",
    "odd name",
]
BAD_GROUPS = ["cut", "signature", "damaged", "other", "bomb", "path"]

# as the command does
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus.write(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def of_twins(session_folder: Path) -> dict[bytes, Row]:
    """The predictions of the plain images, one at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFNET_CACHE", str(session_folder / "cache"))
        classifier = Classifier("lite0")
        return {
            data: formats.to_row(ResultRow(classifier(data)))
            for data in {twin_of(one) for one in good_inputs()}
        }


@pytest.fixture(scope="module")
def whole_run(folder: Path, session_folder: Path) -> "subprocess.CompletedProcess[bytes]":
    """One run of the command over the whole corpus."""
    names = [as_argument(one.name) for one in corpus.inputs()]
    cache = str(session_folder / "cache")
    return run(["--format", "json", "--", *names], folder, LC_ALL="C", EFFNET_CACHE=cache)


@pytest.fixture(scope="module")
def rows(whole_run: "subprocess.CompletedProcess[bytes]") -> dict[bytes, Row]:
    """The rows of that run by name."""
    got = json.loads(whole_run.stdout.decode("utf-8"))
    return {one.name: row for one, row in zip(corpus.inputs(), got, strict=True)}


def good_inputs(group: str | None = None) -> list[Input]:
    return [one for one in corpus.inputs() if one.is_good and group in (None, one.case.group)]


def bad_inputs(group: str | None = None) -> list[Input]:
    return [one for one in corpus.inputs() if not one.is_good and group in (None, one.case.group)]


def twin_of(one: Input) -> bytes:
    assert isinstance(one.case, Good)
    return encoded(one.case.twin.convert("RGB"), "PNG", compress_level=1)


def test_corpus_has_every_group_and_every_error_kind() -> None:
    assert len(corpus.inputs()) > 600
    assert {one.case.group for one in good_inputs()} == set(GROUPS)
    assert {one.case.group for one in bad_inputs()} == set(BAD_GROUPS)
    kinds = {kind for one in bad_inputs() for kind in one.case.kinds}
    elsewhere = {"timeout", "crashed"} | ({"unreadable"} if os.geteuid() == 0 else set())
    assert kinds == set(get_args(ErrorKind)) - elsewhere


# --- one by one --------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
def test_odd_image_looks_like_its_plain_twin(group: str, folder: Path) -> None:
    loader = ImageLoader(VARIANTS["lite0"].preprocessing, ImageOptions(exact_decode=True))
    wrong = {}
    for one in good_inputs(group):
        case = one.case
        image = loader.open(os.fsdecode(bytes(folder) + b"/" + one.name))
        if image.size != case.twin.size:
            wrong[one.name] = image.size
        elif (difference := mean_difference(image, case.twin)) > case.levels:
            wrong[one.name] = difference
    assert not wrong


def mean_difference(image: Image.Image, twin: Image.Image) -> float:
    """Return the mean difference of all values, 0 to 255."""
    values = [np.asarray(one.convert("RGB")).astype(np.int16) for one in (image, twin)]
    return float(np.abs(values[0] - values[1]).mean())


@pytest.mark.parametrize("group", GROUPS)
def test_odd_image_is_predicted_like_its_plain_twin(
    group: str, rows: dict[bytes, Row], of_twins: dict[bytes, Row]
) -> None:
    wrong = {}
    for one in good_inputs(group):
        row, plain = rows[one.name], of_twins[twin_of(one)]
        if row["status"] != "ok":
            wrong[one.name] = row
        elif not is_close(row, plain, one.case.levels * CHANCE_OF_LEVEL):
            wrong[one.name] = (row["predictions"][0], plain["predictions"][0])
    assert not wrong


def is_close(row: Row, plain: Row, tolerance: float) -> bool:
    """Return whether two rows agree: exactly or, for lossy formats, with nearly the same top
    probability, and the same top class if that is confident.
    """
    if tolerance == 0:
        return row["predictions"] == plain["predictions"]
    first, best = plain["predictions"][0], row["predictions"][0]
    found = {a["index"]: a["probability"] for a in row["predictions"]}.get(first["index"], 0.0)
    is_sure = first["probability"] > 0.5 + tolerance
    is_same = best["index"] == first["index"] or not is_sure
    return is_same and abs(found - first["probability"]) <= tolerance + 1e-6


@pytest.mark.parametrize("group", BAD_GROUPS)
def test_bad_input_has_its_kind_and_message(group: str, rows: dict[bytes, Row]) -> None:
    wrong = {}
    for one in bad_inputs(group):
        assert isinstance(one.case, Bad)
        error = rows[one.name].get("error", {"kind": "", "message": ""})
        if error["kind"] not in one.case.kinds:
            wrong[one.name] = (error, one.case.kinds)
        elif one.case.words.lower() not in error["message"].lower():
            wrong[one.name] = (error, one.case.words)
        elif re.search(INTERNAL_WORDS, error["message"]):
            wrong[one.name] = (error, "words for a person")
    assert not wrong


def test_bytes_give_the_same_as_the_file(rows: dict[bytes, Row]) -> None:
    loader = ImageLoader(VARIANTS["lite0"].preprocessing)
    wrong = {}
    for one in bad_inputs():
        if one.name.endswith(b".tga") or not isinstance(one.case.made, bytes):
            continue  # a TGA is known by its name
        error = rows[one.name].get("error")
        try:
            loader.load(one.case.made)
        except ImageError as alone:
            if error is None or error["kind"] != alone.kind:
                wrong[one.name] = (alone, error)
        else:
            wrong[one.name] = "opened"
    assert not wrong


# --- all in one run ----------------------------------------------------------------------------


def run(
    arguments: list[bytes | str], folder: Path, **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*COMMAND, "predict", "--offline", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=100,
        check=False,
    )


def as_argument(name: bytes) -> bytes:
    return b"./-" if name == b"-" else name  # alone it would be stdin


def test_one_run_has_a_row_for_each_input_in_order(
    whole_run: "subprocess.CompletedProcess[bytes]",
) -> None:
    assert b"Traceback" not in whole_run.stderr
    assert whole_run.returncode == 1
    got = json.loads(whole_run.stdout.decode("utf-8"))
    names = [as_argument(one.name) for one in corpus.inputs()]
    assert [os.fsencode(row["path"]) for row in got] == names
    kinds = Counter(row["error"]["kind"] for row in got if row["status"] == "error")
    assert set(kinds) <= set(get_args(ErrorKind))
    for kind, number in kinds.items():
        assert f"{number} {kind}".encode() in whole_run.stderr


def odd_names() -> list[bytes]:
    return [as_argument(name) for name in ODD_NAMES]


def test_csv_has_every_name_and_no_formula(folder: Path) -> None:
    done = run(["--format", "csv", "--top-k", "1", "--", *odd_names()], folder)
    assert done.returncode == 0
    text = done.stdout.decode("utf-8", "surrogateescape")
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert tuple(header) == formats.CSV_COLUMNS
    assert [os.fsencode(line[0].removeprefix("'")) for line in lines] == [
        name.removeprefix(b"'") for name in odd_names()
    ]
    assert not [line for line in lines if line[0][:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert {line[1] for line in lines} == {"ok"}


def test_terminal_receives_no_control_characters(folder: Path) -> None:
    text = in_a_terminal(
        *("predict", "--top-k", "1", "--", *odd_names(), "no\x1b[31m\u202esuch"),
        cwd=folder,
        env={"COLUMNS": "400"},
        status=1,
    )
    own = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r\n", "", text)
    assert not UNSAFE.findall(own.replace("\r", "").replace("\n", ""))
    assert "\x1b]0;" not in text
    assert text.count("\\x1b]0;title\\x07") >= 1
    assert "[bold][link=x].png" in text


def test_finder_finds_every_image_once(folder: Path) -> None:
    found = Counter(os.fsencode(f.name) for f in Finder([str(folder)]))
    assert set(found.values()) == {1}
    missed = {
        one.name
        for one in good_inputs()
        if bytes(folder) + b"/" + one.name not in found and not one.name.startswith(b".")
    }
    assert not missed
