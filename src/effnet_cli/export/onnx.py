"""Writes ONNX files, and OpenVINO files from the same graph."""

import errno
import os
import re
import shutil
from importlib import import_module
from pathlib import Path

from effnet_cli.engines.normalise import Pixels
from effnet_cli.engines.onnx_session import open_session
from effnet_cli.engines.onnx_writer import INPUT
from effnet_cli.engines.onnxruntime_engine import RUNTIME_ERRORS
from effnet_cli.export.map_agreement import RunMaps
from effnet_cli.export.source import ExportSource
from effnet_cli.models.card import CARD_KEY


def write_onnx(source: ExportSource, path: Path) -> None:
    """Write one file, with the card in its `metadata_props`."""
    path.write_bytes(source.graph(source.options.output_precision).SerializeToString())


def load_maps(path: Path) -> RunMaps:
    """Load a file with feature maps."""
    session = open_session(path)
    names = [one.name for one in session.get_outputs()]

    def run(pixels: Pixels) -> dict[str, Pixels]:
        try:
            return dict(zip(names, session.run(names, {INPUT: pixels}), strict=True))
        except RUNTIME_ERRORS as error:  # they have no common base class
            raise RuntimeError(str(error)) from error

    return run


def write_openvino(source: ExportSource, path: Path) -> None:
    """Write `path` (.xml), with the card in its `rt_info`, and the weights beside it (.bin)."""
    # This imports OpenVINO without its conversion tools, which include a telemetry client.
    from effnet_cli.engines.openvino_engine import CORE, openvino

    precision = source.options.output_precision
    content = source.graph("int8" if precision == "int8" else "fp32").SerializeToString()
    graph = CORE.read_model(content)
    if precision == "int8":
        # Merges the operators around each 8-bit value, which halves the .xml.
        import_module("openvino._offline_transformations").apply_moc_transformations(graph, cf=True)
    graph.set_rt_info(source.card.to_json(), [CARD_KEY])
    try:
        openvino.save_model(graph, str(path), compress_to_fp16=precision == "fp16")
    except RuntimeError as error:  # it does not say which
        is_full = shutil.disk_usage(path.parent).free < len(content)
        number = errno.ENOSPC if is_full else errno.EIO
        raise OSError(number, os.strerror(number)) from error
    # Indentation makes up a third of the file.
    path.write_bytes(re.sub(rb">\s+<", b"><", path.read_bytes()))
