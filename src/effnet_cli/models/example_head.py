"""The layers of a classifier that compares features with examples, as an ordinary torch module.

    linear (D to D)    centres and whitens the features
    UnitScale          divides them by their length, so that products become cosines
    linear (D to C*K)  cosines to K examples of each of C classes, divided by the temperature
    ClassVote          adds up the votes for each class; left out if K is 1

Both linear layers can be trained further, and every export knows the operators.
"""

import math

import torch
from torch import Tensor, nn

# The tensors of the two linear layers; a trained head has no third layer with weights.
EXAMPLES_WEIGHT = "classifier.3.weight"
SMALLEST_SQUARE = 1e-6  # not 0 in float16 either; usual squares are about 1


class UnitScale(nn.Module):
    """Divides each row [N,D] by the root of its mean square: its length becomes sqrt(D)."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean(dim=1, keepdim=True) + SMALLEST_SQUARE)


class ClassVote(nn.Module):
    """Maps scores of examples [N,C*K] to logits [N,C]: the log of the mean of their exponentials.

    The examples of a class are next to each other.
    """

    def __init__(self, num_classes: int, votes: int) -> None:
        super().__init__()
        self.num_classes, self.votes = num_classes, votes

    def forward(self, x: Tensor) -> Tensor:
        scores = x.reshape(-1, self.num_classes, self.votes)
        highest = scores.amax(dim=2, keepdim=True)
        sums = (scores - highest).exp().mean(dim=2, keepdim=True)
        return (highest + sums.log()).flatten(1)


def set_example_head(module: nn.Module, num_classes: int, votes: int = 1) -> nn.Module:
    """Replace the classifier of `module` with one that compares features with `votes` examples of
    each class, whose values are still missing, and return it.
    """
    dropout, linear = module.get_submodule("classifier.0"), module.get_submodule("classifier.1")
    width = int(linear.in_features)  # type: ignore[arg-type]
    head = nn.Sequential(
        dropout, nn.Linear(width, width), UnitScale(), nn.Linear(width, num_classes * votes)
    )
    if votes > 1:
        head.append(ClassVote(num_classes, votes))
    module.classifier = head
    return head


def unit_factor(width: int) -> float:
    """Return what the products with the output of `UnitScale` are divided by to be cosines."""
    return math.sqrt(width)
