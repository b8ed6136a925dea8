"""Fine-tuning: train a pretrained model on the classes of a dataset."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack

from effnet_cli.datasets.saved_split import save_split
from effnet_cli.finetune.all_images import train_on_all
from effnet_cli.finetune.distributed import join_process_group
from effnet_cli.finetune.example_phase import ExamplePhase, start_head
from effnet_cli.finetune.final_model import finish_model
from effnet_cli.finetune.folds import cross_validate
from effnet_cli.finetune.head_phase import extract_features
from effnet_cli.finetune.phases import FullPhase, auto_epochs
from effnet_cli.finetune.records import Epoch, TrainingRecord, TrainingResult
from effnet_cli.finetune.resume import load_progress
from effnet_cli.finetune.run_dir import TrainingState
from effnet_cli.finetune.setup import TrainingSetup, set_up
from effnet_cli.finetune.trainer import Trainer
from effnet_cli.finetune.variant_choice import choose_variant
from effnet_cli.images.augment import POLICIES
from effnet_cli.options import FinetuneTask
from effnet_cli.system.reporter import SILENT, Reporter

NOTHING_TO_RESUME = (
    "Already complete: this method has nothing to resume. Start a new run to add images or classes."
)


def finetune(task: FinetuneTask, reporter: Reporter = SILENT) -> Iterator[TrainingRecord]:
    """Train a model, yielding a record after each epoch and the result at the end.

    The model file in the run folder holds the best epoch of both phases, by validation. If there
    are several processes, only the first yields records.

    Raises:
        DatasetError: the dataset cannot be trained on.
        UsageError: options or files contradict each other.
        EffnetError: weights, memory or disk space are lacking; saved progress is kept.
        TrainingStopped: a signal arrived; saved progress is kept.
    """
    with ExitStack() as stack:
        processes = stack.enter_context(join_process_group())
        reporter = reporter if processes.is_first else SILENT
        setup = stack.enter_context(
            set_up(task, processes, reporter, choose_variant=choose_variant)
        )
        for record in _train(setup):
            if processes.is_first:
                yield record


def _train(setup: TrainingSetup) -> Iterator[TrainingRecord]:
    """Train the model and, with `--final all`, another one on all images."""
    state = yield from _train_first(setup)
    if setup.options.final == "all":
        yield train_on_all(setup, state)


def _train_first(setup: TrainingSetup) -> Generator[Epoch | TrainingResult, None, TrainingState]:
    """Train the head and then the full model, or what is left of them; return the last state."""
    state, tensors = load_progress(setup)
    if setup.processes.is_first:  # not before: a refused command changes nothing
        setup.run_dir.write_task(setup.task)
        if state.rows:  # the file may have been damaged since
            setup.run_dir.write_metrics(state.rows)
        save_split(setup.dataset, setup.run_dir.path)
    trainer = Trainer(setup, state)
    module = setup.module
    if tensors is not None and not setup.options.is_trained:
        setup.reporter.note(NOTHING_TO_RESUME)
    if tensors is None:
        augment, epochs = (
            setup.options.augment,
            setup.options.epochs or auto_epochs(len(setup.train)),
        )
        if setup.options.from_scratch:
            state.plan_full(epochs, POLICIES["strong" if augment == "auto" else augment])
        else:
            features = extract_features(setup)
            state.plan_full(epochs, features.policy, features.trials)
            if setup.options.folds is not None:
                cross_validate(setup, features)
            head = start_head(setup, features)
            yield from trainer.run(head)
            if isinstance(head, ExamplePhase):
                setup.reporter.note(head.describe())
            module = setup.processes.broadcast(lambda: trainer.best_module)
    if setup.options.has_full_phase:
        full = FullPhase(setup, module, state)
        setup.reporter.note(full.describe())
        trainer.resume(full, tensors)
        tensors = None  # free memory: they are larger than the optimizer's state
        yield from trainer.run(full)
    result = trainer.finish()
    finish_model(setup)
    yield result
    return state
