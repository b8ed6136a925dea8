"""Further outputs of a run: pages, overlays, previews, several files."""

import csv
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_cli.images.finder import ImageInput
from effnet_cli.options import ImageOptions
from effnet_cli.predict.classifier import Classifier
from helpers import SAMPLES, save_image
from terminal import COMMAND, in_a_terminal
from training import CommandResult

Effnet = Callable[..., CommandResult]
CAT, COFFEE = SAMPLES / "cat.jpg", SAMPLES / "coffee.jpg"


def rows_of(done: CommandResult) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_several_files_say_the_same(effnet: Effnet, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.json", "a.jsonl", "a.csv", "a.txt")]
    outputs = [part for file in files for part in ("-o", file)]
    done = effnet("predict", CAT, "nope.jpg", *outputs)
    assert (done.status, done.stdout) == (1, b"")
    array = json.loads(files[0].read_text())
    assert [json.loads(line) for line in files[1].read_text().splitlines()] == array
    cells = list(csv.DictReader(files[2].read_text().splitlines()))
    assert [c["label"] for c in cells] == [p["label"] for p in array[0]["predictions"]] + [""]
    assert "tiger cat" in files[3].read_text()


def test_a_page_beside_the_rows(effnet: Effnet, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = effnet("predict", CAT, COFFEE, "nope.jpg", "-f", "jsonl", "--html", page)
    assert [row["status"] for row in rows_of(done)] == ["ok", "ok", "error"]
    text = page.read_text("utf-8")
    assert "tiger cat" in text and "espresso" in text and "nope.jpg" in text
    assert text.count("data:image/jpeg;base64,") == 2


def test_overlays_beside_the_images_and_in_the_page(effnet: Effnet, tmp_path: Path) -> None:
    page, folder = tmp_path / "page.html", tmp_path / "why"
    done = effnet("predict", CAT, "nope.jpg", "-f", "jsonl", "--explain", folder, "--html", page)
    good, bad = rows_of(done)
    assert good["overlay"] == str(folder / "cat.jpg")
    assert "overlay" not in bad
    pair = np.asarray(Image.open(folder / "cat.jpg"), dtype=int)
    assert pair.shape == (224, 448, 3)
    drawn = pair[:, 224:] - pair[:, :224]
    warmth = drawn[..., 0] - drawn[..., 2]
    whiskers, corner = warmth[90:180, 50:110], warmth[:40, 190:]
    assert whiskers.mean() > corner.mean() + 100
    assert page.read_text("utf-8").count("data:image/jpeg;base64,") == 2


@pytest.mark.linux
def test_a_preview_has_the_colours_of_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 90)).save(tmp_path / "a.png")
    env = {"COLORTERM": "truecolor"}
    for columns in ("80", "120"):
        env["COLUMNS"] = columns
        text = in_a_terminal("predict", "a.png", "--preview", "-k", "1", cwd=tmp_path, env=env)
        assert text.count("\x1b[38;2;200;30;90;48;2;200;30;90m") == 28 * 14
        assert "a.png" in text
        assert re.search(r"\d\.\d%", text)
    env["NO_COLOR"] = "1"
    text = in_a_terminal("predict", "a.png", "--preview", "-k", "1", cwd=tmp_path, env=env)
    assert "▀" not in text and "requires a terminal with colours" in text


def test_a_preview_without_a_terminal_is_a_table(effnet: Effnet) -> None:
    done = effnet("predict", CAT, "--preview")
    assert b"tiger cat" in done.stdout and b"\x1b" not in done.stdout
    assert "--preview requires a terminal with colours" in done.stderr


def test_below_the_threshold_the_label_is_unknown(effnet: Effnet) -> None:
    cat, coffee = rows_of(effnet("predict", CAT, COFFEE, "--unknown-below", "0.6", "-f", "jsonl"))
    unknown, best, *others = cat["predictions"]
    assert unknown == best | {"rank": 1, "index": None, "label": "unknown"}
    assert (best["rank"], best["label"]) == (2, "tiger cat")
    assert len(others) == 3
    assert coffee["predictions"][0]["label"] == "espresso"


def test_two_views_are_the_mean_of_an_image_and_its_mirror_image(
    effnet: Effnet, tmp_path: Path
) -> None:
    with Image.open(CAT) as image:
        image.save(tmp_path / "a.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")

    def logits(*paths: Path, views: int) -> list[np.ndarray]:
        classifier = Classifier("lite0", images=ImageOptions(views=views))
        return list(classifier.scores([ImageInput(str(path), str(path)) for path in paths]))

    both = logits(tmp_path / "a.png", tmp_path / "mirrored.png", views=1)
    (averaged,) = logits(tmp_path / "a.png", views=2)
    np.testing.assert_allclose(averaged, np.mean(both, axis=0), atol=1e-4)
    done = effnet("predict", tmp_path / "a.png", "--tta", "2", "-f", "jsonl", "-k", "1")
    (row,) = rows_of(done)
    assert row["predictions"][0]["index"] == int(averaged.argmax())


def test_isolated_answers_are_the_same(effnet: Effnet, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(CAT.read_bytes()[:5000])
    images = (CAT, tmp_path / "cut.jpg", COFFEE)
    plain = effnet("predict", *images, "-f", "jsonl")
    assert effnet("predict", *images, "-f", "jsonl", "--isolate").stdout == plain.stdout
    assert effnet("predict", *images, "-f", "jsonl", "--timeout", "60").stdout == plain.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume"], "--resume requires --output"),
        (["--move"], "--move requires --copy-to DIR"),
        (
            ["-o", "a.json", "-o", "b.csv", "-f", "json"],
            "--format json cannot be combined with 2 output files",
        ),
        (["--tta", "33"], "Invalid --tta '33'"),
        (["--tta", "0"], "'0'"),
        (["--timeout", "0"], "'0'"),
        (["--unknown-below", "1.1"], "'1.1'"),
        (["--html", "."], "--html '.' is a folder"),
        (["-o", "a.xlsx"], "Unsupported output format '.xlsx'"),
        (["-o", "a.csv", "--html", "a.csv"], "is used for two outputs"),
        (["--explain", "README.md"], "--explain 'README.md' is not a folder"),
        (["--copy-to", "README.md"], "--copy-to 'README.md' is not a folder"),
    ],
)
def test_conflicting_options_are_refused_at_once(
    effnet: Effnet, options: list[str], words: str
) -> None:
    done = effnet("predict", CAT, *options)
    assert (done.status, done.stdout) == (2, b"")
    message, hint = done.stderr.strip().splitlines()
    assert words in message and hint


def test_a_list_is_not_replaced_by_its_answers(effnet: Effnet, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text(f"{CAT}\n")
    for output in (("-o", listing), ("--html", listing)):
        done = effnet("predict", f"@{listing}", *output)
        assert done.status == 2
        assert "is an input and would be overwritten" in done.stderr
    assert listing.read_text() == f"{CAT}\n"


def test_quiet_hides_no_failure_to_file(effnet: Effnet, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "tiger cat").write_text("a file in the place of a folder")
    done = effnet("predict", CAT, "--copy-to", tmp_path / "s", "-q", "-f", "jsonl")
    assert done.status == 1
    in_the_way = str(tmp_path / "s" / "tiger cat")
    assert f"Cannot copy {CAT}: {in_the_way!r} is not a folder; rename it." in done.stderr


@pytest.mark.linux
@pytest.mark.parametrize("format_", ["csv", "json", "jsonl"])
def test_names_command_no_terminal_in_any_format(tmp_path: Path, format_: str) -> None:
    name = "evil\x1b[31m\u202e\x9b\U000e0041.png"
    save_image(tmp_path / "a.png", seed=1)
    (tmp_path / "a.png").rename(tmp_path / name)
    text = in_a_terminal("predict", name, "-f", format_, "-q", cwd=tmp_path)
    assert not set(text) & {"\x1b", "\u202e", "\x9b", "\U000e0041"}
    assert "evil\\" in text
    if format_ != "csv":
        row = json.loads(text)
        assert (row[0] if format_ == "json" else row)["path"] == name


def test_a_file_without_a_command_gets_the_command(effnet: Effnet) -> None:
    done = effnet("sample_images/cat.jpg")
    assert done.status == 2
    assert done.stderr.endswith("To classify it: effnet predict sample_images/cat.jpg\n")


@pytest.mark.linux
@pytest.mark.parametrize(
    "name", ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1", "link"]
)
@pytest.mark.parametrize("option", ["-o", "--html"])
def test_a_redirected_file_is_not_replaced(tmp_path: Path, option: str, name: str) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    (tmp_path / "all.csv").write_text("earlier\n")
    with (tmp_path / "all.csv").open("ab") as file:
        command = [*COMMAND, "predict", CAT, "-f", "csv", option, name]
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.PIPE, cwd=tmp_path, check=False
        )
    assert done.returncode == 2
    assert f"{name!r} is not a regular file.\nOmit --".encode() in done.stderr
    assert (tmp_path / "all.csv").read_text() == "earlier\n"


def test_a_page_over_an_image_is_refused(effnet: Effnet, tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg", seed=1)
    before = (tmp_path / "a.jpg").read_bytes()
    done = effnet("predict", CAT, "--html", tmp_path / "a.jpg")
    assert done.status == 2
    assert re.search("is an image and would be overwritten", done.stderr)
    assert (tmp_path / "a.jpg").read_bytes() == before
