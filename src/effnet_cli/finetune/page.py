"""The HTML report of a run: the evaluation page with the training curve and the options."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from effnet_cli.evaluate.page import Section, evaluation_page
from effnet_cli.evaluate.predictions import MAX_LABEL_ERRORS
from effnet_cli.evaluate.records import Evaluation
from effnet_cli.finetune.folds import describe_accuracy, read_folds
from effnet_cli.finetune.formats import list_commands
from effnet_cli.finetune.view_choice import MAX_LOSS_INCREASE
from effnet_cli.models.card import METRICS_FILE_NAME, MODEL_FILE_NAME, ModelCard
from effnet_cli.models.checkpoint import read_card
from effnet_cli.output.charts import curve_chart

NO_VALUE = {"patience": "no limit", "minutes": "no limit", "folds": "none"}
CURVE_NOTE = (
    "Top-1 on the validation images after each epoch: first of the classifier head, then of the "
    "full model."
)


def report_page(evaluation: Evaluation, run_dir: Path) -> str:
    """Return the report of a run, given the evaluation of its model on the validation images."""
    lines = (run_dir / METRICS_FILE_NAME).read_text("ascii").splitlines()
    epochs = [json.loads(line) for line in lines]
    folds = read_folds(run_dir)
    if folds is not None:
        evaluation = replace(evaluation, label_errors=folds.label_errors[:MAX_LABEL_ERRORS])
    card = read_card(run_dir / MODEL_FILE_NAME)
    head_top1s = [row["top1"] for row in epochs if row["phase"] == "head"]
    has_full = len(head_top1s) < len(epochs)
    curve = curve_chart(epochs)
    return evaluation_page(
        evaluation,
        title="Training report",
        summary=[
            *_summary(card, max(head_top1s) if head_top1s and has_full else None),
            *([] if folds is None else [describe_accuracy(folds.right, folds.total)]),
        ],
        sections=[] if curve is None else [Section("Training", CURVE_NOTE, curve)],
        settings=list(_settings(card)),
        commands=list(list_commands(run_dir)),
    )


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
