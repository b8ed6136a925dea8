"""(dataset, options) -> epochs: learn new classes on top of a pretrained network."""

from collections.abc import Iterator
from contextlib import ExitStack

from effnet_cli.finetune.distributed import join_process_group
from effnet_cli.finetune.records import Epoch, TrainingResult
from effnet_cli.finetune.trainer import Training
from effnet_cli.options import FinetuneTask
from effnet_cli.system.reporter import SILENT, Reporter


def finetune(task: FinetuneTask, reporter: Reporter = SILENT) -> Iterator[Epoch | TrainingResult]:
    """Train, and give a record for each epoch and one at the end (of several processes, in the
    first).

    The model file in the run's folder is that of the best epoch by validation, the classifier's
    own phase included.

    Raises:
        DatasetRefused: the images cannot be trained on.
        UsageError: options or files that do not fit together.
        EffnetError: weights, memory or disk are missing; what was learned so far is kept.
        Stopped: a signal has stopped it; what was learned so far is kept.
    """
    with ExitStack() as stack:
        processes = stack.enter_context(join_process_group())
        reporter = reporter if processes.is_first else SILENT
        training = Training(task, processes, reporter, stack)
        for phase in training.phases():
            while not training.is_over(phase):
                record = training.epoch(phase)
                if processes.is_first:
                    yield record
                training.end_if_asked()
        end = training.end()
        if processes.is_first:
            yield end
