"""Runs models that are being trained, with the engine that `predict` would use.

The engine gets exactly the same inputs as in `predict`. On a CPU it is four times as fast as torch,
which speeds up computing the head's features and validating after every epoch.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from effnet_cli.engines.base import Engine
from effnet_cli.engines.registry import EnginePlan
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.loader import BatchLoader, Indexes, split_chunks
from effnet_cli.images.augment import Augmentation
from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import Variant
from effnet_cli.models.weights import Model
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.parallel import map_ordered
from effnet_cli.system.reporter import Reporter

Floats = npt.NDArray[np.float32]
IMAGES_PER_TASK = 16  # minimum number of images in a thread's task


@dataclass(frozen=True, slots=True)
class Inference:
    """Runs models that are being trained.

    `plan` sets the engine and device, `card` the preprocessing; `processes` share the images.
    """

    plan: EnginePlan
    variant: Variant
    card: ModelCard
    processes: ProcessGroup
    reporter: Reporter

    def load_engine(self, module: nn.Module) -> Engine:
        """Load the engine for `module` (in evaluation mode) with its current weights.

        Raises:
            EffnetError: the engine cannot run it.
        """
        model = Model(self.variant, self.card, module=module)
        return self.plan.load(model, self._threads)

    @property
    def _threads(self) -> int:
        return self.plan.max_callers(self.variant)

    def run(
        self,
        engine: Engine,
        images: BatchLoader,
        what: str,
        augmentation: Augmentation | None = None,
        indexes: Indexes | None = None,
        output: Literal["scores", "features"] = "scores",
    ) -> tuple[Indexes, Floats]:
        """Run an engine on images, divided among the processes.

        Args:
            what: the label of the progress bar.
            indexes: which images to run it on, in ascending order; all by default.
            output: which of the engine's outputs to return.

        Returns:
            The indexes of the readable images, in ascending order [N], and their outputs, float32
            [N,outputs].

        Raises:
            EffnetError: no image is readable.
        """
        size, threads = self.plan.batch_size, self._threads

        def run_chunk(chunk: Indexes) -> tuple[int, Indexes, list[Floats]]:
            batch = images.load_batch(chunk, augmentation)
            outputs = [
                getattr(engine(batch.crops[start : start + size]), output)
                for start in range(0, len(batch.crops), size)
            ]
            return len(chunk), batch.indexes, outputs

        shard = self.processes.shard(np.arange(len(images)) if indexes is None else indexes)
        chunks = split_chunks(shard, max(IMAGES_PER_TASK, size))
        readable: list[Indexes] = []
        outputs: list[Floats] = []
        done = 0
        for count, loaded, values in map_ordered(
            run_chunk, chunks, workers=threads, ahead=2 * threads
        ):
            readable.append(loaded)
            outputs += values
            done += count
            self.reporter.progress(what, done, len(shard))
        return self._gather(readable, outputs)

    def _gather(self, readable: list[Indexes], outputs: list[Floats]) -> tuple[Indexes, Floats]:
        """Gather the outputs of all processes, in the order of the images."""
        shards = self.processes.gather((readable, outputs))
        order = np.concatenate([np.empty(0, np.intp), *(i for part, _ in shards for i in part)])
        if not len(order):
            raise EffnetError(
                "None of the images in the dataset can be read any more.", "Check the dataset."
            )
        rows = np.concatenate([values for _, part in shards for values in part])
        ascending = np.argsort(order)
        return order[ascending], rows[ascending]
