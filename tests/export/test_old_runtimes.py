"""Exported files in the oldest runtimes that the documentation promises.

Each test installs one old version into a virtual environment of its own: `pytest -m old_runtimes`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from effnet_cli.engines.normalise import normalise
from effnet_cli.engines.onnx_session import open_session
from effnet_cli.export.run import export
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.onnx_file import read_checked_card
from effnet_cli.options import ExportOptions, ExportTask, ImageOptions, TargetName
from helpers import SAMPLES

pytestmark = [pytest.mark.old_runtimes, pytest.mark.timeout(600)]

ONNXRUNTIME = """
import numpy, onnxruntime, sys
model, pixels, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
numpy.save(out, session.run(None, {"pixels": numpy.load(pixels)})[0])
"""
TFLITE = """
import numpy, sys
from tflite_runtime.interpreter import Interpreter
model, pixels, out = sys.argv[1:]
interpreter = Interpreter(model)
index = interpreter.get_input_details()[0]["index"]
values = numpy.ascontiguousarray(numpy.load(pixels).transpose(0, 2, 3, 1))
interpreter.resize_tensor_input(index, values.shape)
interpreter.allocate_tensors()
interpreter.set_tensor(index, values)
interpreter.invoke()
numpy.save(out, interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""
RUNTIMES: dict[TargetName, tuple[str, str]] = {
    "onnx": ("onnxruntime==1.17.3", ONNXRUNTIME),
    "litert": ("tflite-runtime==2.14.0", TFLITE),
}


@pytest.mark.parametrize("target", RUNTIMES)
def test_the_oldest_runtime_gives_the_same_classes(target: TargetName, tmp_path: Path) -> None:
    package, client = RUNTIMES[target]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", package, "numpy<2"], check=True)

    def write(options: ExportOptions) -> Path:
        calibrate = SAMPLES if options.quantize else None
        task = ExportTask(options=options, output=tmp_path, calibrate=calibrate, force=True)
        path = export(task).path
        assert path is not None
        return path

    reference = write(ExportOptions("onnx"))
    preprocessing = read_checked_card(reference).preprocessing
    loader = ImageLoader(preprocessing, ImageOptions())
    pixels = normalise(
        np.concatenate([loader.load(path) for path in sorted(SAMPLES.glob("*.jpg"))[:8]]),
        preprocessing,
    )
    np.save(tmp_path / "pixels.npy", pixels)
    expected = open_session(reference).run(None, {"pixels": pixels})[0]
    forms = (
        ExportOptions(target),
        ExportOptions(target, "fp16"),
        ExportOptions(target, quantize="int8"),
    )
    for path in map(write, forms):
        out = tmp_path / "out.npy"
        subprocess.run([python, "-c", client, path, tmp_path / "pixels.npy", out], check=True)
        actual = np.load(out)
        assert (actual.argmax(axis=1) == expected.argmax(axis=1)).all(), path.name


MEDIAPIPE = """
import sys
from mediapipe import Image
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ImageClassifier, ImageClassifierOptions
options = ImageClassifierOptions(base_options=BaseOptions(model_asset_path=sys.argv[1]))
classifier = ImageClassifier.create_from_options(options)
for path in sys.argv[2:]:
    found = classifier.classify(Image.create_from_file(path)).classifications[0].categories[0]
    print(found.category_name, found.score, sep="\\t")
classifier.close()
"""


def test_mediapipe_knows_the_names(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "mediapipe==1.2.*"], check=True)
    images = [SAMPLES / "coffee.jpg", SAMPLES / "cat.jpg"]
    for has_preprocessing in (False, True):
        options = ExportOptions("litert", include_preprocessing=has_preprocessing)
        path = export(ExportTask(options=options, output=tmp_path, force=True)).path
        assert path is not None
        done = subprocess.run(
            [python, "-c", MEDIAPIPE, path, *images], check=True, capture_output=True, text=True
        )
        coffee, cat = (line.split("\t") for line in done.stdout.splitlines())
        assert coffee[0] == "espresso"
        assert cat[0] in ("Egyptian cat", "tiger cat", "tabby")  # it stretches images to a square
        if has_preprocessing:
            assert 0.5 < float(coffee[1]) <= 1.0
