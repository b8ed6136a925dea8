"""Thresholds of the similarity: figures equal scikit-learn's, and promises hold."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from effnet_cli import Embedder
from effnet_cli.options import ModelOptions
from effnet_cli.search import calibrate
from effnet_cli.search.pairs import pair_classes, read_pairs
from effnet_cli.search.verification import (
    choose_far,
    find_threshold,
    measure_pairs,
    measure_rate,
    similarities_of,
)
from effnet_cli.system.errors import UsageError
from helpers import SAMPLES, save_image
from training import CommandResult, make_classes

Effnet = Callable[..., CommandResult]
pytestmark = pytest.mark.usefixtures("one_core", "caches", "own_folder")


def draw(seed: int, same: int, different: int, digits: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    is_same = np.arange(same + different) < same
    values = np.where(is_same, 0.6, 0.3) + 0.2 * rng.normal(size=len(is_same))
    return np.round(values, digits).astype(np.float32), is_same


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 60), st.integers(1, 4))
def test_figures_are_scikit_learns(seed: int, same: int, different: int, digits: int) -> None:
    similarities, is_same = draw(seed, same, different, digits)
    found = measure_pairs(similarities, is_same)
    assert (found.same, found.different) == (same, different)
    assert found.auc == pytest.approx(roc_auc_score(is_same, similarities))
    far, tar, _ = roc_curve(is_same, similarities, drop_intermediate=False)
    assert np.interp(found.eer, far, tar) >= 1 - found.eer - 1e-9
    # on the curve, both errors are equal
    gaps = 1 - tar - far
    crossing = int(np.argmax(gaps <= 0))
    assert min(far[max(crossing - 1, 0)], far[crossing]) <= found.eer <= far[crossing] + 1e-12


@given(st.integers(0, 10_000), st.integers(1, 300), st.floats(0.001, 0.9))
def test_a_threshold_accepts_no_more_than_it_may(seed: int, different: int, far: float) -> None:
    values, is_same = draw(seed, 5, different, 2)
    others = values[~is_same]
    threshold = find_threshold(others, far)
    accepted = int((others >= threshold).sum())
    assert accepted <= far * different
    lower = others[others < threshold]
    if len(lower):  # the next lower threshold would accept too many
        assert (others >= lower.max()).sum() > far * different
    rate = measure_rate(values[is_same], others, far)
    assert rate.false_matches == accepted
    assert rate.tar == pytest.approx(float((values[is_same] >= threshold).mean()))
    assert rate.tar_interval[0] <= rate.tar <= rate.tar_interval[1]


def test_a_rate_needs_evidence() -> None:
    assert choose_far(None, 10_000) == 1e-3
    assert choose_far(None, 2999) == 1e-2
    assert choose_far(None, 40) == 1e-1
    assert choose_far(None, 20) is None
    assert choose_far(1e-3, 2999) is None
    assert choose_far(1e-3, 3000) == 1e-3
    rates = measure_pairs(*draw(0, 100, 500, 4)).rates
    assert [rate.far for rate in rates] == [1e-2]


def test_a_center_is_subtracted_from_the_vectors() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 5)).astype(np.float32)
    center = rng.normal(size=5).astype(np.float32)
    first, second = np.array([0, 2]), np.array([1, 5])
    moved = vectors - center
    expected = [
        float(moved[a] @ moved[b] / np.linalg.norm(moved[a]) / np.linalg.norm(moved[b]))
        for a, b in zip(first, second, strict=True)
    ]
    found = similarities_of(vectors, first, second, center=center)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (("image1", "image2", "same"), ("1", "0")),
        (("Image A", "imageB", "Match"), ("yes", "no")),
        (("left", "right", "label"), ("same", "different")),
        (("path_1", "path_2", "is_duplicate"), ("True", "False")),
    ],
)
def test_tables_of_pairs_are_read(header: tuple[str, ...], words: tuple[str, str]) -> None:
    rows = [("a.png", "b.png", words[0]), ("b.png", "sub/c.png", words[1])]
    with Path("pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    found = read_pairs(Path("pairs.csv"))
    assert list(found.paths) == ["a.png", "b.png", "sub/c.png"]
    assert (found.first.tolist(), found.second.tolist()) == ([0, 1], [1, 2])
    assert found.is_same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,same\na,b,1\n", "none is known to hold two images"),
        ("a,b,c\n1.png,2.png,1\n", "whether they show the same"),
        ("a,b,same\n1.png,2.png,perhaps\n", "says 'perhaps'"),
        ("a,b,same\n1.png,,1\n", "has no two images"),
    ],
)
def test_unclear_tables_are_refused(text: str, message: str) -> None:
    Path("pairs.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_pairs(Path("pairs.csv"))


def test_classes_are_paired(tmp_path: Path) -> None:
    make_classes(tmp_path / "data", images=5)
    found = pair_classes(tmp_path / "data", seed=1)
    labels = [Path(path).parent.name for path in found.paths]
    for one, other, is_same in zip(found.first, found.second, found.is_same, strict=True):
        assert one != other
        assert (labels[one] == labels[other]) == is_same
    assert int(found.is_same.sum()) == 3 * 10
    pairs = {tuple(sorted(pair)) for pair in zip(found.first, found.second, strict=True)}
    assert len(pairs) == len(found.first)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Pairs of an image and its smaller copy, and of different images."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = []
    for number in range(30):
        save_image(folder / f"{number}.png", number, (80, 80))
        save_image(folder / f"{number}b.png", number, (80, 80))
        rows.append((f"images/{number}.png", f"images/{number}b.png", 1))
        rows += [(f"images/{number}.png", f"images/{other}b.png", 0)
                 for other in range(30) if other != number]  # fmt: skip
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("image1", "image2", "same"), *rows])
    return path


def test_a_calibration_decides(pairs: Path, small: ModelOptions, effnet: Effnet) -> None:
    command = ("search", "calibrate", pairs, "-o", "c.json", "--model", small.model)
    done = effnet(*command, "-f", "json", "--html", "c.html")
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["same"], found["different"]) == (30, 870)
    assert found["auc"] == 1.0
    assert [rate["far"] for rate in found["rates"]] == [0.01]
    calibration = found["calibration"]
    assert calibration["far"] == 0.01, "0.1 % needs 3,000 different pairs"
    assert calibration["promise"] >= calibration["false_matches"] / 870
    page = Path("c.html").read_text(encoding="utf-8")
    assert "needs 3,000 different pairs" in page
    assert "<svg" in page
    verify = ("search", "verify", "images/1.png")
    same = effnet(*verify, "images/1b.png", "--calibration", "c.json", "-f", "json")
    assert (same.status, json.loads(same.stdout)["same"]) == (0, True)
    other = effnet(*verify, "images/2.png", "--calibration", "c.json")
    assert other.status == 3
    assert other.stdout.decode().startswith("different: similarity ")
    assert "of 870 different pairs were called the same" in other.stderr
    plain = effnet(*verify, "images/2.png", "--model", small.model)
    assert plain.status == 0
    assert "effnet search calibrate" in plain.stderr
    wrong = effnet(*verify, "images/2.png", "--calibration", "c.json", "--pool", "avg")
    assert wrong.status == 2
    assert "was calibrated for" in wrong.stderr
    broken = effnet(*verify, "images/2.png", "--calibration", "c.html")
    assert broken.status == 2
    assert "is not a calibration that can be read" in broken.stderr
    missing = effnet(*verify, "images/none.png", "--model", small.model)
    assert missing.status == 1
    assert "Traceback" not in missing.stderr


def test_too_few_pairs_are_refused(pairs: Path, small: ModelOptions, effnet: Effnet) -> None:
    command = ("search", "calibrate", pairs, "--model", small.model)
    strict = effnet(*command, "--far", "0.001")
    assert strict.status == 2
    assert "--far 0.001 needs more than 870 different pairs" in strict.stderr
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join(lines[:30]))
    few = effnet(*command)
    assert few.status == 2
    assert "too few to find a threshold" in few.stderr


def test_images_that_cannot_be_read_are_told(
    pairs: Path, small: ModelOptions, effnet: Effnet
) -> None:
    Path("images/3.png").write_bytes((SAMPLES / "cat.jpg").read_bytes()[:2000])
    done = effnet("search", "calibrate", pairs, "--model", small.model, "-f", "json")
    assert done.status == 1
    assert "images/3.png" in done.stderr
    found = json.loads(done.stdout)
    assert found["same"] == 29
    assert [Path(one["path"]).name for one in found["failed"]] == ["3.png"]


def test_a_saved_calibration_comes_back(pairs: Path, small: ModelOptions) -> None:
    from effnet_cli.options import CalibratePairsTask
    from effnet_cli.system.reporter import SILENT

    fitted = calibrate.calibrate_pairs(CalibratePairsTask(pairs, model=small), SILENT).calibration
    calibrate.save_calibration(fitted, Path("c.json"))
    assert calibrate.load_calibration(Path("c.json"), Embedder(small).source) == fitted
    with pytest.raises(UsageError, match="was calibrated for"):
        calibrate.load_calibration(Path("c.json"), Embedder("lite0").source)
