"""What a network in training answers, asked through the engine that `predict` would use.

The engine sees bit for bit the tensors that `predict` gives it, and on a CPU it is four times as
fast as torch: that pays for the features of the first phase and for the validation of each epoch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from effnet_cli import engines
from effnet_cli.finetune.distributed import Processes
from effnet_cli.finetune.loader import Indexes, Pictures, Squares, chunks
from effnet_cli.images import PictureLoader
from effnet_cli.images.augment import Views
from effnet_cli.models.checkpoint import ModelCard
from effnet_cli.models.variants import Variant
from effnet_cli.models.weights import Network
from effnet_cli.options import Listener
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.parallel import in_order

Floats = npt.NDArray[np.float32]
# Pictures in one piece of work of a thread.
CHUNK = 16


@dataclass(frozen=True, slots=True)
class Answering:
    """How networks in training are asked: on which device, and what their pictures go through."""

    plan: engines.Plan
    variant: Variant
    card: ModelCard
    loader: PictureLoader
    processes: Processes
    listener: Listener

    def loaded(self, module: nn.Module) -> engines.Engine:
        """The engine that runs `module` (evaluation mode) as it is now.

        Raises:
            EffnetError: the engine cannot run it.
        """
        network = Network(self.variant, self.card, Path(), "", module)
        return self.plan.load(network, self._callers)

    @property
    def _callers(self) -> int:
        return self.plan.max_callers(self.variant)

    def outputs(
        self,
        engine: engines.Engine,
        pictures: Pictures,
        what: str,
        views: Views | None = None,
    ) -> tuple[Indexes, Floats]:
        """What an engine of `loaded` gives: the indexes of the pictures that can be opened,
        ascending [N], and the outputs for them, float32 [N,outputs]. The pictures are dealt out to
        the processes.

        Raises:
            EffnetError: none of the pictures can be opened.
        """
        size, workers = self.plan.batch_size, self._callers

        def asked(part: Indexes) -> tuple[int, Indexes, list[Floats]]:
            batch = pictures.batch(part, views)
            values = [
                engine(self._normalised(batch.squares[start : start + size]))
                for start in range(0, len(batch.squares), size)
            ]
            return len(part), batch.indexes, values

        mine = self.processes.part(np.arange(len(pictures)))
        parts = chunks(mine, max(CHUNK, size))
        indexes: list[Indexes] = []
        values: list[Floats] = []
        done = 0
        for looked_at, found, answers in in_order(asked, parts, workers, 2 * workers):
            indexes.append(found)
            values += answers
            done += looked_at
            self.listener.progress(what, done, len(mine))
        return self._together(indexes, values)

    def _normalised(self, squares: Squares) -> Floats:
        """uint8 [N,H,W,3] -> float32 [N,3,H,W], each as `PictureLoader.load` gives it."""
        return np.stack([self.loader.normalise(square) for square in squares])

    def _together(self, indexes: list[Indexes], values: list[Floats]) -> tuple[Indexes, Floats]:
        """All processes' answers in the order of the pictures."""
        parts = self.processes.collected((indexes, values))
        order = np.concatenate([np.empty(0, np.intp), *(i for part, _ in parts for i in part)])
        if not len(order):
            raise EffnetError("None of the pictures can be opened any more.", "Check the dataset.")
        rows = np.concatenate([value for _, part in parts for value in part])
        ascending = np.argsort(order)
        return order[ascending], rows[ascending]
