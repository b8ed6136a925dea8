"""How many planted wrong labels `effnet audit` finds, beside cleanlab on the same features.

    python benchmarks/audit.py SET ...

Each SET is a folder of class folders, or of train/ and val/, which count as one set. Labels of a
share of its images are moved to another class, chosen by chance with a fixed seed, in a CSV file:
no image is copied. The table has the share of the moved labels among the first 5 % of images that
are proposed. The peer is what cleanlab's tutorial does: scikit-learn's LogisticRegression on the
features as they are, `cross_val_predict` on five folds, `get_label_quality_scores`. Its features
come from the same model. Labels that were wrong before count as false alarms for both.
"""

import argparse
import csv
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cleanlab.rank import get_label_quality_scores
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from effnet_cli.audit.measure import measure_images
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.reporter import SILENT

MOVED = 0.05  # share of the images
PROPOSED = 0.05
MAX_STEPS = 1000  # of the peer, until it converges
Rows = list[tuple[str, str]]  # path and label


def plant(folder: Path, seed: int) -> tuple[Rows, set[str]]:
    """Return the rows of a set, some with a wrong label, and the paths of those."""
    has_splits = (folder / "train").is_dir()
    pattern = "*/*/*" if has_splits else "*/*"
    paths = sorted(str(path.absolute()) for path in folder.glob(pattern) if path.is_file())
    labels = {path: Path(path).parent.name for path in paths}
    classes, rng = sorted(set(labels.values())), random.Random(seed)
    moved = set(rng.sample(paths, round(MOVED * len(paths))))
    for path in sorted(moved):
        labels[path] = rng.choice([name for name in classes if name != labels[path]])
    return list(labels.items()), moved


def audit(rows: Rows, seed: int) -> tuple[list[str], float, float, int]:
    """Run the command; return the images whose label it finds wrong, the seconds and CPU seconds it
    took, and the size of its page.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, fix, page = (Path(folder) / name for name in ("data.csv", "fix.csv", "page.html"))
        with data.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *rows])
        words = ["audit", str(data), "--fix", str(fix), "--html", str(page), "--seed", str(seed)]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "effnet_cli", *words], check=True, capture_output=True
        )
        after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        with fix.open(encoding="utf-8", newline="") as file:
            found = [row for row in csv.DictReader(file) if row["problem"] == "wrong_label"]
        return [row["path"] for row in found], seconds, cpu, page.stat().st_size


def rank_as_peer(rows: Rows, features: npt.NDArray[np.float32], seed: int) -> list[str]:
    """Return all images, the lowest label quality of cleanlab first."""
    _, labels = np.unique([label for _, label in rows], return_inverse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares: Any = cross_val_predict(
            LogisticRegression(max_iter=MAX_STEPS),
            features,
            labels,
            cv=StratifiedKFold(5, shuffle=True, random_state=seed),
            method="predict_proba",
        )
    order = np.argsort(get_label_quality_scores(labels, shares), kind="stable")
    return [rows[place][0] for place in order.tolist()]


def share_found(ranked: list[str], moved: set[str], images: int) -> float:
    """Return the share of `moved` among the first images that are proposed."""
    return len(moved.intersection(ranked[: round(PROPOSED * images)])) / len(moved)


def main() -> None:
    """Measure all sets, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    settings = parser.parse_args()
    table = Table("set", "seed", "images", "moved", "effnet audit", "peer", "listed", "of moved",
                  "seconds", "CPU s", "page", box=None)  # fmt: skip
    os.environ["COLUMNS"] = "200"
    classifier = Classifier()
    for folder in settings.sets:
        features = None
        for seed in range(settings.seeds):
            rows, moved = plant(folder, seed)
            if features is None:
                everything = np.arange(len(rows))
                paths = [path for path, _ in rows]
                features = measure_images(classifier, paths, everything, reporter=SILENT).features
            found, seconds, cpu, size = audit(rows, seed)
            ours = share_found(found, moved, len(rows))
            peer = share_found(rank_as_peer(rows, features, seed), moved, len(rows))
            listed = len(moved.intersection(found)) / len(moved)
            table.add_row(folder.name, str(seed), str(len(rows)), str(len(moved)), f"{ours:.1%}",
                          f"{peer:.1%}", str(len(found)), f"{listed:.1%}", f"{seconds:.0f}",
                          f"{cpu:.0f}", f"{size / 1e6:.1f} MB")  # fmt: skip
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
