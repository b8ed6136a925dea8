"""The architectures, as literal rows.

Sources: Table 1 and the released configurations of arXiv 1905.11946 (B0 to B7), 1911.04252 (L2) and
2104.00298 (V2); tensorflow/tpu, `models/official/efficientnet/lite/` and `edgetpu/`; timm 1.0.31,
`models/efficientnet.py` (b8, v2_b0 to v2_b3, v2_rw_*). Parameters: torchvision 0.29 (b0 to b7,
v2_s to v2_l) and the models themselves.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import starmap
from typing import Literal, NamedTuple

Activation = Literal["relu", "relu6", "silu"]
MIN_MAP_STRIDE, MAX_MAP_STRIDE = 4, 32  # of the maps c2 to c5
# Of a block: a depthwise one after the 1x1 expansion; a full one that expands; or only a full one.
Convolutions = Literal["depthwise", "full", "single"]


class FeatureMap(NamedTuple):
    """A map that detectors start from: the output [N,channels,H/stride,W/stride] of a stage.

    It is the last stage with its stride. `number` counts the stages from 1.
    """

    name: str
    channels: int
    stride: int
    number: int


class Block(NamedTuple):
    """The blocks of a stage; only the first has the `stride`.

    `expansion` is the factor of the inner channels, relative to the block's input, or to its output
    with `expands_outputs`. `kernel` is in pixels. `has_residuals`: outputs are added to inputs of
    the same shape.
    """

    convolutions: Convolutions
    expansion: int
    kernel: int
    stride: int
    channels: int
    layers: int
    has_squeeze: bool = False
    expands_outputs: bool = False
    has_residuals: bool = True


@dataclass(frozen=True, slots=True)
class Family:
    """What architectures that differ only in scale share.

    `stem` and `head` are channels. With `has_fixed_ends`, these and the layers of the first and
    last stage are not scaled. Channels are rounded to a multiple of 8, but never to less than
    `min_rounded` of their number.
    """

    blocks: tuple[Block, ...]
    stem: int = 32
    head: int = 1280
    activation: Activation = "silu"
    has_fixed_ends: bool = False
    has_stochastic_depth: bool = True
    min_rounded: float = 0.9


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a model is built.

    `parameters` is for 1,000 classes. `paper_px` is the input resolution in the paper; some
    weights use another one. Compound scaling multiplies the channels of `base` by `width` and its
    layers by `depth`, which may differ between stages; `base` is `None` where the paper used
    another method.
    """

    name: str
    family: Family
    parameters: int
    paper_px: int
    dropout: float
    base: str | None = None
    width: float = 1.0
    depth: float | tuple[float, ...] = 1.0

    @property
    def stem(self) -> int:
        """The output channels of the first convolution."""
        return self.family.stem if self.family.has_fixed_ends else self._scale(self.family.stem)

    @property
    def head(self) -> int:
        """The output channels of the last convolution."""
        return self.family.head if self.family.has_fixed_ends else self._scale(self.family.head)

    def stages(self) -> Iterator[Block]:
        """Yield the scaled stages."""
        blocks = self.family.blocks
        depths = self.depth if isinstance(self.depth, tuple) else (self.depth,) * len(blocks)
        for number, (block, depth) in enumerate(zip(blocks, depths, strict=True)):
            is_end = number in (0, len(blocks) - 1)
            is_fixed = self.family.has_fixed_ends and is_end
            layers = block.layers if is_fixed else math.ceil(block.layers * depth)
            yield block._replace(channels=self._scale(block.channels), layers=layers)

    def feature_maps(self) -> list[FeatureMap]:
        """Return the maps of strides 4, 8, 16 and 32, called c2 to c5 after the power of 2."""
        last: dict[int, FeatureMap] = {}
        stride = 2  # of the first convolution
        for number, stage in enumerate(self.stages(), start=1):
            stride *= stage.stride
            name = f"c{stride.bit_length() - 1}"
            last[stride] = FeatureMap(name, stage.channels, stride=stride, number=number)
        return [one for one in last.values() if one.stride >= MIN_MAP_STRIDE]

    def _scale(self, channels: int) -> int:
        """Scale channels and round them as in the paper's code."""
        scaled = channels * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < self.family.min_rounded * scaled else rounded


# fmt: off
# convolutions, expansion, kernel, stride, channels, layers, has_squeeze (arXiv 1905.11946, Table 1)
B_BLOCKS = tuple(starmap(Block, (
    ("depthwise", 1, 3, 1, 16, 1, True),
    ("depthwise", 6, 3, 2, 24, 2, True),
    ("depthwise", 6, 5, 2, 40, 2, True),
    ("depthwise", 6, 3, 2, 80, 3, True),
    ("depthwise", 6, 5, 1, 112, 3, True),
    ("depthwise", 6, 5, 2, 192, 4, True),
    ("depthwise", 6, 3, 1, 320, 1, True),
)))
EDGE_BLOCKS = tuple(starmap(Block, (
    ("full", 4, 3, 1, 24, 1, False, True, False),
    ("full", 8, 3, 2, 32, 2),
    ("full", 8, 3, 2, 48, 4),
    ("depthwise", 8, 5, 2, 96, 5),
    ("depthwise", 8, 5, 1, 144, 4),
    ("depthwise", 8, 5, 2, 192, 2),
)))
# arXiv 2104.00298, Table 4 (v2_s) and the released configurations
V2_B_BLOCKS = tuple(starmap(Block, (
    ("single", 1, 3, 1, 16, 1),
    ("full", 4, 3, 2, 32, 2),
    ("full", 4, 3, 2, 48, 2),
    ("depthwise", 4, 3, 2, 96, 3, True),
    ("depthwise", 6, 3, 1, 112, 5, True),
    ("depthwise", 6, 3, 2, 192, 8, True),
)))
V2_S_BLOCKS = tuple(starmap(Block, (
    ("single", 1, 3, 1, 24, 2),
    ("full", 4, 3, 2, 48, 4),
    ("full", 4, 3, 2, 64, 4),
    ("depthwise", 4, 3, 2, 128, 6, True),
    ("depthwise", 6, 3, 1, 160, 9, True),
    ("depthwise", 6, 3, 2, 256, 15, True),
)))
# timm's version of v2_s, made from the figure in the paper
V2_RW_BLOCKS = (
    V2_S_BLOCKS[0]._replace(convolutions="full"),
    *V2_S_BLOCKS[1:-1],
    V2_S_BLOCKS[-1]._replace(channels=272),
)
V2_M_BLOCKS = tuple(starmap(Block, (
    ("single", 1, 3, 1, 24, 3),
    ("full", 4, 3, 2, 48, 5),
    ("full", 4, 3, 2, 80, 5),
    ("depthwise", 4, 3, 2, 160, 7, True),
    ("depthwise", 6, 3, 1, 176, 14, True),
    ("depthwise", 6, 3, 2, 304, 18, True),
    ("depthwise", 6, 3, 1, 512, 5, True),
)))
V2_L_BLOCKS = tuple(starmap(Block, (
    ("single", 1, 3, 1, 32, 4),
    ("full", 4, 3, 2, 64, 7),
    ("full", 4, 3, 2, 96, 7),
    ("depthwise", 4, 3, 2, 192, 10, True),
    ("depthwise", 6, 3, 1, 224, 19, True),
    ("depthwise", 6, 3, 2, 384, 25, True),
    ("depthwise", 6, 3, 1, 640, 7, True),
)))
V2_XL_BLOCKS = tuple(starmap(Block, (
    ("single", 1, 3, 1, 32, 4),
    ("full", 4, 3, 2, 64, 8),
    ("full", 4, 3, 2, 96, 8),
    ("depthwise", 4, 3, 2, 192, 16, True),
    ("depthwise", 6, 3, 1, 256, 24, True),
    ("depthwise", 6, 3, 2, 512, 32, True),
    ("depthwise", 6, 3, 1, 640, 8, True),
)))
# fmt: on

B_FAMILY = Family(B_BLOCKS)
LITE_FAMILY = Family(
    tuple(block._replace(has_squeeze=False) for block in B_BLOCKS),
    activation="relu6",
    has_fixed_ends=True,
    has_stochastic_depth=False,
)
EDGE_FAMILY = Family(EDGE_BLOCKS, activation="relu")
V2_B_FAMILY = Family(V2_B_BLOCKS, min_rounded=0.0)
V2_S_FAMILY = Family(V2_S_BLOCKS, stem=24)
V2_RW_FAMILY = Family(V2_RW_BLOCKS, stem=24, head=1792)
V2_M_FAMILY = Family(V2_M_BLOCKS, stem=24)
V2_L_FAMILY = Family(V2_L_BLOCKS)
V2_XL_FAMILY = Family(V2_XL_BLOCKS)

# fmt: off
ARCHITECTURES = {row.name: row for row in starmap(Architecture, (
    # name, family, parameters, paper_px, dropout, base, width, depth
    ("lite0", LITE_FAMILY, 4_652_008, 224, 0.2, "lite0", 1.0, 1.0),
    ("lite1", LITE_FAMILY, 5_416_680, 240, 0.2, "lite0", 1.0, 1.1),
    ("lite2", LITE_FAMILY, 6_092_072, 260, 0.3, "lite0", 1.1, 1.2),
    ("lite3", LITE_FAMILY, 8_197_096, 280, 0.3, "lite0", 1.2, 1.4),
    ("lite4", LITE_FAMILY, 13_006_568, 300, 0.3, "lite0", 1.4, 1.8),
    ("es", EDGE_FAMILY, 5_438_392, 224, 0.2, "es", 1.0, 1.0),
    ("em", EDGE_FAMILY, 6_899_496, 240, 0.2, "es", 1.0, 1.1),
    ("el", EDGE_FAMILY, 10_589_712, 300, 0.3, "es", 1.2, 1.4),
    ("b0", B_FAMILY, 5_288_548, 224, 0.2, "b0", 1.0, 1.0),
    ("b1", B_FAMILY, 7_794_184, 240, 0.2, "b0", 1.0, 1.1),
    ("b2", B_FAMILY, 9_109_994, 260, 0.3, "b0", 1.1, 1.2),
    ("b3", B_FAMILY, 12_233_232, 300, 0.3, "b0", 1.2, 1.4),
    ("b4", B_FAMILY, 19_341_616, 380, 0.4, "b0", 1.4, 1.8),
    ("b5", B_FAMILY, 30_389_784, 456, 0.4, "b0", 1.6, 2.2),
    ("b6", B_FAMILY, 43_040_704, 528, 0.5, "b0", 1.8, 2.6),
    ("b7", B_FAMILY, 66_347_960, 600, 0.5, "b0", 2.0, 3.1),
    ("b8", B_FAMILY, 87_413_142, 672, 0.5, "b0", 2.2, 3.6),
    ("l2", B_FAMILY, 480_309_308, 800, 0.5, "b0", 4.3, 5.3),
    ("v2_b0", V2_B_FAMILY, 7_139_704, 192, 0.2, "v2_b0", 1.0, 1.0),
    ("v2_b1", V2_B_FAMILY, 8_141_052, 192, 0.2, "v2_b0", 1.0, 1.1),
    ("v2_b2", V2_B_FAMILY, 10_096_086, 208, 0.3, "v2_b0", 1.1, 1.2),
    ("v2_b3", V2_B_FAMILY, 14_358_406, 240, 0.3, "v2_b0", 1.2, 1.4),
    ("v2_rw_t", V2_S_FAMILY, 13_649_388, 224, 0.2, None, 0.8, 0.9),
    ("v2_rw_s", V2_RW_FAMILY, 23_941_296, 288, 0.2),
    ("v2_rw_m", V2_RW_FAMILY, 53_236_442, 320, 0.2, None, 1.2, (1.2,) * 4 + (1.6,) * 2),
    ("v2_s", V2_S_FAMILY, 21_458_488, 384, 0.2),
    ("v2_m", V2_M_FAMILY, 54_139_356, 480, 0.3),
    ("v2_l", V2_L_FAMILY, 118_515_272, 480, 0.4),
    ("v2_xl", V2_XL_FAMILY, 208_119_808, 512, 0.4),
))}
# fmt: on
