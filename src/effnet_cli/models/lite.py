"""EfficientNet-Lite (tensorflow/tpu, `models/official/efficientnet/lite/`), with torchvision's
module names.

Differences from EfficientNet: no squeeze-and-excitation; ReLU6 instead of SiLU; the channels of the
stem (32) and head (1280) and the depth of the first and last stages are not scaled; TensorFlow's
"same" padding; BatchNorm with epsilon 1e-3 and momentum 0.01.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

# expansion, kernel, stride, output channels, layers: the stages of B0 (arXiv 1905.11946, Table 1)
LITE_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


def same_padding(sizes: Sequence[int], kernels: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return the padding at the start of each axis, then at the end: output = ceil(size / stride).

    If it is odd, the extra pixel is at the end.
    """
    total = [
        max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        for size, kernel, stride in zip(sizes, kernels, strides, strict=True)
    ]
    return [*(padding // 2 for padding in total), *(padding - padding // 2 for padding in total)]


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: output size = ceil(input size / stride).

    The padding depends on the input size. If it is odd, the extra pixel is at the bottom or right.
    """

    def paddings(self, input: Tensor) -> list[int]:
        """Return the top, left, bottom and right padding for an input [N,C,H,W]."""
        return same_padding(input.shape[-2:], self.kernel_size, self.stride)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        top, left, bottom, right = self.paddings(input)
        padding = [top, left]
        if (top, left) != (bottom, right):  # symmetric padding needs no copy of the input
            input, padding = functional.pad(input, (left, right, top, bottom)), [0, 0]
        return functional.conv2d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups
        )


def _unit(
    inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution, BatchNorm and ReLU6."""
    conv = SameConv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
    return nn.Sequential(conv, norm, nn.ReLU6(inplace=True))


class MBConv(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 linear projection."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.block = nn.Sequential(
            *([_unit(inputs, hidden)] if expansion > 1 else []),
            _unit(hidden, hidden, kernel, stride=stride, groups=hidden),
            _unit(hidden, outputs)[:2],  # without ReLU6
        )
        self.has_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.has_residual else y


class EfficientNetLite(nn.Module):
    """Maps `float32 [N,3,H,W]` to logits `float32 [N,num_classes]`."""

    def __init__(self, *, width: float, depth: float, dropout: float, num_classes: int) -> None:
        super().__init__()
        features = [_unit(3, STEM_CHANNELS, 3, stride=2)]
        channels = STEM_CHANNELS
        for number, (expansion, kernel, stride, base_channels, layers) in enumerate(LITE_STAGES):
            outputs = round_channels(base_channels * width)
            is_scaled = 0 < number < len(LITE_STAGES) - 1
            stage = nn.Sequential()
            for _ in range(math.ceil(layers * depth) if is_scaled else layers):
                stage.append(MBConv(channels, outputs, expansion, kernel=kernel, stride=stride))
                channels, stride = outputs, 1  # for the layers after the first
            features.append(stage)
        self.features = nn.Sequential(*features, _unit(channels, HEAD_CHANNELS))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(HEAD_CHANNELS, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def round_channels(channels: float) -> int:
    """Round to a multiple of 8, at most 10 % below `channels` (as in the paper's code)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


efficientnet_lite0 = partial(EfficientNetLite, width=1.0, depth=1.0, dropout=0.2)
efficientnet_lite1 = partial(EfficientNetLite, width=1.0, depth=1.1, dropout=0.2)
efficientnet_lite2 = partial(EfficientNetLite, width=1.1, depth=1.2, dropout=0.3)
