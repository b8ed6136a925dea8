"""The command with decoders that hang: rows, signals, closed pipes, leftover processes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import bad
import good
import written
from helpers import wait_until
from terminal import COMMAND

PREDICT = [*COMMAND, "predict", "--offline"]
NO_LIMIT = ["--max-pixels", str(10**11)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good images around one that takes a minute to decode."""
    folder = tmp_path_factory.mktemp("hanging")
    (folder / "a.png").write_bytes(written.encoded(good.photo(), "PNG"))
    (folder / "b.jpg").write_bytes(bad.with_scans(6_000))
    (folder / "c.png").write_bytes(written.encoded(good.photo().rotate(90), "PNG"))
    return folder


def test_image_that_times_out_is_one_row(folder: Path) -> None:
    done = subprocess.run(
        [*PREDICT, *NO_LIMIT, "--timeout", "0.7", "--format", "json", "a.png", "b.jpg", "c.png"],
        cwd=folder,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    rows = json.loads(done.stdout)
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert rows[1]["error"]["kind"] == "timeout"
    assert done.returncode == 1
    alone = subprocess.run(
        [*PREDICT, "--format", "json", "a.png", "c.png"],
        cwd=folder,
        capture_output=True,
        timeout=100,
        check=True,
    )
    assert json.loads(alone.stdout) == [rows[0], rows[2]]


def started(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start the command in a new session."""
    return subprocess.Popen(
        [*PREDICT, *NO_LIMIT, "--quiet", "--format", "jsonl", *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def members(session: int) -> list[int]:
    """Return the processes of a session that still exist."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(words[3]) == session and words[0] != "Z":
            found.append(int(path.parent.name))
    return found


def assert_nothing_is_left(session: int) -> None:
    if not wait_until(lambda: not members(session)):
        os.killpg(session, signal.SIGKILL)
        pytest.fail("processes are still there")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_a_hanging_decoder(folder: Path, number: signal.Signals, status: int) -> None:
    with started(folder, "--isolate", "--batch-size", "1", "-") as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"a.png\n")
        process.stdin.flush()
        first = process.stdout.readline()
        process.stdin.write(b"b.jpg\n")
        process.stdin.flush()
        assert wait_until(lambda: len(members(process.pid)) > 2)  # itself, a server, a worker
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(20) == status
        assert_nothing_is_left(process.pid)  # before a decoder would come to its end
        assert json.loads(first)["status"] == "ok"
        assert process.stderr
        assert b"Traceback" not in process.stderr.read()


def test_closed_pipe_leaves_no_process(folder: Path) -> None:
    with started(folder, "--isolate", *["a.png"] * 60) as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["status"] == "ok"
        process.stdout.close()
        assert process.wait(20) in (0, 141)
        assert process.stderr
        assert process.stderr.read() == b""
    assert_nothing_is_left(process.pid)
