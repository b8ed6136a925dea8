"""EfficientNet-Lite gives the logits of the original model on real photos."""

import numpy as np
import pytest
import torch

from effnet_cli.engines.registry import plan_engine
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build, weights
from effnet_cli.models.efficientnet import SameConv2d
from effnet_cli.models.variants import find_variant
from effnet_cli.options import EngineOptions, ImageOptions, ModelOptions
from helpers import SAMPLES

# The three largest logits by class, and the norm of all 1,000, of the same tensors in the port of
# tensorflow/tpu's model that timm 1.0.31 has (tf_efficientnet_lite0..2, torch 2.15, CPU, fp32).
ORIGINAL = [
    ("lite0", "cat.jpg", {282: 9.1248, 285: 9.0006, 281: 8.3620}, 37.972),
    ("lite0", "coffee.jpg", {967: 11.4479, 968: 7.1701, 925: 6.7497}, 34.800),
    ("lite0", "rocket.jpg", {657: 7.1198, 744: 6.7529, 540: 6.1612}, 32.077),
    ("lite0", "temple.jpg", {698: 7.4833, 442: 6.9316, 663: 5.9798}, 37.146),
    ("lite0", "cameraman.jpg", {872: 11.3471, 593: 6.8217, 447: 6.6634}, 42.169),
    ("lite1", "cat.jpg", {285: 8.1583, 282: 7.5212, 281: 7.0799}, 28.926),
    ("lite1", "coffee.jpg", {967: 7.3260, 925: 4.9057, 968: 4.8083}, 24.608),
    ("lite1", "rocket.jpg", {812: 5.0241, 657: 4.7134, 744: 4.2763}, 20.797),
    ("lite2", "cat.jpg", {285: 8.3283, 282: 7.2270, 281: 6.7055}, 25.760),
    ("lite2", "coffee.jpg", {967: 9.4498, 925: 5.3243, 968: 5.0487}, 25.817),
    ("lite2", "temple.jpg", {698: 7.0973, 483: 5.3082, 442: 5.2723}, 29.008),
]


@pytest.mark.parametrize(("name", "image", "largest", "norm"), ORIGINAL)
def test_logits_match_the_original(
    name: str, image: str, largest: dict[int, float], norm: float
) -> None:
    variant = find_variant(name)
    loader = ImageLoader(variant.preprocessing, ImageOptions(exact_decode=True))
    crops = loader.load(SAMPLES / image)
    engine = plan_engine(EngineOptions("cpu")).load(
        weights.resolve_model(ModelOptions(variant=name))
    )
    logits = engine(crops).scores[0]
    assert [int(index) for index in np.argsort(-logits)[:3]] == list(largest)
    assert [float(logits[index]) for index in largest] == pytest.approx(
        list(largest.values()), abs=2e-4
    )
    assert float(np.linalg.norm(logits)) == pytest.approx(norm, abs=2e-3)


@pytest.mark.parametrize("size", [5, 8, 15, 112, 113])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (1, 1)])
def test_same_padding_matches_tensorflow(size: int, kernel: int, stride: int) -> None:
    conv = SameConv2d(1, 1, kernel, stride, bias=False)
    pixels = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(size))
    with torch.inference_mode():
        actual = conv(pixels)[0, 0].numpy()
    np.testing.assert_allclose(
        actual, convolve_with_same_padding(pixels, conv.weight, stride), atol=1e-5
    )


def convolve_with_same_padding(
    pixels: torch.Tensor, kernel: torch.Tensor, stride: int
) -> np.ndarray:
    """Pad by TensorFlow's rule: ceil(size / stride) outputs, with the odd pixel at the end."""
    size, width = pixels.shape[-1], kernel.shape[-1]
    outputs = -(-size // stride)
    before = max((outputs - 1) * stride + width - size, 0) // 2
    x, k = pixels[0, 0].numpy(), kernel[0, 0].detach().numpy()
    result = np.zeros((outputs, outputs), dtype=np.float64)
    for row in range(outputs):
        for column in range(outputs):
            for i in range(width):
                for j in range(width):
                    y, z = row * stride + i - before, column * stride + j - before
                    if 0 <= y < size and 0 <= z < size:
                        result[row, column] += float(x[y, z]) * float(k[i, j])
    return result


def test_untrained_module_has_the_requested_classes() -> None:
    module = build.build(find_variant("lite1"), 3)
    assert module(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
