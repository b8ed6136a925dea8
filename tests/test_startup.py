"""What a start imports, seen from outside: a check in the tests' own process proves nothing."""

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
        ["variants"],
        ["weights", "list"],
    ],
    ids=" ".join,
)
def test_small_commands_import_nothing_heavy(arguments: list[str]) -> None:
    modules = imported_by(*arguments)
    assert not modules & HEAVY
    assert "effnet_cli.cli" in modules


def test_help_imports_no_arrays_and_no_tables() -> None:
    assert not imported_by("--help") & {"numpy", "PIL", "rich", "onnxruntime", "pydantic"}


def test_predict_needs_torch_once_and_never_again(photo: Path) -> None:
    imported_by("predict", photo)  # makes the artefact, if no test before did
    modules = imported_by("predict", photo)
    assert not modules & HEAVY
    assert "onnxruntime" in modules


def test_machine_formats_do_without_rich(photo: Path) -> None:
    assert "rich" not in imported_by("predict", photo, "--format", "json")
