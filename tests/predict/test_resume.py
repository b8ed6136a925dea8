"""Rows survive a kill: each is complete, and none is lost or repeated."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.images.finder import ImageInput
from effnet_cli.output.journal import Journal, Row, open_journal
from effnet_cli.predict.formats import from_row, to_row
from effnet_cli.predict.records import (
    ErrorInfo,
    ImageResult,
    Overlay,
    PlacedFile,
    Prediction,
    ResultRow,
)
from effnet_cli.system.errors import EffnetError, UsageError
from helpers import SAMPLES, RecordingReporter, Run, save_image
from terminal import COMMAND
from training import CommandResult

COMMON = {"model": "lite0", "--top-k": 1}
PATHS = [f"{number}.jpg" for number in range(6)]
text = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
probability = st.integers(0, 1_000_000).map(lambda millionths: millionths / 1_000_000)
classified = st.builds(
    ImageResult,
    text,
    st.lists(
        st.builds(
            Prediction, st.integers(1, 5), st.integers(0, 999) | st.none(), text, probability
        ),
        min_size=1,
    ).map(tuple),
)
failed = st.builds(ResultRow, st.builds(ImageResult, text, error=st.builds(ErrorInfo, text, text)))
succeeded = st.builds(
    ResultRow,
    classified,
    st.builds(Overlay, text) | st.none(),
    st.builds(PlacedFile, text, st.booleans()) | st.none(),
)


class Cut(Exception):
    """Simulates a kill."""


def append_rows(kept: Journal, inputs: Iterator[ImageInput]) -> Iterator[str]:
    """Append a row for each input, and return the paths in the order of writing."""
    for one in inputs:
        kept.append(to_row(ResultRow(ImageResult(one.name, (Prediction(1, 3, "cat", 0.5),)))))
        yield one.name


def found(paths: list[str] = PATHS) -> list[ImageInput]:
    return [ImageInput(path, path) for path in paths]


def interrupted(output: Path, rows: int, reporter: RecordingReporter | None = None) -> Path:
    """Return the file of a run that ends after this many rows."""
    with (
        pytest.raises(Cut),
        open_journal(output, COMMON, reporter=reporter or RecordingReporter()) as kept,
    ):
        for number, _ in enumerate(append_rows(kept, kept.skip_earlier(found())), 1):
            if number == rows:
                raise Cut
    return output.with_name(output.name + ".part")


def finished(output: Path, paths: list[str] = PATHS) -> tuple[list[str], list[str]]:
    """Return the paths that a resumed run predicts, and those of all its rows."""
    with open_journal(output, COMMON, is_resumed=True) as kept:
        now = list(append_rows(kept, kept.skip_earlier(found(paths))))
        return now, [row["path"] for row in kept.rows()]


@given(succeeded | failed)
def test_rows_come_back_as_they_were(row: ResultRow) -> None:
    content = to_row(row)
    assert to_row(from_row(json.loads(json.dumps(content)))) == content


def test_a_run_that_ends_well_leaves_nothing_behind(tmp_path: Path) -> None:
    assert finished(tmp_path / "a.csv") == (PATHS, PATHS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path, rows: int) -> None:
    recorder = RecordingReporter()
    part = interrupted(tmp_path / "a.csv", rows, recorder)
    assert len(part.read_bytes().splitlines()) == 1 + rows
    assert f"in {str(part)!r}; run the same command with --resume" in recorder.text
    assert finished(tmp_path / "a.csv") == (PATHS[rows:], PATHS)


def test_every_cut_of_the_file_gives_each_row_once(tmp_path: Path) -> None:
    content = interrupted(tmp_path / "a.csv", 3).read_bytes()
    ends = [at for at, byte in enumerate(content, 1) if byte == ord("\n")]
    for size in range(1, len(content) + 1):
        (tmp_path / "a.csv.part").write_bytes(content[:size])
        kept = max(0, sum(end <= size for end in ends) - 1)
        assert finished(tmp_path / "a.csv") == (PATHS[kept:], PATHS)


def test_zeros_that_a_lost_disk_block_leaves_are_no_rows(tmp_path: Path) -> None:
    part = interrupted(tmp_path / "a.csv", 2)
    part.write_bytes(part.read_bytes() + bytes(500))
    assert finished(tmp_path / "a.csv") == (PATHS[2:], PATHS)


def test_interrupted_rows_are_never_lost_by_a_new_run(tmp_path: Path) -> None:
    part = interrupted(tmp_path / "a.csv", 2)
    before = part.read_bytes()
    with (
        pytest.raises(UsageError, match="interrupted.*--resume"),
        open_journal(part.with_suffix(""), COMMON),
    ):
        pass
    assert part.read_bytes() == before


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["x.jpg", *PATHS], "Row 1 .* input 1 is 'x.jpg'"),
        ([PATHS[0], *PATHS[2:]], "Row 2 .* input 2 is '2.jpg'"),
        (PATHS[:1], "Row 2 .* input 2 is missing"),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, paths: list[str], words: str) -> None:
    part = interrupted(tmp_path / "a.csv", 2)
    before = part.read_bytes()
    with pytest.raises(UsageError, match=words):
        finished(tmp_path / "a.csv", paths)
    assert part.read_bytes() == before


def test_other_options_are_refused_by_name(tmp_path: Path) -> None:
    interrupted(tmp_path / "a.csv", 2)
    with (
        pytest.raises(UsageError, match="computed with --top-k 1, not with --top-k 5"),
        open_journal(tmp_path / "a.csv", {**COMMON, "--top-k": 5}, is_resumed=True),
    ):
        pass


@pytest.mark.parametrize("content", [b"my notes\n", b"{}\n", b'["a"]', b"\0\0\0\0"])
def test_a_file_of_somebody_else_is_not_touched(tmp_path: Path, content: bytes) -> None:
    part = tmp_path / "a.csv.part"
    part.write_bytes(content)
    with pytest.raises(UsageError):
        finished(tmp_path / "a.csv")
    assert part.read_bytes() == content


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("kind", ["notes", "folder", "link", "broken link"])
@pytest.mark.linux
def test_what_somebody_else_made_is_not_taken_for_rows(
    tmp_path: Path, kind: str, is_resumed: bool
) -> None:
    part = tmp_path / "a.csv.part"
    if kind == "folder":
        part.mkdir()
    elif kind == "notes":
        part.write_text("my notes")
    else:
        part.symlink_to(interrupted(tmp_path / "b.csv", 2) if kind == "link" else tmp_path / "no")
    before = sorted(tmp_path.iterdir())
    with (
        pytest.raises(UsageError, match=r"'.*a\.csv\.part' was not created by effnet"),
        open_journal(tmp_path / "a.csv", COMMON, is_resumed=is_resumed),
    ):
        pass
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.linux
def test_a_folder_that_takes_no_files_is_not_said_to_be_busy() -> None:
    with (
        pytest.raises(EffnetError, match="Cannot write '/proc/a.csv.part'"),
        open_journal(Path("/proc/a.csv"), COMMON),
    ):
        pass


def test_two_runs_into_one_file_are_refused(tmp_path: Path) -> None:
    with (
        open_journal(tmp_path / "a.csv", COMMON),
        pytest.raises(UsageError, match="Another process is writing"),
        open_journal(tmp_path / "a.csv", COMMON),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_with_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "a.csv"
    with pytest.raises(EffnetError, match="No space left"), open_journal(output, COMMON) as kept:
        rows = append_rows(kept, kept.skip_earlier(found()))
        next(rows)
        kept._file = Full(kept._file)  # type: ignore[assignment]
        next(rows)
    assert len((tmp_path / "a.csv.part").read_bytes().splitlines()) == 2
    assert finished(output) == (PATHS[1:], PATHS)


class Full:
    """A file on a disk with room for ten more bytes."""

    def __init__(self, file: object) -> None:
        self._file, self._left = file, 10

    def write(self, data: bytes) -> int:
        if not self._left:
            raise OSError(28, os.strerror(28))
        written, self._left = self._file.write(data[: self._left]), 0  # type: ignore[attr-defined]
        return written

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


# --- the command --------------------------------------------------------------------------------

PREDICT_STDIN = [*COMMAND, "predict", "-"]


@pytest.mark.linux
def test_killed_and_resumed_it_writes_what_it_would_have_written(run: Run, tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", seed=1)
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    names = b"a.png\ncut.jpg\n" * 20
    outputs = ["-o", "rows.jsonl", "-o", "rows.csv", "--html", "page.html"]
    with subprocess.Popen(
        [*PREDICT_STDIN, *outputs], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdin
        process.stdin.write(names[: len(names) // 2])
        process.stdin.flush()  # and stays open: the command waits for more
        part = tmp_path / "rows.jsonl.part"
        while not part.exists() or part.read_bytes().count(b"\n") < 15:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not any((tmp_path / name).exists() for name in ("rows.jsonl", "rows.csv", "page.html"))
    done = run("predict", "-", *outputs, "--resume", stdin=names, cwd=tmp_path)
    assert done.returncode == 1
    assert b"of them from the interrupted run; 20 failed: 20 truncated" in done.stderr
    for name, format_ in (("rows.jsonl", "jsonl"), ("rows.csv", "csv")):
        plain = run("predict", "-", "-f", format_, stdin=names, cwd=tmp_path)
        assert (tmp_path / name).read_bytes() == plain.stdout
    assert (tmp_path / "page.html").read_text("utf-8").count("<figure") >= 20
    left = {"a.png", "cut.jpg", "rows.jsonl", "rows.csv", "page.html"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_interrupted_by_a_signal_it_says_how_to_go_on(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", seed=1)
    with subprocess.Popen(
        [*PREDICT_STDIN, "-o", "rows.csv"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stdin and process.stderr
        process.stdin.write(b"a.png\n")
        process.stdin.flush()
        part = tmp_path / "rows.csv.part"
        while not part.exists() or part.read_bytes().count(b"\n") < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        words = process.stderr.read()
        assert process.wait(timeout=20) == 130
    assert b"Kept 1 row in 'rows.csv.part'; run the same command with --resume." in words
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "rows.csv.part"}


Effnet = Callable[..., CommandResult]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three images, in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = Path("p")
    folder.mkdir()
    for name in ("cat.jpg", "coffee.jpg", "flower.jpg"):
        shutil.copy(SAMPLES / name, folder)
    return folder


def interrupt(effnet: Effnet, *arguments: str, rows: int) -> CommandResult:
    """Run a command that gets Ctrl-C after this many rows."""
    append, numbers = Journal.append, itertools.count(1)

    def stop(self: Journal, row: Row) -> None:
        append(self, row)
        if next(numbers) == rows:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", stop)
        done = effnet("predict", *arguments)
    assert done.status == 130
    return done


def test_rows_of_a_changed_file_are_refused(effnet: Effnet, photos: Path) -> None:
    command = ("p/cat.jpg", "p/coffee.jpg", "-o", "c.jsonl")
    interrupt(effnet, *command, rows=1)
    before = Path("c.jsonl.part").read_bytes()
    shutil.copy(photos / "flower.jpg", photos / "cat.jpg")
    done = effnet("predict", *command, "--resume", "--html", "c.html")
    assert done.status == 2
    assert "'p/cat.jpg' has changed since its row was computed." in done.stderr
    assert "delete 'c.jsonl.part' to start over" in done.stderr
    assert Path("c.jsonl.part").read_bytes() == before
    assert not Path("c.html").exists()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("", "--copy-to sorted", "without --copy-to, not with --copy-to 'sorted'"),
        ("--copy-to sorted", "--copy-to b", "--copy-to 'sorted', not with --copy-to 'b'"),
        ("--copy-to sorted", "--copy-to sorted --move", "without --move, not with --move"),
        ("", "--explain why", "without --explain, not with --explain 'why'"),
        ("--tta 2", "", "with --tta 2, not with --tta 1"),
        ("--window 40,80", "", "with --window [40.0, 80.0], not without --window"),
        ("", "--frame 2", "with --frame 1, not with --frame 2"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_other_options_are_refused_as_they_are_written(
    effnet: Effnet, first: str, second: str, words: str
) -> None:
    interrupt(effnet, "p", "-o", "c.csv", *first.split(), rows=1)
    done = effnet("predict", "p", "-o", "c.csv", "--resume", *second.split())
    assert done.status == 2
    assert words in done.stderr
    assert not {"b", "why"} & {path.name for path in Path().iterdir()}


def test_the_page_of_a_resumed_run_has_its_overlays(effnet: Effnet, photos: Path) -> None:
    command = ("p", "--html", "c.html", "-o", "c.csv", "--explain", "why")
    interrupt(effnet, *command, rows=2)
    assert effnet("predict", *command, "--resume").status == 0
    assert Path("c.html").read_text("utf-8").count("data:image/jpeg;base64,") == 6


def test_the_page_of_a_resumed_run_is_that_of_a_whole_one(effnet: Effnet, photos: Path) -> None:
    command = ("p", "--html", "c.html", "-o")
    effnet("predict", *command, "whole.csv")
    whole = Path("c.html").read_text("utf-8")
    interrupt(effnet, *command, "c.csv", rows=2)
    assert effnet("predict", *command, "c.csv", "--resume").status == 0
    assert Path("c.html").read_text("utf-8") == whole
    assert Path("c.csv").read_bytes() == Path("whole.csv").read_bytes()


@pytest.mark.parametrize(
    "inputs", ["p", "p/*.jpg q", "q p", "q/*.jpg p", "p/cat.jpg q/x.jpg p/coffee.jpg p/flower.jpg"]
)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_moved_images_keep_their_rows(effnet: Effnet, photos: Path, inputs: str, rows: int) -> None:
    Path("q").mkdir()
    save_image(Path("q/x.jpg"), seed=1)
    (photos / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    names = inputs.split()
    effnet("predict", *names, "-o", "whole.csv", "--copy-to", "whole")
    command = (*names, "-o", "c.csv", "--copy-to", "sorted", "--move")
    done = interrupt(effnet, *command, rows=rows)
    assert "run the same command with --resume" in done.stderr
    done = effnet("predict", *command, "--resume")
    assert done.status == ("cut" in Path("whole.csv").read_text())
    assert Path("c.csv").read_bytes() == Path("whole.csv").read_bytes()
    moved = sorted(path.read_bytes() for path in Path("sorted").rglob("*.jpg"))
    assert moved == sorted(path.read_bytes() for path in Path("whole").rglob("*.jpg"))
