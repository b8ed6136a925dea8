"""The cost of odd, broken and hostile images, and whether only effnet's own errors occur.

hostile.py [--photos DIR] [--seconds 60] [--runs 5] [--rows 200000] [--only NAME ...]

mutations   the loader with images of 19 kinds of which 1 to 8 bytes are changed
neighbours  1,000 good images alone, and with 50 hostile ones among them
isolated    256 web photos, with and without decoding in separate processes
memory      resident memory of one long run, row by row

Whole processes are interleaved, so that a drifting machine affects all equally; tables have the
median and range of the rounds, and the ratio of the medians. Without --photos the images are
created first (see photos.py).
"""

import argparse
import importlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.variants import VARIANTS
from effnet_cli.options import ImageOptions
from effnet_cli.system.errors import ImageError

HERE = Path(__file__).parent
PYTHON = sys.executable
PREDICT = [PYTHON, "-m", "effnet_cli", "predict", "--quiet", "--format"]
GOOD, HOSTILE = 1000, 50
MAX_PIXELS = 1_000_000  # of mutated images, which are small: some become large, which takes time
STEADY_ROWS = 1000  # rows until caches and buffers are full
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def corpus() -> ModuleType:
    """Import the module that creates bad inputs for the tests."""
    sys.path.insert(0, str(HERE.parent / "tests" / "hostile"))
    return importlib.import_module("bad")


# --- mutations ---------------------------------------------------------------------------------


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change 1 to 8 bytes, half of the time among the first 200."""
    changed = bytearray(data)
    end = len(data) if chance.random() < 0.5 else min(len(data), 200)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(end)] = chance.randrange(256)
    return bytes(changed)


def mutations(seconds: float, seed: int) -> None:
    """Open mutated images for some time, and count the results."""
    loader = ImageLoader(VARIANTS["lite0"].preprocessing, ImageOptions(max_pixels=MAX_PIXELS))
    warnings.simplefilter("ignore")
    chance = random.Random(seed)
    seeds = list(corpus().seeds().items())
    came: Counter[str] = Counter()
    slowest = 0.0, ""
    started = time.perf_counter()
    while (before := time.perf_counter()) - started < seconds:
        name, data = seeds[came.total() % len(seeds)]
        changed = mutated(data, chance)
        try:
            loader.load(changed)
            came["opened"] += 1
        except ImageError as error:
            came[error.kind] += 1
        except Exception as error:
            came[f"NOT OURS: {type(error).__name__}: {error}"] += 1
            Path(tempfile.gettempdir(), f"not-ours-{name}").write_bytes(changed)
        slowest = max(slowest, (time.perf_counter() - before, name))
    rate = came.total() / (time.perf_counter() - started)
    print(f"{came.total():,} mutations of {len(seeds)} kinds, {rate:.0f} a second, seed {seed}")
    for what, number in came.most_common():
        print(f"| {what} | {number:,} | {number / came.total():.1%} |")
    print(f"slowest: {slowest[0]:.2f} s ({slowest[1]})", flush=True)


# --- whole processes ---------------------------------------------------------------------------


def seconds_of(command: list[str]) -> float:
    """Return the time of one whole process, which may find bad images."""
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    taken = time.perf_counter() - started
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command} ended with {done.returncode}")
    return taken


def compared(what: str, runs: dict[str, Callable[[], float]], rounds: int) -> None:
    """Run all commands interleaved, and print a row each, with the ratio to the first."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            taken = run()
            if number:  # the first round warms the disk's cache
                times[name].append(taken)
    base = statistics.median(next(iter(times.values())))
    for name, taken_times in times.items():
        median = statistics.median(taken_times)
        spread = f"{min(taken_times):.2f}..{max(taken_times):.2f}"
        print(f"| {what} | {name} | {median:.2f} | {spread} | {median / base:.2f} |", flush=True)


def neighbours(web: Path, scratch: Path, rounds: int) -> None:
    """Classify good images alone and among hostile ones, in the order of a list."""
    photos = sorted(web.iterdir())
    good = [str(photos[number % len(photos)]) for number in range(GOOD)]
    hostile = hostile_files(scratch / "hostile")
    mixed = list(good)
    for number, path in enumerate(hostile):
        mixed.insert(number * (len(mixed) // len(hostile)), path)
    listings = {"alone": good, f"with {len(hostile)} hostile": mixed}
    runs: dict[str, Callable[[], float]] = {}
    for name, paths in listings.items():
        listing = scratch / f"{name.replace(' ', '-')}.txt"
        listing.write_text("\n".join(paths))
        command = [*PREDICT, "jsonl", f"@{listing}"]
        check_rows(command, len(paths), len(paths) - GOOD)
        runs[name] = lambda command=command: seconds_of(command)  # type: ignore[misc]
    compared(f"{GOOD:,} good images", runs, rounds)


def hostile_files(folder: Path) -> list[str]:
    """Write bombs first, then some files of every other kind."""
    bad = corpus()
    chance = random.Random(0)
    bombs = list(bad.bombs())
    others = [one for one in bad.bad_inputs() if isinstance(one.made, bytes) and one not in bombs]
    chosen = chance.sample(bombs, HOSTILE // 3) + chance.sample(others, HOSTILE - HOSTILE // 3)
    folder.mkdir()
    for one in chosen:
        (folder / os.fsdecode(bad.name_of(one))).write_bytes(one.made)
    return [str(path) for path in sorted(folder.iterdir())]


def check_rows(command: list[str], rows: int, failures: int) -> None:
    """Print a warning unless exactly the hostile images of a run fail."""
    done = subprocess.run(command, capture_output=True, check=False)
    statuses = [json.loads(line)["status"] for line in done.stdout.splitlines()]
    if len(statuses) != rows or statuses.count("error") != failures:
        raise RuntimeError(f"{len(statuses)} rows, {statuses.count('error')} of them errors")


def isolated(web: Path, rounds: int) -> None:
    """Measure the cost of separate decoding processes."""
    plain = [*PREDICT, "jsonl", str(web)]
    runs = {
        "in this process": lambda: seconds_of(plain),
        "--isolate": lambda: seconds_of([*plain, "--isolate"]),
        "--timeout 10": lambda: seconds_of([*plain, "--timeout", "10"]),
    }
    compared(f"{len(list(web.iterdir()))} web photos", runs, rounds)


# --- memory ------------------------------------------------------------------------------------


def memory(web: Path, scratch: Path, rows: int) -> None:
    """Measure resident memory over a list that repeats small images, one in twenty broken."""
    from PIL import Image

    small = scratch / "small.jpg"
    with Image.open(next(web.iterdir())) as photo:
        photo.resize((32, 24)).save(small)
    broken = scratch / "broken.jpg"
    broken.write_bytes(small.read_bytes()[:300])
    listing = scratch / "long.txt"
    with listing.open("w") as file:
        for number in range(rows):
            file.write(f"{broken if number % 20 == 7 else small}\n")
    process = subprocess.Popen([*PREDICT, "jsonl", f"@{listing}"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    seen: dict[int, float] = {}
    marks = {STEADY_ROWS, *(rows * share // 10 for share in range(1, 10)), rows - 100}
    for number, _ in enumerate(process.stdout, 1):
        if number in marks:
            seen[number] = resident_mb(process.pid)
    process.wait()
    steady = seen[STEADY_ROWS]
    for number, now in sorted(seen.items()):
        print(f"| {number:,} rows | {now:.1f} MB | {now - steady:+.1f} |", flush=True)


def resident_mb(process_id: int) -> float:
    """Return a process's resident memory in MB."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * PAGE_BYTES / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if options.photos is None:
            options.photos = scratch / "photos"
            subprocess.run([PYTHON, str(HERE / "photos.py"), str(options.photos)], check=True)
        web = options.photos / "web"
        shutil.copy(next(web.iterdir()), scratch / "first.jpg")
        seconds_of([*PREDICT, "json", str(scratch / "first.jpg")])  # compiles the model
        parts: dict[str, Callable[[], None]] = {
            "mutations": lambda: mutations(options.seconds, options.seed),
            "neighbours": lambda: neighbours(web, scratch, options.runs),
            "isolated": lambda: isolated(web, options.runs),
            "memory": lambda: memory(web, scratch, options.rows),
        }
        for name, part in parts.items():
            if not options.only or name in options.only:
                print(f"## {name}", flush=True)
                part()


if __name__ == "__main__":
    main()
