"""Fixtures of the tests of training: the machine, a dataset, a network at 64 px, the command line.

A plugin: modules that use it name it in `pytest_plugins`, and none imports it.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from effnet_cli.cli import main
from effnet_cli.finetune import phases
from effnet_cli.finetune.run_dir import arrays
from effnet_cli.models import build, checkpoint
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import ModelOptions
from training import QUICK_HEAD, Done, make_classes

SMALL_PX = 64  # a twelfth of the work of 224

Cores = frozenset[int]


# --- the machine ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_core() -> Iterator[Cores]:
    """This process and those that it starts on one core, as threads of torch that share busy cores
    wait for one another; gives all cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield frozenset()
        return
    cores = os.sched_getaffinity(0)
    # of several processes that test side by side each has another core
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {sorted(cores)[number % len(cores)]})
    yield frozenset(cores)
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def caches(session_folder: Path) -> Iterator[None]:
    """The caches of `own_caches`, for what lives longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFNET_CACHE", str(session_folder / "cache"))
        yield


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUICK_HEAD.items():
        monkeypatch.setattr(phases, name, value)


# --- data and networks ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def colours(session_folder: Path) -> Path:
    """Three classes of eight images: 18 to train on and 6 to validate."""
    root = session_folder / "colours"
    make_classes(root)
    return root


@pytest.fixture(scope="session")
def small(session_folder: Path, caches: None) -> ModelOptions:
    """The pretrained default network for images of 64 px, as a model file."""
    folder = session_folder / "small"
    network = resolve_model(ModelOptions())
    card = replace(
        network.card,
        preprocessing=replace(network.card.preprocessing, resize_px=SMALL_PX, crop_px=SMALL_PX),
    )
    tensors = arrays(build.load_module(network).state_dict())
    checkpoint.write(folder / checkpoint.MODEL_FILE_NAME, card, tensors)
    return ModelOptions(model=folder)


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def effnet(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., Done]:
    """`effnet("finetune", ...)`: the command line in this process, which has imported torch."""

    def run_effnet(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["effnet", *map(str, arguments)])
        capfdbinary.readouterr()
        status = main.run()
        sys.stdout.flush()
        sys.stderr.flush()
        heard = capfdbinary.readouterr()
        return Done(status, heard.out, heard.err.decode())

    return run_effnet
