"""Run each dataset test in an empty working directory."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def temporary_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
