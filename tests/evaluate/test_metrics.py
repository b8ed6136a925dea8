"""Metrics equal scikit-learn's, and undefined ones are `None`."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from effnet_cli.evaluate.metrics import (
    calibrate,
    compute_metrics,
    fit_temperature,
    fit_unknown_threshold,
    flags_interval,
    is_among_top,
    paired_difference,
    share_interval,
)
from effnet_cli.evaluate.predictions import Predictions
from effnet_cli.evaluate.records import ClassMetrics, Metrics
from effnet_cli.evaluate.run import _auroc, _confusion_matrix

Case = tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Generate logits, labels, labels of failed images and names, including ties."""
    num_classes = draw(st.integers(1, 6))
    label = st.integers(0, num_classes - 1)
    labels = draw(st.lists(label, max_size=25))
    failed = draw(st.lists(label, min_size=0 if labels else 1, max_size=5))
    values = st.integers(-4, 4).map(float) | st.floats(-(2.0**100), 2.0**100, width=32)
    rows = [draw(st.lists(values, min_size=num_classes, max_size=num_classes)) for _ in labels]
    logits = np.array(rows, dtype=np.float32).reshape(len(labels), num_classes)
    names = [f"class {number}" for number in range(num_classes)]
    return logits, np.array(labels, np.int32), np.array(failed, np.int32), names


def list_values(metrics: Metrics) -> list[float]:
    found = [metrics.loss, metrics.top1, metrics.balanced_accuracy, metrics.macro_f1]
    for row in metrics.classes:
        found += [value for value in (row.recall, row.precision, row.f1) if value is not None]
    return found


@given(cases())
def test_metrics_equal_scikit_learns(case: Case) -> None:
    logits, labels, failed, names = case
    metrics = compute_metrics(logits, labels, failed, names=names)
    # for scikit-learn, a failed image is predicted as an additional class
    no_class = len(names)
    expected = np.concatenate([labels, failed])
    predicted = np.concatenate([logits.argmax(axis=1), np.full(len(failed), no_class)])
    present = sorted({int(label) for label in expected})
    assert metrics.images == len(expected)
    assert metrics.failed == len(failed)
    assert metrics.top1 == pytest.approx(accuracy_score(expected, predicted))
    recalls = recall_score(expected, predicted, labels=present, average=None, zero_division=0)
    f1s = f1_score(expected, predicted, labels=present, average=None, zero_division=0)
    precisions = precision_score(expected, predicted, labels=present, average=None, zero_division=0)
    assert metrics.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert metrics.macro_f1 == pytest.approx(
        f1_score(expected, predicted, labels=present, average="macro", zero_division=0)
    )
    assert [metrics.classes[k].recall for k in present] == pytest.approx(list(recalls))
    assert [metrics.classes[k].f1 for k in present] == pytest.approx(list(f1s))
    assert [metrics.classes[k].precision or 0 for k in present] == pytest.approx(list(precisions))
    assert [row.images for row in metrics.classes] == [
        int((expected == k).sum()) for k in range(len(names))
    ]


@given(cases())
def test_classes_without_images_or_predictions_have_no_metrics(case: Case) -> None:
    logits, labels, failed, names = case
    metrics = compute_metrics(logits, labels, failed, names=names)
    predicted = set(logits.argmax(axis=1).tolist())
    for index, row in enumerate(metrics.classes):
        assert row.name == names[index]
        assert (row.recall is None) == (row.images == 0) == (row.f1 is None)
        assert (row.precision is None) == (index not in predicted)


@given(cases())
def test_no_metric_is_nan_and_shares_are_from_0_to_1(case: Case) -> None:
    metrics = compute_metrics(*case[:3], names=case[3])
    assert all(math.isfinite(value) for value in list_values(metrics))
    assert all(0 <= value <= 1 for value in list_values(metrics)[1:])
    assert metrics.loss >= 0


@given(cases())
def test_metrics_survive_json(case: Case) -> None:
    metrics = compute_metrics(*case[:3], names=case[3])
    again = Metrics.from_dict(json.loads(json.dumps(asdict(metrics), allow_nan=False)))
    assert again == metrics
    assert isinstance(again.classes, tuple)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 30))
def test_loss_and_balanced_accuracy_equal_scikit_learns(seed: int, classes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, classes)).astype(np.float32)
    labels = rng.integers(0, classes, n).astype(np.int32)
    metrics = compute_metrics(
        logits, labels, np.empty(0, np.int32), names=[str(k) for k in range(classes)]
    )
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    assert metrics.loss == pytest.approx(log_loss(labels, shares, labels=list(range(classes))))
    present = set(labels.tolist())
    if len(present) > 1 and set(logits.argmax(axis=1).tolist()) <= present:  # else it warns
        assert metrics.balanced_accuracy == pytest.approx(
            balanced_accuracy_score(labels, logits.argmax(axis=1))
        )


def test_loss_of_probabilities_equals_that_of_logits() -> None:
    logits, labels = np.float32([[1, 3, 0], [2, 2, 5]]), np.int32([1, 0])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    failed, names = np.empty(0, np.int32), ["a", "b", "c"]
    expected = compute_metrics(logits, labels, failed, names=names)
    actual = compute_metrics(shares, labels, failed, names=names, scores_are="probabilities")
    assert actual.loss == pytest.approx(expected.loss, rel=1e-6)
    shares[0] = (1, 0, 0)  # the loss stays finite at probability 0
    assert math.isfinite(
        compute_metrics(shares, labels, failed, names=names, scores_are="probabilities").loss
    )


def test_failed_images_count_as_wrong_but_have_no_loss() -> None:
    logits = np.float32([[9, 0], [9, 0], [0, 9]])
    labels = np.int32([0, 0, 1])
    names = ["a", "b"]
    without_failed = compute_metrics(logits, labels, np.empty(0, np.int32), names=names)
    metrics = compute_metrics(logits, labels, np.int32([1]), names=names)
    assert (without_failed.top1, metrics.top1) == (1.0, 0.75)
    assert metrics.loss == without_failed.loss
    assert metrics.classes == (
        ClassMetrics("a", 2, 1.0, 1.0, 1.0),
        ClassMetrics("b", 2, 0.5, 1.0, pytest.approx(2 / 3)),  # type: ignore[arg-type]
    )


def test_metrics_of_failed_images_only() -> None:
    metrics = compute_metrics(
        np.empty((0, 2), np.float32), np.empty(0, np.int32), np.int32([0, 0]), names=["a", "b"]
    )
    assert (metrics.images, metrics.failed, metrics.top1) == (2, 2, 0.0)
    assert metrics.classes[1] == ClassMetrics("b", 0, None, None, None)
    assert all(math.isfinite(value) for value in list_values(metrics))


# --- intervals ------------------------------------------------------------------------------------


def make_predictions(logits: np.ndarray, labels: np.ndarray, names: list[str]) -> Predictions:
    """Create the predictions of a dataset without failed images."""
    places = np.arange(len(labels))
    return Predictions(
        paths=[f"{place}.jpg" for place in places],
        all_labels=labels,
        classes=tuple(names),
        places=places,
        labels=labels,
        predicted=logits.argmax(axis=1),
        scores=logits,
        probabilities=logits.astype(np.float64),
        errors={},
        groups=np.full(len(labels), -1),
    )


@given(cases())
def test_top_k_confusion_and_roc_equal_scikit_learns(case: Case) -> None:
    logits, labels, _, names = case
    if not len(labels) or len(names) < 2:
        return
    places = labels.astype(np.intp)
    for k in (1, 2, 5):
        # stable sort: scikit-learn breaks ties in any order, `is_among_top` by index
        order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        expected = (order == labels[:, None]).any(axis=1)
        assert is_among_top(logits, places, k).tolist() == expected.tolist()
    counts = np.array(_confusion_matrix(make_predictions(logits, places, names)).counts)
    predicted = logits.argmax(axis=1)
    assert counts.tolist() == confusion_matrix(labels, predicted, labels=range(len(names))).tolist()
    positive = labels == labels[0]
    if not positive.all():
        scores = np.stack([-logits[:, 0], logits[:, 0]], axis=1)
        found = _auroc(make_predictions(scores, positive.astype(np.intp), ["no", "yes"]))
        assert found == pytest.approx(roc_auc_score(positive, logits[:, 0]))


def test_intervals_match_reference_values() -> None:
    assert share_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert share_interval(0, 10)[0] == 0.0
    assert share_interval(10, 10)[1] == pytest.approx(1.0)
    one, other = np.arange(100) < 80, np.arange(100) % 10 < 7
    difference, (low, high) = paired_difference(one, other, np.full(100, -1))
    assert difference == pytest.approx(0.1)
    # only `one` is right on 24 images, only `other` on 14
    assert high - difference == pytest.approx(1.95996 * math.sqrt(0.38 - 0.1**2) / 10, rel=1e-4)
    assert difference - low == pytest.approx(high - difference)


def test_intervals_over_groups_count_groups_not_images() -> None:
    is_right, patients = np.arange(1000) % 100 < 80, np.repeat(np.arange(10), 100)
    assert flags_interval(is_right, np.full(1000, -1)) == share_interval(800, 1000)
    # each patient has the same share: resampling patients changes nothing
    assert flags_interval(is_right, patients) == pytest.approx((0.8, 0.8))
    # all images of a patient are right, or none: ten patients say as much as ten images
    is_right = patients < 8
    low, high = flags_interval(is_right, patients)
    assert (low, high) == pytest.approx((0.5, 1.0), abs=0.1)
    narrow = flags_interval(is_right, np.arange(1000))
    assert narrow == pytest.approx(share_interval(800, 1000), abs=0.01)
    _, (low, high) = paired_difference(is_right, ~is_right, patients)
    assert (low, high) == pytest.approx((0.0, 1.0), abs=0.25)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_the_mean_gap(rows: list[tuple[float, bool]]) -> None:
    confidences, right = np.array([c for c, _ in rows]), np.array([r for _, r in rows])
    error, bins = calibrate(confidences, right)
    assert sum(one.images for one in bins) == len(rows)
    expected = 0.0
    for one in bins:
        inside = (confidences > one.low) & (confidences <= one.high)
        if one.low == 0:
            inside |= confidences == 0
        assert one.images == inside.sum()
        if one.images:
            expected += abs(confidences[inside].sum() - right[inside].sum())
    assert error == pytest.approx(expected / len(rows), abs=1e-12)


@given(st.floats(0.2, 5), st.integers(0, 100))
def test_temperature_is_recovered(temperature: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (1500, 5))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) < rng.random((1500, 1))).sum(axis=1).clip(max=4)
    found = fit_temperature((logits * temperature).astype(np.float32), labels.astype(np.int32))
    assert found == pytest.approx(temperature, rel=0.15)


def test_temperature_stays_moderate_with_few_images() -> None:
    logits = np.eye(3, dtype=np.float32) * 3
    assert 0.3 < fit_temperature(logits, np.arange(3, dtype=np.int32)) < 1


@given(
    st.lists(
        st.tuples(st.sampled_from([0.2, 0.4, 0.5, 0.7, 0.9, 1.0]), st.booleans()),
        min_size=1, max_size=120,
    )
)  # fmt: skip
def test_unknown_threshold_is_the_lowest_with_enough_accuracy(
    rows: list[tuple[float, bool]],
) -> None:
    confidences, right = np.array([c for c, _ in rows]), np.array([r for _, r in rows])
    accurate = [
        c
        for c in confidences
        if right[confidences >= c].mean() >= 0.95 and (confidences >= c).sum() >= 50
    ]
    assert fit_unknown_threshold(confidences, right) == (min(accurate) if accurate else None)
