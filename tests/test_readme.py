"""The README is true: its commands run, its help is the help, its tables name everything."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effnet_cli.engines.registry import ENGINES
from effnet_cli.export.targets import TARGETS
from effnet_cli.models.variants import VARIANTS
from effnet_cli.options import ErrorKind, Format
from forked import served
from helpers import ROOT
from training import make_classes

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
SCRIPTS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)  # lines that need each other
COMMANDS = [
    line for block in BLOCKS for line in block.splitlines() if re.match(r"(effnet|find) ", line)
]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    """Runs a line as written, in a folder that has the sample images and an `effnet` to call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shutil.copytree(ROOT / "sample_images", tmp_path / "sample_images")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def run(line: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    with served(folder / "effnet"):
        yield run


@pytest.mark.parametrize("line", COMMANDS)
def test_command_runs_as_written(line: str, shell) -> None:  # noqa: ANN001
    done = shell(line)
    if "# downloads" in line:
        assert done.returncode == 1  # the tests have no network; that is said, and what to do
        assert "Cannot download" in done.stderr
    elif "# needs an NVIDIA GPU" in line and "no CUDA device" in done.stderr:
        assert done.returncode == 1
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout or "--output" in line


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader who goes from the first script to the last."""
    folder = tmp_path_factory.mktemp("project")
    make_classes(folder / "dataset", ("red", "green"), images=6)
    shutil.copy(ROOT / "sample_images" / "cat.jpg", folder)
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_runs_as_written(script: str, shell, project: Path) -> None:  # noqa: ANN001
    done = shell(f"cd '{project}'\nset -e\n{script}")
    assert done.returncode == 0, done.stderr
    assert "--model" in script


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) > 10


def test_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ok tiger cat 0.38")


@pytest.mark.parametrize("arguments", re.findall(r"<!-- help: (.*?) -->", README))
def test_help_is_the_help(arguments: str) -> None:
    shown = README.partition(f"<!-- help: {arguments} -->\n```text\n")[2].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-m", "effnet_cli", *arguments.split()],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert [line.rstrip() for line in done.stdout.splitlines()] == shown.splitlines()


@pytest.mark.parametrize(
    "name",
    [*VARIANTS, *ENGINES, *TARGETS, *ErrorKind.__args__, *Format.__args__],  # type: ignore[attr-defined]
)
def test_everything_with_a_name_is_there(name: str) -> None:
    assert f"`{name}`" in README


def test_table_of_networks_says_what_the_registry_says() -> None:
    for row in VARIANTS.values():
        cells = re.search(rf"^\| `{row.name}`.*$", README, re.MULTILINE)
        assert cells is not None
        text = cells.group()
        assert f"| {row.preprocessing.crop_px} |" in text
        assert f"| {row.architecture.parameters / 1e6:.1f} M |" in text
        assert f"| {row.giga_multiply_adds:.2f} G |" in text
        assert f"| {row.top1:.1f} |" in text


def test_sample_images_have_the_answers_that_are_told() -> None:
    told = (ROOT / "sample_images" / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "effnet_cli", "predict", "sample_images", "-f", "jsonl", "-k", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) >= 8
    for row in rows:
        name, (best,) = Path(row["path"]).name, row["predictions"]
        line = next(line for line in told.splitlines() if line.startswith(f"| `{name}`"))
        assert best["label"] in line
        assert f"{best['probability'] * 100:.1f} %" in line
