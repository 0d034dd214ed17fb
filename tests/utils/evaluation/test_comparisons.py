"""Paired comparisons against direct versions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from utils.evaluation import bootstrap
from utils.evaluation.comparisons import delong, holm, paired_bootstrap


def slow_delong_variance(labels, first, second):
    """Structural components in loops, covariance matrices by their definition."""
    ones, zeros = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)

    def kernel(x, y):
        return 1.0 if x > y else 0.5 if x == y else 0.0

    by_one = [[np.mean([kernel(s[i], s[j]) for j in zeros]) for i in ones] for s in (first, second)]
    by_zero = [[np.mean([kernel(s[i], s[j]) for i in ones]) for j in zeros] for s in (first, second)]
    covariance = np.cov(by_one) / len(ones) + np.cov(by_zero) / len(zeros)
    return covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_delong_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    labels = np.array([0, 0, 1, 1, *rng.integers(0, 2, 16)])
    scores = rng.integers(0, 12, (2, 20)) / 12  # with ties
    found = delong(
        labels, [np.column_stack([1 - scores[0], scores[0]])], [np.column_stack([1 - scores[1], scores[1]])]
    )
    assert found.difference == pytest.approx(
        roc_auc_score(labels, scores[0]) - roc_auc_score(labels, scores[1])
    )
    half = (found.ci_high - found.ci_low) / 2
    assert half / 1.959963985 == pytest.approx(slow_delong_variance(labels, *scores) ** 0.5, abs=1e-9)


def test_delong_of_three_classes_and_runs_is_about_the_bootstrap():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 150)
    truth = np.eye(3)[labels]

    def runs(noise):
        scores = [truth + rng.normal(0, noise, truth.shape) for _ in range(3)]
        return [np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in scores]

    one, other = runs(0.6), runs(0.8)
    found = delong(labels, one, other)
    drawn = paired_bootstrap(
        bootstrap.macro_auc, [(labels, p) for p in one], [(labels, p) for p in other], seed=1
    )
    assert found.difference == pytest.approx(drawn.difference)
    assert found.ci_low == pytest.approx(drawn.ci_low, abs=0.01)
    assert found.ci_high == pytest.approx(drawn.ci_high, abs=0.01)
    assert found.p < 0.05
    assert drawn.p < 0.05


def test_delong_of_the_same_predictions_and_of_too_few():
    labels = np.array([0, 1, 0, 1])
    p = np.column_stack([np.arange(4), 3 - np.arange(4)]) / 3
    assert delong(labels, [p], [p]).p == 1.0
    assert np.isnan(delong(np.array([0, 1, 0, 0]), [p], [p]).p)


def test_paired_bootstrap_of_equal_models_and_of_a_clear_difference():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    right, coin = labels.copy(), rng.integers(0, 2, 80)
    same = paired_bootstrap(bootstrap.balanced_accuracy, [(labels, coin)], [(labels, coin)])
    assert (same.difference, same.p) == (0.0, 1.0)
    better = paired_bootstrap(bootstrap.balanced_accuracy, [(labels, right)], [(labels, coin)] * 2)
    assert better.difference == pytest.approx(1 - bootstrap.balanced_accuracy(labels, coin)[0])
    assert better.ci_low > 0
    assert better.p < 0.005
    worse = paired_bootstrap(bootstrap.balanced_accuracy, [(labels, coin)], [(labels, right)])
    assert worse.p == pytest.approx(better.p)


def test_paired_bootstrap_has_the_right_size_under_the_null():
    """Two equally good models are told apart in about one of twenty cohorts."""
    rng = np.random.default_rng(4)
    rejected = 0
    for _ in range(200):
        labels = np.array([0, 1] * 30)
        one, other = (np.where(rng.random(60) < 0.75, labels, 1 - labels) for _ in range(2))
        found = paired_bootstrap(bootstrap.accuracy, [(labels, one)], [(labels, other)], n=300)
        rejected += found.p < 0.05
    assert 2 <= rejected <= 22


def test_different_patients_are_refused():
    labels = np.array([0, 1, 1])
    with pytest.raises(ValueError, match="different patients"):
        paired_bootstrap(bootstrap.accuracy, [(labels, labels)], [(labels[:2], labels[:2])])


@settings(max_examples=60, deadline=None)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_the_closed_test_of_bonferroni(p):
    """A hypothesis falls where Bonferroni rejects every intersection that holds it."""
    n = len(p)
    for i, corrected in enumerate(holm(p)):
        others = [j for j in range(n) if j != i]
        subsets = (s for k in range(n) for s in itertools.combinations(others, k))
        closed = max(min(1.0, (len(s) + 1) * min(p[j] for j in (i, *s))) for s in subsets)
        assert corrected == pytest.approx(closed)


def test_holm_leaves_out_what_was_not_tested():
    assert holm([0.01, float("nan"), 0.04])[0] == 0.02
    assert np.isnan(holm([0.01, float("nan")])[1])
