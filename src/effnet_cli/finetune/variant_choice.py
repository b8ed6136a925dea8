"""Choose a variant for a dataset by the classifier heads that its features allow.

A head takes seconds once the features are computed, and ranks backbones as their full training
would, at a small part of the cost.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.engines.base import to_probabilities
from effnet_cli.evaluate.metrics import fit_temperature
from effnet_cli.finetune.example_phase import start_head
from effnet_cli.finetune.head_phase import extract_clean_features
from effnet_cli.finetune.phases import TRAINING_COST, auto_epochs
from effnet_cli.finetune.setup import TrainingSetup

COMPARISON_SHARE = 1 / 3  # of --minutes, after which no further variant is tried
MIN_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True)
class VariantScore:
    """How good the head of a variant is: the log loss of each validation image, [N], the share of
    right ones, and the seconds that training the full model will take.
    """

    name: str
    losses: npt.NDArray[np.float64]
    top1: float
    full_s: float


def choose_variant(setups: Iterator[TrainingSetup]) -> str:
    """Return the name of the best variant; `setups` are in ascending order of their cost.

    Cheaper ones are preferred if their loss is within one standard error of the lowest. With
    `--minutes`, the full model must fit into the rest of the time.
    """
    scores: list[VariantScore] = []
    used_s = cost_s = 0.0  # since the start, and per giga multiply-add of the variant
    for setup in setups:
        minutes, processes = setup.options.minutes, setup.processes
        budget_s = math.inf if minutes is None else 60 * minutes
        cost = setup.inference.variant.giga_multiply_adds
        is_late = bool(scores) and used_s + cost_s * cost > COMPARISON_SHARE * budget_s
        if processes.reduce_max(int(is_late)):
            break
        started_s = time.monotonic() - setup.started_at
        score = score_variant(setup)
        scores.append(score)
        used_s = time.monotonic() - setup.started_at
        cost_s = (used_s - started_s) / cost
        duration = f"; about {math.ceil(score.full_s / 60)} min to train the full model"
        setup.reporter.note(
            f"{score.name}: a classifier head on its features has top-1 {score.top1:.1%} and a log "
            f"loss of {score.losses.mean():.3f}{duration if score.full_s else ''}"
        )
    return processes.broadcast(lambda: pick(scores, budget_s - used_s)).name


def pick(scores: Sequence[VariantScore], left_s: float) -> VariantScore:
    """Return the score of the variant to choose; see `choose_variant`."""
    fitting = [score for score in scores if score.full_s <= left_s] or [scores[0]]
    best = min(fitting, key=lambda score: float(score.losses.mean()))
    for score in fitting:
        excess = score.losses - best.losses
        if excess.mean() <= excess.std() / len(excess) ** 0.5:
            return score
    return best


def score_variant(setup: TrainingSetup) -> VariantScore:
    """Train a head on the clean features of a variant, and judge it on the validation images."""
    engine = setup.inference.load_engine(setup.module)
    started = time.perf_counter()
    features = extract_clean_features(setup, engine)
    passed = len(features.labels) + len(features.val_indexes)
    image_s = (time.perf_counter() - started) / passed
    phase = start_head(setup, features)
    phase.train()
    logits, labels = phase.predict(features.val), setup.val.labels[features.val_indexes]
    shares = to_probabilities(logits, "logits", fit_temperature(logits, labels))
    losses = np.full(len(setup.val), -math.log(MIN_PROBABILITY))  # of images that broke meanwhile
    own = shares[np.arange(len(labels)), labels]
    losses[features.val_indexes] = -np.log(np.maximum(own, MIN_PROBABILITY))
    epochs = setup.options.epochs or auto_epochs(len(setup.train))
    images = epochs * (TRAINING_COST * len(setup.train) + len(setup.val))
    return VariantScore(
        name=setup.card.variant,
        losses=losses,
        top1=float((logits.argmax(axis=1) == labels).mean()),
        full_s=0.0 if not setup.options.has_full_phase else image_s * images,
    )
