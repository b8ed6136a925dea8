"""The runtimes and versions in which effnet's exported files run and agree.

runtimes.py --photos DIR --calibrate DIR --work DIR [--only NAME ...] [--clean]

Exports lite0 to ONNX, OpenVINO and LiteRT in fp32, fp16 and int8, and runs each file with every row
of ROWS that can read it, on 20 of the photos. --calibrate is a folder of images for int8. Prints a
Markdown table: on how many photos the top-1 class is that of torch in fp32, and the largest
difference in a probability. Complete errors go to the standard error.

Each runtime is installed from PyPI or npm into an environment of its own in --work, which is used
again by the next run; --clean removes it as soon as its row is done. --only selects rows by runtime
or package. The processor matters for int8: ONNX Runtime and OpenVINO add in 16 bits without VNNI.

Not here: MediaPipe, whose ImageClassifier takes only files with its own metadata.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from effnet_cli.engines.base import to_probabilities
from effnet_cli.engines.normalise import normalise
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.build import load_module
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import VARIANTS
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import ModelOptions

VARIANT = "lite0"
TARGETS = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite"}
PRECISIONS = ("fp32", "fp16", "int8")
PHOTOS = 20
TIMEOUT_S = 300
ERROR_CHARACTERS = 160
CLIENTS = Path(__file__).parent / "runtime_clients"
OPENCV = "opencv-python-headless"
OLD_NUMPY = ("numpy<2",)  # for packages compiled before NumPy 2


@dataclass(frozen=True, slots=True)
class Row:
    """A package of PyPI or npm in one version (`None`: the newest), and a file that it reads."""

    runtime: str
    package: str
    version: str | None
    suffix: str
    client: str = ""  # client.py's name for it; empty: a package of npm, run by client.mjs
    others: tuple[str, ...] = ()

    @property
    def is_node(self) -> bool:
        return not self.client

    @property
    def requirements(self) -> list[str]:
        equals = "@" if self.is_node else "=="
        package = f"{self.package}{equals}{self.version}" if self.version else self.package
        return [package, *self.others]

    @property
    def folder(self) -> str:
        return f"{self.package}-{self.version or 'newest'}"


ROWS = (
    Row("ONNX Runtime", "onnxruntime", "1.17.3", ".onnx", "onnxruntime", OLD_NUMPY),
    Row("ONNX Runtime", "onnxruntime", "1.20.1", ".onnx", "onnxruntime"),
    Row("ONNX Runtime", "onnxruntime", "1.23.2", ".onnx", "onnxruntime"),
    Row("ONNX Runtime", "onnxruntime", "1.26.0", ".onnx", "onnxruntime"),
    Row("ONNX Runtime", "onnxruntime", None, ".onnx", "onnxruntime"),
    Row("ONNX Runtime for Node", "onnxruntime-node", None, ".onnx"),
    Row("ONNX Runtime Web", "onnxruntime-web", None, ".onnx"),
    Row("OpenCV", OPENCV, "4.9.0.80", ".onnx", "opencv", OLD_NUMPY),
    Row("OpenCV", OPENCV, "4.10.0.84", ".onnx", "opencv", OLD_NUMPY),
    Row("OpenCV", OPENCV, "4.10.0.84", ".tflite", "opencv", OLD_NUMPY),
    Row("OpenCV", OPENCV, "4.12.0.88", ".onnx", "opencv"),
    Row("OpenCV", OPENCV, "4.13.0.92", ".onnx", "opencv"),
    Row("OpenCV", OPENCV, "4.14.0.94", ".onnx", "opencv"),
    Row("OpenCV", OPENCV, "4.14.0.94", ".tflite", "opencv"),
    Row("OpenCV", OPENCV, "5.0.0.93", ".onnx", "opencv"),
    Row("OpenCV, classic engine", OPENCV, "5.0.0.93", ".onnx", "opencv-classic"),
    Row("OpenCV", OPENCV, "5.0.0.93", ".tflite", "opencv"),
    Row("OpenVINO", "openvino", "2023.3.0", ".xml", "openvino", OLD_NUMPY),
    Row("OpenVINO", "openvino", "2024.6.0", ".xml", "openvino"),
    Row("OpenVINO", "openvino", "2025.4.1", ".xml", "openvino"),
    Row("OpenVINO", "openvino", None, ".xml", "openvino"),
    Row("OpenVINO", "openvino", None, ".onnx", "openvino"),
    Row("OpenVINO", "openvino", None, ".tflite", "openvino"),
    Row("TensorFlow Lite", "tflite-runtime", "2.14.0", ".tflite", "tflite-runtime", OLD_NUMPY),
    Row("LiteRT", "ai-edge-litert", "1.0.1", ".tflite", "ai-edge-litert", OLD_NUMPY),
    Row("LiteRT", "ai-edge-litert", None, ".tflite", "ai-edge-litert"),
    Row("MNN", "MNN", None, ".onnx", "mnn"),
    Row("tract", "tract", None, ".onnx", "tract"),
)


def export_all(folder: Path, calibrate: Path) -> None:
    """Write fp32.onnx and so on; int8 is kept even if it fails effnet's own check."""
    folder.mkdir(parents=True, exist_ok=True)
    for target, suffix in TARGETS.items():
        for precision in PRECISIONS:
            options = ["--precision", precision]
            if precision == "int8":
                options = ["--quantize", "int8", "--calibrate", str(calibrate), "--force"]
            path = folder / f"{precision}{suffix}"
            command = [sys.executable, "-m", "effnet_cli", "export", "--variant", VARIANT]
            command += ["--to", target, *options, "--output", str(path), "--quiet"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def prepare_pixels(photos: Path, pixels: Path) -> None:
    """Save the model input of evenly spaced photos."""
    card = imagenet_card(VARIANTS[VARIANT])
    loader = ImageLoader(card.preprocessing)
    paths = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))
    chosen = paths[:: max(1, len(paths) // PHOTOS)][:PHOTOS]
    crops = np.stack([loader.crop(loader.open(path)) for path in chosen])
    np.save(pixels, normalise(crops, card.preprocessing))


def reference(pixels: Path) -> npt.NDArray[np.float64]:
    """Return the probabilities by torch in fp32."""
    module = load_module(resolve_model(ModelOptions(variant=VARIANT)))
    with torch.inference_mode():
        scores = module.eval()(torch.from_numpy(np.load(pixels))).numpy()
    return to_probabilities(scores, "logits")


def install(row: Row, folder: Path) -> str | None:
    """Create a row's environment if it is not there; return why this failed, or `None`."""
    done = folder / "installed"
    if done.exists():
        return None
    shutil.rmtree(folder, ignore_errors=True)
    if row.is_node:
        folder.mkdir(parents=True)
        # The scripts of onnxruntime-node would download files for NVIDIA GPUs.
        command = ["npm", "install", "--ignore-scripts", "--prefix", str(folder)]
    else:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        command = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet"]
    result = subprocess.run([*command, *row.requirements], capture_output=True, text=True)
    if result.returncode != 0:
        return f"cannot be installed: {result.stderr.strip()}"
    done.touch()
    return None


def run_client(row: Row, environment: Path, file: Path, pixels: Path) -> dict[str, Any]:
    """Run a file in a process of its own; return the client's JSON, or an `error`."""
    if row.is_node:
        client = shutil.copy(CLIENTS / "client.mjs", environment)
        command = ["node", str(client), row.package]
    else:
        command = [str(environment / "bin/python"), str(CLIENTS / "client.py"), row.client]
    command += [str(file), str(pixels)]
    # A runtime must not install anything elsewhere: MNN's tools call the pip that PATH leads to.
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PIP_NO_INDEX": "1"}
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=variables,
            cwd=file.parent,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {TIMEOUT_S} s"}
    try:
        answer: dict[str, Any] = json.loads(result.stdout.strip().rpartition("\n")[2])
    except ValueError:
        return {"error": f"exit status {result.returncode}: {result.stderr.strip()[-1000:]}"}
    return answer


def describe(answer: dict[str, Any], expected: npt.NDArray[np.float64]) -> str:
    """Return the text of a cell."""
    if "error" in answer:
        words = answer["error"].replace("|", "/").split()
        text = " ".join(word for word in words if not word.startswith("/"))  # without paths
        return f"fails: {text[:ERROR_CHARACTERS]}"
    scores = np.array(answer["scores"], dtype=np.float32)  # JavaScript writes NaN as null
    if scores.shape != expected.shape:
        return f"fails: the scores have the shape {scores.shape}"
    given = to_probabilities(scores, "logits")
    same = int((given.argmax(axis=1) == expected.argmax(axis=1)).sum())
    return f"{same} of {len(expected)}, {np.abs(given - expected).max():.0e}"


def measure(row: Row, work: Path, expected: npt.NDArray[np.float64]) -> str:
    """Return a row's line of the table."""
    environment = work / "environments" / row.folder
    version, cells = row.version or "newest", []
    failure = install(row, environment)
    for precision in PRECISIONS:
        file = work / "models" / f"{precision}{row.suffix}"
        answer: dict[str, Any] = {"error": failure}
        if failure is None:
            answer = run_client(row, environment, file, work / "pixels.npy")
        version = answer.get("version", version)
        if "error" in answer:
            name = f"{row.runtime} {version} {file.name}"
            print(f"{name}: {answer['error']}\n", file=sys.stderr, flush=True)
        cells.append(describe(answer, expected))
    return " | ".join([f"| {row.runtime}", version, row.suffix, *cells]) + " |"


def main() -> None:
    """Run the selected rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--calibrate", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--clean", action="store_true")
    given = parser.parse_args()
    work = given.work.absolute()
    export_all(work / "models", given.calibrate)
    prepare_pixels(given.photos, work / "pixels.npy")
    expected = reference(work / "pixels.npy")
    print(f"| runtime | version | file | {' | '.join(PRECISIONS)} |\n|---|---|---|---|---|---|")
    rows = [r for r in ROWS if not given.only or {r.runtime, r.package} & set(given.only)]
    for number, row in enumerate(rows):
        print(measure(row, work, expected), flush=True)
        is_last_use = row.folder not in {other.folder for other in rows[number + 1 :]}
        if given.clean and is_last_use:
            shutil.rmtree(work / "environments" / row.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
