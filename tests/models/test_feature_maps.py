"""Feature maps of models in torch, and detectors that are trained on them."""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.ops import box_iou

from docs_pages import SOURCES
from effnet_cli.models import build
from effnet_cli.models.architectures import ARCHITECTURES
from effnet_cli.models.feature_maps import FeatureMaps, load_feature_maps
from effnet_cli.models.variants import find_variant
from effnet_cli.system.errors import UsageError
from exporting import SmallModel
from helpers import SAMPLES, lively

pytestmark = pytest.mark.usefixtures("one_core", "one_thread")

Target = dict[str, torch.Tensor]
PYRAMID = ("c3", "c4", "c5")


def timm_name(name: str) -> str:
    """Return timm's name of an architecture."""
    if name.startswith("v2_rw"):
        return f"efficientnet{name}"
    prefix = "tf_efficientnetv2_" if name.startswith("v2_") else "tf_efficientnet_"
    return prefix + name.removeprefix("v2_")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_maps_are_those_of_timm(name: str) -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(timm_name(name), features_only=True, pretrained=False)
    maps = ARCHITECTURES[name].feature_maps()
    assert [one.name for one in maps] == ["c2", "c3", "c4", "c5"]
    assert [one.channels for one in maps] == model.feature_info.channels()[1:]
    assert [one.stride for one in maps] == model.feature_info.reduction()[1:]


def test_module_returns_the_maps(small_model: SmallModel) -> None:
    maps = load_feature_maps(small_model("b0"))
    found = maps(torch.zeros(2, 3, 64, 96))
    assert isinstance(found, OrderedDict)
    assert {name: tuple(one.shape) for name, one in found.items()} == {
        "c2": (2, 24, 16, 24),
        "c3": (2, 40, 8, 12),
        "c4": (2, 112, 4, 6),
        "c5": (2, 320, 2, 3),
    }
    assert maps.mean == [0.485, 0.456, 0.406]
    path = small_model("b0").model
    assert path is not None
    some = load_feature_maps(path, ("c3", "c4"))
    assert (list(some(torch.zeros(1, 3, 32, 32))), some.channels) == (["c3", "c4"], [40, 112])


def test_weights_are_frozen_and_batch_norm_stays(small_model: SmallModel) -> None:
    maps = load_feature_maps(small_model("b0")).train()
    assert not any(one.requires_grad for one in maps.parameters())
    before = {name: one.clone() for name, one in maps.named_buffers()}
    maps.requires_grad_()
    sum(one.sum() for one in maps(torch.randn(2, 3, 64, 64)).values()).backward()
    for name, one in maps.named_buffers():
        assert torch.equal(one, before[name])
    assert all(one.grad is not None for one in maps.parameters())


@pytest.mark.parametrize("names", [(), ("c1",), "c2"])
def test_unknown_maps_are_refused(names: Any) -> None:
    with pytest.raises(UsageError, match="Invalid feature maps") as caught:
        load_feature_maps("lite0", names)
    assert "c5" in caught.value.hint


# --- a detector -----------------------------------------------------------------------------------

SIZE_PX, CELL_PX = 128, 64
STEPS, BATCH, LEARNING_RATE, TEST_SCENES = 60, 8, 2e-3, 40
OBJECTS, BACKGROUNDS = ("cat", "coffee", "rocket"), ("temple", "astronaut", "galaxies", "flower")


def open_sample(name: str) -> Image.Image:
    return Image.open(next(SAMPLES.glob(f"{name}.*"))).convert("RGB").resize((160, 160))


@dataclass
class Scenes:
    """Parts of three sample images, pasted on parts of others in random colours."""

    rng: np.random.Generator

    def __post_init__(self) -> None:
        self._objects = [open_sample(name) for name in OBJECTS]
        self._backgrounds = [open_sample(name) for name in BACKGROUNDS]

    def draw(self) -> tuple[torch.Tensor, Target]:
        """Return an image [3,128,128] from 0 to 1, and the boxes and labels in it."""
        rng = self.rng
        scene = self._part(self._backgrounds[rng.integers(len(BACKGROUNDS))], 0.4, SIZE_PX)
        boxes, labels = [], []
        for left in rng.permutation([0, CELL_PX])[: rng.integers(1, 3)]:
            label, px = int(rng.integers(len(OBJECTS))), int(rng.integers(36, 60))
            tinted = np.asarray(self._part(self._objects[label], 0.6, px)) * rng.uniform(
                0.6, 1.3, 3
            )
            x, y = int(left + rng.integers(CELL_PX - px + 1)), int(rng.integers(SIZE_PX - px + 1))
            scene.paste(Image.fromarray(tinted.clip(0, 255).astype(np.uint8)), (x, y))
            boxes.append([x, y, x + px, y + px])
            labels.append(label + 1)
        pixels = torch.from_numpy(np.array(scene)).permute(2, 0, 1).float() / 255
        return pixels, {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}

    def _part(self, image: Image.Image, least: float, px: int) -> Image.Image:
        side = int(image.width * self.rng.uniform(least, 0.95))
        x, y = self.rng.integers(0, image.width - side + 1, 2).tolist()
        part = image.crop((x, y, x + side, y + side)).resize((px, px))
        mirror = Image.Transpose.FLIP_LEFT_RIGHT
        return part.transpose(mirror) if self.rng.random() < 0.5 else part


def average_precision(found: list[Target], expected: list[Target], label: int) -> float:
    """Return the average precision of a class at an IoU of 0.5: the area below the curve of the
    highest precision at each recall.
    """
    total = sum(int((one["labels"] == label).sum()) for one in expected)
    rows: list[tuple[float, bool]] = []
    for detections, truth in zip(found, expected, strict=True):
        boxes, used = truth["boxes"][truth["labels"] == label], set[int]()
        chosen = detections["labels"] == label
        for i in detections["scores"][chosen].argsort(descending=True).tolist():
            overlaps = box_iou(detections["boxes"][chosen][i : i + 1], boxes)[0].tolist()
            best = max(range(len(boxes)), key=overlaps.__getitem__, default=-1)
            is_hit = best not in {-1, *used} and overlaps[best] >= 0.5
            used |= {best} if is_hit else set()
            rows.append((float(detections["scores"][chosen][i]), is_hit))
    hits = np.array([is_hit for _, is_hit in sorted(rows, reverse=True)], dtype=float)
    precisions = hits.cumsum() / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precisions[::-1])[::-1]
    return float((highest * hits).sum() / total)


def test_average_precision_is_that_of_a_known_case() -> None:
    box = [[0.0, 0.0, 10.0, 10.0]]
    truth = {"boxes": torch.tensor(box * 1 + [[20.0, 20.0, 30.0, 30.0]]), "labels": torch.ones(2)}
    found = {
        "boxes": torch.tensor([[50.0, 50.0, 60.0, 60.0], *box, *box, [20.0, 20.0, 30.0, 28.0]]),
        "labels": torch.ones(4),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]),
    }
    # wrong, right, a duplicate, right: precision is 1/2 at both recalls
    assert average_precision([found], [truth], 1) == 0.5


def read_new_detector() -> Callable[..., nn.Module]:
    """Run the code of the documentation and return its function that builds a detector."""
    fcos, retinanet, *_ = re.findall(r"```python\n(.*?)```", SOURCES["detection"], re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(fcos + retinanet, "detection.md", "exec"), names)
    losses = names["retinanet"].train()(
        [torch.zeros(3, 64, 64)],
        [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}],
    )
    assert set(losses) == {"classification", "bbox_regression"}
    return names["new_detector"]  # type: ignore[no-any-return]


def train_detector(detector: nn.Module, seed: int) -> float:
    """Train a detector and return its mean average precision on other scenes."""
    scenes = Scenes(np.random.default_rng(seed))
    parameters = [one for one in detector.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(parameters, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, STEPS)
    detector.train()
    for _ in range(STEPS):
        images, targets = zip(*(scenes.draw() for _ in range(BATCH)), strict=True)
        optimiser.zero_grad()
        sum(detector(list(images), list(targets)).values()).backward()
        nn.utils.clip_grad_norm_(parameters, 5)
        optimiser.step()
        schedule.step()
    scenes = Scenes(np.random.default_rng(10_000))
    images, expected = zip(*(scenes.draw() for _ in range(TEST_SCENES)), strict=True)
    with torch.inference_mode():
        found = [detector.eval()([image])[0] for image in images]
    labels = range(1, len(OBJECTS) + 1)
    return float(np.mean([average_precision(found, list(expected), one) for one in labels]))


def random_maps(seed: int) -> FeatureMaps:
    """Return maps of random weights, with BatchNorm statistics of such scenes."""
    variant, scenes = find_variant("lite0"), Scenes(np.random.default_rng(seed))
    module = build.build(variant, num_classes=10)
    pixels = torch.stack([scenes.draw()[0] for _ in range(16)]) * 2 - 1
    module = lively(module, seed, pixels=pixels).requires_grad_(False)
    return FeatureMaps(module, variant.architecture, variant.preprocessing, names=PYRAMID).eval()


@pytest.mark.slow
def test_documented_detector_learns_from_pretrained_maps(caches: None) -> None:
    new_detector, precisions = read_new_detector(), []
    for maps in (load_feature_maps("lite0", PYRAMID), random_maps(seed=0)):
        torch.manual_seed(0)
        detector = new_detector(maps, len(OBJECTS) + 1, size_px=SIZE_PX, channels=64)
        precisions.append(train_detector(detector, seed=0))
    pretrained, random = precisions
    assert pretrained > 0.8
    assert pretrained > random + 0.3
