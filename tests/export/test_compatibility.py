"""The files of an export as other and older runtimes read them."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from effnet_cli.engines.normalise import normalise
from effnet_cli.engines.onnx_session import open_session
from effnet_cli.export.records import ExportResult
from effnet_cli.export.run import export
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.onnx_file import read_checked_card
from effnet_cli.options import ExportOptions, ExportTask, ImageOptions, ModelOptions, TargetName
from helpers import SAMPLES

ExportDefault = Callable[..., ExportResult]
# The newest version of each operator that tflite-runtime 2.14 has (tensorflow 2.14,
# lite/kernels/register.cc); Android's and the browser's runtimes are of the same age.
OLD_DENSE_VERSION = 9


@pytest.fixture(scope="module")
def int8_files(small: ModelOptions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model in int8, by target."""
    folder, files = tmp_path_factory.mktemp("int8"), {}
    targets: tuple[TargetName, ...] = ("onnx", "litert")
    for target in targets:
        options = ExportOptions(target, quantize="int8")
        task = ExportTask(small, options=options, output=folder, calibrate=SAMPLES, force=True)
        path = export(task).path
        assert path is not None
        files[target] = path
    return files


def test_onnx_uses_what_old_runtimes_and_opencv_read(export_default: ExportDefault) -> None:
    model = onnx.load(export_default("onnx").path)
    assert [entry.version for entry in model.opset_import] == [17]
    assert "Identity" not in {node.op_type for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    names = {attribute.name for node in convolutions for attribute in node.attribute}
    assert "auto_pad" not in names
    assert "pads" in names


def test_int8_onnx_has_a_zero_point_for_every_scale(int8_files: dict[str, Path]) -> None:
    model = onnx.load(int8_files["onnx"])
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type.endswith("QuantizeLinear")]
    nodes += [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert nodes
    for node in nodes:
        _, scale, zero_point = (constants.get(name) for name in node.input)
        assert scale is not None
        assert zero_point is not None
        assert zero_point.shape == scale.shape


def test_int8_weights_of_onnx_cannot_overflow_16_bits(int8_files: dict[str, Path]) -> None:
    model = onnx.load(int8_files["onnx"])
    weights = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    int8 = [weight.astype(int) for weight in weights if weight.dtype == np.int8 and weight.any()]
    assert int8
    largest = max(np.abs(weight).max() for weight in int8)
    assert largest == 63
    assert 2 * 255 * largest < 2**15
    assert read_checked_card(int8_files["onnx"]).export["weight_bits"] == 7


def test_exact_arithmetic_is_that_of_the_onnx_standard(int8_files: dict[str, Path]) -> None:
    path = int8_files["onnx"]
    preprocessing = read_checked_card(path).preprocessing
    crops = ImageLoader(preprocessing, ImageOptions()).load(SAMPLES / "cat.jpg")
    pixels = normalise(crops, preprocessing)
    model = onnx.load(path)
    model.opset_import[0].version = 19  # the evaluator's oldest; these operators did not change
    standard = ReferenceEvaluator(model).run(None, {"pixels": pixels})[0]
    exact = open_session(path, has_integer_kernels=False).run(None, {"pixels": pixels})[0]
    # a sum that lies between two integers may be rounded either way
    assert np.abs(standard - exact).max() <= 0.02 * np.ptp(standard)


def test_litert_int8_needs_no_new_version_of_an_operator(int8_files: dict[str, Path]) -> None:
    content = int8_files["litert"].read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    versions = {code.builtinCode: code.version for code in model.operatorCodes}
    assert versions[schema.BuiltinOperator.FULLY_CONNECTED] <= OLD_DENSE_VERSION


def test_litert_files_carry_names_and_metadata(int8_files: dict[str, Path]) -> None:
    path = int8_files["litert"]
    with zipfile.ZipFile(path) as archive:
        labels = archive.read("labels.txt").decode().splitlines()
    card = read_checked_card(int8_files["onnx"])
    assert labels == list(card.classes)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    (entry,) = model.metadata
    assert entry.name == b"TFLITE_METADATA"
    assert bytes(model.buffers[entry.buffer].data)[4:8] == b"M001"
