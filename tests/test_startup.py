"""Modules imported at startup, listed in a fresh process."""

import subprocess
import sys
from pathlib import Path

import pytest

from imports import HEAVY, imported_by


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["predict", "--help"],
        ["bench", "--help"],
        ["evaluate", "--help"],
        ["audit", "--help"],
        ["variants"],
        ["weights", "list"],
    ],
    ids=" ".join,
)
def test_small_commands_import_nothing_heavy(arguments: list[str]) -> None:
    modules = imported_by(*arguments)
    assert not modules & HEAVY
    assert "effnet_cli.cli" in modules


def test_help_imports_neither_numpy_nor_rich() -> None:
    heavy = {"numpy", "PIL", "rich", "onnxruntime"}
    assert not imported_by("--help") & {*heavy, "pydantic"}
    assert not imported_by("predict", "--help") & {*heavy, "pydantic"}


def test_package_imports_nothing_until_it_is_used() -> None:
    code = (
        "import sys, effnet_cli; before = set(sys.modules); "
        "from effnet_cli import Classifier, EffnetError; "
        "print(Classifier.__module__, EffnetError.__module__, sorted(before & {'numpy', 'typer'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "effnet_cli.predict.classifier effnet_cli.system.errors []\n"
    with pytest.raises(ImportError, match="cannot import name 'Classifer'"):
        from effnet_cli import Classifer  # noqa: F401


def test_predict_imports_torch_only_to_compile(photo: Path) -> None:
    imported_by("predict", photo)  # compiles the model, if no test has yet
    modules = imported_by("predict", photo)
    assert not modules & HEAVY
    assert "onnxruntime" in modules
    assert "pydantic" not in modules


def test_json_output_does_not_import_rich(photo: Path) -> None:
    assert "rich" not in imported_by("predict", photo, "--format", "json")
