"""The command as a shell runs it: stdout, stderr, exit statuses, signals."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import Run, save_image
from terminal import COMMAND, in_a_terminal


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three images, one of them broken, and files that are not images."""
    folder = tmp_path / "album"
    (folder / "deeper").mkdir(parents=True)
    save_image(folder / "a.jpg", seed=1)
    save_image(folder / "deeper" / "b.png", seed=2)
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:700])
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.jpg").write_bytes(b"ignored")
    return folder


def rows_of(done: "subprocess.CompletedProcess[bytes]") -> list[dict[str, object]]:
    return json.loads(done.stdout)


def test_json_has_a_row_for_each_image_in_order(run: Run, album: Path) -> None:
    done = run("predict", album, "missing.jpg", "--format", "json")
    rows = rows_of(done)
    assert [row["path"] for row in rows] == [
        f"{album}/a.jpg",
        f"{album}/broken.jpg",
        f"{album}/deeper/b.png",
        "missing.jpg",
    ]
    assert [row["status"] for row in rows] == ["ok", "error", "ok", "error"]
    assert [row["error"]["kind"] for row in rows if "error" in row] == ["truncated", "missing"]
    assert [prediction["rank"] for prediction in rows[0]["predictions"]] == [1, 2, 3, 4, 5]
    assert done.returncode == 1
    summary = done.stderr.decode().splitlines()[-1]
    assert summary.startswith("4 images in ")
    assert "2 failed: 1 truncated, 1 missing; skipped 1 non-image file" in summary


def test_every_format_says_the_same(run: Run, album: Path) -> None:
    array = rows_of(run("predict", album, "--format", "json"))
    lines = run("predict", album, "--format", "jsonl").stdout.decode().splitlines()
    table = run("predict", album, "--format", "csv").stdout.decode()
    assert [json.loads(line) for line in lines] == array
    cells = list(csv.DictReader(io.StringIO(table)))
    assert [cell["path"] for cell in cells if cell["rank"] in ("", "1")] == [
        r["path"] for r in array
    ]
    flat = [prediction for row in array for prediction in row.get("predictions", [])]
    assert [(c["label"], float(c["probability"])) for c in cells if c["rank"]] == [
        (prediction["label"], prediction["probability"]) for prediction in flat
    ]


def test_table_in_a_pipe_is_plain_and_whole(run: Run, tmp_path: Path) -> None:
    name = "x" * 200 + ".jpg"
    save_image(tmp_path / name, seed=3)
    text = run("predict", tmp_path / name, "nope.jpg").stdout.decode()
    assert f"{tmp_path}/{name}" in text
    assert "missing: No such file. Check the path." in text
    assert "\x1b" not in text
    assert re.search(r"\d\d?\.\d%\n", text)


def test_many_images_stream_a_line_each(run: Run, tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", seed=1)
    for number in range(20):
        shutil.copy(tmp_path / "a.png", tmp_path / f"{number:02}.png")
    lines = run("predict", tmp_path).stdout.decode().splitlines()
    assert len(lines) == 21
    assert all(re.match(r" *\d+\.\d%  \S.* {2}/\S+\.png$", line) for line in lines)


def test_output_is_written_whole_in_the_format_of_its_name(run: Run, album: Path) -> None:
    target = album.parent / "predictions.jsonl"
    done = run("predict", album / "a.jpg", "--output", target)
    assert done.stdout == b""
    assert done.returncode == 0
    assert json.loads(target.read_text())["path"] == f"{album}/a.jpg"
    assert {path.name for path in album.parent.iterdir()} == {"album", "predictions.jsonl"}


def test_stdin_holds_paths_or_an_image(run: Run, album: Path) -> None:
    image = album / "a.jpg"
    by_name = rows_of(run("predict", image, "--format", "json"))[0]
    listed = rows_of(run("predict", "-", "--format", "json", stdin=f"{image}\n".encode()))[0]
    piped = rows_of(run("predict", "-", "--format", "json", stdin=image.read_bytes()))[0]
    assert listed == by_name
    assert piped == {**by_name, "path": "-"}


def test_list_file_and_pattern(run: Run, album: Path) -> None:
    listing = album.parent / "list.txt"
    listing.write_text(f"{album}/a.jpg\n\n{album}/deeper/b.png\n")
    from_list = rows_of(run("predict", f"@{listing}", "--format", "json"))
    from_pattern = rows_of(run("predict", f"{album}/**/[ab].*", "--format", "json"))
    assert [row["path"] for row in from_list] == [f"{album}/a.jpg", f"{album}/deeper/b.png"]
    assert from_pattern == from_list


NAMES = (
    b"-dash.jpg",
    b"new\nline.jpg",
    b"[red].jpg",
    b"=cmd().jpg",
    b"\xff\xfe.jpg",
    "🐱.jpg".encode(),
)


@pytest.mark.linux
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_of_any_bytes_come_back(run: Run, tmp_path: Path, locale: str) -> None:
    for name in NAMES:
        save_image(tmp_path / "plain.jpg", seed=4)
        (tmp_path / "plain.jpg").rename(tmp_path / os.fsdecode(name))
    environment = {"LC_ALL": locale}
    done = run("predict", "--format", "json", "--", *NAMES, cwd=tmp_path, env=environment)
    rows = rows_of(done)
    assert [os.fsencode(str(row["path"])) for row in rows] == list(NAMES)
    assert {row["status"] for row in rows} == {"ok"}
    table = run("predict", "--", *NAMES, cwd=tmp_path, env=environment)
    assert table.returncode == 0
    assert b"\x1b" not in table.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "x.jpg", "--variant", "b9"], "'b9'"),
        (["predict", "x.jpg", "--varant", "b0"], "--varant"),
        (["predict", "x.jpg", "--batch-size", "0"], "'0'"),
        (["predict", "x.jpg", "--workers", "many"], "'many'"),
        (["predict", "x.jpg", "--top-k", "0"], "'0'"),
        (["predict", "x.jpg", "--format", "xml"], "xml"),
        (["predict", "x.jpg", "--device", "gpu"], "'gpu'"),
        (["predict", "x.jpg", "--engine", "torch", "--precision", "int8"], "int8"),
        (["predict", "x.jpg", "--model", "no-such-run"], "'no-such-run'"),
        (["predict", "x.jpg", "--model", "README.md"], "'README.md'"),
        (["predict", "x.jpg", "--model", "m", "--variant", "b0"], "'m'"),
        (["predict", "x.jpg", "--weights", "none.pth"], "'none.pth'"),
        (["predict", "@no-such-list"], "'no-such-list'"),
        (["predict"], "INPUTS"),
        (["weights", "pull", "b9"], "'b9'"),
        (["predit"], "predit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_sentence_and_a_way_out(
    run: Run, arguments: list[str], words: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    message, hint = done.stderr.decode().strip().splitlines()
    assert message.startswith("Error: ")
    assert words in message
    assert hint


def test_weights_that_are_not_here_say_where_to_put_which_file(run: Run) -> None:
    for arguments in (["--offline"], []):  # without a network, both end the same way
        done = run("predict", "x.jpg", "--variant", "b0", *arguments)
        text = done.stderr.decode()
        assert done.returncode == 1
        assert "efficientnet_b0_rwightman-7f5810bc.pth" in text
        assert f"{os.environ['TORCH_HOME']}/hub/checkpoints" in text
        assert "Traceback" not in text


def test_debug_variable_shows_the_traceback(run: Run) -> None:
    done = run("predict", "x.jpg", "--variant", "b9", env={"EFFNET_DEBUG": "1"})
    assert b"Traceback" in done.stderr


def test_quiet_says_nothing_but_answers(run: Run, photo: Path) -> None:
    done = run("predict", photo, "--quiet", "--format", "json")
    assert done.stderr == b""
    assert rows_of(done)[0]["status"] == "ok"


def test_variants_lists_the_registry(run: Run) -> None:
    listed = json.loads(run("variants", "--format", "json").stdout)
    table = run("variants").stdout.decode()
    names = [row["variant"] for row in listed]
    assert names[:5] == ["lite0", "b0", "b0.ns", "b0.ra4", "lite1"]  # cheapest first
    assert listed[0]["weights"] == "available"
    assert listed[1]["weights"] == "missing"
    assert (listed[1]["better"], listed[2]["better"]) == ("b0.ns", None)
    assert len(names) == 36
    for row in listed:
        assert row["variant"] in table and f"{row['parameters'] / 1e6:.1f}" in table
    assert max(map(len, table.splitlines())) <= 80


def test_variants_are_selected(run: Run) -> None:
    def names(*options: str) -> list[str]:
        return [
            row["variant"] for row in json.loads(run("variants", "-f", "json", *options).stdout)
        ]

    assert len(names("--all")) == 87
    assert names("--max-gmacs", "0.4") == ["lite0", "b0", "b0.ns"]
    assert "b7.ns" in names("--trained-on", "jft") and "b7" not in names("--trained-on", "jft")
    assert names("--license", "apache-2.0") == names()
    done = run("variants", "--license", "GPL-3.0")
    assert done.returncode == 2
    assert b"No variant meets all conditions." in done.stderr


@pytest.mark.parametrize(
    "options",
    [["--all"], ["--max-gmacs", "0.1"], ["--trained-on", "jft"], ["--license", "Apache-2.0"]],
    ids=" ".join,
)
def test_conditions_do_not_apply_to_one_variant(options: list[str], run: Run) -> None:
    done = run("variants", "b0", *options)
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"'b0' cannot be combined with {options[0]}." in done.stderr.decode()


def test_weights_commands_tell_and_check(run: Run) -> None:
    listed = json.loads(run("weights", "list", "--format", "json").stdout)
    lite0 = Path(run("weights", "path", "lite0").stdout.decode().strip())
    assert str(lite0) == next(row["path"] for row in listed if row["variant"] == "lite0")
    assert lite0.is_file()
    assert run("weights", "verify").returncode == run("weights", "verify", "all").returncode == 0
    assert b"lite0: intact" in run("weights", "verify", "lite0").stdout
    assert run("weights", "verify", "b0").returncode == 1
    assert run("weights", "path", "b0").returncode == 1


def test_damaged_weights_are_found_and_not_used(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "efficientnet_b0_rwightman-7f5810bc.pth").write_bytes(b"something else")
    env = {"TORCH_HOME": str(tmp_path)}
    assert b"damaged" in run("weights", "verify", "b0", env=env).stdout
    done = run("predict", "x.jpg", "--variant", "b0", "--offline", env=env)
    assert b"damaged" in done.stderr
    assert done.returncode == 1


@pytest.mark.linux
def test_closed_pipe_is_silent(album: Path) -> None:
    script = f"{' '.join(COMMAND)} predict {' '.join([str(album)] * 30)} -f jsonl -q | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=60, check=True)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


@pytest.mark.linux
def test_full_disk_on_stdout_is_named(album: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "predict", str(album), "-f", "json"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert b"Error: Cannot write to stdout: No space left on device." in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_at_once_and_keep_what_is_printed(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    save_image(tmp_path / "a.jpg", seed=1)
    with subprocess.Popen(
        [*COMMAND, "predict", "-", "-f", "jsonl"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(f"{tmp_path}/a.jpg\n".encode())
        process.stdin.flush()  # and stays open: the command waits for more
        first = process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=20) == status
        assert json.loads(first)["status"] == "ok"
        assert process.stdout.read() == b""
        assert b"Traceback" not in process.stderr.read()


def test_slow_source_is_answered_line_by_line(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg", seed=1)
    with subprocess.Popen(
        [*COMMAND, "predict", "-", "-f", "jsonl", "-q"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout
        for _ in range(3):
            process.stdin.write(f"{tmp_path}/a.jpg\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["status"] == "ok"
        process.stdin.close()
        assert process.wait(timeout=20) == 0


@pytest.mark.linux
def test_terminal_gets_colour_bars_and_no_control_characters_of_names(tmp_path: Path) -> None:
    name = "evil\x1b]0;title\x07\u202e[bold].jpg"
    save_image(tmp_path / "a.jpg", seed=1)
    (tmp_path / "a.jpg").rename(tmp_path / name)
    text = in_a_terminal("predict", name, cwd=tmp_path)
    assert "evil\\x1b]0;title\\x07\\u202e[bold].jpg" in text.replace("\r\n", "")
    assert "█" in text
    assert "\x1b[1m" in text
    assert "\x1b]0;" not in text
    assert "\u202e" not in text
    assert "\x1b[3" not in in_a_terminal("predict", name, cwd=tmp_path, env={"NO_COLOR": "1"})


def test_eight_first_starts_at_once_make_one_artefact(photo: Path, tmp_path: Path) -> None:
    env = {**os.environ, "EFFNET_CACHE": str(tmp_path / "cache")}
    started = [
        subprocess.Popen(
            [*COMMAND, "predict", str(photo), "-f", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        for _ in range(8)
    ]
    done = [process.communicate(timeout=100) for process in started]
    assert [process.returncode for process in started] == [0] * 8
    assert len({stdout for stdout, _ in done}) == 1
    assert sum(b"Compiling lite0" in stderr for _, stderr in done) == 1
    assert len(list((tmp_path / "cache" / "compiled").glob("*.onnx"))) == 1


def test_version(run: Run) -> None:
    assert re.fullmatch(rb"effnet \d+\.\d+\.\d+\n", run("--version").stdout)


def test_bare_command_is_the_help(run: Run) -> None:
    assert run().stdout == run("--help").stdout
    assert run().returncode == 0
    assert b"Missing command" in run("weights").stderr


def test_image_is_never_overwritten_by_answers(run: Run, photo: Path) -> None:
    before = photo.read_bytes()
    done = run("predict", photo, "--output", photo)
    assert done.returncode == 2
    assert b"is an image and would be overwritten" in done.stderr
    assert photo.read_bytes() == before


def test_output_dash_is_stdout(run: Run, photo: Path, tmp_path: Path) -> None:
    done = run("predict", photo, "-o", "-", "-f", "json", cwd=tmp_path)
    assert rows_of(done)[0]["status"] == "ok"
    assert not (tmp_path / "-").exists()


@pytest.mark.linux
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">/dev/full", "2>/dev/full"])
@pytest.mark.parametrize("words", ["predict {photo}", "predict -", "variants", "--help"])
def test_closed_or_full_stream_gives_no_traceback(closed: str, words: str, photo: Path) -> None:
    line = f"{' '.join(COMMAND)} {words.format(photo=photo)} {closed}"
    done = subprocess.run(
        ["bash", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )
    assert b"Traceback" not in done.stderr
    is_refused = words == "predict -" and closed == "<&-"
    assert done.returncode in ((2,) if is_refused else (0, 1))
    if closed == ">/dev/full" and words != "predict -":
        assert done.returncode == 1
        assert b"Cannot write to stdout" in done.stderr


@pytest.mark.linux
def test_narrow_terminal_has_the_words_and_no_bars(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg", seed=1)
    text = in_a_terminal("predict", "a.jpg", cwd=tmp_path, env={"COLUMNS": "40"})
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "a.jpg" in plain
    assert re.search(r"[a-z]{4,}.* \d+\.\d%", plain)
    assert "█" not in plain


def test_list_in_another_encoding_or_an_image_is_refused(run: Run, album: Path) -> None:
    listing = album.parent / "list.txt"
    listing.write_text(f"{album}/a.jpg\n", encoding="utf-16")
    assert b"UTF-16" in run("predict", f"@{listing}").stderr
    assert b"is a JPEG image" in run("predict", f"@{album}/a.jpg").stderr


def test_rows_and_words_come_through_where_native_code_is_silenced() -> None:
    code = """
import os, sys
from effnet_cli.cli import main
from effnet_cli.engines.quiet import silence_output
def run():
    with silence_output():
        os.write(1, b"of a library")
        os.write(2, b"of a library")
        print("a row", flush=True)
        print("a word", file=sys.stderr)
    return 7
main.run = run
main.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "a row\n", "a word\n")
