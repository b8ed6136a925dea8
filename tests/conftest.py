"""Settings and fixtures for all tests."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Tests run in several processes, each with one thread on one core: spinning threads would compete
# for the cores. Commands inherit the setting; torch reads it when imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests start hundreds of commands, which would otherwise compile every module they import.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    CORES = sorted(os.sched_getaffinity(0))
    NUMBER = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.sched_setaffinity(0, {CORES[NUMBER % len(CORES)]})

import pytest
import torch
from hypothesis import settings

from effnet_cli.system.parallel import usable_cores
from helpers import ROOT, UNREACHABLE, Run, save_image

pytest_plugins = ["training_fixtures", "export_fixtures", "published_weights", "search_fixtures"]

settings.register_profile("any machine", deadline=None, max_examples=50)
settings.load_profile("any machine")


def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are cores, as tests often wait for processes."""
    return usable_cores() + 1


# These take minutes; they run first, so that all processes finish at about the same time.
LONG_FILES = (
    "export/test_run.py",
    "finetune/test_run.py",
    "finetune/test_resume.py",
    "finetune/test_trainer.py",
    "finetune/test_distributed.py",
    "audit/test_run.py",
    "test_docs.py",
)


# Files whose tests all need forks, signals, terminals, a shell or /proc; single tests that do are
# marked `linux`.
LINUX_FILES = (
    "hostile",
    "finetune/test_distributed.py",
    "finetune/test_resume.py",
    "finetune/test_signals.py",
    "test_docs.py",
)
collect_ignore = [] if sys.platform == "linux" else list(LINUX_FILES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first; skip tests that need Linux elsewhere."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG_FILES))
    if sys.platform != "linux":
        for item in items:
            if item.get_closest_marker("linux"):
                item.add_marker(pytest.mark.skip("needs Linux"))


def pytest_collection_finish() -> None:
    """Exempt what exists before the first test from garbage collection."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as in `effnet`


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Limit torch to one thread: on busy cores, its threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


@pytest.fixture(autouse=True)
def own_caches(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share one cache between all tests, so that the default model is compiled once."""
    monkeypatch.setenv("EFFNET_CACHE", str(session_folder / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(session_folder / "torch"))
    monkeypatch.setenv("EFFNET_MIRROR", UNREACHABLE)
    monkeypatch.delenv("EFFNET_DEBUG", raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and no test simulates a power failure


@pytest.fixture
def run() -> Run:
    """Run the command in a process: `run("predict", "x.jpg", stdin=b"", cwd=..., env={...})`."""

    def run_effnet(
        *arguments: str | bytes | Path,
        stdin: bytes = b"",
        cwd: Path = ROOT,
        env: dict[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [sys.executable, "-m", "effnet_cli", *arguments],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=100,
            check=False,
        )

    return run_effnet


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small image with some structure."""
    path = tmp_path / "photo.jpg"
    save_image(path, seed=0)
    return path
