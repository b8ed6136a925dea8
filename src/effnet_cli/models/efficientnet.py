"""EfficientNet and its relatives as one torch module, with torchvision's module names.

What distinguishes the architectures is in the rows of `ARCHITECTURES`; padding and the epsilon of
BatchNorm belong to the weights.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from effnet_cli.models.architectures import Activation, Architecture, Block

ACTIVATIONS: Mapping[Activation, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
    "silu": partial(nn.SiLU, inplace=True),
}
EVEN_SIDE_PX = 64  # for strides of 1 and 2, all even sides have the same padding
SQUEEZE = 4  # input channels of a block per channel inside its squeeze-and-excitation
# Of generalised mean pooling.
GEM_POWER, GEM_MIN = 3, 1e-6
STOCHASTIC_DEPTH = 0.2  # of the last block; it grows linearly from 0 at the first one


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

    def with_even_sides(self) -> nn.Module:
        """Return the same convolution with fixed padding, for inputs with even sides."""
        sides = [EVEN_SIDE_PX] * 2
        top, left, bottom, right = same_padding(sides, self.kernel_size, self.stride)
        is_symmetric = (top, left) == (bottom, right)
        settings: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "in_channels",
                "out_channels",
                "kernel_size",
                "stride",
                "dilation",
                "groups",
            )
        }
        padding = (top, left) if is_symmetric else 0
        conv = nn.Conv2d(**settings, padding=padding, bias=self.bias is not None)
        conv.weight, conv.bias = self.weight, self.bias
        return (
            conv if is_symmetric else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv)
        )


class SqueezeExcitation(nn.Module):
    """Scales each channel by a factor in 0..1 that depends on all channels (arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int, activation: nn.Module) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation
        self.scale_activation = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.activation(self.fc1(self.avgpool(x)))
        scaled: Tensor = self.scale_activation(self.fc2(scale)) * x
        return scaled


class StochasticDepth(nn.Module):
    """In training, skips a block for some of the images (arXiv 1603.09382)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        survival = 1 - self.probability
        shape = [len(x), *[1] * (x.ndim - 1)]
        kept = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(survival)
        return x * kept.div_(survival)


class MBConv(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 linear projection.

    `block` also has the squeeze-and-excitation, if any, before the projection.
    """

    def __init__(self, block: nn.Sequential, *, has_residual: bool, skipped: float) -> None:
        super().__init__()
        self.block = block
        self.has_residual = has_residual
        self.stochastic_depth = StochasticDepth(skipped)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + self.stochastic_depth(y) if self.has_residual else y


class FusedMBConv(MBConv):
    """An MBConv whose expansion and depthwise convolution are one full convolution.

    Without expansion, that convolution may be the whole block (arXiv 2104.00298).
    """


class EfficientNet(nn.Module):
    """Maps `float32 [N,3,H,W]` to logits `float32 [N,num_classes]`.

    Args:
        has_same_padding: whether convolutions pad as TensorFlow's do.
        eps: the epsilon of every BatchNorm.
    """

    def __init__(
        self, architecture: Architecture, *, num_classes: int, has_same_padding: bool, eps: float
    ) -> None:
        super().__init__()
        self._convolution = SameConv2d if has_same_padding else nn.Conv2d
        self._eps, self._activation = eps, ACTIVATIONS[architecture.family.activation]
        stem, head = architecture.stem, architecture.head
        stages = list(architecture.stages())
        features = [self._unit(3, stem, 3, stride=2)]
        features += self._stages(stem, stages, architecture.family.has_stochastic_depth)
        features.append(self._unit(stages[-1].channels, head))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        dropout = nn.Dropout(architecture.dropout)
        self.classifier = nn.Sequential(dropout, nn.Linear(head, num_classes))
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(x))
        return logits

    def pool(self, x: Tensor) -> Tensor:
        """Return the features that the classifier starts from, `float32 [N,D]`."""
        return torch.flatten(self.avgpool(self.features(x)), 1)

    @staticmethod
    def pool_gem(maps: Tensor) -> Tensor:
        """Return the generalised mean of each channel, `float32 [N,D]`, of maps [N,D,H,W].

        Large values count more than in `pool`, so objects count more than their background
        (Radenovic et al. 2018, arXiv 1711.02512, which starts from the same power).
        """
        return maps.clamp(min=GEM_MIN).pow(GEM_POWER).mean((2, 3)).pow(1 / GEM_POWER)

    def _stages(
        self, channels: int, stages: Sequence[Block], has_stochastic_depth: bool
    ) -> Iterator[nn.Sequential]:
        number, total = 0, sum(stage.layers for stage in stages)
        for stage in stages:
            blocks = nn.Sequential()
            stride = stage.stride
            for _ in range(stage.layers):
                skipped = has_stochastic_depth * STOCHASTIC_DEPTH * number / total
                blocks.append(self._block(channels, stage, stride=stride, skipped=skipped))
                channels, stride, number = stage.channels, 1, number + 1
            yield blocks

    def _block(self, inputs: int, stage: Block, *, stride: int, skipped: float) -> MBConv:
        kind: type[MBConv] = MBConv if stage.convolutions == "depthwise" else FusedMBConv
        hidden = stage.expansion * (stage.channels if stage.expands_outputs else inputs)
        return kind(
            nn.Sequential(*self._layers(inputs, stage, hidden=hidden, stride=stride)),
            has_residual=stage.has_residuals and stride == 1 and inputs == stage.channels,
            skipped=skipped,
        )

    def _layers(
        self, inputs: int, stage: Block, *, hidden: int, stride: int
    ) -> Iterator[nn.Module]:
        if stage.convolutions == "single":
            yield self._unit(inputs, stage.channels, stage.kernel, stride=stride)
            return
        if stage.convolutions == "full":
            yield self._unit(inputs, hidden, stage.kernel, stride=stride)
        else:
            if stage.expansion > 1:
                yield self._unit(inputs, hidden)
            yield self._unit(hidden, hidden, stage.kernel, stride=stride, groups=hidden)
        if stage.has_squeeze:
            yield SqueezeExcitation(hidden, inputs // SQUEEZE, self._activation())
        yield self._unit(hidden, stage.channels)[:2]  # without activation

    def _unit(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1
    ) -> nn.Sequential:
        """Return a convolution, BatchNorm and the activation."""
        padding = 0 if self._convolution is SameConv2d else (kernel - 1) // 2
        conv = self._convolution(
            inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False
        )
        # torch's momentum, not TensorFlow's of 0.01: small datasets have too few steps for that one
        norm = nn.BatchNorm2d(outputs, eps=self._eps)
        return nn.Sequential(conv, norm, self._activation())

    def _initialise(self) -> None:
        """Set random weights as torchvision does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.out_features)
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)
