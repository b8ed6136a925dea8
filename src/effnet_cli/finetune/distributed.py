"""Training in several processes: who am I, and how arrays and objects travel between us.

`torchrun` starts the processes and says in the environment which is which (RANK, WORLD_SIZE,
LOCAL_RANK). One process needs none of it: then everything here does nothing.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from effnet_cli.finetune.signals import TrainingStopped
from effnet_cli.system.errors import EffnetError

Shared = TypeVar("Shared")

# How long a process waits for the others: a scan, or one process's share of a feature pass.
PATIENCE = timedelta(hours=2)
# How long torchrun needs, at most, to end all processes after one has ended with an error.
GRACE_SECONDS = 5


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among all: `rank` of `count`, and `local` of those `on_this_machine`."""

    rank: int = 0
    count: int = 1
    local: int = 0
    on_this_machine: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def share(self, make: Callable[[], Shared]) -> Shared:
        """What `make` gives in the first process, in all of them; its error likewise."""
        if self.count == 1:
            return make()
        made: list[Any] = [None, None]
        if self.is_first:
            try:
                made[0] = make()
            except EffnetError as error:
                made[1] = error
        distributed.broadcast_object_list(made)
        if made[1] is not None:
            raise made[1]
        result: Shared = made[0]
        return result

    def part(self, indexes: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """This process's share of `indexes`: every `count`-th."""
        return indexes[self.rank :: self.count]

    def collected(self, mine: Shared) -> list[Shared]:
        """What each process brings, by rank."""
        if self.count == 1:
            return [mine]
        parts: list[Any] = [None] * self.count
        distributed.all_gather_object(parts, mine)
        return parts

    def agreed(self, number: int, *, largest: bool) -> int:
        """The largest (or smallest) of all processes' `number`."""
        if self.count == 1:
            return number
        value = torch.tensor(number)
        operation = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.MIN
        distributed.all_reduce(value, operation)
        return int(value)

    def wrapped(self, module: nn.Module, device: torch.device) -> nn.Module:
        """`module` so that gradients are averaged over the processes as they are computed."""
        if self.count == 1:
            return module
        devices = [device.index or 0] if device.type == "cuda" else None
        return DistributedDataParallel(module, devices, broadcast_buffers=False)


@contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """This process among those that torchrun started; alone without torchrun.

    Raises:
        EffnetError: the processes do not find each other.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ProcessGroup()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise EffnetError(
            f"The {count} processes do not find each other: {error}.",
            "Start them with torchrun --nproc-per-node N -m effnet_cli finetune ...",
        ) from error
    rank = distributed.get_rank()
    try:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        yield ProcessGroup(rank, count, local, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    except TrainingStopped as stopped:
        if rank:
            raise SystemExit(stopped.exit_status) from stopped
        raise
    except EffnetError:
        # Most errors come to all, and then it is enough that the first process tells them.
        if rank:
            time.sleep(GRACE_SECONDS)
        raise
    finally:
        distributed.destroy_process_group()
