"""effnet on odd machines: no home, no folder, no connection, few resources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers import SAMPLES

pytestmark = pytest.mark.linux

CAT = str(SAMPLES / "cat.jpg")
EFFNET = [sys.executable, "-m", "effnet_cli"]


def run(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "EFFNET_CACHE")}
    return subprocess.run(
        [*EFFNET, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**kept, **environment},
    )


def run_shell(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=False, cwd=cwd)


def test_a_user_without_a_home_gets_predictions() -> None:
    """As in containers that run as a number: neither HOME nor a name in the list of users."""
    code = (
        "import pwd, sys\n"
        "def unknown(*_): raise KeyError\n"
        "pwd.getpwuid = pwd.getpwnam = unknown\n"
        f"sys.argv = ['effnet', 'predict', {CAT!r}]\n"
        "from effnet_cli.__main__ import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    assert "tabby" in done.stdout or "cat" in done.stdout
    assert "Set EFFNET_CACHE to a folder that can be written" in done.stderr


@pytest.mark.parametrize(
    "environment",
    [{"LANG": "C", "LC_ALL": "C"}, {"TERM": "dumb"}, {"PYTHONWARNINGS": "error"}],
    ids=str,
)
def test_plain_surroundings_change_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    done = run("predict", CAT, "-f", "csv", HOME=str(tmp_path), **environment)
    assert done.returncode == 0, done.stderr
    assert "tiger cat" in done.stdout


def test_optimised_python_works() -> None:
    done = subprocess.run(
        [sys.executable, "-OO", *EFFNET[1:], "predict", CAT, "-f", "csv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "tiger cat" in done.stdout


def test_few_open_files_are_enough() -> None:
    done = run_shell(f"ulimit -n 64; exec {' '.join(EFFNET)} predict {SAMPLES} -f csv")
    assert done.returncode == 0, done.stderr


def test_a_deleted_current_folder_is_one_sentence(tmp_path: Path) -> None:
    code = f"mkdir gone && cd gone && rmdir ../gone && {' '.join(EFFNET)} predict ."
    done = run_shell(code, tmp_path)
    assert done.returncode != 0
    assert "The current folder has been deleted." in done.stderr
    assert "Traceback" not in done.stderr


def test_predictions_that_nobody_gets_are_an_error() -> None:
    done = run_shell(f"{' '.join(EFFNET)} predict {CAT} >&-")
    assert done.returncode != 0
    assert "Cannot write to stdout" in done.stderr


def test_native_code_writes_nothing_to_stderr(tmp_path: Path) -> None:
    path = tmp_path / "fax.tif"
    Image.effect_noise((200, 200), 90).convert("1").save(path, compression="group4")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = os.urandom(200)
    path.write_bytes(content)
    for isolation in ([], ["--isolate"]):
        done = run("predict", str(path), "-q", *isolation, HOME=str(tmp_path))
        assert done.stderr == ""


# --- connections ----------------------------------------------------------------------------------


def name_of(command: list[str]) -> str:
    return "-".join(word.strip("-") for word in command if word != CAT)


COMMANDS = (
    ["predict", CAT],
    ["predict", CAT, "--engine", "openvino"],
    ["predict", CAT, "--engine", "torch"],
    ["variants"],
    ["weights", "list"],
    ["export", "--to", "onnx", "-o", "a.onnx"],
    ["export", "--to", "litert", "-o", "a.tflite"],
    ["export", "--to", "executorch", "-o", "a.pte"],
    ["bench", "--variant", "lite0", "--engine", "onnxruntime", "--seconds", "0.5"],
)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_no_command_opens_a_connection(command: list[str], tmp_path: Path) -> None:
    trace, home = tmp_path / "trace", tmp_path / "home"
    home.mkdir()
    watched = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(trace)]
    done = subprocess.run(
        [*watched, *EFFNET, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    assert "AF_INET" not in trace.read_text()
    assert [path.name for path in home.rglob("*Microsoft*")] == []
