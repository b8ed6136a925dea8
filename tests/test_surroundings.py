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


def can_unshare() -> bool:
    command = ["unshare", "--mount", "--pid", "--fork", "true"]
    found = shutil.which(command[0])
    return found is not None and subprocess.run(command, check=False).returncode == 0


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
    ("command", "name"),
    [
        (("predict", CAT), "HOME"),
        (("predict", CAT), "EFFNET_CACHE"),
        (("variants",), "HOME"),
        (("weights", "list"), "XDG_CACHE_HOME"),
    ],
)
def test_folders_out_of_reach_stop_nothing(
    command: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    """A name that is too long fails as a folder does that may not be read."""
    kept = {"EFFNET_CACHE": str(tmp_path)} if name == "HOME" else {"EFFNET_CACHE": ""}
    done = run(*command, **{**kept, "HOME": str(tmp_path), name: str(tmp_path / ("n" * 300))})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.mark.skipif(not can_unshare(), reason="needs root and unshare")
@pytest.mark.parametrize(
    "inside",
    [
        "unshare --pid --fork --mount-proc",  # process 1, which has no parent to clean up
        "unshare --mount sh -c 'mount -t tmpfs -o ro none /dev/shm && exec \"$@\"' sh",
    ],
)
def test_containers_without_comfort_are_enough(inside: str) -> None:
    done = run_shell(f"{inside} {' '.join(EFFNET)} predict {CAT} -f csv --isolate")
    assert done.returncode == 0, done.stderr
    assert "tiger cat" in done.stdout


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


def test_library_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "safetensors.py").write_text("raise ImportError('libx.so: no memory')")
    done = run("predict", CAT, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert (
        done.stderr
        == "Error: A library cannot be loaded: libx.so: no memory.\nSee `effnet doctor`.\n"
    )


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


def test_processes_compile_a_model_once(tmp_path: Path) -> None:
    code = f"for i in 1 2 3 4; do {' '.join(EFFNET)} predict {CAT} -f csv & done; wait"
    done = subprocess.run(
        ["bash", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "EFFNET_CACHE": str(tmp_path)},
    )
    rows = [line for line in done.stdout.splitlines() if ",ok,1," in line]
    assert len(rows) == 4 and len(set(rows)) == 1
    assert done.stderr.count("Compiling lite0") == 1
    assert len(list((tmp_path / "compiled").glob("*.onnx"))) == 1


def test_spawned_processes_and_threads_predict_alike(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, threading\n"
        "from effnet_cli import Classifier\n"
        f"PATH = {CAT!r}\n"
        "def best(_=None, classifier=None):\n"
        "    return (classifier or Classifier())(PATH).predictions[0]\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "        found = pool.map(best, range(2))\n"
        "    classifier = Classifier()\n"
        "    work = lambda: found.extend(best(None, classifier) for _ in range(5))\n"
        "    threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "    [thread.start() for thread in threads]\n"
        "    [thread.join() for thread in threads]\n"
        "    print(len(found), len(set(found)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "42 1\n", done.stderr


# --- connections ----------------------------------------------------------------------------------


def name_of(command: list[str]) -> str:
    return "-".join(word.strip("-") for word in command if word != CAT)


QUICK_COMMANDS = (
    ["predict", CAT],
    ["predict", CAT, "--engine", "openvino"],
    ["predict", CAT, "--engine", "torch"],
    ["variants"],
    ["weights", "list"],
)
SLOW_COMMANDS = (
    ["export", "--to", "onnx", "-o", "a.onnx"],
    ["export", "--to", "litert", "-o", "a.tflite"],
    ["export", "--to", "executorch", "-o", "a.pte"],
    ["export", "--to", "openvino", "-o", "a.xml"],
    ["finetune", "data", "--head-only", "-o", "run"],
    ["evaluate", "data"],
    ["audit", "data"],
    ["doctor"],
    ["bench", "--variant", "lite0", "--engine", "onnxruntime", "--seconds", "0.1"],
)


# Sees only the connections of Python code, not those of native libraries.
GUARD = """
import os, sys
def record(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(os.environ["TRACE"], "a") as file:
            print(event, "AF_INET", arguments, file=file)
sys.addaudithook(record)
"""


@pytest.mark.parametrize("command", QUICK_COMMANDS, ids=name_of)
def test_no_command_opens_a_connection(command: list[str], tmp_path: Path) -> None:
    assert_no_connection(command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW_COMMANDS, ids=name_of)
def test_no_slow_command_opens_a_connection(command: list[str], tmp_path: Path) -> None:
    assert_no_connection(command, tmp_path)


def assert_no_connection(command: list[str], tmp_path: Path) -> None:
    """Run a command, traced where strace is installed, else with a guard in the process."""
    watch = "strace" if shutil.which("strace") else "guard"
    trace, home = tmp_path / "trace", tmp_path / "home"
    home.mkdir()
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    trace.touch()
    for label, name in (("tabby", "cat"), ("espresso", "coffee")):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(2):
            image = Image.open(SAMPLES / f"{name}.jpg").resize((100 + number, 90))
            image.save(tmp_path / "data" / label / f"{number}.png")
    watched = {
        "strace": [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-e",
            "trace=connect,sendto",
            "-o",
            str(trace),
        ],
        "guard": [],
    }[watch]
    done = subprocess.run(
        [*watched, *EFFNET, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TRACE": str(trace),
            "EFFNET_CACHE": os.environ.get("EFFNET_CACHE", ""),  # compiling takes seconds
            "PYTHONPATH": str(tmp_path) if watch == "guard" else "",
        },
    )
    assert done.returncode == 0, done.stderr
    assert "AF_INET" not in trace.read_text()
    assert [path.name for path in home.rglob("*Microsoft*")] == []
