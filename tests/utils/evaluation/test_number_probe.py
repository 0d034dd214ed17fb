"""The probe of a number, against ridge regression solved by hand."""

import numpy as np
import pytest
from scipy.stats import rankdata

from tests.utils.evaluation.evaluation_data import make_embeddings
from utils.evaluation import bootstrap
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.number_probe import PENALTIES, fit_number


def cases(n, seed, **changes):
    made = make_embeddings(n, seed=seed, prefix=f"s{seed}", width=5)
    noise = np.random.default_rng(seed).normal(size=n)
    numbers = 2 + made.vectors[:, 0] @ np.arange(1.0, 6.0) + noise
    numbers[3] = np.nan
    return Embeddings(**{**vars(made), "values": {"ki67": numbers}, **changes})


def ridge_by_hand(x, y, penalty):
    centred = x - x.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (y - y.mean()))
    return weights, y.mean() - x.mean(axis=0) @ weights


def left_out_error(x, y, penalty):
    errors = []
    for k in range(len(x)):
        rest = np.arange(len(x)) != k
        weights, bias = ridge_by_hand(x[rest], y[rest], penalty)
        errors.append((y[k] - x[k] @ weights - bias) ** 2)
    return np.mean(errors)


def test_it_is_the_ridge_regression_of_least_left_out_error():
    train, test = cases(40, 0), cases(30, 1)
    known = ~np.isnan(train.value("ki67"))
    x, y = train.task(0)[known].astype(float), train.value("ki67")[known]
    mean, scale = x.mean(axis=0), x.std(axis=0)
    standard = (x - mean) / scale
    best = min(PENALTIES, key=lambda penalty: left_out_error(standard, y, penalty))
    weights, bias = ridge_by_hand(standard, y, best)
    expected = (test.task(0).astype(float) - mean) / scale @ weights + bias
    probe = fit_number(train, 0, "ki67")
    np.testing.assert_allclose(probe.predict(test.task(0)), expected, rtol=1e-8)

    result = probe.score(test)
    assert result.case_ids == [c for k, c in enumerate(test.case_ids) if k != 3]
    true, found = result.numbers, np.delete(expected, 3)
    r2 = 1 - np.sum((true - found) ** 2) / np.sum((true - true.mean()) ** 2)
    assert result.r2 == pytest.approx(r2, rel=1e-8) and result.r2 > 0.8
    ranks = np.corrcoef(rankdata(true), rankdata(found))[0, 1]
    assert result.spearman == pytest.approx(ranks, rel=1e-8)


def test_resampled_metrics_are_those_of_the_drawn_patients():
    rng = np.random.default_rng(0)
    true, found = rng.integers(0, 6, 25).astype(float), rng.integers(0, 9, 25).astype(float)
    counts = bootstrap.bootstrap_counts(25, 50, 3)
    r2, spearman = bootstrap.r2(true, found, counts), bootstrap.spearman(true, found, counts)
    for row, one, other in zip(counts.astype(int), r2, spearman, strict=True):
        drawn = np.repeat(np.arange(25), row)
        y, p = true[drawn], found[drawn]
        assert one == pytest.approx(1 - np.sum((y - p) ** 2) / np.sum((y - y.mean()) ** 2), rel=1e-9)
        assert other == pytest.approx(np.corrcoef(rankdata(y), rankdata(p))[0, 1], rel=1e-9)
    equal = np.full(4, 0.1)
    assert np.isnan(bootstrap.r2(equal, np.arange(4.0))) and np.isnan(
        bootstrap.spearman(equal, np.arange(4.0))
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "no case of known ki67 among the training cases"),
        ({"ki67": [1.0] * 20}, "one ki67 only among the training cases"),
    ],
)
def test_what_cannot_be_fitted_says_why(values, reason):
    train = cases(20, 0, values=values)
    result = fit_number(train, 0, "ki67").score(cases(20, 1))
    assert result.reason == reason and np.isnan(result.r2) and np.isnan(result.predictions).all()


def test_what_cannot_be_scored_says_why():
    probe = fit_number(cases(20, 0), 0, "ki67")
    assert probe.score(cases(9, 1, values={})).reason == "no case of known ki67"
    assert (
        probe.score(cases(9, 1, values={"ki67": [2.0] * 9})).reason == "all scored cases have the same ki67"
    )
