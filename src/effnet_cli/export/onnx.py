"""ONNX files, and OpenVINO's from the same graph."""

import re
from importlib import import_module
from pathlib import Path

from effnet_cli.export.source import ExportSource
from effnet_cli.models.card import CARD_KEY


def write_onnx(source: ExportSource, path: Path) -> None:
    """One file, whatever its size; the card is in its `metadata_props`."""
    path.write_bytes(source.graph().SerializeToString())


def write_openvino(source: ExportSource, path: Path) -> None:
    """`path` (.xml) and the weights beside it (.bin); the card is in the `rt_info`."""
    # its conversion tools are left out, and with them a telemetry client
    from effnet_cli.engines.openvino_engine import openvino

    is_half = source.options.precision == "fp16"
    whole = source if not is_half else source.in_float32()
    graph = openvino.Core().read_model(whole.graph().SerializeToString())
    if source.recipe is not None:
        # what surrounds each 8-bit value becomes one operator: half of the .xml
        import_module("openvino._offline_transformations").apply_moc_transformations(graph, cf=True)
    graph.set_rt_info(source.card.to_json(), [CARD_KEY])
    openvino.save_model(graph, str(path), compress_to_fp16=is_half)
    # a third of the file is indentation
    path.write_bytes(re.sub(rb">\s+<", b"><", path.read_bytes()))
