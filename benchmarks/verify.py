"""Whether `effnet search verify` keeps its promise on images that chose nothing.

    python benchmarks/verify.py FIT.csv TEST.csv

Both tables have the columns image1, image2 and same, and no image in common. A threshold is fitted
to the first; printed are the share of different pairs of the second that it accepts, beside what it
promised, and the share of same pairs that it finds.
"""

import argparse
from pathlib import Path

import numpy as np

from effnet_cli.embed.embedder import Embedder
from effnet_cli.images.finder import ImageInput
from effnet_cli.options import CalibratePairsTask
from effnet_cli.search.calibrate import calibrate_pairs
from effnet_cli.search.pairs import read_pairs
from effnet_cli.search.verification import similarities_of
from effnet_cli.system.reporter import SILENT


def main() -> None:
    """Fit, and test."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fit", type=Path)
    parser.add_argument("test", type=Path)
    settings = parser.parse_args()
    pairs = read_pairs(settings.test)
    images = Embedder().embed(ImageInput(path, path) for path in pairs.paths)
    vectors = np.array([image.vector for image in images])
    for far in (1e-2, 1e-3):
        task = CalibratePairsTask(settings.fit, far=far)
        fitted = calibrate_pairs(task, SILENT).calibration
        similarities = similarities_of(vectors, pairs.first, pairs.second, center=fitted.center)
        is_accepted = similarities >= fitted.threshold
        false, true = is_accepted[~pairs.is_same].mean(), is_accepted[pairs.is_same].mean()
        print(
            f"promised {fitted.promise:.3%}: {false:.3%} of {(~pairs.is_same).sum():,} different "
            f"pairs accepted ({false / fitted.promise:.2f} x), {true:.1%} of same pairs found"
        )


if __name__ == "__main__":
    main()
