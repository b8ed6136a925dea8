"""int8 exports and quantization arithmetic."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.export import quantize
from effnet_cli.export import run as export_run
from effnet_cli.export.records import EXACT_INT8
from effnet_cli.export.run import export
from effnet_cli.options import ExportOptions, ExportTask, ModelOptions, TargetName
from effnet_cli.predict.records import ImageResult
from exporting import predict, sort_by_class
from helpers import SAMPLES
from training import CommandResult

pytestmark = pytest.mark.usefixtures("one_core")

Effnet = Callable[..., CommandResult]

GRAPH_TARGETS = ["onnx", "openvino", "litert"]


@pytest.fixture(scope="module")
def sorted_images(
    fifty_predictions: list[ImageResult], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """32 images in folders named after the predictions of the default model."""
    return sort_by_class(fifty_predictions[:32], tmp_path_factory.mktemp("sorted"))


@pytest.fixture(scope="module")
def recipes() -> list[quantize.Int8Recipe]:
    """The default model's recipe, the same for every target, once it has been chosen."""
    return []


@pytest.fixture
def shared_recipe(recipes: list[quantize.Int8Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate only for the first target."""

    def choose_once(*arguments: Any, weight_bits: int) -> quantize.Int8Recipe:
        if not recipes:
            recipes.append(quantize.choose_recipe(*arguments, weight_bits=weight_bits))
        return recipes[0]

    monkeypatch.setattr(export_run, "choose_recipe", choose_once)
    if recipes:
        monkeypatch.setattr(export_run, "measure_ranges", lambda *_: {})


@pytest.mark.usefixtures("shared_recipe")
@pytest.mark.parametrize("target", GRAPH_TARGETS)
def test_int8_agrees_with_torch(target: TargetName, sorted_images: Path, tmp_path: Path) -> None:
    exported = export(
        ExportTask(
            options=ExportOptions(target, quantize="int8"),
            output=tmp_path,
            calibrate=sorted_images,
            max_drop=20.0,  # most of these crops have no clear class
        )
    )
    reference, plain, exact, form = exported.comparison.forms
    assert (plain.name, form.name) == (f"{target} fp32", f"{target} int8")
    assert exact.name == EXACT_INT8
    assert exact.confident_agreement is not None
    assert exact.confident_agreement >= 0.95
    assert exported.comparison.rejection is None
    assert exported.comparison.images == 32
    assert form.confident_agreement is not None
    assert form.confident_agreement >= 0.95
    assert reference.top1 == plain.top1 == 1.0
    assert form.top1 == form.agreement
    assert form.size_bytes <= 0.3 * plain.size_bytes
    actual = predict(ModelOptions(model=exported.path), [SAMPLES / "coffee.jpg"])
    assert actual[0].predictions[0].label == "espresso"


def test_int8_that_loses_too_much_is_rejected(
    fifty_images: list[Path], small: ModelOptions, tmp_path: Path, effnet: Effnet
) -> None:
    images = sort_by_class(predict(small, fifty_images[:16], top_k=1), tmp_path / "sorted")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(3):
        shutil.copy(SAMPLES / "cat.jpg", flat / f"{number}.jpg")
    out = tmp_path / "out"
    command = (
        "export", "--to", "onnx", "--model", small.model, "--quantize", "int8",
        "--calibrate", flat, "--check", images,
    )  # fmt: skip
    done = effnet(*command, "--max-drop", "0", "-o", out / "a.onnx", "-f", "json")
    row = json.loads(done.stdout)
    lost = 100 * (row["forms"][0]["top1"] - row["forms"][3]["top1"])
    assert lost > 0, "int8 calibrated on one image has to lose accuracy"
    assert done.status == 3
    assert f"lowers top-1 by {lost:.2f} points" in done.stderr
    assert "The file was not kept" in done.stderr
    assert list(out.iterdir()) == []


# --- arithmetic -----------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.floats(1e-6, 1e3),
    st.sampled_from([0.0, 1e-9, 1.0, 1e6]),
    st.sampled_from([7, 8]),
)
def test_rounded_weights_are_within_half_a_step(
    seed: int, input_scale: float, bias: float, weight_bits: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(5, 3, 2, 2)) * rng.choice([0, 1e-9, 1, 1e4], size=(5, 1, 1, 1))
    offsets = rng.normal(size=5) * bias
    means = rng.normal(size=3)
    quantized = quantize.quantize_layer(
        weight, offsets, input_means=means, input_scale=input_scale, weight_bits=weight_bits
    )
    scales = quantized.scales.astype(np.float64)[:, None, None, None]
    assert quantized.weight.dtype == np.int8
    assert np.abs(quantized.weight).max() <= 2 ** (weight_bits - 1) - 1
    assert (np.abs(quantized.weight * scales - weight) <= 0.5001 * scales).all()
    # the mean result is unchanged, up to the rounding of the bias
    expected = weight.sum(axis=(2, 3)) @ means + offsets
    rounded = (quantized.weight * scales).sum(axis=(2, 3)) @ means
    actual = rounded + quantized.bias.astype(np.float64) * quantized.bias_scales
    step = quantized.bias_scales.astype(np.float64) + 1e-6 * np.abs(rounded)
    assert (np.abs(actual - expected) <= step + 1e-6 * np.abs(offsets)).all()


@given(st.floats(-1e6, 0), st.floats(0, 1e6))
def test_scale_covers_its_range_and_zero(low: float, high: float) -> None:
    quantized = quantize.scale_for((low, high))
    assert quantized.scale > 0
    assert 0 <= quantized.zero_point <= 255
    ends = [quantized.scale * (q - quantized.zero_point) for q in (0, 255)]
    assert ends[0] <= low + 0.51 * quantized.scale
    assert ends[1] >= high - 0.51 * quantized.scale
