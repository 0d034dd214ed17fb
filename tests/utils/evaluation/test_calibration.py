"""Calibration against loops and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from utils.evaluation import bootstrap, calibration


def predictions(seed, n, classes):
    rng = np.random.default_rng(seed)
    scores = rng.random((n, classes)) + 1e-3
    return rng.integers(0, classes, n), scores / scores.sum(axis=1, keepdims=True)


def slow_ece(labels, probabilities):
    groups = {}
    for y, p in zip(labels, probabilities, strict=True):
        best = max(range(len(p)), key=lambda c: p[c])
        k = 0
        while p[best] > (k + 1) / calibration.BINS:
            k += 1
        groups.setdefault(k, []).append((p[best], y == best))
    total = 0.0
    for members in groups.values():
        total += abs(sum(c for c, _ in members) - sum(r for _, r in members))
    return total / len(labels)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30), classes=st.integers(2, 4))
def test_equals_the_slow_versions_for_every_resample(seed, n, classes):
    labels, probabilities = predictions(seed, n, classes)
    counts = bootstrap.bootstrap_counts(n, 3, seed)
    ece = calibration.expected_calibration_error(labels, probabilities, counts)
    brier = calibration.brier_score(labels, probabilities, counts)
    for row, found_ece, found_brier in zip(counts, ece, brier, strict=True):
        chosen = np.repeat(np.arange(n), row.astype(int))
        assert found_ece == pytest.approx(slow_ece(labels[chosen], probabilities[chosen]))
        slow = [
            sum((p - (c == y)) ** 2 for c, p in enumerate(ps))
            for y, ps in zip(labels[chosen], probabilities[chosen], strict=True)
        ]
        assert found_brier == pytest.approx(np.mean(slow))


def test_brier_of_two_classes_is_twice_that_of_one():
    labels, probabilities = predictions(1, 40, 2)
    expected = 2 * brier_score_loss(labels, probabilities[:, 1])
    assert calibration.brier_score(labels, probabilities)[0] == pytest.approx(expected)


def test_reliability_groups_and_leaves_empty_intervals_undefined():
    labels = np.array([0, 1, 1, 0])
    probabilities = np.array([[0.9, 0.1], [0.05, 0.95], [0.58, 0.42], [1.0, 0.0]])
    found = calibration.reliability(labels, probabilities)
    assert found.cases.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 1, 2]
    assert found.confidence[9] == pytest.approx(0.975)
    assert found.accuracy[[5, 8, 9]].tolist() == [0, 1, 1]
    assert np.isnan(found.confidence[0])
    gap = calibration.expected_calibration_error(labels, probabilities)[0]
    assert gap == pytest.approx((0.58 + 0.1 + 0.05) / 4)
