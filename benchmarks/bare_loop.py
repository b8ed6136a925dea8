"""The minimum for classifying a folder of JPEGs: threads that decode and call a runtime.

bare_loop.py FOLDER MODEL.onnx [onnxruntime | openvino:f32 | openvino:bf16]

Decoding (JPEGs scaled while decoding), resizing, runtime and settings are the same as effnet's, but
there is no command line, no other format, no check and no output. The difference is effnet's
overhead.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RESIZE_PX, CROP_PX = 256, 224
MEAN, STD = np.float32(127 / 255), np.float32(128 / 255)


def opened(path: Path) -> Any:
    """Return the model's input, float32 [1,3,224,224]."""
    image: Image.Image = Image.open(path)
    short = min(image.size)
    width, height = (RESIZE_PX * side // short for side in image.size)
    image.draft(None, (2 * width, 2 * height))
    image = image.convert("RGB")
    left, top = round((width - CROP_PX) / 2), round((height - CROP_PX) / 2)
    image = image.resize((width, image.height), Image.Resampling.BICUBIC)
    image = image.crop((left, 0, left + CROP_PX, image.height))
    image = image.resize((CROP_PX, height), Image.Resampling.BICUBIC)
    crop = np.asarray(image.crop((0, top, CROP_PX, top + CROP_PX)))
    values = np.true_divide(
        np.ascontiguousarray(crop.transpose(2, 0, 1)), np.float32(255), dtype=np.float32
    )
    values -= MEAN
    values /= STD
    return values[None]


def onnxruntime_engine(model: str, threads: int, images: int) -> Callable[[Any], Any]:
    """Open a session that `threads` threads may call."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = max(1, threads // min(threads, images))
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, settings)
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def openvino_engine(model: str, threads: int, precision: str) -> Callable[[Any], Any]:
    """Compile a model with one request per thread."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(model)
    graph.reshape([1, 3, CROP_PX, CROP_PX])
    settings = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": str(threads)}
    compiled = core.compile_model(graph, "CPU", settings)
    local = threading.local()

    def infer(pixels: Any) -> Any:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        local.request.infer([pixels], share_inputs=True)
        return np.array(local.request.get_output_tensor(0).data)

    return infer


def main() -> None:
    """Predict every image and print how many there are."""
    paths = sorted(Path(sys.argv[1]).iterdir())
    runtime, _, precision = sys.argv[3].partition(":")
    threads = len(os.sched_getaffinity(0))
    if runtime == "openvino":
        infer = openvino_engine(sys.argv[2], threads, precision)
    else:
        infer = onnxruntime_engine(sys.argv[2], threads, len(paths))
    with ThreadPoolExecutor(threads) as pool:
        best = list(pool.map(lambda path: int(infer(opened(path)).argmax()), paths))
    print(len(best))


if __name__ == "__main__":
    main()
