"""Speed of `effnet predict`: whole processes, interleaved with the peer on the same images.

predict.py [--photos DIR] [--runs 5] [--memory] [--only NAME ...]

The peer needs timm (`pip install timm`). Without --photos the images are created first (see
photos.py). All commands run interleaved, so that a drifting machine affects all equally; the table
has the median and range of the rounds, and the ratio of the medians. --memory adds the peak memory
of 20,000 images against 1,000, which takes minutes.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PYTHON = sys.executable
EFFNET = [PYTHON, "-m", "effnet_cli", "predict", "--quiet", "--format", "json"]
BF16 = ["--engine", "openvino", "--precision", "bf16"]


class Commands:
    """The measured commands, on the images of one folder."""

    def __init__(self, photos: Path, scratch: Path) -> None:
        self.one = scratch / "one"
        self.one.mkdir()
        shutil.copy(sorted((photos / "web").iterdir())[0], self.one)
        self.web, self.phone = photos / "web", photos / "phone"
        self.scratch = scratch
        self.fresh = scratch / "fresh"  # a cache that is empty at each start

    def effnet(self, folder: Path, *options: str) -> list[str]:
        return [*EFFNET, *options, str(folder)]

    def peer(self, folder: Path) -> list[str]:
        out = str(self.scratch / f"{folder.name}.npz")
        return [PYTHON, str(HERE / "peer_timm.py"), str(folder), out]

    def bare(self, folder: Path, runtime: str) -> list[str]:
        (model,) = (Path(os.environ["EFFNET_CACHE"]) / "compiled").glob("lite0-*.onnx")
        return [PYTHON, str(HERE / "bare_loop.py"), str(folder), str(model), runtime]


def seconds(command: list[str], env: dict[str, str] | None = None) -> float:
    """Return the time of one whole process."""
    started = time.perf_counter()
    subprocess.run(
        command, stdout=subprocess.DEVNULL, check=True, env={**os.environ, **(env or {})}
    )
    return time.perf_counter() - started


def peak_mb(command: list[str]) -> float:
    """Return the peak memory of one process and its threads, in MB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_maxrss / 1024


def first_start(commands: Commands) -> float:
    """Start with an empty cache: the model is compiled, then predicts."""
    shutil.rmtree(commands.fresh, ignore_errors=True)
    return seconds(commands.effnet(commands.one), {"EFFNET_CACHE": str(commands.fresh)})


def measurements(commands: Commands) -> dict[str, dict[str, Callable[[], float]]]:
    """Return the rows, each with the commands of effnet, the peer and the bare loop."""
    c = commands
    return {
        "one image": {
            "effnet": lambda: seconds(c.effnet(c.one)),
            "peer": lambda: seconds(c.peer(c.one)),
            "bare": lambda: seconds(c.bare(c.one, "onnxruntime")),
        },
        "one image, nothing cached": {
            "effnet": lambda: first_start(c),
            "peer": lambda: seconds(c.peer(c.one)),
        },
        "256 web photos": {
            "effnet": lambda: seconds(c.effnet(c.web)),
            "peer": lambda: seconds(c.peer(c.web)),
            "bare": lambda: seconds(c.bare(c.web, "onnxruntime")),
        },
        "256 web photos, openvino bf16": {
            "effnet": lambda: seconds(c.effnet(c.web, *BF16)),
            "peer": lambda: seconds(c.peer(c.web)),
            "bare": lambda: seconds(c.bare(c.web, "openvino:bf16")),
        },
        "32 photos of 12 MP": {
            "effnet": lambda: seconds(c.effnet(c.phone)),
            "peer": lambda: seconds(c.peer(c.phone)),
            "bare": lambda: seconds(c.bare(c.phone, "onnxruntime")),
        },
        "effnet --help": {
            "effnet": lambda: seconds([PYTHON, "-m", "effnet_cli", "--help"]),
            "import typer, rich.table": lambda: seconds([PYTHON, "-c", "import typer, rich.table"]),
        },
    }


def measured(name: str, runs: dict[str, Callable[[], float]], rounds: int) -> None:
    """Run all commands interleaved, and print a row each, with the ratio to effnet."""
    times: dict[str, list[float]] = {who: [] for who in runs}
    for number in range(rounds + 1):
        for who, run in runs.items():
            taken = run()
            if number:  # the first round warms the disk's cache
                times[who].append(taken)
    ours = statistics.median(times["effnet"])
    for who, all_times in times.items():
        median = statistics.median(all_times)
        spread = f"{min(all_times):.3f}..{max(all_times):.3f}"
        print(f"| {name} | {who} | {median:.3f} | {spread} | {median / ours:.2f} |", flush=True)


def compare_predictions(commands: Commands, folder: Path, *options: str) -> None:
    """Print how effnet's predictions differ from those of the peer's earlier run."""
    done = subprocess.run(
        commands.effnet(folder, "--top-k", "1000", *options), capture_output=True, check=True
    )
    peer = np.load(commands.scratch / f"{folder.name}.npz")
    wanted = dict(zip(peer["names"], peer["probabilities"], strict=True))
    worst, total, equal, sure, sure_equal = 0.0, 0.0, 0, 0, 0
    rows = json.loads(done.stdout)
    for row in rows:
        theirs = wanted[Path(row["path"]).name]
        ours = np.zeros(1000)
        for prediction in row["predictions"]:
            ours[prediction["index"]] = prediction["probability"]
        worst = max(worst, float(np.abs(ours - theirs).max()))
        total += float(np.abs(ours - theirs)[theirs.argsort()[-5:]].mean())
        is_equal = ours.argmax() == theirs.argmax()
        equal += is_equal
        if theirs.max() >= 0.5:
            sure += 1
            sure_equal += is_equal
    what = " ".join((folder.name, *options)) or folder.name
    print(
        f"{what}: top-1 equal on {equal} of {len(rows)}, {sure_equal} of {sure} where the peer is "
        f"sure (0.5); largest |dp| {worst:.1e}, mean |dp| of the peer's five best "
        f"{total / len(rows):.1e}"
    )


def compare_memory(commands: Commands) -> None:
    """Compare the peak memory of 20,000 and 1,000 images, in a list that repeats small images."""
    from PIL import Image

    small = commands.scratch / "small"
    small.mkdir()
    for number, path in enumerate(sorted(commands.web.iterdir())):
        with Image.open(path) as photo:
            photo.resize((160, 120)).save(small / f"{number}.jpg")
    paths = [str(path) for path in small.iterdir()]
    for count in (1_000, 20_000):
        listing = commands.scratch / f"{count}.txt"
        listing.write_text("\n".join(paths[n % len(paths)] for n in range(count)))
        command = [*EFFNET, "--format", "jsonl", f"@{listing}"]
        print(f"peak memory of {count:,} images: {peak_mb(command):.0f} MB", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        os.environ["EFFNET_CACHE"] = str(scratch / "cache")
        if options.photos is None:
            options.photos = scratch / "photos"
            subprocess.run([PYTHON, str(HERE / "photos.py"), str(options.photos)], check=True)
        commands = Commands(options.photos, scratch)
        seconds(commands.effnet(commands.one))  # compiles the model
        print("| what | who | median s | range s | ratio to effnet |\n|---|---|---|---|---|")
        for name, runs in measurements(commands).items():
            if not options.only or name in options.only:
                measured(name, runs, options.runs)
        for folder_, *how in (
            (commands.web, "--exact-decode"),
            (commands.web,),
            (commands.phone, "--exact-decode"),
            (commands.phone,),
        ):
            if (scratch / f"{folder_.name}.npz").exists():
                compare_predictions(commands, folder_, *how)
        if options.memory:
            compare_memory(commands)


if __name__ == "__main__":
    main()
