"""Operating points: the best threshold that reaches what was asked, and the curves."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from docs_pages import docs_page
from effnet_cli.evaluate import calibrate, curves
from effnet_cli.evaluate.curves import CURVE_TOLERANCE, rank_class, thin
from effnet_cli.evaluate.metrics import share_interval
from effnet_cli.evaluate.operating_points import OneVsRest, find_point, needed_images
from effnet_cli.evaluate.page import evaluation_page
from effnet_cli.evaluate.run import evaluate
from effnet_cli.models import checkpoint
from effnet_cli.models.operating_point import COUNTS
from effnet_cli.options import EvaluateTask, ModelOptions, PointMetric, Requirement
from effnet_cli.system.errors import UsageError
from training import CommandResult, FinishedRun, make_classes

pytestmark = pytest.mark.usefixtures("caches")

Effnet = Callable[..., CommandResult]
METRICS: list[PointMetric] = ["sensitivity", "specificity", "ppv", "npv"]
# What a threshold costs, when another figure is asked for.
PARTNERS = {
    "sensitivity": "specificity", "npv": "specificity", "specificity": "sensitivity",
    "ppv": "sensitivity",
}  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> OneVsRest:
    """Generate probabilities, many of them equal, and labels of both kinds."""
    values = st.sampled_from([0.0, 1.0, 0.25, 0.5, 1 / 3, 5e-324]) | st.floats(0, 1)
    pairs = draw(st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=25))
    failed = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    images = OneVsRest(
        np.array([value for value, _ in pairs]),
        np.array([is_positive for _, is_positive in pairs]),
        failed_positives=failed[0],
        failed_negatives=failed[1],
    )
    assume(images.is_positive.any() or failed[0])
    assume(not images.is_positive.all() or failed[1])
    return images


def figures_at(images: OneVsRest, threshold: float) -> dict[str, float]:
    """Compute the figures image by image; NaN without images, -1 for what calls none positive."""
    pairs = list(zip(images.probabilities.tolist(), images.is_positive.tolist(), strict=True))
    tp = sum(p >= threshold for p, is_positive in pairs if is_positive)
    fp = sum(p >= threshold for p, is_positive in pairs if not is_positive)
    positives = sum(is_positive for _, is_positive in pairs) + images.failed_positives
    negatives = len(pairs) - positives + images.failed_positives + images.failed_negatives
    if not tp + fp:
        return dict.fromkeys(METRICS, -1.0)
    fp += images.failed_negatives
    tn, fn = negatives - fp, positives - tp
    return {
        "sensitivity": tp / positives,
        "specificity": tn / negatives,
        "ppv": tp / (tp + fp),
        "npv": tn / (tn + fn) if tn + fn else -1.0,
    }


def all_figures(images: OneVsRest) -> list[dict[str, float]]:
    """Return the figures at all probabilities, and between and beside them."""
    levels = sorted({0.0, 1.0, *images.probabilities.tolist()})
    thresholds = [*levels, *((one + other) / 2 for one, other in pairwise(levels))]
    return [figures_at(images, threshold) for threshold in thresholds]


@given(cases(), st.sampled_from(METRICS), st.floats(0, 1, exclude_min=True))
def test_threshold_reaches_what_is_asked_and_none_is_better(
    images: OneVsRest, metric: PointMetric, asked: float
) -> None:
    partner = PARTNERS[metric]
    reached = [row for row in all_figures(images) if row[metric] >= asked]
    try:
        point = find_point(images, Requirement(metric, asked), name="a")
    except UsageError as error:
        assert not reached
        assert f"No threshold reaches {metric}={asked:.15g}" in str(error)
        return
    found = figures_at(images, point.threshold)
    assert found[metric] >= asked
    best = max(reached, key=lambda row: (row[partner], row[PARTNERS[partner]]))
    assert (found[partner], found[PARTNERS[partner]]) == (best[partner], best[PARTNERS[partner]])
    for name, value in found.items():
        share = getattr(point, name)
        assert (-1.0 if share is None else share.value) == value
        if share is not None:
            assert share.interval == share_interval(share.right, share.images)
    assert 0 <= point.threshold <= 1


@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1), st.data())
def test_rounding_between_engines_moves_no_image_across_the_threshold(
    pairs: list[tuple[int, bool]], data: st.DataObject
) -> None:
    levels, is_positive = np.array(pairs).T
    images = OneVsRest(levels / 20, is_positive.astype(bool), 1, 1)
    asked = data.draw(st.sampled_from([Requirement("sensitivity", 0.3), Requirement("npv", 0.3)]))
    try:
        point = find_point(images, asked, name="a")
    except UsageError:
        assume(False)
    noise = st.floats(-1 / 81, 1 / 81)  # of a step of 1/20, a bit less than a quarter
    moved = data.draw(st.lists(noise, min_size=len(pairs), max_size=len(pairs)))
    shaken = replace(images, probabilities=images.probabilities + np.array(moved))
    assert shaken.count(point.threshold) == images.count(point.threshold)


@given(cases(), st.floats(0, 1, exclude_min=True))
def test_figures_at_a_given_threshold_equal_scikit_learns(
    images: OneVsRest, threshold: float
) -> None:
    point = find_point(images, Requirement("threshold", threshold), name="a")
    failed = [1] * images.failed_positives + [0] * images.failed_negatives
    labels = [*images.is_positive.astype(int), *failed]
    called = [*(images.probabilities >= threshold).astype(int), *(1 - one for one in failed)]
    assert point.sensitivity.value == recall_score(labels, called)
    assert point.specificity.value == recall_score(labels, called, pos_label=0)
    ppv = precision_score(labels, called, zero_division=np.nan)
    npv = precision_score(labels, called, pos_label=0, zero_division=np.nan)
    for share, expected in ((point.ppv, ppv), (point.npv, npv)):
        assert np.isnan(expected) if share is None else share.value == expected
    assert point.is_assured is None
    assert point.prevalence == pytest.approx(np.mean(labels))
    assert (point.positives, point.negatives) == (sum(labels), len(labels) - sum(labels))


def test_threshold_is_short_and_not_at_an_image() -> None:
    images = OneVsRest(np.array([0.91234, 0.61234, 0.31234]), np.array([True, True, False]))
    point = find_point(images, Requirement("sensitivity", 0.9), name="a")
    assert point.threshold == 0.5
    assert point.name == "sensitivity=0.9"


@pytest.mark.parametrize("asked", [0.5, 0.9, 0.95, 0.99])
def test_needed_images_are_the_fewest_that_assure(asked: float) -> None:
    needed = needed_images(asked)
    assert needed is not None
    assert share_interval(needed, needed)[0] >= asked - 1e-12
    assert share_interval(needed - 1, needed - 1)[0] < asked


def test_perfect_model_is_assured_by_enough_images() -> None:
    assert needed_images(1.0) is None
    for count, is_assured in ((72, False), (73, True)):
        images = OneVsRest(np.linspace(0, 1, 2 * count), np.arange(2 * count) >= count)
        point = find_point(images, Requirement("sensitivity", 0.95), name="a")
        assert point.is_assured is is_assured


# --- curves ---------------------------------------------------------------------------------------


@given(cases())
def test_curves_have_scikit_learns_areas(images: OneVsRest) -> None:
    labels, probabilities = images.is_positive, images.probabilities
    assume(0 < labels.sum() < len(labels))
    found = rank_class("a", labels, probabilities)
    assert found.auroc == roc_auc_score(labels, probabilities)
    assert found.average_precision == average_precision_score(labels, probabilities)
    assert (found.roc[0], found.roc[-1]) == ((0, 0), (1, 1))
    areas = [
        sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(curve))
        for curve in (found.roc, found.precision_recall)
    ]
    assert areas == pytest.approx([found.auroc, found.average_precision], abs=0.01)


def test_thinned_curves_keep_their_shape() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.3
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=20_000) + 1.5 * labels)))
    found = rank_class("a", labels, probabilities)
    assert found.auroc is not None
    for curve, area in (
        (found.roc, found.auroc), (found.precision_recall, found.average_precision),
    ):  # fmt: skip
        assert 10 < len(curve) < 500
        x, y = np.array(curve).T
        assert float(np.trapezoid(y, x)) == pytest.approx(area, abs=CURVE_TOLERANCE)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_points_that_are_left_out_are_near_the_line(pairs: list[tuple[float, float]]) -> None:
    points = np.array(pairs)
    kept = thin(points, 0.1)
    assert (kept[0] == points[0]).all()
    assert (kept[-1] == points[-1]).all()
    dense = np.concatenate([np.linspace(a, b, 200) for a, b in pairwise(kept)])
    for point in points:
        assert np.hypot(*(dense - point).T).min() < 0.1 + 0.01


# --- evaluate -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New images for `head_run`, and a positive one that cannot be opened."""
    root = tmp_path_factory.mktemp("points") / "new"
    make_classes(root, images=10, first_seed=300)
    (root / "red" / "broken.png").write_bytes(b"\x89PNG")
    return root


def test_points_count_the_images_that_cannot_be_opened_as_wrong(
    head_run: FinishedRun, images: Path, effnet: Effnet
) -> None:
    done = effnet(
        "evaluate", images, "-m", head_run.folder, "-f", "json", "--positive", "red",
        "--at", "sensitivity=0.8,threshold=0.5", "--at", "sensitivity=0.8",
    )  # fmt: skip
    content = json.loads(done.stdout)
    asked, half = content["operating_points"]
    assert (asked["name"], half["name"]) == ("sensitivity=0.8", "threshold=0.5")
    for point in (asked, half):
        assert (point["positives"], point["negatives"]) == (11, 20)
        assert (point["failed_positives"], point["failed_negatives"]) == (1, 0)
        assert point["false_negatives"] >= 1
        assert point["prevalence"] == pytest.approx(11 / 31)
    assert asked["sensitivity"]["value"] >= 0.8
    assert asked["is_assured"] is False
    assert half["is_assured"] is None
    assert "Too little evidence for sensitivity=0.8: the 95 % interval" in done.stderr
    assert "at least 16 positive images are needed." in done.stderr
    for name in (*asked, *asked["sensitivity"], "curves", "roc", "precision_recall"):
        assert f"`{name}`" in docs_page("evaluate")
    shown = effnet(
        "evaluate", images, "-m", head_run.folder, "--positive", "red", "--at", "sensitivity=0.8"
    ).stdout.decode()
    assert "Operating point sensitivity=0.8: 'red' from a probability of" in shown
    assert "at least 0.8, not assured" in shown
    assert "11 positive images and 20 negative, 1 of them wrong" in shown
    assert "PPV and NPV are for a prevalence of 35.5%." in shown


def test_every_class_has_its_areas(
    head_run: FinishedRun, images: Path, effnet: Effnet, tmp_path: Path
) -> None:
    """A class without images has none, and no curve."""
    shutil.copytree(images, tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "blue")
    done = effnet("evaluate", tmp_path / "two", "-m", head_run.folder, "-f", "json")
    content = json.loads(done.stdout)
    blue, green, red = content["per_class"]
    assert (blue["auroc"], blue["average_precision"]) == (None, None)
    assert 0 <= green["auroc"] <= 1
    assert [row["label"] for row in content["curves"]] == ["green", "red"]
    shutil.rmtree(tmp_path / "two" / "red")
    content = json.loads(
        effnet("evaluate", tmp_path / "two", "-m", head_run.folder, "-f", "json").stdout
    )
    assert [row["auroc"] for row in content["per_class"]] == [None, None, None]
    assert content["curves"] == []


def test_many_classes_have_areas_without_curves(
    head_run: FinishedRun, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "MAX_CURVE_CLASSES", 2)
    found = evaluate(EvaluateTask(images, ModelOptions(model=head_run.folder)))
    assert all(row.auroc is not None and not row.roc for row in found.ranking)
    assert "ROC and precision-recall curves" not in evaluation_page(found)


def test_page_shows_points_and_curves_without_scripts(head_run: FinishedRun, images: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    task = EvaluateTask(
        images,
        ModelOptions(model=head_run.folder),
        at=(Requirement("specificity", 0.9),),
        positive="red",
    )
    found = evaluate(task)
    (point,) = found.operating_points
    page = evaluation_page(found)
    assert page.count('aria-label="ROC and precision-recall curves"') == 3
    assert "Operating point specificity=0.9: &#39;red&#39; from a probability" in page
    assert "Too little evidence for specificity=0.9" in page
    assert re.findall(r"<h3>(\w+): AUROC", page)[0] == "red"  # the positive class comes first
    ranking = tuple(replace(row, name=hostile) for row in found.ranking)
    points = (replace(point, positive=hostile),)
    page = evaluation_page(replace(found, ranking=ranking, operating_points=points))
    assert hostile not in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "sensitivity=0.9"], "Add --positive CLASS"),
        (["--positive", "red"], "--positive requires --at"),
        (["--save-to", "new.safetensors"], "--save-to requires --at"),
        (["--at", "f1=0.9", "--positive", "red"], "Invalid --at 'f1=0.9'"),
        (["--at", "ppv=1.5", "--positive", "red"], "Invalid --at 'ppv=1.5'"),
        (["--at", "ppv=nan", "--positive", "red"], "Invalid --at 'ppv=nan'"),
        (["--at", "0.9", "--positive", "red"], "Invalid --at '0.9'"),
        (["--at", "ppv=0.9", "--positive", "rde"], "no class 'rde'.\nUse --positive 'red'"),
        (["--at", "ppv=0.9", "--positive", "zebra"], "Use a class such as 'blue', 'green', 'red'"),
        (["--at", "sensitivity=1", "--positive", "red"], "highest value is 0.909. 1 image could"),
        (["--at", "ppv=0.9", "--positive", "red", "--save-to", "x.onnx"], "does not end in"),
        (
            ["--at", "ppv=0.9", "--positive", "red", "--save-to", "x.safetensors",
             "--calibrate-to", "y.safetensors"],
            "Calibrate first",
        ),
    ],
)  # fmt: skip
def test_points_are_refused(
    arguments: list[str], message: str, head_run: FinishedRun, images: Path, effnet: Effnet
) -> None:
    done = effnet("evaluate", images, "-m", head_run.folder, *arguments)
    assert done.status == 2
    assert done.stdout == b""
    assert message in done.stderr
    assert not Path("x.safetensors").exists()


@pytest.mark.parametrize(
    ("kept", "message"), [("red", "of other classes than 'red'"), ("blue", "of the class 'red'")]
)
def test_both_kinds_of_images_are_needed(
    kept: str, message: str, head_run: FinishedRun, images: Path, effnet: Effnet, tmp_path: Path
) -> None:
    shutil.copytree(images / kept, tmp_path / "one" / kept)
    arguments = ("--at", "ppv=0.5", "--positive", "red")
    done = effnet("evaluate", tmp_path / "one", "-m", head_run.folder, *arguments)
    assert done.status == 2
    assert f"There are no images {message}" in done.stderr


def test_class_name_that_two_classes_have_is_refused(
    head_run: FinishedRun, images: Path, effnet: Effnet, tmp_path: Path
) -> None:
    twice = replace(head_run.card, classes=("blue", "red", "red"))
    checkpoint.write(tmp_path / "twice.safetensors", twice, head_run.tensors)
    arguments = ("--at", "ppv=0.5", "--positive", "red")
    done = effnet("evaluate", images, "-m", tmp_path / "twice.safetensors", *arguments)
    assert done.status == 2
    assert "The model has 2 classes called 'red'." in done.stderr


def test_copy_has_the_points_and_the_same_tensors(
    head_run: FinishedRun,
    images: Path,
    effnet: Effnet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy, again = tmp_path / "points.safetensors", tmp_path / "again.safetensors"
    arguments = ("--at", "sensitivity=0.8", "--positive", "red", "-f", "json", "--save-to")
    done = effnet("evaluate", images, "-m", head_run.folder, *arguments, copy)
    assert "--operating-point sensitivity=0.8" in done.stderr
    card, tensors = checkpoint.read_arrays(copy)
    (stored,) = json.loads(done.stdout)["operating_points"]
    (point,) = card.operating_points
    assert replace(card, operating_points=()) == head_run.card
    assert all((tensors[name] == value).all() for name, value in head_run.tensors.items())
    expected: dict[str, Any] = {name: stored[name] for name in ("threshold", "asked", *COUNTS)}
    assert {name: getattr(point, name) for name in expected} == expected
    # a copy of the copy has only its own points, and a calibrated one has none
    effnet("evaluate", images, "-m", copy, "--at", "threshold=0.3", *arguments[2:], again)
    assert [one.name for one in checkpoint.read_card(again).operating_points] == ["threshold=0.3"]
    monkeypatch.setattr(calibrate, "MIN_IMAGES", 1)
    effnet("evaluate", images, "-m", copy, "--calibrate-to", tmp_path / "calibrated.safetensors")
    assert checkpoint.read_card(tmp_path / "calibrated.safetensors").operating_points == ()
