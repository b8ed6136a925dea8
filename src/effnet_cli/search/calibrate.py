"""Fit the threshold of the similarity from which two images show the same."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from effnet_cli.embed.embedder import Embedder
from effnet_cli.embed.records import EmbeddedImage, Vector, Vectors, VectorSource
from effnet_cli.evaluate.metrics import share_interval
from effnet_cli.images.finder import ImageInput
from effnet_cli.options import CalibratePairsTask
from effnet_cli.search.pairs import ImagePairs, pair_classes, read_pairs
from effnet_cli.search.verification import (
    PairCalibration,
    Verification,
    choose_far,
    least_far,
    measure_pairs,
    measure_rate,
    similarities_of,
)
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import atomic_write
from effnet_cli.system.reporter import Reporter

FORMAT_KEY, FORMAT_VERSION = "effnet_pairs", 1
MIN_PAIRS = 20  # of each kind: fewer say nothing


@dataclass(frozen=True, slots=True)
class FittedPairs:
    """The result of a calibration; `failed` are the images that could not be read."""

    verification: Verification
    calibration: PairCalibration
    failed: tuple[EmbeddedImage, ...]


def calibrate_pairs(task: CalibratePairsTask, reporter: Reporter) -> FittedPairs:
    """Fit a threshold to the pairs of a table or of class folders.

    Raises:
        UsageError: they cannot be read, or are too few for the false accept rate asked for.
        EffnetError: the engine cannot be used.
    """
    pairs = pair_classes(task.pairs, task.seed) if task.pairs.is_dir() else read_pairs(task.pairs)
    embedder = Embedder(
        task.model, task.engine, images=task.images, options=task.options, reporter=reporter
    )
    vectors, failed = _embed(embedder, pairs, reporter)
    can_be_read = np.ones(len(pairs.paths), np.bool_)
    can_be_read[[index for index, _ in failed]] = False
    pairs = pairs.keep(can_be_read)
    far = _check_evidence(pairs, task.far)
    center = _choose_center(vectors, pairs)
    similarities = similarities_of(vectors, pairs.first, pairs.second, center=center)
    rate = measure_rate(similarities[pairs.is_same], similarities[~pairs.is_same], far)
    verification = measure_pairs(similarities, pairs.is_same)
    return FittedPairs(
        verification,
        PairCalibration(
            embedder.source,
            rate.threshold,
            far=far,
            promise=share_interval(rate.false_matches, verification.different)[1],
            false_matches=rate.false_matches,
            different=verification.different,
            tar=rate.tar,
            same=verification.same,
            mean=() if center is None else tuple(center.tolist()),
        ),
        failed=tuple(image for _, image in failed),
    )


def save_calibration(calibration: PairCalibration, path: Path) -> None:
    """Write a calibration as JSON."""
    content = json.dumps({FORMAT_KEY: FORMAT_VERSION, **asdict(calibration)})
    with atomic_write(path) as part:
        part.write_text(content + "\n", encoding="utf-8")


def load_calibration(path: Path, source: VectorSource) -> PairCalibration:
    """Read the file that `save_calibration` wrote, for vectors of `source`.

    Raises:
        UsageError: it cannot be read, or is for another model or other options.
    """
    calibration = read_calibration(path)
    differences = source.differences(calibration.source)
    if differences:
        message = f"{str(path)!r} was calibrated for {calibration.source.model}: "
        hint = "Use the model and the options that it was calibrated with."
        raise UsageError(f"{message}{', '.join(differences)}.", hint)
    return calibration


def read_calibration(path: Path) -> PairCalibration:
    """Read the file that `save_calibration` wrote, whatever it is for; raise `UsageError`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop(FORMAT_KEY) != FORMAT_VERSION:
            raise ValueError("another version")
        source = VectorSource(**content.pop("source"))
        mean = tuple(map(float, content.pop("mean")))
        return PairCalibration(source, mean=mean, **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{str(path)!r} is not a calibration that can be read."
        hint = "Make one: effnet search calibrate PAIRS.csv --output FILE.json"
        raise UsageError(message, hint) from error


def _embed(
    embedder: Embedder, pairs: ImagePairs, reporter: Reporter
) -> tuple[Vectors, list[tuple[int, EmbeddedImage]]]:
    """Return the vectors of all images, zeros for those that cannot be read, and these."""
    vectors: list[Vector | None] = []
    failed = []
    inputs = (ImageInput(path, path) for path in pairs.paths)
    for index, image in enumerate(embedder.embed(inputs)):
        vectors.append(image.vector)
        if image.vector is None:
            failed.append((index, image))
        reporter.progress("Vectors", index + 1, len(pairs.paths))
    size = next((len(one) for one in vectors if one is not None), 1)
    filled = [np.zeros(size, np.float32) if one is None else one for one in vectors]
    return np.array(filled, np.float32).reshape(-1, size), failed


def _check_evidence(pairs: ImagePairs, asked: float | None) -> float:
    """Return the false accept rate to fit; refuse pairs that are too few for it."""
    same, different = int(pairs.is_same.sum()), int((~pairs.is_same).sum())
    if min(same, different) < MIN_PAIRS:
        raise UsageError(
            f"There are {same:,} same and {different:,} different pairs that can be read, too few "
            "to find a threshold.",
            f"Use at least {MIN_PAIRS} of each.",
        )
    far = choose_far(asked, different)
    if far is None:
        least = least_far(different)
        rate = f"--far {asked:g}" if asked is not None else "Any useful false accept rate"
        raise UsageError(
            f"{rate} needs more than {different:,} different pairs.",
            f"Use --far {least:.2g} or more, or add different pairs.",
        )
    return far


def _choose_center(vectors: Vectors, pairs: ImagePairs) -> Vector | None:
    """Return the mean of the vectors, if subtracting it lowers the error on other images than
    those that it was taken from.
    """
    half = np.arange(len(vectors)) % 2 == 0
    plain, centered = list[float](), list[float]()
    for own in (half, ~half):
        inside = ~own[pairs.first] & ~own[pairs.second]
        is_same = pairs.is_same[inside]
        if not own.any() or is_same.all() or not is_same.any():
            return None
        for errors, center in ((plain, None), (centered, vectors[own].mean(axis=0))):
            found = similarities_of(
                vectors, pairs.first[inside], pairs.second[inside], center=center
            )
            errors.append(measure_pairs(found, is_same).eer)
    mean: Vector = vectors.mean(axis=0)
    return mean if sum(centered) < sum(plain) else None
