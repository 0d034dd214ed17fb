"""Survival metrics: values of scikit-survival, intervals of vectorised forms that equal it on drawn patients."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sksurv.metrics import (
    brier_score,
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.nonparametric import kaplan_meier_estimator

from utils.evaluation import bootstrap
from utils.evaluation import survival_metrics as metrics
from utils.evaluation.survival_metrics import Curves, FollowUp

SEEDS = st.integers(0, 2**32 - 1)


def cohort(rng, n, ties=True):
    durations = rng.exponential(30, n) + 0.1
    return FollowUp(durations.round() + 1 if ties else durations, (rng.random(n) < 0.6).astype(int))


def curves_of(rng, scored, times=(10.0, 20.0, 35.0)):
    alive = np.sort(rng.random((len(scored), len(times))))[:, ::-1]
    return Curves(np.asarray(times), alive, 1 - alive)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
@example(seed=457)
def test_values_and_forms_equal_scikit_survival_on_drawn_patients(seed):
    """The forms of counts are scikit-survival on the drawn patients, with the censoring distribution kept."""
    rng = np.random.default_rng(seed)
    train, scored = cohort(rng, 30), cohort(rng, 25)
    assume(scored.events.sum() > 3)
    everyone = train.joined(scored)
    risk = rng.integers(0, 8, len(scored)).astype(float)
    curves = curves_of(rng, scored).within(scored)
    assume(len(curves.times) == 3)
    try:
        weights = metrics.censoring_weights(everyone, scored)
    except ValueError:  # nobody is under observation any more when somebody dies
        assert metrics.concordance_ipcw(train, scored, risk, 0).reason
        assert metrics.dynamic_auc(train, scored, curves, 0).reason
        return
    counts = np.concatenate([np.ones((1, len(scored))), bootstrap.bootstrap_counts(len(scored), 3, 0)])
    for row in counts:
        chosen = np.repeat(np.arange(len(scored)), row.astype(int))
        drawn = FollowUp(scored.durations[chosen], scored.events[chosen])
        inside = (curves.times > drawn.durations.min()) & (curves.times < drawn.durations.max())
        if not inside.all() or not ((drawn.events == 1) & (drawn.durations <= curves.times[0])).any():
            continue
        one = row[None]
        uno = bootstrap.concordance(scored.durations, scored.events, risk, one, weights**2)[0]
        expected = concordance_index_ipcw(everyone.structured, drawn.structured, risk[chosen])[0]
        assert uno == pytest.approx(expected)
        auc = metrics.mean_dynamic_auc(
            scored.durations, scored.events, curves.risk, weights, curves.times, one
        )[0]
        expected = cumulative_dynamic_auc(
            everyone.structured, drawn.structured, curves.risk[chosen], curves.times
        )[1]
        assert auc == pytest.approx(expected)
        brier = one @ metrics.brier_contributions(everyone, scored, curves) / row.sum()
        expected = integrated_brier_score(
            everyone.structured, drawn.structured, curves.alive[chosen], curves.times
        )
        assert brier[0] == pytest.approx(expected)


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS)
def test_harrell_equals_scikit_survival(seed):
    rng = np.random.default_rng(seed)
    scored = cohort(rng, 20)
    assume(scored.events.any() and scored.durations[scored.events == 1].min() < scored.durations.max())
    risk = rng.integers(0, 6, len(scored)).astype(float)
    expected = concordance_index_censored(scored.events.astype(bool), scored.durations, risk)[0]
    assert bootstrap.concordance(scored.durations, scored.events, risk)[0] == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_kaplan_meier_of_counts(seed):
    rng = np.random.default_rng(seed)
    scored = cohort(rng, 15)
    counts = bootstrap.bootstrap_counts(15, 2, seed)
    times = np.array([5.0, 17.0, 40.0])
    found = metrics.survival_at(scored.durations, scored.events, times, counts)
    for row, values in zip(counts, found, strict=True):
        chosen = np.repeat(np.arange(15), row.astype(int))
        at, alive = kaplan_meier_estimator(scored.events[chosen].astype(bool), scored.durations[chosen])
        for t, value in zip(times, values, strict=True):
            earlier = np.flatnonzero(at <= t)
            assert value == pytest.approx(alive[earlier[-1]] if len(earlier) else 1.0)


def test_public_functions_give_value_and_interval():
    rng = np.random.default_rng(0)
    train, scored = cohort(rng, 60, ties=False), cohort(rng, 60, ties=False)
    good = -scored.durations + rng.normal(0, 10, 60)
    times = np.array([10.0, 20.0, 35.0])
    alive = 1 / (1 + np.exp((good[:, None] + times) / 10))
    curves = Curves(times, alive, np.column_stack([good] * 3)).within(scored)
    everyone = train.joined(scored).structured
    ipcw = metrics.concordance_ipcw(train, scored, good, seed=1)
    auc = metrics.dynamic_auc(train, scored, curves, seed=1)
    brier = metrics.integrated_brier(train, scored, curves, seed=1)
    assert ipcw.value == concordance_index_ipcw(everyone, scored.structured, good)[0]
    assert auc.value == cumulative_dynamic_auc(everyone, scored.structured, good, times)[1]
    assert brier.value == integrated_brier_score(everyone, scored.structured, curves.alive, times)
    for found in (ipcw, auc, brier):
        assert not found.reason
        assert found.ci_low < found.value < found.ci_high
    assert ipcw.value > 0.8
    assert auc.value > 0.8
    assert brier.value < 0.2


def test_nobody_is_censored():
    rng = np.random.default_rng(3)
    train = FollowUp(rng.exponential(9, 20), np.ones(20, dtype=int))
    scored = FollowUp(rng.exponential(9, 30), np.ones(30, dtype=int))
    curves = curves_of(rng, scored, (4.0, 8.0)).within(scored)
    for found in (
        metrics.concordance_ipcw(train, scored, curves.risk[:, 0], 0),
        metrics.dynamic_auc(train, scored, curves, 0),
        metrics.integrated_brier(train, scored, curves, 0),
    ):
        assert math.isfinite(found.value)
        assert found.ci_low <= found.value <= found.ci_high


def test_what_cannot_be_evaluated_is_nan_with_a_reason():
    rng = np.random.default_rng(0)
    train = cohort(rng, 20)
    alive = FollowUp(np.array([3.0, 5.0, 9.0]), np.zeros(3, dtype=int))
    nobody = FollowUp(np.array([]), np.array([], dtype=int))
    curves = curves_of(rng, alive, (4.0, 6.0))
    late = Curves(np.array([100.0, 200.0]), curves.alive, curves.risk).within(alive)
    found = [
        metrics.concordance_ipcw(train, alive, np.arange(3.0), 0),
        metrics.concordance_ipcw(train, nobody, np.array([]), 0),
        metrics.dynamic_auc(train, alive, curves, 0),
        metrics.dynamic_auc(train, alive, late, 0),
        metrics.integrated_brier(train, alive, late, 0),
        metrics.integrated_brier(train, alive, curves, 0),
        metrics.dynamic_auc(train, nobody, curves_of(rng, nobody).within(nobody), 0),
    ]
    assert all(math.isnan(f.value) and math.isnan(f.ci_low) and f.reason for f in found)
    assert "died within 4.0 months" in found[2].reason
    assert "all samples are censored" in found[5].reason


def test_unknown_survival_is_refused():
    with pytest.raises(ValueError, match="known survival"):
        FollowUp(np.array([1.0, np.nan]), np.array([0, 1]))


def test_survpath_scores_its_curves_one_edge_early():
    rng = np.random.default_rng(5)
    scored = cohort(rng, 40, ties=False)
    alive = np.sort(rng.random((40, 4)))[:, ::-1]
    edges = np.quantile(scored.durations, [0.25, 0.5, 0.75])
    curves = metrics.survpath_curves(alive, edges, scored)
    low, high = scored.durations.min() + 1e-4, scored.durations.max() - 1e-4
    assert curves.times.tolist() == [low, edges[0], edges[1], high]
    assert np.array_equal(curves.alive, alive)
    _, scores = brier_score(scored.structured, scored.structured, alive, curves.times)
    expected = np.trapezoid(scores, curves.times) / (high - low)
    assert metrics.integrated_brier(scored, scored, curves, 0).value == pytest.approx(expected)
    last = Curves(curves.times[1:], alive[:, 1:], curves.risk[:, 1:])
    _, mean = cumulative_dynamic_auc(
        scored.joined(scored).structured, scored.structured, 1 - alive[:, 1:], curves.times[1:]
    )
    assert metrics.dynamic_auc(scored, scored, last, 0).value == pytest.approx(mean)
