"""EfficientNet-Lite (tensorflow/tpu, `models/official/efficientnet/lite/`), in torchvision's layout
of modules.

Against EfficientNet: no squeeze-and-excitation, ReLU6 for SiLU, stem (32) and head (1280) not
scaled, first and last stage's layers not scaled, TensorFlow's "same" padding, BatchNorm epsilon
1e-3 and momentum 0.01.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

# expansion, kernel, stride, channels in, channels out, layers: the seven stages of B0 (arXiv
# 1905.11946, Table 1)
STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: output size = ceil(input size / stride).

    The padding depends on the input's size and is one larger below and right where it is odd.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        missing = [
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            for size in input.shape[-2:]
        ]
        before = [m // 2 for m in missing]
        if missing != [2 * b for b in before]:  # a symmetric padding costs no copy
            (top, left), (bottom, right) = (
                before,
                [m - b for m, b in zip(missing, before, strict=True)],
            )
            input, before = functional.pad(input, (left, right, top, bottom)), [0, 0]
        return functional.conv2d(
            input, weight, bias, self.stride, before, self.dilation, self.groups
        )


def _conv_bn(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)]


class MBConv(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 linear projection."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = (
            [nn.Sequential(*_conv_bn(inputs, hidden), nn.ReLU6(inplace=True))]
            if expansion > 1
            else []
        )
        layers.append(
            nn.Sequential(*_conv_bn(hidden, hidden, kernel, stride, hidden), nn.ReLU6(inplace=True))
        )
        layers.append(nn.Sequential(*_conv_bn(hidden, outputs)))
        self.block = nn.Sequential(*layers)
        self.has_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.has_residual else y


class EfficientNetLite(nn.Module):
    """`float32 [N,3,H,W]` -> logits `float32 [N,num_classes]`."""

    def __init__(self, width: float, depth: float, dropout: float, num_classes: int) -> None:
        super().__init__()
        features = [nn.Sequential(*_conv_bn(3, STEM_CHANNELS, 3, 2), nn.ReLU6(inplace=True))]
        last = len(STAGES) - 1
        channels = STEM_CHANNELS
        for number, (expansion, kernel, stride, _, outputs, layers) in enumerate(STAGES):
            outputs = rounded_channels(outputs * width)
            repeats = layers if number in (0, last) else math.ceil(layers * depth)
            blocks = []
            for layer in range(repeats):
                blocks.append(
                    MBConv(channels, outputs, expansion, kernel, stride if layer == 0 else 1)
                )
                channels = outputs
            features.append(nn.Sequential(*blocks))
        features.append(nn.Sequential(*_conv_bn(channels, HEAD_CHANNELS), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            OrderedDict([("0", nn.Dropout(dropout)), ("1", nn.Linear(HEAD_CHANNELS, num_classes))])
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def rounded_channels(channels: float) -> int:
    """The nearest multiple of 8 that is not more than 10 % below `channels` (the paper's released
    code).
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def efficientnet_lite0(num_classes: int) -> EfficientNetLite:
    """Width 1.0, depth 1.0, dropout 0.2."""
    return EfficientNetLite(1.0, 1.0, 0.2, num_classes)


def efficientnet_lite1(num_classes: int) -> EfficientNetLite:
    """Width 1.0, depth 1.1, dropout 0.2."""
    return EfficientNetLite(1.0, 1.1, 0.2, num_classes)


def efficientnet_lite2(num_classes: int) -> EfficientNetLite:
    """Width 1.1, depth 1.2, dropout 0.3."""
    return EfficientNetLite(1.1, 1.2, 0.3, num_classes)
