"""Accuracy of `effnet finetune` on datasets of many kinds: whole commands, three seeds each.

    python benchmarks/suite.py DIR [--only SET ...] [--seeds 3] [--recipe NAME=OPTIONS ...]
        [--results FILE] [--peer-checkout DIR --peer-weights FILE]

DIR holds one folder per set, each with `train/` and `val/` and in these a folder per class. A
recipe is a name with options of the command; without any, they are `head` (--head-only) and
`default` (no options). Each model is measured by `effnet evaluate` on the set's `val/`. Every
result is a line of --results (suite.jsonl), and what is there is not run again: a suite that was
stopped continues. The table at the end has the means over the seeds.

The peer is timm's train.py, from a checkout of huggingface/pytorch-image-models, with the same
pretrained tensors under timm's names, for as many epochs as `default` trains on that set.

The sets of docs/defaults.md come from public repositories; `suite_sets.py` lists them and makes
the sets from their clones, all but the emoji. None of them is part of this project, and most
state no licence: they are for measuring.
"""

import argparse
import csv
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

EFFNET = [sys.executable, "-m", "effnet_cli"]
RECIPES = {"head": "--head-only", "default": ""}
PEER = "timm"
# Emoji drawn by two vendors, and other sets with copies, would be refused without these.
ACCEPT = ["--allow-bad", "--allow-leak", "--no-report", "--quiet"]
METRICS = ("top1", "balanced_accuracy", "macro_f1", "loss", "ece")


@dataclass(frozen=True)
class Result:
    """One trained model: shares are 0..1, `seconds` are those of the whole training command.

    `epochs` are those of the full model that were trained.
    """

    set: str
    recipe: str
    seed: int
    top1: float
    balanced_accuracy: float | None
    macro_f1: float | None
    loss: float | None
    ece: float | None
    seconds: float
    epochs: int


@dataclass(frozen=True)
class Peer:
    """timm's checkout, and its weights of lite0."""

    checkout: Path
    weights: Path


def train(folder: Path, recipe: str, *, options: str, seed: int) -> Result:
    """Train with `options` and evaluate the model."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch, "run")
        words = [str(folder), "--output", str(run), "--seed", str(seed), *shlex.split(options)]
        started = time.perf_counter()
        execute([*EFFNET, "finetune", *words, *ACCEPT])
        seconds = time.perf_counter() - started
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        measured = evaluate(folder, run)
        return Result(
            set=folder.name,
            recipe=recipe,
            seed=seed,
            **{name: measured[name] for name in METRICS},
            seconds=round(seconds, 1),
            epochs=sum(row["phase"] == "full" for row in rows),
        )


def evaluate(folder: Path, model: Path) -> dict[str, Any]:
    """Return the metrics of a model on the validation images of a set."""
    words = [str(folder), "--split", "val", "--model", str(model), "--format", "json", "--quiet"]
    done = execute([*EFFNET, "evaluate", *words])
    metrics: dict[str, Any] = json.loads(done)
    return metrics


def train_peer(peer: Peer, folder: Path, *, epochs: int, seed: int) -> Result:
    """Train timm's model of the same weights; its summary has top-1 and the loss only."""
    classes = sum(path.is_dir() for path in (folder / "train").iterdir())
    options = f"""--train-split train --val-split val --model tf_efficientnet_lite0 --pretrained
        --num-classes {classes} --epochs {epochs} --warmup-epochs 1 --cooldown-epochs 0
        --opt adamw --lr 5e-4 --weight-decay 0.01 --sched cosine -b 64 -j 1 --seed {seed}
        --device cpu --smoothing 0.1 --channels-last"""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(peer.checkout / "train.py"), *options.split()]
        command += ["--data-dir", str(folder), "--output", scratch]
        started = time.perf_counter()
        execute([*command, "--pretrained-path", str(peer.weights)], cwd=peer.checkout)
        seconds = time.perf_counter() - started
        (summary,) = Path(scratch).glob("*/summary.csv")
        with summary.open(newline="") as file:
            best = max(csv.DictReader(file), key=lambda row: float(row["eval_top1"]))
    return Result(
        set=folder.name,
        recipe=PEER,
        seed=seed,
        top1=float(best["eval_top1"]) / 100,
        balanced_accuracy=None,
        macro_f1=None,
        loss=float(best["eval_loss"]),
        ece=None,
        seconds=round(seconds, 1),
        epochs=epochs,
    )


def execute(command: Sequence[str], cwd: Path | None = None) -> str:
    """Run a command and return its output; end the benchmark if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def read_results(path: Path) -> list[Result]:
    """Return the results of earlier runs."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Result(**json.loads(line)) for line in lines]


def run_missing(settings: argparse.Namespace, done: list[Result]) -> Iterator[Result]:
    """Yield a result for each set, seed and recipe that has none yet."""
    known = {(one.set, one.recipe, one.seed): one for one in done}
    folders = [path for path in sorted(settings.dir.iterdir()) if (path / "train").is_dir()]
    for folder in folders:
        if settings.only and folder.name not in settings.only:
            continue
        for seed in range(settings.seeds):
            for recipe, options in settings.recipes.items():
                if (folder.name, recipe, seed) not in known:
                    result = train(folder, recipe, options=options, seed=seed)
                    known[folder.name, recipe, seed] = result
                    yield result
            usual = known.get((folder.name, "default", seed))
            if settings.peer and usual and (folder.name, PEER, seed) not in known:
                yield train_peer(settings.peer, folder, epochs=max(1, usual.epochs), seed=seed)


def show(results: Sequence[Result]) -> None:
    """Print the means over the seeds of each set and recipe."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.set, result.recipe].append(result)
    table = Table("set", "recipe", "seeds", *METRICS, "epochs", "seconds", box=None)
    for (name, recipe), group in sorted(groups.items()):
        table.add_row(
            name,
            recipe,
            str(len(group)),
            *(mean(group, metric) for metric in METRICS),
            f"{statistics.mean(one.epochs for one in group):.1f}",
            f"{statistics.mean(one.seconds for one in group):.0f}",
        )
    Console(width=120).print(table)


def mean(group: Sequence[Result], metric: str) -> str:
    """Return the mean of a metric over results; shares in percent."""
    values = [getattr(one, metric) for one in group]
    if any(value is None for value in values):
        return ""
    return (
        f"{statistics.mean(values):.3f}"
        if metric == "loss"
        else (f"{100 * statistics.mean(values):.1f}")
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dir", type=Path)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", nargs="+", default=[])
    parser.add_argument("--results", type=Path, default=Path("suite.jsonl"))
    parser.add_argument("--peer-checkout", type=Path)
    parser.add_argument("--peer-weights", type=Path)
    settings = parser.parse_args()
    settings.recipes = dict(one.split("=", 1) for one in settings.recipe) or RECIPES
    settings.peer = None
    if settings.peer_checkout:
        settings.peer = Peer(settings.peer_checkout, settings.peer_weights)
    return settings


def main() -> None:
    """Run what is missing, and print the table."""
    settings = parse_arguments()
    results = read_results(settings.results)
    for result in run_missing(settings, results):
        results.append(result)
        with settings.results.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        print(f"{result.set} {result.recipe} {result.seed}: {result.top1:.1%}", flush=True)
    show(results)


if __name__ == "__main__":
    main()
