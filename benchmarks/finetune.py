"""Speed and accuracy of `effnet finetune`: whole commands beside the peer's, on one dataset.

finetune.py --dataset DIR [--peer-checkout DIR --peer-weights lite0.pth] [--seeds 3] [--digits]
            [--only NAME ...]

The dataset is a folder with train/ and val/, each with a folder per class. The peer is timm's
train.py, from a checkout of huggingface/pytorch-image-models (`pip install pandas` for it), with
the same pretrained tensors under timm's names: a state dict for `tf_efficientnet_lite0`. Without a
checkout, only effnet runs. Rows, selected by --only:

- `head only`: the whole command `effnet finetune DIR --head-only`, beside five epochs of the peer.
- `default`: `--epochs 5`, with --seeds seeds.
- `training images/s, same batch`: the full model in batches of 64, beside the peer's.
- `feature pass`: images/s from files to features, beside torch eager with the same loader.
- `scan`: `--check` of 10,000 small images in 100 classes, which are created first.
- `same bytes`: whether a second run, and one that is killed in an epoch and resumed, give the same
  model file.
- `digits` (only with --digits): scikit-learn's 1,797 digits as a second dataset.

Long rows take an hour on two cores for 5,000 images. Compare only results from the same machine.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from effnet_cli.datasets.records import Subset
from effnet_cli.datasets.scan import scan
from effnet_cli.engines.normalise import normalise
from effnet_cli.engines.registry import EnginePlan, plan_engine
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.inference import Inference
from effnet_cli.finetune.loader import BatchLoader, CacheBudget, split_chunks
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build
from effnet_cli.models.card import ModelCard
from effnet_cli.models.efficientnet import EfficientNet
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import EngineOptions, ModelOptions
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import SILENT

PYTHON = sys.executable
EFFNET = [PYTHON, "-m", "effnet_cli", "finetune"]
PEER_EPOCHS = 5
BATCH_SIZE = 64
EAGER_BATCH_SIZE = 32
ROUNDS = 3
# The peer's line after the last step of an epoch: the mean rate stands in the brackets.
PEER_RATE = re.compile(r"Train: \d+ \[.*\(\s*[\d.]+s,\s*([\d.]+)/s\)")
SCANNED_CLASSES, SCANNED_IMAGES, SCANNED_PX = 100, 10_000, 32
MODEL_FILE, STATE_FILE = "model.safetensors", "state.safetensors"


@dataclass(frozen=True)
class Setting:
    """The dataset, the peer if there is one, and a folder for results."""

    dataset: Path
    scratch: Path
    seeds: int
    peer_checkout: Path | None
    peer_weights: Path | None

    def fresh(self) -> Path:
        """Return an unused folder name."""
        return Path(tempfile.mkdtemp(dir=self.scratch)) / "run"


@dataclass(frozen=True)
class Run:
    """One whole `effnet finetune`: its rows, and the seconds since the start of the process."""

    rows: list[dict[str, Any]]
    seconds: float
    folder: Path

    @property
    def val(self) -> dict[str, Any]:
        """Return the validation metrics of the model file."""
        metrics: dict[str, Any] = self.rows[-1]["val"]
        return metrics

    def epochs(self, phase: str) -> list[dict[str, Any]]:
        """Return the epochs of one phase."""
        return [row for row in self.rows if row.get("phase") == phase and row["row"] == "epoch"]

    @property
    def sha256(self) -> str:
        """Return the digest of the model file."""
        return hashlib.sha256((self.folder / MODEL_FILE).read_bytes()).hexdigest()


def show(row: str, who: str, figure: str, unit: str, more: str = "") -> None:
    """Print a line of the table."""
    print(f"| {row} | {who} | {figure} | {unit} | {more} |", flush=True)


def spread(values: Sequence[float], digits: int) -> str:
    """Format all values for the last column."""
    return "each: " + ", ".join(f"{value:.{digits}f}" for value in values)


def finetuned(setting: Setting, dataset: Path, *options: str) -> Run:
    """Run the command to the end."""
    folder = setting.fresh()
    command = [*EFFNET, str(dataset), "--output", str(folder), "--format", "jsonl", "--quiet"]
    started = time.perf_counter()
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - started
    return Run([json.loads(line) for line in done.stdout.splitlines()], seconds, folder)


# --- the peer -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PeerRun:
    """One whole `train.py`: top-1 (0..1) of its best epoch, mean training images/s of each."""

    top1: float
    seconds: float
    rates: list[float]


@cache
def peer_trained(setting: Setting) -> PeerRun | None:
    """Train the peer once for all rows; return `None` without a peer."""
    if setting.peer_checkout is None:
        return None
    classes = sum(path.is_dir() for path in (setting.dataset / "train").iterdir())
    out = setting.fresh()
    options = f"""--train-split train --val-split val --model tf_efficientnet_lite0 --pretrained
        --num-classes {classes} --epochs {PEER_EPOCHS} --warmup-epochs 1 --cooldown-epochs 0
        --opt adamw --lr 5e-4 --weight-decay 0.01 --sched cosine -b {BATCH_SIZE} -j 1
        --device cpu --smoothing 0.1 --channels-last"""
    command = [PYTHON, str(setting.peer_checkout / "train.py"), *options.split()]
    command += ["--data-dir", str(setting.dataset), "--output", str(out)]
    command += ["--pretrained-path", str(setting.peer_weights)]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=setting.peer_checkout,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"The peer failed:\n{done.stdout[-2000:]}")
    (summary,) = out.glob("*/summary.csv")
    with summary.open(newline="") as file:
        top1s = [float(row["eval_top1"]) / 100 for row in csv.DictReader(file)]
    return PeerRun(max(top1s), seconds, last_rates(done.stdout))


def last_rates(log: str) -> list[float]:
    """Return the mean rate at the last step of each epoch, from the peer's log."""
    rates: dict[str, float] = {}
    for line in log.splitlines():
        found = PEER_RATE.search(line)
        if found:
            rates[line.partition("Train: ")[2].split()[0]] = float(found[1])
    return list(rates.values())


# --- rows -------------------------------------------------------------------------------------


def head_only(setting: Setting) -> None:
    """Train the classifier only, beside the peer's whole training."""
    run = finetuned(setting, setting.dataset, "--head-only")
    show("head only", "effnet", f"{run.seconds:.1f}", "s, whole command")
    show("head only", "effnet", f"{run.val['top1']:.2%}", "top-1")
    show("head only", "effnet", f"{run.val['macro_f1']:.4f}", "macro F1 (0..1)")
    peer = peer_trained(setting)
    if peer is not None:
        who = f"peer, {PEER_EPOCHS} epochs"
        ratio = f"{peer.seconds / run.seconds:.2f} times effnet's head only"
        show("head only", who, f"{peer.seconds:.1f}", "s, whole command", ratio)
        show("head only", who, f"{peer.top1:.2%}", "top-1, best epoch")


def default(setting: Setting, dataset: Path | None = None, name: str = "default") -> None:
    """Train both phases with the defaults."""
    seeds = range(setting.seeds)
    runs = [
        finetuned(setting, dataset or setting.dataset, "--epochs", "5", "--seed", str(seed))
        for seed in seeds
    ]
    heads = [100 * max(row["top1"] for row in run.epochs("head")) for run in runs]
    top1s = [100 * run.val["top1"] for run in runs]
    f1s = [run.val["macro_f1"] for run in runs]
    seconds = [run.seconds for run in runs]
    show(name, "effnet", f"{statistics.mean(top1s):.2f}", "% top-1, mean", spread(top1s, 2))
    show(name, "effnet", f"{statistics.mean(f1s):.4f}", "macro F1 (0..1), mean", spread(f1s, 4))
    show(
        name, "effnet", f"{statistics.mean(heads):.2f}", "% top-1, its head alone", spread(heads, 2)
    )
    show(name, "effnet", f"{statistics.median(seconds):.1f}", "s, median", spread(seconds, 1))


def training_rate(setting: Setting) -> None:
    """Measure images per second of training the full model."""
    name = "training images/s, same batch"
    run = finetuned(
        setting, setting.dataset, "--epochs", "2", "--batch-size", str(BATCH_SIZE), "--seed", "0"
    )
    ours = [row["images_per_s"] for row in run.epochs("full")]
    unit = f"images/s, {BATCH_SIZE} a batch"
    # images are decoded in the first epoch and remembered where memory allows
    show(name, "effnet", f"{ours[0]:.1f}", unit, "first epoch")
    show(name, "effnet", f"{ours[-1]:.1f}", unit, "second epoch")
    peer = peer_trained(setting)
    if peer is not None:
        median = statistics.median(peer.rates)
        ratio = f"effnet's first epoch is {ours[0] / median:.2f} times as fast"
        show(name, "peer", f"{median:.1f}", unit, f"median of its epochs; {ratio}")


def feature_pass(setting: Setting) -> None:
    """Measure files to features, by the engine and by torch, interleaved."""
    model = resolve_model(ModelOptions())
    plan = plan_engine(EngineOptions("cpu"))
    loader = ImageLoader(model.card.preprocessing)
    module = build.load_module(model)
    assert isinstance(module, EfficientNet)
    subset = scan(setting.dataset).require_dataset().train
    inference = Inference(plan, model.variant, model.card, ProcessGroup(), SILENT)
    rates: dict[str, list[float]] = {plan.engine: [], "torch eager": []}
    features: dict[str, np.ndarray[Any, Any]] = {}
    for number in range(ROUNDS + 1):
        ways: dict[str, Callable[[BatchLoader], np.ndarray[Any, Any]]] = {
            plan.engine: lambda images: inference.run(
                inference.load_engine(module), images, "Features", output="features"
            )[1],
            "torch eager": lambda images: eager(module, loader, images),
        }
        for who, way in ways.items():
            torch.set_num_threads(usable_cores())
            images = undecoded(subset, loader)
            started = time.perf_counter()
            features[who] = way(images)
            if number:  # the first round warms the disk's cache
                rates[who].append(len(images) / (time.perf_counter() - started))
    largest = max(float(np.abs(values).max()) for values in features.values())
    difference = float(np.abs(features[plan.engine] - features["torch eager"]).max())
    for who, values in rates.items():
        figure, unit = f"{statistics.median(values):.1f}", "images/s, median"
        show("feature pass", who, figure, unit, spread(values, 1))
    show(
        "feature pass", "both", f"{difference / largest:.1e}", "largest difference / largest value"
    )
    seconds = compiling_seconds(plan, model.card, model, module)
    show("feature pass", plan.engine, f"{seconds:.2f}", "s of it to make the engine")


def undecoded(subset: Subset, loader: ImageLoader) -> BatchLoader:
    """Return images that are not cached, so that each pass decodes them."""
    return BatchLoader(subset, loader, CacheBudget(0), usable_cores(), SILENT)


@torch.inference_mode()
def eager(module: EfficientNet, loader: ImageLoader, images: BatchLoader) -> np.ndarray[Any, Any]:
    """Compute features with torch as most scripts do, with decoding threads beside it."""
    module = module.to(memory_format=torch.channels_last)
    values = []
    for batch in images.load_batches(split_chunks(np.arange(len(images)), EAGER_BATCH_SIZE), None):
        pixels = torch.from_numpy(normalise(batch.crops, loader.preprocessing))
        values.append(module.pool(pixels.to(memory_format=torch.channels_last)).numpy())
    return np.concatenate(values)


def compiling_seconds(plan: EnginePlan, card: ModelCard, model: Model, module: nn.Module) -> float:
    """Return the startup time of an engine."""
    started = time.perf_counter()
    variant = model.variant
    plan.load(Model(variant, card, module=module), plan.max_callers(variant))
    return time.perf_counter() - started


def scanned(setting: Setting) -> None:
    """Measure the scan of a large dataset."""
    folder = setting.scratch / "many"
    made_many(folder)
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run([*EFFNET, str(folder), "--check"], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - started)
    what = f"s, median, {SCANNED_IMAGES:,} PNGs of {SCANNED_PX} px in {SCANNED_CLASSES} classes"
    show("scan", "effnet", f"{statistics.median(times):.2f}", what, spread(times, 2))


def made_many(folder: Path) -> None:
    """Create distinct images in class folders."""
    rng = np.random.default_rng(0)
    for number in range(SCANNED_IMAGES):
        path = folder / f"class{number % SCANNED_CLASSES:03}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (SCANNED_PX, SCANNED_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, compress_level=1)


def same_bytes(setting: Setting) -> None:
    """Compare two runs with one seed, and one that is killed and resumed."""
    options = ("--epochs", "2", "--seed", "0")
    first = finetuned(setting, setting.dataset, *options)
    second = finetuned(setting, setting.dataset, *options)
    words = "same SHA-256 of the model file"
    show("same bytes", "two runs", yes(first.sha256 == second.sha256), words, first.sha256[:16])
    for epoch in (1, 2):
        killed = killed_and_resumed(setting, epoch, options, first.epochs("full"))
        what = f"killed in epoch {epoch}, resumed"
        show("same bytes", what, yes(killed.sha256 == first.sha256), words, killed.sha256[:16])


def yes(is_so: bool) -> str:
    """Return "yes" or "no"."""
    return "yes" if is_so else "NO"


def killed_and_resumed(
    setting: Setting, epoch: int, options: Sequence[str], epochs: Sequence[dict[str, Any]]
) -> Run:
    """Kill a run in the middle of an epoch of the full model, and resume it."""
    folder = setting.fresh()
    command = [*EFFNET, str(setting.dataset), "--output", str(folder), "--format", "jsonl"]
    with subprocess.Popen(
        [*command, "--quiet", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if epoch == 1:  # the state is first kept when the full phase begins
            while not (folder / STATE_FILE).exists() and process.poll() is None:
                time.sleep(0.05)
        else:
            ends_of_epochs = full_rows(process.stdout)
            for _ in range(epoch - 1):
                next(ends_of_epochs)
        time.sleep(epochs[epoch - 1]["seconds"] / 2)
        process.kill()
    resume = [*EFFNET, str(setting.dataset), "--resume", str(folder), "--format", "jsonl"]
    started = time.perf_counter()
    done = subprocess.run([*resume, "--quiet"], stdout=subprocess.PIPE, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    again = [row for row in rows if row["row"] == "epoch"]
    if not again or again[0]["epoch"] != epoch or again[0]["phase"] != "full":
        print(f"The run was not killed in epoch {epoch} but elsewhere.", file=sys.stderr)
    return Run(rows, time.perf_counter() - started, folder)


def full_rows(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the epochs of the full model as they end."""
    for line in lines:
        row = json.loads(line)
        if row["row"] == "epoch" and row["phase"] == "full":
            yield row


def digits(setting: Setting) -> None:
    """Train with defaults on images of another kind: 8 x 8 px, gray."""
    from sklearn.datasets import load_digits

    folder = setting.scratch / "digits"
    content = load_digits()
    for number, (pixels, label) in enumerate(zip(content.images, content.target, strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8)).save(path)
    default(setting, folder, "digits")


ROWS: dict[str, Callable[[Setting], None]] = {
    "head only": head_only,
    "default": default,
    "training images/s, same batch": training_rate,
    "feature pass": feature_pass,
    "scan": scanned,
    "same bytes": same_bytes,
    "digits": digits,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--peer-checkout", type=Path)
    parser.add_argument("--peer-weights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--only", nargs="*", default=[], choices=[*ROWS], metavar="NAME")
    options = parser.parse_args()
    if (options.peer_checkout is None) != (options.peer_weights is None):
        parser.error("--peer-checkout and --peer-weights belong together")
    paths = (options.dataset, options.peer_checkout, options.peer_weights)
    dataset, checkout, weights = (path and path.resolve() for path in paths)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EFFNET_CACHE"] = str(Path(folder) / "cache")
        setting = Setting(dataset, Path(folder), options.seeds, checkout, weights)
        print("| row | who | figure | unit | more |\n|---|---|---|---|---|")
        for name, measure in ROWS.items():
            if name in options.only or (not options.only and (name != "digits" or options.digits)):
                measure(setting)


if __name__ == "__main__":
    main()
