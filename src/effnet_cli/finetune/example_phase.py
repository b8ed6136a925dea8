"""The only phase of `--method prototype` and `knn`: a classifier that compares features with those
of training images. It is fitted in one step.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.examples import (
    ExampleClassifier,
    Examples,
    Values,
    fit_examples,
    stored_limit,
)
from effnet_cli.finetune.head_phase import (
    HeadFeatures,
    HeadPhase,
    TrainingBatch,
    ValidationOutputs,
)
from effnet_cli.finetune.inference import Floats
from effnet_cli.finetune.records import PhaseName
from effnet_cli.finetune.run_dir import TrainingState
from effnet_cli.finetune.setup import TrainingSetup
from effnet_cli.models.example_head import set_example_head, unit_factor


class ExamplePhase:
    """Fits a classifier to features. Each process fits the same one."""

    name: PhaseName = "head"
    device = torch.device("cpu")
    processes = ProcessGroup()
    patience: int | None = None
    minutes: float | None = None
    epochs, lr = 1, 0.0

    def __init__(self, setup: TrainingSetup, features: HeadFeatures) -> None:
        self._setup, self._features = setup, features
        self.num_images = len(features.labels)
        self._fitted: ExampleClassifier
        self._module: nn.Module | None = None

    def load_batches(self, _: int, __: int) -> Iterator[TrainingBatch]:
        """Yield all images as one batch."""
        yield self._features.train, self._features.labels, self.num_images

    def step(self, batch: TrainingBatch) -> Tensor:
        """Fit the classifier, and return the summed log loss of images that were held out."""
        values, labels, _ = batch
        shares, options = self._log_shares(), self._setup.options
        examples = Examples(
            values.double().numpy(),
            labels.numpy(),
            self._features.groups,
            log_shares=shares,
            limit=stored_limit(len(shares)) if options.method == "knn" else None,
            seed=options.seed,
        )
        self._fitted, loss = fit_examples(examples)
        self._module = None
        return torch.tensor(loss * self.num_images)

    def train(self) -> None:
        """Fit the classifier."""
        for batch in self.load_batches(1, 0):
            self.step(batch)

    def predict(self, features: Tensor) -> Floats:
        """Return the logits of scaled features, float32 [N,C]."""
        return self._fitted.predict(features.double().numpy()).astype(np.float32)

    def validate(self) -> ValidationOutputs:
        """Return the indexes and logits of the readable validation images."""
        return self._features.val_indexes, self.predict(self._features.val)

    def module(self) -> nn.Module:
        """Return the model with the classifier, which takes unscaled features."""
        if self._module is None:
            self._module = copy.copy(self._setup.module)  # all other layers are shared
            self._module._modules = dict(self._module._modules)
            fill_head(self._module, self._fitted, self._features.scale)
        return self._module.eval()

    def describe(self) -> str:
        """Say in a line what the model compares with."""
        classes, votes, width = self._fitted.examples.shape
        numbers = classes * votes * (width + 1) + width * (width + 1)
        megabytes = numbers * np.float32().nbytes / 1e6
        what = "their means" if votes == 1 else f"up to {votes} images of each"
        return (
            f"The classifier compares features with {classes:,} classes, by {what}: "
            f"{megabytes:.1f} MB of the model file."
        )

    def _log_shares(self) -> Values:
        """Return the log of how frequent classes are taken to be, [C], up to a constant: that of
        their training images, but for the offsets with which a model would be trained.
        """
        offsets = self._setup.objective.offsets.numpy()
        counts = np.bincount(self._features.labels.numpy(), minlength=len(offsets))
        shares: Values = np.log(np.maximum(counts, 1)) - offsets
        shares -= shares.max()
        return shares

    def must_show_gain(self, _: TrainingState) -> bool:
        """Return `False`: every run has a head."""
        return False

    def state_tensors(self) -> None:
        """Return `None`: there is nothing to resume."""


def fill_head(module: nn.Module, fitted: ExampleClassifier, scale: float) -> None:
    """Give `module` the layers of a classifier that was fitted to its features divided by `scale`.

    Biases are those of `fitted`, so its logits are the layers' up to a constant.
    """
    classes, votes, width = fitted.examples.shape
    head = set_example_head(module, classes, votes)
    projection, centre = fitted.space.projection, fitted.space.centre
    rows = fitted.examples.reshape(-1, width) / (fitted.temperature * unit_factor(width))
    values = {
        "1.weight": projection / scale,
        "1.bias": -projection @ centre,
        "3.weight": rows,
        "3.bias": fitted.biases.ravel(),
    }
    with torch.no_grad():
        for name, array in values.items():
            head.get_parameter(name).copy_(torch.from_numpy(array))
    head.requires_grad_(False)


def start_head(setup: TrainingSetup, features: HeadFeatures) -> HeadPhase | ExamplePhase:
    """Return the first phase, by the method."""
    return (HeadPhase if setup.options.is_trained else ExamplePhase)(setup, features)
