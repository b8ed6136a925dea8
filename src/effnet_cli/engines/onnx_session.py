"""Opens ONNX graphs in onnxruntime, on the cores that this process may use.

By default onnxruntime starts a thread for every core of the machine, also for those that this
process may not use, and the threads then wait for one another (int8 of lite0, calibrated on one of
two cores: 6.8 instead of 4.2 s).
"""

from pathlib import Path

import onnxruntime

from effnet_cli.system.parallel import usable_cores

Provider = tuple[str, dict[str, str]]  # onnxruntime's name of a device, and its settings

FATAL_ONLY = 4  # severity in onnxruntime's log; errors are raised all the same
ON_CPU: Provider = ("CPUExecutionProvider", {})


def open_session(
    graph: bytes | Path, callers: int = 1, provider: Provider = ON_CPU
) -> onnxruntime.InferenceSession:
    """A session for `graph`, the bytes or the path of an ONNX file; its `callers` threads share
    the cores.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = FATAL_ONLY
    settings.intra_op_num_threads = max(1, usable_cores() // callers)
    # Spinning threads return a quarter sooner, but keep the cores from the other callers.
    spins = "1" if callers == 1 else "0"
    settings.add_session_config_entry("session.intra_op.allow_spinning", spins)
    return onnxruntime.InferenceSession(graph, settings, providers=[provider])
