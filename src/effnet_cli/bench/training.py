"""Times the training step of `finetune`."""

import time

import torch

from effnet_cli.bench.prepare import OUTPUTS
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.fuse_bn import fuse_batch_norm
from effnet_cli.finetune.optim import Schedule, Stepper, group_parameters, smoothed_cross_entropy
from effnet_cli.models import build
from effnet_cli.models.variants import Variant
from effnet_cli.options import Precision
from effnet_cli.system.machine import keep_freed_memory
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import SILENT

LEARNING_RATE = 1e-5  # the images are noise
WEIGHT_DECAY = 0.05
SCHEDULE_STEPS = 1_000_000  # more than are ever taken


class TrainingCaller:
    """A `worker.Caller` whose calls update the whole model, with frozen BatchNorm statistics."""

    def __init__(self, variant: Variant, device: str, precision: Precision) -> None:
        self.precision: Precision = precision
        self._device, self._crop_px = torch.device(device), variant.preprocessing.crop_px
        if self._device.type == "cpu":
            torch.set_num_threads(usable_cores())
            keep_freed_memory()
        torch.manual_seed(0)
        module = build.build(variant, OUTPUTS).to(self._device).eval()
        module.to(memory_format=torch.channels_last)
        if self._device.type == "cpu":
            fuse_batch_norm(module)
        self._stepper = Stepper(
            module,
            group_parameters(module, LEARNING_RATE, WEIGHT_DECAY),
            Schedule(SCHEDULE_STEPS),
            loss=smoothed_cross_entropy,
            processes=ProcessGroup(),
            reporter=SILENT,
            precision=precision,
        )
        self._inputs, self._labels = torch.empty(0), torch.empty(0)

    def time_ms(self, batch_size: int) -> float:
        """See `worker.Caller`."""
        if len(self._labels) != batch_size:
            shape = (batch_size, 3, self._crop_px, self._crop_px)
            self._inputs = torch.randn(shape).to(self._device, memory_format=torch.channels_last)
            self._labels = torch.randint(OUTPUTS, (batch_size,)).to(self._device)
        started = time.perf_counter_ns()
        loss = self._stepper.step(self._inputs, self._labels, batch_size)
        float(loss)  # waits for the device
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return (time.perf_counter_ns() - started) / 1e6
