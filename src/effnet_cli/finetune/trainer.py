"""Runs the epochs: train, validate, keep the best model, save the state."""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor, nn

from effnet_cli.evaluate.records import LabelMetrics, Metrics
from effnet_cli.finetune.example_phase import ExamplePhase
from effnet_cli.finetune.final_model import evaluate_on_test
from effnet_cli.finetune.inference import Floats
from effnet_cli.finetune.loader import Indexes
from effnet_cli.finetune.objective import describe_best, epoch_scores
from effnet_cli.finetune.phases import FullPhase, Phase
from effnet_cli.finetune.records import NO_SCORES, PHASE_TITLES, Epoch, TrainingResult
from effnet_cli.finetune.run_dir import TrainingState
from effnet_cli.finetune.setup import TrainingSetup
from effnet_cli.finetune.signals import StopRequest, defer_signals, stop_error
from effnet_cli.finetune.view_choice import describe_policy
from effnet_cli.models.card import ModelCard
from effnet_cli.models.checkpoint import Arrays
from effnet_cli.system.errors import EffnetError

SAVE_SECONDS = 300  # between saves of the state within an epoch
# The learning rate is at its highest then: a model that is as good as the head will become better.
PROBE_LOSS = 1.02  # times the head's log loss
LOSS_SECONDS = 1.0  # between updates of the loss in the progress bar


class Trainer:
    """Runs phases epoch by epoch, and keeps the best model and the state in the run folder."""

    def __init__(self, setup: TrainingSetup, state: TrainingState) -> None:
        self._setup, self._state = setup, state
        self._earlier_seconds = state.seconds
        self._saved_at = self._shown_at = setup.started_at
        self._loss_text = ""
        self.best_module = setup.module
        self._stop = StopRequest()
        self._classes = setup.dataset.classes

    def resume(self, phase: FullPhase, tensors: Arrays | None) -> None:
        """Start a phase, or continue it from its saved tensors."""
        state = self._state
        if tensors is None:
            state.epoch, state.stale = 1, 0
            self._save(phase)
            return
        phase.restore(state, tensors)
        is_complete = state.is_over or state.epoch > phase.epochs
        if is_complete and self._setup.options.final != "all":
            self._setup.reporter.note("Already complete; increase --epochs to continue.")

    def run(self, phase: Phase) -> Iterator[Epoch]:
        """Run the remaining epochs of a phase, until one of its limits is reached.

        Raises:
            TrainingStopped: a signal arrived; progress is saved.
            EffnetError: the loss or a weight is not finite, or memory or disk space ran out.
        """
        while self._state.epoch <= phase.epochs and not self._is_over_limit(phase):
            with defer_signals(self._stop):
                epoch = self._run_epoch(phase)
            yield epoch
            self._raise_if_stopped()

    def _is_over_limit(self, phase: Phase) -> bool:
        state, note = self._state, self._setup.reporter.note
        if state.is_over and self._setup.options.epochs is None:
            return True
        if phase.patience is not None and state.stale >= phase.patience:
            note(f"Early stopping: no improvement for {state.stale} epochs")
            return True
        seconds = [row["seconds"] for row in state.rows if row["phase"] == phase.name]
        end_s = self._seconds() + max(seconds, default=0)
        is_late = phase.minutes is not None and end_s > 60 * phase.minutes
        if phase.processes.reduce_max(int(is_late)):
            note("Stopping: another epoch would exceed --minutes")
            return True
        return False

    def _seconds(self) -> float:
        """Return the duration of the training, including the time before it was resumed."""
        return self._earlier_seconds + time.monotonic() - self._setup.started_at

    def _run_epoch(self, phase: Phase) -> Epoch:
        state, started = self._state, time.perf_counter()
        loss, images_per_s = self._train(phase)
        indexes, logits = phase.validate()
        objective, val = self._setup.objective, self._setup.dataset.val
        metrics = objective.measure(val, indexes, logits)
        loss_at_best = objective.calibrated_loss(logits, val.labels[indexes])
        is_best = self._update_best(phase, metrics, loss_at_best)
        epoch = Epoch(
            phase=phase.name,
            epoch=state.epoch,
            epochs=phase.epochs,
            loss=loss,
            val_loss=metrics.loss,
            **NO_SCORES | epoch_scores(metrics),
            is_best=is_best,
            images_per_s=images_per_s,
            seconds=time.perf_counter() - started,
        )
        state.rows.append(epoch.to_json())
        if is_best:
            self.best_module = phase.module()
            self._write_model(indexes, logits)
        state.epoch, state.step, state.seen, state.loss = state.epoch + 1, 0, 0, 0.0
        if self._setup.processes.is_first:
            self._setup.run_dir.write_metrics(state.rows)
        self._save(phase)
        return epoch

    def _train(self, phase: Phase) -> tuple[float, float]:
        """Run the remaining steps of the epoch; return its mean loss and the images per second."""
        state, started, seen_before = self._state, time.perf_counter(), self._state.seen
        total = torch.tensor(state.loss, device=phase.device)
        for batch in phase.load_batches(state.epoch, state.step):
            total += phase.step(batch)
            state.step += 1
            state.seen += batch[2]
            self._report_progress(phase, total)
            self._save_or_stop(phase, total)
            if phase.must_show_gain(state) and not self._gains(phase):
                state.is_over = True
                break
        loss = sum(phase.processes.gather(float(total))) / state.seen
        if not (np.isfinite(loss) and _is_finite(phase.module())):
            raise EffnetError(
                f"Training diverged in epoch {state.epoch} (loss {loss}): the learning rate "
                f"{phase.lr:g} is probably too high.",
                "Use a smaller --lr; the best epoch so far is kept.",
            )
        return loss, (state.seen - seen_before) / (time.perf_counter() - started)

    def _gains(self, phase: Phase) -> bool:
        """Return whether validation loss, which shows it early, is about the head's or lower."""
        (indexes, logits), best = phase.validate(), self._state.best
        labels, objective = self._setup.dataset.val.labels[indexes], self._setup.objective
        loss = phase.processes.broadcast(lambda: objective.calibrated_loss(logits, labels))
        if loss <= PROBE_LOSS * best["loss"]:
            return True
        self._setup.reporter.note(
            f"Stopping: after {self._state.step} updates, the full model is worse than the "
            f"classifier head (log loss {loss:.3f}, head {best['loss']:.3f}). Use --epochs to "
            "train it nevertheless."
        )
        return False

    def _report_progress(self, phase: Phase, total: Tensor) -> None:
        """Update the progress bar, its loss only once a second: reading it waits for the device."""
        now, state = time.monotonic(), self._state
        if now - self._shown_at > LOSS_SECONDS:
            self._shown_at = now
            best = f", {describe_best(state.best['metrics'])}" if state.best else ""
            loss = self._setup.processes.count * float(total) / state.seen
            self._loss_text = f", loss {loss:.3f}{best}"
        title = f"{PHASE_TITLES[phase.name].capitalize()}, epoch {state.epoch} of {phase.epochs}"
        progress = self._setup.reporter.progress
        progress(title + self._loss_text, state.seen, phase.num_images)

    def _save_or_stop(self, phase: Phase, total: Tensor) -> None:
        """Save the state if the last save was long ago; save it and stop if a signal arrived."""
        self._stop.number = phase.processes.reduce_max(self._stop.number)
        if self._stop.number or time.monotonic() - self._saved_at > SAVE_SECONDS:
            # an estimate where there are several processes: the others have seen similar images
            self._state.loss = self._setup.processes.count * float(total)
            self._save(phase)
        self._raise_if_stopped()

    def _raise_if_stopped(self) -> None:
        if self._stop.number:
            raise stop_error(self._stop.number, self._setup.run_dir.path)

    def _save(self, phase: Phase) -> None:
        self._saved_at = time.monotonic()
        tensors = phase.state_tensors()
        if tensors is None or isinstance(phase, ExamplePhase):
            return
        if not self._setup.processes.is_first:
            return
        state = self._state
        state.seconds = self._seconds()
        state.classes = list(self._classes)
        state.micro_batch_size = phase.stepper.micro_batch_size
        state.scaler = phase.stepper.scaler.state_dict()
        self._setup.run_dir.write_state(state, tensors)

    def _update_best(self, phase: Phase, metrics: Metrics | LabelMetrics, loss: float) -> bool:
        """Record the epoch if it is the best so far, and return whether it is."""
        state, rank = self._state, self._setup.objective.rank(metrics)
        is_best = not state.best or rank > state.best["rank"]
        state.stale = 0 if is_best else state.stale + 1
        if is_best:
            epoch = {"phase": phase.name, "epoch": state.epoch, "metrics": asdict(metrics)}
            state.best = {"rank": rank, "loss": loss, **epoch}
        return is_best

    def _write_model(self, indexes: Indexes, logits: Floats) -> None:
        """Write the best model, described by its validation logits."""
        if self._setup.processes.is_first:
            card = _make_card(self._setup, self._state, indexes, logits=logits)
            self._setup.run_dir.write_model(card, self.best_module)

    def finish(self) -> TrainingResult:
        """Return the result. The test split, if there is one, is evaluated only here."""
        best = self._state.best
        if not best:
            raise EffnetError("No epoch finished.", "Increase --minutes or --epochs.")
        if not self._setup.options.has_full_phase and self._setup.processes.is_first:
            # without tensors: it says that the run is complete, so that --resume starts nothing
            self._state.classes = list(self._classes)
            self._setup.run_dir.write_state(self._state, {})
        return TrainingResult(
            model=self._setup.run_dir.model,
            phase=best["phase"],
            epoch=best["epoch"],
            val=self._setup.objective.read_metrics(best["metrics"]),
            test=evaluate_on_test(self._setup),
            seconds=self._seconds(),
        )


def _make_card(
    setup: TrainingSetup, state: TrainingState, indexes: Indexes, *, logits: Floats
) -> ModelCard:
    """Return the card of the best model, calibrated by `logits`."""
    card = setup.objective.calibrate(setup.card, logits, setup.dataset.val.labels[indexes])
    return replace(
        card,
        options={**setup.card.options, "views": describe_policy(state.policy)},
        metrics={
            **{name: state.best[name] for name in ("phase", "epoch", "metrics")},
            "view_trials": state.trials,
        },
    )


def _is_finite(module: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in module.parameters())
