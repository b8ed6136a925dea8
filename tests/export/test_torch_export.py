"""AOTInductor exports, which take half a minute to compile."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from effnet_cli.export.run import export
from effnet_cli.models.card import ModelCard
from effnet_cli.options import EngineOptions, ExportOptions, ExportTask, ModelOptions
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import EffnetError, UsageError
from helpers import SAMPLES, read_recipe

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_aotinductor_agrees_with_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ExportOptions("aotinductor", batch=1)
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        with pytest.raises(EffnetError, match="requires a C\\+\\+ compiler"):
            export(ExportTask(options=options, output=tmp_path))
        return
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = Path("it's lite0.pt2")
    exported = export(ExportTask(options=options, output=path))
    assert sorted(folder.iterdir()) == [folder / path, folder / f"{path}.json"]
    assert exported.comparison.rejection is None
    assert exported.path == path
    assert exported.comparison.forms[1].agreement == 1.0

    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("wrapper_metadata.json")]
        card = ModelCard.from_json(json.loads(archive.read(name))["effnet"])
    assert card.classes[285] == "Egyptian cat"

    image = str(SAMPLES / "shuttle.png")
    (expected, *_) = Classifier("lite0")(image).predictions
    (best, *_) = Classifier(ModelOptions(model=path))(image).predictions
    assert best.label == expected.label
    assert abs(best.probability - expected.probability) < 1e-4
    with pytest.raises(UsageError, match="onnxruntime does not support .pt2 files"):
        Classifier(ModelOptions(model=path), EngineOptions("cpu", "onnxruntime"))

    done = subprocess.run(
        [sys.executable, "-c", read_recipe("aotinductor"), str(path), image],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    _, label, probability = done.stdout.strip().split("\t")
    assert label == expected.label
    assert np.isclose(float(probability), expected.probability, atol=1e-4)


@pytest.mark.slow
@pytest.mark.linux
def test_compiler_that_fails_is_one_sentence(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    done = subprocess.run(  # torch remembers the compiler that it has used
        [sys.executable, "-m", "effnet_cli", "export", "--to", "aotinductor", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CXX": str(compiler)},
        timeout=100,
    )
    assert done.returncode == 1
    assert re.search("Error: torch cannot compile the model: .*broken", done.stderr)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [compiler]
