"""What a network in training answers, asked through the engine that `predict` would use.

The engine sees bit for bit the crops that `predict` gives it, and on a CPU it is four times as
fast as torch: that pays for the features of the first phase and for the validation of each epoch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from effnet_cli.engines.base import Engine
from effnet_cli.engines.registry import EnginePlan
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.loader import Indexes, SubsetImages, chunks
from effnet_cli.images.augment import Augmentation
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import Variant
from effnet_cli.models.weights import Model
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.parallel import map_ordered
from effnet_cli.system.reporter import Reporter

Floats = npt.NDArray[np.float32]
# Images in one piece of work of a thread.
CHUNK = 16


@dataclass(frozen=True, slots=True)
class Answering:
    """How networks in training are asked: on which device, and what their images go through."""

    plan: EnginePlan
    variant: Variant
    card: ModelCard
    loader: ImageLoader
    processes: ProcessGroup
    reporter: Reporter

    def loaded(self, module: nn.Module) -> Engine:
        """The engine that runs `module` (evaluation mode) as it is now.

        Raises:
            EffnetError: the engine cannot run it.
        """
        network = Model(self.variant, self.card, module=module)
        return self.plan.load(network, self._callers)

    @property
    def _callers(self) -> int:
        return self.plan.max_callers(self.variant)

    def outputs(
        self,
        engine: Engine,
        images: SubsetImages,
        what: str,
        views: Augmentation | None = None,
    ) -> tuple[Indexes, Floats]:
        """What an engine of `loaded` gives: the indexes of the images that can be opened,
        ascending [N], and the outputs for them, float32 [N,outputs]. The images are dealt out to
        the processes.

        Raises:
            EffnetError: none of the images can be opened.
        """
        size, workers = self.plan.batch_size, self._callers

        def asked(part: Indexes) -> tuple[int, Indexes, list[Floats]]:
            batch = images.batch(part, views)
            values = [
                engine(batch.crops[start : start + size])
                for start in range(0, len(batch.crops), size)
            ]
            return len(part), batch.indexes, values

        mine = self.processes.part(np.arange(len(images)))
        parts = chunks(mine, max(CHUNK, size))
        indexes: list[Indexes] = []
        values: list[Floats] = []
        done = 0
        for looked_at, found, answers in map_ordered(asked, parts, workers, 2 * workers):
            indexes.append(found)
            values += answers
            done += looked_at
            self.reporter.progress(what, done, len(mine))
        return self._together(indexes, values)

    def _together(self, indexes: list[Indexes], values: list[Floats]) -> tuple[Indexes, Floats]:
        """All processes' answers in the order of the images."""
        parts = self.processes.collected((indexes, values))
        order = np.concatenate([np.empty(0, np.intp), *(i for part, _ in parts for i in part)])
        if not len(order):
            raise EffnetError("None of the images can be opened any more.", "Check the dataset.")
        rows = np.concatenate([value for _, part in parts for value in part])
        ascending = np.argsort(order)
        return order[ascending], rows[ascending]
