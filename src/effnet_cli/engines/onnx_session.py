"""Open ONNX graphs in onnxruntime, on the cores that this process may use.

By default onnxruntime starts a thread for every core of the machine, even those that this process
may not use, and the threads then wait for one another (calibrating lite0 for int8 on one of two
cores: 6.8 s instead of 4.2 s).
"""

from pathlib import Path

import onnxruntime

from effnet_cli.system.parallel import usable_cores

Provider = tuple[str, dict[str, str]]  # onnxruntime's name of a device, and its settings

FATAL_ONLY = 4  # log severity in onnxruntime; errors are raised regardless
ON_CPU: Provider = ("CPUExecutionProvider", {})


def open_session(
    graph: bytes | Path,
    callers: int = 1,
    provider: Provider = ON_CPU,
    *,
    has_integer_kernels: bool = True,
) -> onnxruntime.InferenceSession:
    """Open `graph`, the bytes or the path of an ONNX file.

    `callers` is the number of threads that will call the session at once; they share the cores.
    Without integer kernels, int8 graphs are computed in float32, operator by operator.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = FATAL_ONLY
    settings.intra_op_num_threads = max(1, usable_cores() // callers)
    # Spinning threads return in a quarter less time, but take the cores from other callers.
    spins = "1" if callers == 1 else "0"
    settings.add_session_config_entry("session.intra_op.allow_spinning", spins)
    if not has_integer_kernels:
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(graph, settings, providers=[provider])
