"""Figures of several labels equal scikit-learn's, and calibration and thresholds are the best."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from effnet_cli.evaluate.label_metrics import (
    area_under_roc,
    average_precision,
    compute_label_metrics,
    fit_label_scores,
    fit_threshold,
    label_loss,
)
from effnet_cli.evaluate.records import LabelMetrics

NAMES = ["cat", "dog", "owl"]


def make_case(seed: int, images: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [N,3], some of them equal, and targets [N,3]."""
    rng = np.random.default_rng(seed)
    targets = rng.random((images, 3)) < (0.1, 0.5, 0.8)
    logits = np.round(3 * (targets - 0.5) + 2 * rng.normal(size=targets.shape), 1)
    return logits.astype(np.float32), targets


@given(st.integers(0, 10_000), st.integers(1, 60))
@settings(max_examples=40)
def test_figures_equal_scikit_learns(seed: int, images: int) -> None:
    logits, targets = make_case(seed, images)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    thresholds = (0.5, 0.3, 0.9)
    none = np.zeros((0, 3), dtype=np.bool_)
    found = compute_label_metrics(probabilities, targets, none, names=NAMES, thresholds=thresholds)
    decided = probabilities >= np.array(thresholds)
    kwargs = {"zero_division": 0}
    for c, row in enumerate(found.labels):
        if targets[:, c].any():
            pair = targets[:, c], probabilities[:, c]
            assert row.average_precision == pytest.approx(reference.average_precision_score(*pair))
            assert row.recall == pytest.approx(
                reference.recall_score(targets[:, c], decided[:, c], **kwargs)
            )
            assert row.f1 == pytest.approx(
                reference.f1_score(targets[:, c], decided[:, c], **kwargs)
            )
            if not targets[:, c].all():
                assert row.auroc == pytest.approx(reference.roc_auc_score(*pair))
        else:
            assert row.average_precision is row.recall is row.f1 is row.auroc is None
        if decided[:, c].any():
            assert row.precision == pytest.approx(
                reference.precision_score(targets[:, c], decided[:, c])
            )
    micro = reference.f1_score(targets, decided, average="micro", **kwargs)
    assert found.micro_f1 == pytest.approx(micro)
    assert found.exact == pytest.approx(reference.accuracy_score(targets, decided))
    assert found.loss == pytest.approx(label_loss(logits, targets), rel=1e-6)
    assert LabelMetrics.from_dict(asdict(found)) == found


def test_images_that_cannot_be_opened_have_no_labels_found() -> None:
    logits, targets = make_case(0)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    none = np.zeros((0, 3), dtype=np.bool_)
    options = {"names": NAMES, "thresholds": (0.5, 0.5, 0.5)}
    whole = compute_label_metrics(probabilities, targets, none, **options)
    failed = np.ones((10, 3), dtype=np.bool_)
    found = compute_label_metrics(probabilities, targets, failed, **options)
    assert (found.images, found.failed) == (50, 10)
    assert found.exact == pytest.approx(whole.exact * 40 / 50)
    for before, after in zip(whole.labels, found.labels, strict=True):
        assert after.images == before.images + 10
        assert after.recall < before.recall
        assert after.average_precision == before.average_precision


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_thresholds_have_the_best_f1(seed: int) -> None:
    logits, targets = make_case(seed)
    probabilities = 1 / (1 + np.exp(-logits[:, 1].astype(np.float64)))
    threshold = fit_threshold(probabilities, targets[:, 1])
    candidates = [*np.unique(probabilities), threshold]
    scores = [reference.f1_score(targets[:, 1], probabilities >= one) for one in candidates]
    assert scores[-1] == pytest.approx(max(scores))


@given(st.integers(0, 10_000), st.floats(0.2, 5.0), st.floats(-3.0, 3.0))
@settings(max_examples=50)
def test_probabilities_are_calibrated_whatever_the_scale_of_logits(
    seed: int, scale: float, shift: float
) -> None:
    logits, targets = make_case(seed, images=400)
    plain, changed = (
        fit_label_scores(values, targets) for values in (logits, logits * scale + shift)
    )
    np.testing.assert_allclose(
        plain.to_probabilities(logits), changed.to_probabilities(logits * scale + shift), atol=1e-3
    )
    means = plain.to_probabilities(logits).mean(axis=0)
    np.testing.assert_allclose(means, targets.mean(axis=0), atol=0.02)


def test_labels_of_few_images_are_left_as_they_are() -> None:
    logits, targets = make_case(0)
    targets[:, 0] = False
    scores = fit_label_scores(logits, targets)
    assert (scores.scales[0], scores.biases[0], scores.thresholds[0]) == (1.0, 0.0, 0.5)
    assert average_precision(logits[:, 0], targets[:, 0]) is None
    assert area_under_roc(logits[:, 0], targets[:, 0]) is None
