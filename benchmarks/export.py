"""Agreement of exports with their models, the loss of int8, and the time of an export.

export.py --photos DIR [--variants b0 b4 v2_s lite0] [--targets onnx ...] [--only NAME ...]
          [--models FILE ...] [--finetuned MODEL --dataset DIR] [--scratch-trained MODEL]
          [--peer-checkout DIR]

--photos is a folder of real images (`photos.py OUT` creates OUT/web with 256). Rows, selected by
--only:

- `agreement`: every target that runs here, in fp32, on all photos. Variants without installed
  weights get seeded ones, with BatchNorm statistics and a spread of logits as for real images, so
  that predictions differ. Untrained layers amplify rounding errors and trained ones dampen them;
  --models are files of trained models, compared in the same way.
- `int8 pretrained`: variants with real weights, calibrated on half of the photos and compared on
  the others.
- `int8 finetuned` (--finetuned, --dataset): a fine-tuned model, calibrated on its training images;
  top-1 on its validation images.
- `int8 from scratch` (--scratch-trained, --dataset): the same for a model with SiLU and
  squeeze-and-excitation.
- `time` (--peer-checkout): the whole command for b0 to onnx, interleaved with timm's onnx_export.py
  from a checkout of huggingface/pytorch-image-models (`pip install onnxscript` for it). effnet
  also runs the written file on the samples and compares; the peer does not.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from effnet_cli.engines.normalise import normalise
from effnet_cli.export.targets import TARGETS
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import VARIANTS
from effnet_cli.models.weights import weights_state

ROUNDS = 5
STATISTICS_BATCH_SIZE = 64  # of the images that BatchNorm's statistics are taken of
SPREAD = 3.0  # standard deviation of seeded logits
GRAPHS = [name for name, row in TARGETS.items() if row.has_int8]


def seeded(name: str, folder: Path, photos: Path) -> list[str]:
    """Return the options that select a variant; seeded weights if its own are not installed."""
    variant = VARIANTS[name]
    if weights_state(variant) == "available":
        return ["--variant", name]
    path = folder / f"{name}.pth"
    if not path.exists():
        torch.manual_seed(0)
        card = imagenet_card(variant)
        module = build.build(variant, len(card.classes))
        loader = ImageLoader(card.preprocessing)
        paths = sorted(photos.iterdir())
        num_batches = max(1, len(paths) // STATISTICS_BATCH_SIZE)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # the statistics become the mean of those of all batches
        with torch.no_grad():
            for number in range(num_batches):
                crops = [loader.crop(loader.open(path)) for path in paths[number::num_batches]]
                pixels = normalise(np.stack(crops), card.preprocessing)
                module.train()(torch.from_numpy(pixels))
            spread = module.eval()(torch.from_numpy(pixels)).std()
            head: Any = module.get_submodule("classifier.1")
            head.weight.mul_(SPREAD / spread)
        torch.save(module.state_dict(), path)
    return ["--variant", name, "--weights", str(path)]


def exported(folder: Path, *options: str) -> dict[str, Any]:
    """Run `effnet export` and return its JSON; a rejected export counts, too."""
    command = [sys.executable, "-m", "effnet_cli", "export", *options, "-o", str(folder)]
    done = subprocess.run([*command, "-f", "json"], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def show(name: str, row: dict[str, Any]) -> None:
    """Print a line: the file compared with torch and with the target's float32."""
    reference, *others, form = row["forms"]
    plain = others[0] if others else reference  # the target's fp32
    line = f"{name:<28} {form['name']:<18} same top-1 {form['agreement']:7.2%}"
    if form["confident_agreement"] is not None:
        line += f" (of {row['confident']} clear {form['confident_agreement']:7.2%})"
    line += f", max |dp| {form['max_difference']:.1e}"
    if form["top1"] is not None:
        lost = 100 * (reference["top1"] - form["top1"])
        line += f", top-1 {reference['top1']:.2%} -> {form['top1']:.2%} ({lost:+.2f} points lost)"
    size, ms = form["size_bytes"] / plain["size_bytes"], form["median_ms"]
    line += f", size x{size:.3f}, {plain['median_ms']:.2f} -> {ms:.2f} ms"
    print(f"{line}, on {row['images']}", flush=True)


def quantised(name: str, folder: Path, *options: str) -> None:
    """Export int8 to each target that supports it."""
    for target in GRAPHS:
        row = exported(folder, "--to", target, "--quantize", "int8", "--force", *options)
        show(name, row)


def timed(command: list[str]) -> float:
    """Return the seconds of a whole command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def compare_time(folder: Path, photos: Path, checkout: Path) -> None:
    """Export b0 to onnx, interleaved with the peer."""
    import timm

    weights = folder / "peer_b0.pth"
    torch.save(timm.create_model("efficientnet_b0").state_dict(), weights)
    ours = [sys.executable, "-m", "effnet_cli", "export", *seeded("b0", folder, photos), "--to"]
    ours += ["onnx", "-o", str(folder / "ours.onnx")]
    peer = [sys.executable, str(checkout / "onnx_export.py"), str(folder / "peer.onnx")]
    peer += ["--model", "efficientnet_b0", "--checkpoint", str(weights)]
    rounds = [(timed(ours), timed(peer)) for _ in range(ROUNDS)]
    for name, values in zip(("effnet", "timm"), zip(*rounds, strict=True), strict=True):
        print(f"time  {name:<8} {statistics.median(values):6.2f} s ({min(values):.2f} to ", end="")
        print(f"{max(values):.2f})")
    ratio = statistics.median(theirs / mine for mine, theirs in rounds)
    print(f"time  timm / effnet {ratio:.2f}", flush=True)


def main() -> None:
    """Run the selected rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", default=["b0", "b4", "v2_s", "lite0"])
    here = [name for name, row in TARGETS.items() if row.not_compared is None]
    parser.add_argument("--targets", nargs="+", default=here)
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--finetuned")
    parser.add_argument("--scratch-trained")
    parser.add_argument("--dataset")
    parser.add_argument("--peer-checkout", type=Path)
    parser.add_argument("--only", nargs="+")
    given = parser.parse_args()

    def is_wanted(row: str) -> bool:
        return given.only is None or row in given.only

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if given.peer_checkout and is_wanted("time"):
            compare_time(folder, given.photos, given.peer_checkout)
        if is_wanted("int8 pretrained"):
            for name in ("lite0", "lite1", "lite2"):
                options = ("--calibrate", str(given.photos), "--variant", name)
                quantised(f"int8 pretrained {name}", folder, *options)
        for row, path in (
            ("int8 finetuned", given.finetuned),
            ("int8 from scratch", given.scratch_trained),
        ):
            if path and is_wanted(row):
                quantised(row, folder, "--calibrate", given.dataset, "--model", path)
        if is_wanted("agreement"):
            subjects = {name: seeded(name, folder, given.photos) for name in given.variants}
            subjects |= {path: ["--model", path] for path in given.models}
            for name, which in subjects.items():
                for target in given.targets:
                    arguments = ("--to", target, "--check", str(given.photos))
                    show(f"agreement {name}", exported(folder, *which, *arguments))


if __name__ == "__main__":
    main()
