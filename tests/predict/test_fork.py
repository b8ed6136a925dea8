"""A program that uses a `Classifier`: across a fork, and at its end."""

import subprocess
import sys

import pytest

from helpers import SAMPLES

pytestmark = pytest.mark.linux

ENGINES = ["onnxruntime", "torch", "openvino"]
USE = f"""
import os, signal, sys
from effnet_cli import Classifier
from effnet_cli.options import EngineOptions
classifier = Classifier(engine=EngineOptions(engine=sys.argv[1]))
classifier({str(SAMPLES / "cat.jpg")!r})
"""
FORK = f"""
child = os.fork()
if child == 0:
    signal.alarm(30)
    try:
        classifier({str(SAMPLES / "cat.jpg")!r})
    except Exception as error:
        print(error)
    sys.exit(5)
print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run_program(code: str, engine: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, engine], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forked_child_is_told_to_create_its_own(engine: str) -> None:
    done = run_program(USE + FORK, engine)
    assert "Create it in the child process." in done.stdout
    assert "ended with 5" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(("engine", "times"), [("onnxruntime", 3), ("torch", 1), ("openvino", 3)])
def test_programs_end_with_their_own_status(engine: str, times: int) -> None:
    for _ in range(times):  # one in five aborted with OpenVINO
        done = run_program(USE + "sys.exit(7)", engine)
        assert done.returncode == 7, done.stderr
