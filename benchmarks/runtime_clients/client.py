"""Runs an exported file with the runtime of this environment; `runtimes.py` starts it.

client.py NAME FILE PIXELS

NAME is one of RUNTIMES and PIXELS an .npy file, float32 [N,3,H,W]. The last line of the output is
JSON: the `version`, and `scores` [N,C] or an `error`. The environment has only the package and
NumPy.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Run = Callable[[npt.NDArray[np.float32]], Any]  # [1,3,H,W] to scores


def open_onnxruntime(path: Path) -> Run:
    """Open an ONNX file with ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


def open_opencv(path: Path) -> Run:
    """Open an ONNX or TensorFlow Lite file with OpenCV."""
    import cv2

    return _run_net(cv2.dnn.readNet(str(path)))


def open_opencv_classic(path: Path) -> Run:
    """Open an ONNX file with the older of the two engines of OpenCV 5."""
    import cv2

    return _run_net(cv2.dnn.readNetFromONNX(str(path), cv2.dnn.ENGINE_CLASSIC))


def _run_net(net: Any) -> Run:

    def run(pixels: npt.NDArray[np.float32]) -> Any:
        net.setInput(pixels)
        return net.forward()

    return run


def open_openvino(path: Path) -> Run:
    """Open any file with OpenVINO, in float32: some processors would use bfloat16."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    is_nhwc = compiled.input(0).partial_shape[3].to_string() == "3"
    return lambda pixels: compiled([to_nhwc(pixels) if is_nhwc else pixels])[0]


def open_ai_edge_litert(path: Path) -> Run:
    """Open a TensorFlow Lite file with LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    return _run_interpreter(Interpreter(model_path=str(path)))


def open_tflite_runtime(path: Path) -> Run:
    """Open a TensorFlow Lite file with LiteRT's predecessor."""
    from tflite_runtime.interpreter import Interpreter

    return _run_interpreter(Interpreter(model_path=str(path)))


def _run_interpreter(interpreter: Any) -> Run:
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.allocate_tensors()

    def run(pixels: npt.NDArray[np.float32]) -> Any:
        interpreter.set_tensor(taken["index"], to_nhwc(pixels))
        interpreter.invoke()
        return interpreter.get_tensor(given["index"])

    return run


def open_mnn(path: Path) -> Run:
    """Convert an ONNX file with MNN's converter and open the result."""
    import MNN

    converted = path.with_name(f"{path.name}.mnn")
    converted.unlink(missing_ok=True)
    # Not the program `mnnconvert`: it calls pip to install more, wherever PATH leads, and reports
    # each use to its makers. This is what it does besides.
    convert = "import sys, _tools; _tools.mnnconvert(sys.argv)"
    command = [sys.executable, "-c", convert, "-f", "ONNX", "--bizCode", "-"]
    command += ["--modelFile", str(path), "--MNNModel", str(converted)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not converted.exists():
        raise RuntimeError(f"conversion: {done.stderr.strip() or done.stdout.strip()}")
    net = MNN.nn.load_module_from_file(str(converted), ["pixels"], ["logits"])

    def run(pixels: npt.NDArray[np.float32]) -> Any:
        image = MNN.expr.placeholder(list(pixels.shape), MNN.expr.NCHW)
        image.write(pixels)
        return MNN.expr.convert(net.forward([image])[0], MNN.expr.NCHW).read()

    return run


def open_tract(path: Path) -> Run:
    """Open an ONNX file with tract."""
    import tract

    model = tract.onnx().load(str(path)).into_model().into_runnable()
    return lambda pixels: model.run([pixels])[0].to_numpy()


def to_nhwc(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Move the channels to the end, as TensorFlow Lite files expect them."""
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


RUNTIMES: dict[str, tuple[str, Callable[[Path], Run]]] = {  # name: package, function
    "onnxruntime": ("onnxruntime", open_onnxruntime),
    "opencv": ("opencv-python-headless", open_opencv),
    "opencv-classic": ("opencv-python-headless", open_opencv_classic),
    "openvino": ("openvino", open_openvino),
    "ai-edge-litert": ("ai-edge-litert", open_ai_edge_litert),
    "tflite-runtime": ("tflite-runtime", open_tflite_runtime),
    "mnn": ("MNN", open_mnn),
    "tract": ("tract", open_tract),
}


def main() -> None:
    """Run all images, one at a time."""
    name, file, pixels = sys.argv[1:]
    package, open_file = RUNTIMES[name]
    answer: dict[str, Any] = {"version": version(package)}
    try:
        run = open_file(Path(file))
        rows = [np.array(run(image[None]), np.float64) for image in np.load(pixels)]
        answer["scores"] = [row.ravel().tolist() for row in rows]
    except Exception as error:
        answer["error"] = str(error)
    print("\n" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
