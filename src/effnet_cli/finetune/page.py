"""The HTML report of a run: the evaluation page with the training curve and the options."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from effnet_cli.evaluate.page import Section, evaluation_page, label_page
from effnet_cli.evaluate.predictions import MAX_LABEL_ERRORS
from effnet_cli.evaluate.records import Evaluation, LabelEvaluation
from effnet_cli.finetune.folds import describe_accuracy, read_folds
from effnet_cli.finetune.formats import list_commands
from effnet_cli.finetune.view_choice import MAX_LOSS_INCREASE
from effnet_cli.models.card import METRICS_FILE_NAME, MODEL_FILE_NAME, ModelCard
from effnet_cli.models.checkpoint import read_card
from effnet_cli.output.charts import curve_chart

NO_VALUE = {"patience": "no limit", "minutes": "no limit", "folds": "none"}
CLASS_SCORE, LABEL_SCORE = ("top1", "Top-1"), ("mean_average_precision", "mAP")
CURVE_NOTE = (
    "on the validation images after each epoch: first of the classifier head, then of the full "
    "model."
)


def report_page(evaluation: Evaluation | LabelEvaluation, run_dir: Path) -> str:
    """Return the report of a run, given the evaluation of its model on the validation images."""
    lines = (run_dir / METRICS_FILE_NAME).read_text("ascii").splitlines()
    epochs = [json.loads(line) for line in lines]
    card = read_card(run_dir / MODEL_FILE_NAME)
    is_multi_label = isinstance(evaluation, LabelEvaluation)
    score, name = LABEL_SCORE if is_multi_label else CLASS_SCORE
    head_scores = [row[score] for row in epochs if row["phase"] == "head"]
    has_full = len(head_scores) < len(epochs)
    curve = curve_chart(epochs, score, f"{name}, %")
    summary = [*_summary(card, max(head_scores) if head_scores and has_full else None)]
    shared: dict[str, Any] = {
        "title": "Training report",
        "sections": [] if curve is None else [Section("Training", f"{name} {CURVE_NOTE}", curve)],
        "settings": list(_settings(card)),
        "commands": list(list_commands(run_dir)),
    }
    if isinstance(evaluation, LabelEvaluation):
        return label_page(evaluation, summary=summary, **shared)
    folds = read_folds(run_dir)
    if folds is not None:
        evaluation = replace(evaluation, label_errors=folds.label_errors[:MAX_LABEL_ERRORS])
        summary.append(describe_accuracy(folds.right, folds.total))
    return evaluation_page(evaluation, summary=summary, **shared)


def _summary(card: ModelCard, head_top1: float | None) -> Iterator[str]:
    if head_top1 is not None:
        yield f"The classifier head alone, before the full model was trained: {head_top1:.1%}."
    if card.unknown_below is not None:
        yield (
            "At least 95 % of the validation predictions with a probability of "
            f"{card.unknown_below:.1%} or more were correct; --unknown-below auto reports all"
            " others as unknown."
        )
    if card.familiarity is not None:
        yield (
            "95 % of images like the validation images are familiar to the model; --unknown-below "
            "auto reports those that are less familiar as unknown."
        )


def _settings(card: ModelCard) -> Iterator[tuple[str, str]]:
    for name, value in card.options.items():
        yield name.replace("_", " "), _format_option(name, value)
    for trial in card.metrics.get("view_trials", []):
        is_within = trial["increase"] <= MAX_LOSS_INCREASE
        verdict = "within the limit" if is_within else "too much"
        yield f"tried: {trial['change']}", f"log loss {trial['increase']:+.3f}, {verdict}"
    yield "training images", f"{card.dataset['train']:,}"


def _format_option(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return NO_VALUE.get(name, "auto")
    return str(value)
