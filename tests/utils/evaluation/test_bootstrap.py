import logging
from itertools import starmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from sklearn.metrics import f1_score, precision_score

from tests.utils.evaluation.evaluation_data import slow_auc, slow_balanced_accuracy, slow_concordance
from utils.evaluation import bootstrap


@st.composite
def survival(draw):
    n = draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Few distinct values, so that ties in time, in risk and in both occur.
    return rng.integers(0, 6, n).astype(float), rng.integers(0, 2, n), rng.integers(0, 4, n).astype(float)


@settings(max_examples=150, deadline=None)
@given(data=survival())
def test_concordance_equals_the_count_of_pairs_and_lifelines(data):
    durations, events, risk = data
    expected = slow_concordance(durations, events, risk)
    assert bootstrap.concordance(durations, events, risk) == pytest.approx([expected], nan_ok=True)
    if not np.isnan(expected):
        assert concordance_index(durations, -risk, events) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(4, 20),
    classes=st.integers(2, 4),
    seed=st.integers(0, 2**32 - 1),
    drawn=st.integers(0, 9999),
)
def test_counts_stand_for_repeated_patients(n, classes, seed, drawn):
    """Every metric of counts is the slow metric of the data with its patients repeated."""
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, classes, (2, n))
    probabilities = rng.integers(0, 5, (n, classes)) / 4
    durations, risk = rng.integers(0, 9, (2, n)).astype(float)
    events = rng.integers(0, 2, n)
    counts = bootstrap.bootstrap_counts(n, 3, drawn)
    assert counts.sum(axis=1).tolist() == [n] * 3
    for row, chosen in enumerate(np.repeat(np.arange(n), c.astype(int)) for c in counts):
        one = counts[row : row + 1]
        y = labels[chosen]
        assert bootstrap.accuracy(labels, predictions, one)[0] == pytest.approx(
            np.mean(y == predictions[chosen])
        )
        balanced = bootstrap.balanced_accuracy(labels, predictions, one)[0]
        if set(y) == set(labels):
            assert balanced == pytest.approx(slow_balanced_accuracy(y, predictions[chosen]))
            options = {"average": "macro", "labels": np.unique(y), "zero_division": 0}
            for ours, theirs in (
                (bootstrap.macro_precision, precision_score),
                (bootstrap.macro_f1, f1_score),
            ):
                expected = theirs(y, predictions[chosen], **options)
                assert ours(labels, predictions, one)[0] == pytest.approx(expected)
        else:
            assert np.isnan(balanced)
            assert np.isnan(bootstrap.macro_precision(labels, predictions, one)[0])
            assert np.isnan(bootstrap.macro_f1(labels, predictions, one)[0])
        auc = bootstrap.macro_auc(labels, probabilities, one)[0]
        if set(y) == set(range(classes)):
            used = [1] if classes == 2 else range(classes)
            expected = np.mean(list(starmap(slow_auc, ((y == c, probabilities[chosen, c]) for c in used))))
            assert auc == pytest.approx(expected)
        elif classes > 2 or len(set(y)) < 2:
            assert np.isnan(auc)
        assert bootstrap.concordance(durations, events, risk, one)[0] == pytest.approx(
            slow_concordance(durations[chosen], events[chosen], risk[chosen]), nan_ok=True
        )


def test_the_interval_is_that_of_a_loop_over_the_same_resamples():
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 2, (2, 40))
    low, high = bootstrap.bootstrap_interval(bootstrap.accuracy, (labels, predictions), n=200, seed=3)
    drawn = [np.repeat(np.arange(40), c.astype(int)) for c in bootstrap.bootstrap_counts(40, 200, 3)]
    values = [np.mean(labels[i] == predictions[i]) for i in drawn]
    assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_the_interval_depends_on_the_seed_alone():
    rng = np.random.default_rng(1)
    arrays = (rng.random(50), np.ones(50, dtype=int), rng.random(50))
    first = bootstrap.bootstrap_interval(bootstrap.concordance, arrays, seed=5)
    assert first == bootstrap.bootstrap_interval(bootstrap.concordance, arrays, seed=5)
    assert first != bootstrap.bootstrap_interval(bootstrap.concordance, arrays, seed=6)


def test_coverage_is_near_the_level():
    """Of many samples of 80 patients with accuracy 0.7, about 95 % of the intervals contain 0.7."""
    rng = np.random.default_rng(0)
    inside = 0
    for i in range(300):
        right = (rng.random(80) < 0.7).astype(int)
        low, high = bootstrap.bootstrap_interval(bootstrap.accuracy, (np.ones(80, dtype=int), right), 300, i)
        inside += low <= 0.7 <= high
    assert 0.90 <= inside / 300 <= 0.98


def test_undefined_resamples_are_left_out_and_counted(caplog):
    bootstrap._say_left_out.cache_clear()
    labels = np.array([0] * 9 + [1])  # the only case of class 1 is missing from a third of the resamples
    with caplog.at_level(logging.DEBUG):
        low, high = bootstrap.bootstrap_interval(bootstrap.balanced_accuracy, (labels, labels), n=500)
    assert (low, high) == (1.0, 1.0)
    expected = np.sum(bootstrap.bootstrap_counts(10, 500, 0)[:, 9] == 0)
    assert f"balanced_accuracy: undefined in {expected} of 500 resamples of 10 cases" in caplog.text
    assert caplog.text.count("the metric is undefined there") == 1


def test_nothing_defined_gives_nan():
    alive = np.zeros(5, dtype=int)
    interval = bootstrap.bootstrap_interval(
        bootstrap.concordance, (np.arange(5.0), alive, np.arange(5.0)), n=50
    )
    assert np.isnan(interval).all()
    assert np.isnan(bootstrap.bootstrap_interval(bootstrap.accuracy, (alive[:0], alive[:0]))).all()


def test_arrays_must_agree():
    with pytest.raises(ValueError, match=r"different lengths: \[3, 4\]"):
        bootstrap.bootstrap_interval(bootstrap.accuracy, (np.zeros(3), np.zeros(4)))
