"""Training in several processes started by torchrun; a single process does not communicate."""

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

# How long a process waits for the others to scan the dataset or to extract their features.
TIMEOUT = timedelta(hours=2)
# torchrun ends all processes within this time after one has failed.
SHUTDOWN_SECONDS = 5


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process: `rank` of `count` overall, `local_rank` of `local_count` on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process reports and writes."""
        return self.rank == 0

    def broadcast(self, make: Callable[[], Shared]) -> Shared:
        """Call `make` in the first process, then return its result or raise its error in each."""
        if self.count == 1:
            return make()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = make()
            except EffnetError as error:
                outcome[1] = error
        distributed.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        result: Shared = outcome[0]
        return result

    def shard(self, indexes: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return this process's part of `indexes`: every `count`-th, starting at `rank`."""
        return indexes[self.rank :: self.count]

    def gather(self, value: Shared) -> list[Shared]:
        """Return the `value` of each process, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def reduce_max(self, number: int) -> int:
        """Return the largest `number` of all processes."""
        if self.count == 1:
            return number
        largest = torch.tensor(number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def reduce_min(self, number: int) -> int:
        """Return the smallest `number` of all processes."""
        return -self.reduce_max(-number)

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Wrap `module` to average its gradients over the processes as they are computed."""
        if self.count == 1:
            return module
        devices = [device.index or 0] if device.type == "cuda" else None
        return DistributedDataParallel(module, devices, broadcast_buffers=False)


@contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """Join the processes that torchrun has started, if any, using the ranks in the environment.

    Raises:
        EffnetError: the processes cannot connect.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ProcessGroup()
        return
    _connect(count)
    processes = ProcessGroup(
        distributed.get_rank(),
        count,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_count=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )
    try:
        yield processes
    except TrainingStopped as stopped:
        if not processes.is_first:
            raise SystemExit(stopped.exit_status) from stopped
        raise
    except EffnetError:
        if not processes.is_first:  # most errors occur in all processes: let the first report
            time.sleep(SHUTDOWN_SECONDS)
        raise
    finally:
        distributed.destroy_process_group()


def _connect(count: int) -> None:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise EffnetError(
            f"The {count} processes cannot connect: {error}.",
            "Start them with torchrun --nproc-per-node N -m effnet_cli finetune ...",
        ) from error
