"""Seconds of `effnet search` on large indexes: whole processes, over a warm page cache.

    python benchmarks/search.py FOLDER [--images 100000 1000000] [--update 100000]

FOLDER gets indexes of random vectors, as large as real ones (1,280 numbers, 5 kB an image), which
are removed afterwards. Timed are `search query` of a sample image, and, up to `--update` images, a
second `search index` of as many files that have not changed. Each figure is the median of five.
The matches are compared with those of NumPy.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from effnet_cli.embed.embedder import Embedder, normalize
from effnet_cli.search import changes
from effnet_cli.search.store import Stamp, open_for_reading

ROOT = Path(__file__).parent.parent
EFFNET = [sys.executable, "-m", "effnet_cli", "search"]
QUERY = ROOT / "sample_images" / "cat.jpg"
FILES_PER_FOLDER, AT_ONCE, TIMES, K = 1000, 10_000, 5, 10
# A GIF of one pixel, of which only size and time are looked at.
TINY = bytes.fromhex(
    "47494638396101000100800000ffffff00000021f90400000000002c00000000010001000002024401003b"
)


def list_paths(folder: Path, count: int) -> Iterator[Path]:
    """Yield the paths of the images."""
    for number in range(count):
        yield folder / f"{number // FILES_PER_FOLDER:04}" / f"{number:07}.gif"


def make_index(place: Path, images: int, *, has_files: bool) -> Path:
    """Write an index of random vectors, and the files that it is for."""
    embedder, rng = Embedder(), np.random.default_rng(0)
    meta = {
        "model": {"variant": None, "model": None, "weights": None},
        "classes": list(embedder.card.classes),
        "dim": 1280,
    }
    index, paths = place / "index", list_paths(place / "files", images)
    with changes.open_for_update(index, embedder.source, meta) as opened:
        number = 0
        while part := list(islice(paths, AT_ONCE)):
            vectors = normalize(rng.standard_normal((len(part), 1280), dtype=np.float32))
            contents = []
            for vector in vectors:
                label = [(number % 1000, 0.9)]
                contents.append(changes.NewContent(f"{number:064x}", vector, label, b""))
                number += 1
            for path, row in zip(part, opened.add(contents), strict=True):
                opened.put(str(path), write_file(path) if has_files else Stamp(0, 0), row)
            opened.commit()
    return index


def write_file(path: Path) -> Stamp:
    """Write a tiny image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(TINY)
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns)


def run(words: Sequence[str]) -> tuple[float, str]:
    """Run a command some times; return the median of the seconds, and the last output."""
    seconds = []
    for _ in range(TIMES + 1):
        started = time.perf_counter()
        done = subprocess.run(
            [*EFFNET, *words], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]), done.stdout  # the first warms up the page cache


def measure_recall(index: Path, output: str) -> float:
    """Return the share of the nearest images that a query found."""
    with open_for_reading(index) as opened:
        vectors = opened.vectors()
        similarities = np.concatenate(
            [vectors[i : i + AT_ONCE] @ Embedder()(QUERY) for i in range(0, len(vectors), AT_ONCE)]
        )
        expected = {opened.paths(int(row))[0] for row in np.argsort(-similarities)[:K]}
    found = {match["path"] for match in json.loads(output)[0]["matches"]}
    return len(found & expected) / K


def main() -> None:
    """Make the indexes and time the commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--update", type=int, default=100_000)
    settings = parser.parse_args()
    os.environ["EFFNET_INDEXES"] = str(settings.folder)
    for images in settings.images:
        place = settings.folder.absolute() / f"search-{images}"
        try:
            index = make_index(place, images, has_files=images <= settings.update)
            where = ["-i", str(index), "-q"]
            seconds, output = run(["query", str(QUERY), "-f", "json", "-k", str(K), *where])
            recall = measure_recall(index, output)
            print(f"{images:,} images: query {seconds:.2f} s, recall {recall:.3f}", flush=True)
            if images <= settings.update:
                seconds, _ = run(["index", str(place / "files"), *where])
                print(f"{images:,} images: second index {seconds:.2f} s", flush=True)
        finally:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
