"""`--variant auto` compares the variants whose weights are on this machine."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effnet_cli.finetune.resume import restore_task
from effnet_cli.finetune.variant_choice import VariantScore, pick
from effnet_cli.options import ModelOptions
from helpers import RecordingReporter
from training import HEAD_ONLY, CommandResult, make_classes, make_task, train

pytestmark = pytest.mark.usefixtures("one_core", "caches")

Effnet = Callable[..., CommandResult]


def make_score(name: str, mean: float, full_s: float = 60.0, spread: float = 0.1) -> VariantScore:
    """Return a score with seeded losses around a mean."""
    noise = np.random.default_rng(sum(name.encode())).normal(0, spread, 400)
    return VariantScore(name, mean + noise - noise.mean(), 0.9, full_s)


@pytest.mark.parametrize(
    ("scores", "left_s", "expected"),
    [
        ([make_score("small", 0.5), make_score("large", 0.3)], np.inf, "large"),
        ([make_score("small", 0.3), make_score("large", 0.5)], np.inf, "small"),
        # within one standard error
        ([make_score("small", 0.301), make_score("large", 0.3)], np.inf, "small"),
        # too slow for the time that is left
        ([make_score("small", 0.5, 60), make_score("large", 0.3, 600)], 100.0, "small"),
        ([make_score("small", 0.5, 60), make_score("large", 0.3, 600)], 10.0, "small"),
    ],
)
def test_the_best_that_fits_is_chosen(
    scores: list[VariantScore], left_s: float, expected: str
) -> None:
    assert pick(scores, left_s).name == expected


def test_run_uses_the_chosen_variant(tmp_path: Path, quick: None) -> None:
    make_classes(tmp_path / "data", images=6)
    reporter = RecordingReporter()
    task = make_task(tmp_path / "data", ModelOptions("auto"), tmp_path / "run", HEAD_ONLY)
    ran = train(task, reporter)
    compared = [note.partition(":")[0] for note in reporter.notes if "log loss" in note]
    assert compared[:3] == ["lite0", "lite1", "lite2"]
    saved = json.loads((ran.folder / "options.json").read_text())["model"]["variant"]
    assert saved == ran.card.variant in compared
    assert f"Starting from {saved}" in "\n".join(reporter.notes)
    again = replace(task, output=None, resume=ran.folder)
    assert restore_task(again, frozenset({"variant"})).model.variant == saved


def test_comparison_takes_a_third_of_the_minutes(
    effnet: Effnet, tmp_path: Path, quick: None
) -> None:
    make_classes(tmp_path / "data", images=6)
    words = ("--variant", "auto", "--minutes", "0.001", "--no-report", "-o", tmp_path / "run")
    done = effnet("finetune", tmp_path / "data", *words)
    assert done.status == 0, done.stderr
    assert done.stderr.count("log loss of") == 1
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("words", [("--from-scratch",), ("--weights", "x.pth"), ("--model", "x")])
def test_other_sources_of_weights_are_refused(
    words: tuple[str, ...], effnet: Effnet, tmp_path: Path
) -> None:
    make_classes(tmp_path / "data", images=3)
    done = effnet("finetune", tmp_path / "data", "--variant", "auto", *words)
    assert done.status == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
