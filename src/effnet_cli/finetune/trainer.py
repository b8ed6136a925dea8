"""A run: its images, its network, its folder, and where it stands."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from effnet_cli.datasets import Dataset, Subset, count_changes, require_dataset, scan
from effnet_cli.datasets.saved_split import load_split, save_split
from effnet_cli.engines.base import to_probabilities
from effnet_cli.engines.registry import plan_engine
from effnet_cli.evaluate.metrics import compute_metrics, fit_temperature, fit_unknown_threshold
from effnet_cli.evaluate.records import Metrics
from effnet_cli.finetune import run_dir
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.fuse_bn import keep_freed_memory
from effnet_cli.finetune.inference import Answering, Floats
from effnet_cli.finetune.loader import Indexes, Memory, SubsetImages
from effnet_cli.finetune.phases import HeadPhase, NetworkPhase, Phase
from effnet_cli.finetune.records import Epoch, TrainingResult
from effnet_cli.finetune.run_dir import RunFolder, State
from effnet_cli.finetune.signals import Stop, TrainingStopped, ending, listening
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build
from effnet_cli.models.card import ModelCard
from effnet_cli.models.checkpoint import Arrays
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import DEFAULT_VARIANT, find_variant
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import EngineOptions, FinetuneTask, ModelOptions, TrainingPrecision
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import SILENT, Reporter

SAVE_SECONDS = 300  # the state of a long epoch is kept this often
WORDS_SECONDS = 1.0  # the bar's loss is renewed this often


class Training:
    """What `finetune` goes through, epoch by epoch."""

    def __init__(
        self,
        task: FinetuneTask,
        processes: ProcessGroup,
        reporter: Reporter,
        stack: ExitStack,
    ) -> None:
        self._started_at = self._saved_at = self._worded_at = time.monotonic()
        self._loss_words = ""
        self._task, self._processes, self._reporter = task, processes, reporter
        self._options, self._stop = task.options, Stop()
        self._plan = plan_engine(EngineOptions(device=_device(task.device, processes)))
        self._device = torch.device(self._plan.device)
        if self._options.precision != "auto":
            plan_engine(EngineOptions(self._plan.device, "torch", self._options.precision))
        if self._device.type == "cpu":
            keep_freed_memory()
            torch.set_num_threads(max(1, usable_cores() // processes.on_this_machine))
        if task.resume is None:
            processes.share(lambda: run_dir.check_output(task.output))
            if task.model.model is not None:
                build.check_has_weights(task.model.model)
        self._dataset = processes.share(lambda: _scanned(task, reporter))
        network = self._base()
        self._card = _card(task, network, self._dataset)
        self._network = self._with_new_head(network)
        self._folder = self._opened_folder(network, stack)
        loader = ImageLoader(self._card.preprocessing, task.images)
        self._memory, self._workers = Memory(), task.workers or usable_cores()
        self._answering = Answering(
            self._plan, network.variant, self._card, loader, processes, reporter
        )
        self._train = self._images(self._dataset.train)
        self._val = self._images(self._dataset.val)
        self._state = State()
        self._tensors: Arrays | None = None
        if task.resume is not None:
            self._go_on()
        if processes.is_first:
            save_split(self._dataset, self._folder.path)

    # --- setting up ---

    def _base(self) -> Model:
        """The network to start from; the first process fetches it, others find it (or, on other
        machines, fetch it there).
        """
        network = self._processes.share(lambda: _base(self._task, self._reporter))
        return network if self._processes.is_first else _base(self._task, SILENT)

    def _images(self, subset: Subset) -> SubsetImages:
        return SubsetImages(
            subset, self._answering.loader, self._memory, self._workers, self._reporter
        )

    def _with_new_head(self, network: Model) -> nn.Module:
        torch.manual_seed(self._options.seed)
        if self._options.from_scratch:
            module = build.build(network.variant, len(network.card.classes)).eval()
        else:
            module = build.load_module(network)
        num_stages = len(list(module.get_submodule("features").children()))
        if self._options.freeze > num_stages:
            raise UsageError(
                f"--freeze {self._options.freeze} is more than the {num_stages} stages of"
                f" {network.variant.name}.",
                f"Use a number up to {num_stages}.",
            )
        build.set_head(module, len(self._card.classes), self._options.hidden)
        return module

    def _opened_folder(self, network: Model, stack: ExitStack) -> RunFolder:
        """The run's folder, held by the first process."""

        def path() -> Path:
            task = self._task
            if task.resume is not None:
                return task.resume
            return run_dir.new_path(task.output, task.root, network.variant.name)

        where = self._processes.share(path)
        folder = RunFolder(where)
        if self._processes.is_first:
            folder = stack.enter_context(run_dir.held(where))
            folder.write_options(self._task)
        stack.enter_context(ending(where))
        return folder

    def _go_on(self) -> None:
        """Take up the state of a run that was stopped."""
        kept = self._processes.share(self._folder.read_state)
        if kept is None:
            return
        self._state, tensors = kept
        if self._state.classes != list(self._dataset.classes):
            gone, new = _changes(self._state.classes, self._dataset.classes)
            raise UsageError(
                f"The classes are not those that the training began with ({gone}{new}).",
                "Give the same dataset, or start a new training without --resume.",
            )
        gone_files, new_files = count_changes(tensors["file_keys"], self._dataset.file_keys)
        if gone_files or new_files:
            self._reporter.note(
                f"The dataset has changed since: {gone_files:,} files are gone or changed, "
                f"{new_files:,} are new or changed."
            )
        if not self._processes.is_first:
            self._state.loss = 0.0
        self._tensors = {name: value for name, value in tensors.items() if name != "file_keys"}

    def phases(self) -> Iterator[Phase]:
        """The phases that are still to do."""
        parts = (
            self._network,
            self._train,
            self._val,
            self._answering,
            self._class_weights(),
            self._options,
        )
        if self._tensors is None and not self._options.from_scratch:
            head = HeadPhase(*parts, self._reporter)
            yield head
            self._network = self._processes.share(head.best)
            parts = (self._network, *parts[1:])
        if self._options.head_only:
            return
        precision = _precision(self._options.precision, self._device)
        network = NetworkPhase(*parts, self._reporter, precision, self._device, self._processes)
        self._reporter.note(
            f"The whole network on {self._device}, {precision}: "
            f"{network.epochs} epoch{'s' * (network.epochs != 1)} of {network.steps} updates "
            f"with about {len(self._train) // network.steps} images each, "
            f"learning rate {network.lr:.2g}."
        )
        self._begin(network)
        yield network

    def _class_weights(self) -> Tensor:
        """float32 [C]: 1 each, or with `--balance` such that every class weighs the same."""
        counts = self._dataset.train.count(len(self._dataset.classes))
        weights = np.ones(len(counts))
        if self._options.balance:
            weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
        return torch.tensor(weights, dtype=torch.float32)

    def _begin(self, phase: NetworkPhase) -> None:
        """Start the whole network's phase, or go on where its state says."""
        state = self._state
        if self._tensors is None:
            state.epoch = 1
            self._save(phase)
            return
        phase.restore(self._tensors)
        phase.learner.piece_size = state.piece_size
        phase.learner.scaler.load_state_dict(state.scaler)
        phase.schedule.step = (state.epoch - 1) * phase.steps + state.step
        if state.epoch > phase.epochs:
            self._reporter.note(
                "None of them is left to do: --epochs with a larger number goes on."
            )
        self._tensors = None

    # --- training ---

    def is_over(self, phase: Phase) -> bool:
        """Whether a phase has no epoch left, or one of the person's limits is reached."""
        state, options = self._state, self._options
        if state.epoch > phase.epochs:
            return True
        if phase.name == "head":
            return False
        if options.patience is not None and state.stale >= options.patience:
            self._reporter.note(f"No better epoch for {state.stale}: --patience ends the training.")
            return True
        longest = max(
            (row["seconds"] for row in state.rows if row["phase"] == "network"), default=0
        )
        is_late = options.minutes is not None and self._seconds() + longest > 60 * options.minutes
        if self._processes.agreed(int(is_late), largest=True):
            self._reporter.note("One more epoch would end too late: --minutes ends the training.")
            return True
        return False

    def _seconds(self) -> float:
        """How long this run has taken, before it was stopped and since."""
        return self._state.seconds + time.monotonic() - self._started_at

    def epoch(self, phase: Phase) -> Epoch:
        """One epoch: learn, ask, keep.

        Raises:
            Stopped: a signal asks for the end; what was learned is kept.
        """
        if phase.name == "head":  # it takes seconds, and begins anew on `--resume`
            return self._epoch(phase)
        with listening(self._stop):
            return self._epoch(phase)

    def _epoch(self, phase: Phase) -> Epoch:
        state, started = self._state, time.perf_counter()
        loss, images_per_s = self._learn(phase)
        answers = phase.answers()
        metrics = self._metrics(self._dataset.val, *answers)
        rank = [metrics.balanced_accuracy if self._options.balance else metrics.top1, -metrics.loss]
        is_best = not state.best or rank > state.best["rank"]
        seconds = time.perf_counter() - started
        row = Epoch(
            phase=phase.name,
            epoch=state.epoch,
            epochs=phase.epochs,
            loss=loss,
            val_loss=metrics.loss,
            top1=metrics.top1,
            balanced_accuracy=metrics.balanced_accuracy,
            macro_f1=metrics.macro_f1,
            is_best=is_best,
            images_per_s=images_per_s,
            seconds=seconds,
        )
        state.rows.append(asdict(row))
        state.stale = 0 if is_best else state.stale + 1
        if is_best:
            state.best = {
                "rank": rank,
                "phase": phase.name,
                "epoch": state.epoch,
                "metrics": asdict(metrics),
            }
            self._keep(phase, *answers)
        state.epoch, state.step, state.loss, state.seen = state.epoch + 1, 0, 0.0, 0
        if self._processes.is_first:
            self._folder.write_metrics(state.rows)
        if isinstance(phase, NetworkPhase):
            self._save(phase)
        return row

    def _learn(self, phase: Phase) -> tuple[float, float]:
        """The rest of an epoch's steps; their mean loss, and the rate in images a second."""
        state, started, before = self._state, time.perf_counter(), self._state.seen
        total = torch.tensor(state.loss, device=phase.device)
        for inputs, labels, size in phase.batches(state.epoch, state.step):
            total += phase.learner.step(inputs, labels, size)
            phase.after_step()
            state.step += 1
            state.seen += size
            self._reporter.progress(self._words(phase, total), state.seen, len(phase))
            self._look_up(phase, total)
        loss = sum(self._processes.collected(float(total))) / state.seen
        if phase.name == "head":
            loss = float(total) / state.seen
        if not (np.isfinite(loss) and _is_finite(phase.network())):
            raise EffnetError(
                f"The loss became {loss} in epoch {state.epoch}: the learning rate "
                f"{phase.lr:g} is too high.",
                "Use a smaller --lr; the best epoch before is kept.",
            )
        return loss, (state.seen - before) / (time.perf_counter() - started)

    def _look_up(self, phase: Phase, total: Tensor) -> None:
        """After each step: keep the state if that is long ago, end if a signal asks for it."""
        if not isinstance(phase, NetworkPhase):
            return
        self._stop.number = self._processes.agreed(self._stop.number, largest=True)
        if self._stop.number or time.monotonic() - self._saved_at > SAVE_SECONDS:
            self._state.loss = float(total)
            self._save(phase)
        self.end_if_asked()

    def end_if_asked(self) -> None:
        """End with `TrainingStopped` if a signal has asked for it."""
        if self._stop.number:
            raise TrainingStopped(signal.Signals(self._stop.number), self._folder.path)

    def _words(self, phase: Phase, total: Tensor) -> str:
        """What the bar says; the loss waits for the device, so it is asked for once a second."""
        now, state = time.monotonic(), self._state
        if now - self._worded_at > WORDS_SECONDS:
            self._worded_at = now
            best = f", best top-1 {state.best['metrics']['top1']:.1%}" if state.best else ""
            self._loss_words = f", loss {float(total) / state.seen:.3f}{best}"
        name = "Classifier" if phase.name == "head" else "Whole network"
        return f"{name}, epoch {state.epoch} of {phase.epochs}{self._loss_words}"

    def _save(self, phase: NetworkPhase) -> None:
        """Keep what `--resume` needs."""
        self._saved_at = time.monotonic()
        if not self._processes.is_first:
            return
        state = self._state
        state.seconds, self._started_at = self._seconds(), time.monotonic()
        state.classes = list(self._dataset.classes)
        state.piece_size = phase.learner.piece_size
        state.scaler = phase.learner.scaler.state_dict()
        self._folder.write_state(state, self._dataset.file_keys, phase.tensors())

    def _keep(self, phase: Phase, indexes: Indexes, logits: Floats) -> None:
        """Write the model file: the best epoch so far, calibrated on what validation answered."""
        phase.remember()
        if not self._processes.is_first:
            return
        labels = self._dataset.val.labels[indexes]
        temperature = fit_temperature(logits, labels)
        confidences = to_probabilities(logits, "logits", temperature).max(axis=1)
        best = self._state.best
        card = replace(
            self._card,
            metrics={name: best[name] for name in ("phase", "epoch", "metrics")},
            temperature=temperature,
            unknown_below=fit_unknown_threshold(confidences, logits.argmax(axis=1) == labels),
        )
        self._folder.write_model(card, phase.network())

    def _metrics(self, subset: Subset, indexes: Indexes, logits: Floats) -> Metrics:
        """The metrics of answers for the images at `indexes`; all others have failed."""
        is_answered = np.zeros(len(subset.labels), dtype=bool)
        is_answered[indexes] = True
        failed = np.concatenate([subset.failed, subset.labels[~is_answered]])
        return compute_metrics(logits, subset.labels[indexes], failed, names=self._dataset.classes)

    def end(self) -> TrainingResult:
        """What came of it; the test split, if there is one, is asked now and never before."""
        test = None
        if self._dataset.test is not None:
            engine = self._answering.loaded(self._processes.share(self._best_module))
            images = self._images(self._dataset.test)
            test = self._metrics(
                self._dataset.test, *self._answering.outputs(engine, images, "Test")
            )
        best = self._state.best
        return TrainingResult(
            self._folder.model,
            best["phase"],
            best["epoch"],
            Metrics.from_dict(best["metrics"]),
            test,
            self._seconds(),
        )

    def _best_module(self) -> nn.Module:
        """The network of the model file."""
        network = resolve_model(ModelOptions(model=self._folder.model))
        return build.load_module(network).to(self._device)


def _is_finite(network: nn.Module) -> bool:
    return bool(torch.stack([p.isfinite().all() for p in network.parameters()]).all())


def _device(name: str, processes: ProcessGroup) -> str:
    """The device of this process: several processes on a machine have a GPU each."""
    device = plan_engine(EngineOptions(device=name)).device
    return f"cuda:{processes.local}" if device == "cuda" and processes.count > 1 else device


def _scanned(task: FinetuneTask, reporter: Reporter) -> Dataset:
    saved = None if task.resume is None else load_split(task.resume)
    known = {} if saved is None else saved.contents
    found = scan(
        task.root,
        task.dataset,
        seed=task.options.seed,
        images=task.images,
        known=known,
        workers=task.workers,
        reporter=reporter,
    )
    for finding in found.findings:
        if finding.level != "error":
            reporter.note(f"{finding.message} {finding.hint}".strip())
    return require_dataset(found)


def _base(task: FinetuneTask, reporter: Reporter) -> Model:
    """The network to start from."""
    if task.options.from_scratch:
        return _untrained(task.model)
    network = resolve_model(task.model, reporter)
    reporter.note(f"Starts from {network.variant.name}: {network.path}")
    return network


def _untrained(options: ModelOptions) -> Model:
    if options.model is not None or options.weights is not None:
        raise UsageError(
            "--from-scratch starts without weights, and --model or --weights names some.",
            "Leave one of them out.",
        )
    variant = find_variant(DEFAULT_VARIANT if options.variant is None else options.variant)
    return Model(variant, imagenet_card(variant.name, variant.preprocessing))


def _card(task: FinetuneTask, network: Model, dataset: Dataset) -> ModelCard:
    """The card of the new model: its network sees the whole shorter side of an image.

    Training sees images larger than they are in validation (views are parts of them), so that
    validation gains from showing more of them (Touvron et al. 2019, arXiv 1906.06423).
    """
    before = network.card.preprocessing
    return ModelCard(
        variant=network.variant.name,
        classes=dataset.classes,
        preprocessing=replace(before, resize_px=before.crop_px),
        options={**asdict(task.options), "base_sha256": network.sha256},
        dataset={
            "fingerprint": dataset.fingerprint,
            "seed": task.options.seed,
            "val_fraction": task.dataset.val_fraction,
            "train": len(dataset.train.labels),
            "val": len(dataset.val.labels),
            "test": None if dataset.test is None else len(dataset.test.labels),
        },
    )


def _precision(wanted: TrainingPrecision, device: torch.device) -> str:
    """What autocast computes in: on a CPU autocast makes training slower."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return "bf16"
    return "fp32"


def _changes(old: list[str], new: tuple[str, ...]) -> tuple[str, str]:
    gone, added = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    return (
        f"{len(gone)} gone, such as {gone[0]!r}; " if gone else "",
        f"{len(added)} new, such as {added[0]!r}" if added else "none is new",
    )
