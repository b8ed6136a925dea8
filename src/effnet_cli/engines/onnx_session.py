"""Opens graphs in onnxruntime, on the cores that this process may use.

Left to itself onnxruntime takes every core of the machine, also those that this process is kept
from: its threads then wait for one another on those that are left (int8 of lite0, calibrated on one
of two cores: 6.8 instead of 4.2 s).
"""

import onnxruntime

from effnet_cli.system.parallel import usable_cores

Provider = tuple[str, dict[str, str]]  # where a graph runs, by onnxruntime's name, and its settings

FATAL_ONLY = 4  # onnxruntime's level of severity; errors are raised all the same
ON_CPU: Provider = ("CPUExecutionProvider", {})


def open_session(
    graph: bytes | str, callers: int = 1, provider: Provider = ON_CPU
) -> onnxruntime.InferenceSession:
    """A session of `graph`, the bytes or the path of an ONNX file.

    `callers` threads ask at the same time and share the cores.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = FATAL_ONLY
    settings.intra_op_num_threads = max(1, usable_cores() // callers)
    # Threads that wait by spinning answer a quarter sooner, and take the cores from others.
    spins = "1" if callers == 1 else "0"
    settings.add_session_config_entry("session.intra_op.allow_spinning", spins)
    return onnxruntime.InferenceSession(graph, settings, providers=[provider])
