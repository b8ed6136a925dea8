"""Vectors equal timm's, with every engine."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from effnet_cli import Embedder
from effnet_cli.engines.normalise import normalise_tensor
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import EmbedOptions, EngineOptions, ImageOptions, ModelOptions, Pool
from effnet_cli.system.errors import ImageError, UsageError
from helpers import SAMPLES

pytestmark = pytest.mark.usefixtures("one_core", "caches")

IMAGES = [SAMPLES / name for name in ("cat.jpg", "coffee.jpg", "shuttle.png")]
EXACT = ImageOptions(exact_decode=True)


@pytest.fixture(scope="module")
def maps() -> torch.Tensor:
    """The last feature maps of timm's model with the same tensors, float32 [3,1280,7,7]."""
    model = resolve_model(ModelOptions(variant="lite0"))
    module = build.load_module(model)
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    theirs.load_state_dict(build.to_timm_names(module, dict(module.state_dict())))
    loader = ImageLoader(model.card.preprocessing, EXACT)
    crops = np.concatenate([loader.load(path) for path in IMAGES])
    with torch.inference_mode():
        pixels = normalise_tensor(torch.from_numpy(crops), model.card.preprocessing)
        return theirs.forward_features(pixels)


def pool(maps: torch.Tensor, how: Pool) -> np.ndarray:
    if how == "avg":
        features = maps.mean((2, 3))
    else:
        features = maps.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    return torch.nn.functional.normalize(features).numpy()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("how", ["gem", "avg"])
def test_vectors_equal_timms(how: Pool, engine: str, maps: torch.Tensor) -> None:
    embed = Embedder(
        "lite0",
        EngineOptions(engine=engine),  # type: ignore[arg-type]
        images=EXACT,
        options=EmbedOptions(pool=how),
    )
    found = list(embed.embed([str(path) for path in IMAGES]))
    assert [one.path for one in found] == [str(path) for path in IMAGES]
    for one, expected in zip(found, pool(maps, how), strict=True):
        assert one.vector is not None
        assert one.vector.dtype == np.float32
        assert float(one.vector @ expected) >= 0.999999
        assert float(np.linalg.norm(one.vector)) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(embed(IMAGES[0]), found[0].vector)


def test_an_image_can_be_passed_in_every_form() -> None:
    embed = Embedder()
    path = SAMPLES / "shuttle.png"
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    expected = embed(path)
    for form in (str(path), path.read_bytes(), pixels, np.asarray(pixels)):
        assert float(embed(form) @ expected) > 0.99999
    with pytest.raises(ImageError):
        embed(b"no image")
    with pytest.raises(TypeError, match="Expected a path"):
        embed(5)  # type: ignore[arg-type]


def test_the_source_says_what_vectors_depend_on(small: ModelOptions) -> None:
    one, other = Embedder(small).source, Embedder("lite0").source
    assert one.pool == "gem"
    assert one.differences(Embedder(small).source) == []
    (difference,) = one.differences(other)
    assert difference.startswith("sha256")
    padded = Embedder(small, images=ImageOptions(fit="pad", timeout_s=3))
    assert padded.source.settings == {"fit": "pad"}
    averaged = Embedder(small, options=EmbedOptions(pool="avg"))
    assert averaged.source.differences(one) == ["pool 'avg' instead of 'gem'"]


def test_pools_never_share_a_compiled_graph(small: ModelOptions) -> None:
    path = SAMPLES / "cat.jpg"
    gem, avg = (Embedder(small, options=EmbedOptions(pool=p))(path) for p in ("gem", "avg"))  # type: ignore[arg-type]
    again = [Embedder(small, options=EmbedOptions(pool=p))(path) for p in ("avg", "gem")]  # type: ignore[arg-type]
    assert np.array_equal(avg, again[0])
    assert np.array_equal(gem, again[1])
    assert float(gem @ avg) < 0.999


def test_exported_files_have_averaged_features(small: ModelOptions, tmp_path: Path, effnet) -> None:  # noqa: ANN001
    plain, full = tmp_path / "plain.onnx", tmp_path / "full.onnx"
    export = ("export", "--to", "onnx", "--model", small.model, "-o")
    assert effnet(*export, plain).status == 0
    assert effnet(*export, full, "--include-features").status == 0
    path = SAMPLES / "cat.jpg"
    expected = Embedder(small, options=EmbedOptions(pool="avg"))(path)
    assert float(Embedder(full)(path) @ expected) > 0.999999
    with pytest.raises(UsageError, match="whose features are averaged"):
        Embedder(full, options=EmbedOptions(pool="gem"))
    with pytest.raises(UsageError, match="does not output its features"):
        Embedder(plain)(path)
