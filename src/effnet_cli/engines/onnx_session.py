"""Opens graphs in onnxruntime, on the cores that this process may use.

Left to itself onnxruntime takes every core of the machine, also those that this process is kept
from: its threads then wait for one another on those that are left (int8 of lite0, calibrated on one
of two cores: 6.8 instead of 4.2 s).
"""

from collections.abc import Sequence
from typing import Any

import onnxruntime

from effnet_cli.ordered import usable_cores

FATAL_ONLY = 4  # onnxruntime's level of severity; errors are raised all the same
ON_CPU: tuple[tuple[str, dict[str, str]], ...] = (("CPUExecutionProvider", {}),)


def opened(
    graph: bytes | str,
    callers: int = 1,
    providers: Sequence[tuple[str, dict[str, str]]] = ON_CPU,
) -> onnxruntime.InferenceSession:
    """A session of `graph`, the bytes or the path of an ONNX file.

    Args:
        callers: threads that ask at the same time; they share the cores.
        providers: where it runs, each with its settings, the first that can comes first.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = FATAL_ONLY
    settings.intra_op_num_threads = max(1, usable_cores() // callers)
    # Threads that wait by spinning answer a quarter sooner, and take the cores from others.
    spins = "1" if callers == 1 else "0"
    settings.add_session_config_entry("session.intra_op.allow_spinning", spins)
    return onnxruntime.InferenceSession(graph, settings, providers=list[Any](providers))
