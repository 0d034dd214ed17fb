import logging

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.optimize import minimize
from scipy.special import expit

from tests.utils.evaluation.evaluation_data import (
    make_embeddings,
    slow_auc,
    slow_balanced_accuracy,
    slow_concordance,
)
from utils.evaluation import probes
from utils.evaluation.probes import fit_survival, subtype_probe, survival_probe


# ---------------------------------------------------------------------------- subtype
def test_predictions_of_no_class_are_mistakes():
    labels, predictions = np.array([0, 0, 1, 1]), np.array([0, -1, 1, 1])
    result = probes.score_subtype(0, list("abcd"), labels, predictions, np.full((4, 2), 0.5))
    assert result.accuracy == 0.75 and result.balanced_accuracy == 0.75


def test_two_classes_equal_slow_metrics():
    train, test = make_embeddings(60, seed=1, signal=1.0), make_embeddings(41, seed=2, signal=1.0)
    result = subtype_probe(train, test, 0, 2)
    assert result.case_ids == test.case_ids
    assert result.accuracy == pytest.approx(np.mean(result.predictions == test.labels))
    assert result.balanced_accuracy == pytest.approx(slow_balanced_accuracy(test.labels, result.predictions))
    assert result.auc == pytest.approx(slow_auc(test.labels == 1, result.probabilities[:, 1]))
    assert result.probabilities.sum(axis=1) == pytest.approx(np.ones(41))
    assert result.confusion.tolist() == [
        [int(np.sum((test.labels == i) & (result.predictions == j))) for j in range(2)] for i in range(2)
    ]
    assert 0.55 < result.balanced_accuracy < 1  # neither trivial nor chance, so the comparisons bite
    assert result.reason == ""


def test_the_model_is_the_penalised_likelihood_optimum():
    """Logistic regression with C = 1 whose intercept liblinear penalises as a weight."""
    train = make_embeddings(50, width=3, signal=1.0)
    x, y = np.c_[train.task(0), np.ones(50)], 2 * train.labels - 1
    best = minimize(lambda w: np.logaddexp(0, -y * (x @ w)).sum() + 0.5 * w @ w, np.zeros(4)).x
    result = subtype_probe(train, train, 0, 2)
    assert result.probabilities[:, 1] == pytest.approx(expit(x @ best), abs=2e-3)


def test_three_classes_are_one_against_the_rest():
    train, test = (
        make_embeddings(90, classes=3, signal=1.5),
        make_embeddings(45, classes=3, seed=5, signal=1.5),
    )
    result = subtype_probe(train, test, 0, 3)
    single = []
    for c in range(3):
        labels = (train.labels == c).astype(int), (test.labels == c).astype(int)
        rest = subtype_probe(
            make_embeddings(90, vectors=train.vectors, labels=labels[0]),
            make_embeddings(45, vectors=test.vectors, labels=labels[1]),
            0,
            2,
        )
        single.append(rest.probabilities[:, 1])
    single = np.stack(single, axis=1)
    assert result.probabilities == pytest.approx(single / single.sum(axis=1, keepdims=True))
    assert result.predictions.tolist() == single.argmax(axis=1).tolist()
    areas = [slow_auc(test.labels == c, result.probabilities[:, c]) for c in range(3)]
    assert result.auc == pytest.approx(np.mean(areas))
    assert result.balanced_accuracy == pytest.approx(slow_balanced_accuracy(test.labels, result.predictions))
    assert result.balanced_accuracy > 0.5
    assert result.confusion.shape == (3, 3)


def test_cases_of_unknown_class_take_no_part():
    train, test = make_embeddings(40), make_embeddings(20, seed=3)
    labels = test.labels.copy()
    labels[[2, 7]] = -1
    result = subtype_probe(train, make_embeddings(20, vectors=test.vectors, labels=labels), 0, 2)
    assert len(result.case_ids) == 18
    assert not {"case-2", "case-7"} & set(result.case_ids)

    # Mislabelled cases would move the fit; as class -1 they must not.
    vectors = np.concatenate([train.vectors, 50 * np.ones((5, 1, 8))])
    more = make_embeddings(45, vectors=vectors, labels=np.r_[train.labels, [-1] * 5])
    plain, padded = subtype_probe(train, test, 0, 2), subtype_probe(more, test, 0, 2)
    assert np.array_equal(plain.probabilities, padded.probabilities)


def test_the_task_token_is_the_one_asked_for():
    train = make_embeddings(60, tasks=2)
    vectors = train.vectors.copy()
    vectors[:, 1] = np.random.default_rng(0).normal(size=vectors[:, 1].shape)
    cases = make_embeddings(60, vectors=vectors)
    assert subtype_probe(cases, cases, 0, 2).auc > 0.95 > subtype_probe(cases, cases, 1, 2).auc
    assert (
        survival_probe(cases, cases, 0).concordance_index > survival_probe(cases, cases, 1).concordance_index
    )


@pytest.mark.parametrize(
    ("train_labels", "test_labels", "reason"),
    [
        ([0] * 6, [0, 1] * 3, "only class 0 among the training cases"),
        ([-1] * 6, [0, 1] * 3, "no case of known class among the training cases"),
        ([0, 1] * 3, [1] * 6, "only class 1 among the scored cases"),
        ([0, 1] * 3, [-1] * 6, "no case of known class to score"),
    ],
)
def test_subtype_not_evaluable(train_labels, test_labels, reason):
    result = subtype_probe(
        make_embeddings(6, labels=train_labels), make_embeddings(6, labels=test_labels), 0, 2
    )
    assert result.reason == reason
    assert np.isnan([result.accuracy, result.balanced_accuracy, result.auc]).all()
    assert result.confusion is None


def test_a_class_without_training_or_test_cases():
    train = make_embeddings(40, labels=np.where(np.arange(40) % 2, 2, 0))
    test = make_embeddings(30, classes=3, seed=4)
    result = subtype_probe(train, test, 0, 3)
    assert not result.probabilities[:, 1].any()
    assert set(result.predictions) <= {0, 2}
    assert result.balanced_accuracy <= 2 / 3

    missing = subtype_probe(make_embeddings(60, classes=3), make_embeddings(20, classes=2, seed=4), 0, 3)
    assert np.isnan(missing.auc)
    assert missing.balanced_accuracy > 0.5


def test_a_class_beyond_num_classes_is_refused():
    three = make_embeddings(9, classes=3)
    with pytest.raises(ValueError, match=r"num_classes is 2.*case-2, case-5, case-8"):
        subtype_probe(three, three, 0, 2)
    with pytest.raises(ValueError, match="num_classes is 2"):
        subtype_probe(make_embeddings(9), three, 0, 2)


# ---------------------------------------------------------------------------- survival
def slow_cox(vectors, durations, events, penalizer):
    """Optimum of Efron's penalised likelihood on standardised covariates, without derivatives of ours."""
    scale = vectors.std(axis=0, ddof=1)
    x = (vectors - vectors.mean(axis=0)) / scale

    def loss(beta):
        score = x @ beta
        total = 0.0
        for t in sorted(set(durations[events == 1])):
            dead = np.flatnonzero((durations == t) & (events == 1))
            risk = np.exp(score[durations >= t]).sum()
            tied = np.exp(score[dead]).sum()
            for k in range(len(dead)):
                total += score[dead[k]] - np.log(risk - k / len(dead) * tied)
        return -total / len(x) + 0.5 * penalizer * beta @ beta

    return minimize(loss, np.zeros(x.shape[1]), tol=1e-10).x / scale


def test_cox_is_the_penalised_likelihood_optimum_with_ties_and_time_zero():
    train = make_embeddings(40, width=3, signal=1.0)
    durations = np.round(train.durations / 8) * 8
    assert (durations == 0).any()
    assert len(set(durations)) < 15
    cases = make_embeddings(40, vectors=train.vectors, durations=durations, events=train.events)
    beta = slow_cox(cases.task(0).astype(float), durations, cases.events, penalizer=0.1)
    result = survival_probe(cases, cases, 0)
    expected = cases.task(0) @ beta
    assert result.risk - result.risk.mean() == pytest.approx(expected - expected.mean(), abs=2e-3)
    assert result.concordance_index == pytest.approx(slow_concordance(durations, cases.events, result.risk))


def test_cox_equals_plain_lifelines():
    """Times moved to the deaths before them, batch mode and short first steps change nothing."""
    train, test = make_embeddings(80, width=12, seed=1), make_embeddings(40, width=12, seed=2)
    table = probes._table(train.task(0).astype(float)).assign(T=train.durations, E=train.events)
    plain = CoxPHFitter(penalizer=0.1).fit(table, "T", "E")
    expected = plain.predict_log_partial_hazard(probes._table(test.task(0).astype(float)))
    result = survival_probe(train, test, 0)
    assert result.risk == pytest.approx(expected.to_numpy(), abs=1e-4)
    assert result.concordance_index == pytest.approx(
        slow_concordance(test.durations, test.events, result.risk)
    )
    assert result.concordance_index > 0.7


def test_more_dimensions_than_patients_converge():
    """lifelines' own first step cycles on such cohorts and stops at coefficients that are no optimum."""
    rng = np.random.default_rng(0)
    for seed in range(4):
        train = make_embeddings(60, width=256, seed=seed, vectors=rng.normal(size=(60, 1, 256)))
        probe = fit_survival(train, 0)
        assert probe.reason == ""
        beta, x = probe.model.params_.to_numpy(), train.task(0).astype(float)
        assert _gradient(beta * x.std(axis=0, ddof=1), x, train.durations, train.events) < 1e-3


def _gradient(beta, vectors, durations, events):
    """Largest derivative of the penalised likelihood (no ties) by a loop over deaths."""
    x = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0, ddof=1)
    weight = np.exp(x @ beta)
    total = -0.1 * len(x) * beta
    for i in np.flatnonzero(events):
        at_risk = durations >= durations[i]
        total += x[i] - weight[at_risk] @ x[at_risk] / weight[at_risk].sum()
    return np.abs(total).max() / len(x)


def test_the_published_size_is_fitted():
    train = make_embeddings(700, width=256)
    result = survival_probe(train, make_embeddings(200, width=256, seed=1), 0)
    assert result.concordance_index > 0.6


def test_strata_have_baselines_of_their_own():
    """The stratified partial likelihood compares within strata only: times of one may all be moved."""
    train = make_embeddings(80)
    strata = ["a", "b"] * 40
    moved = train.durations + np.where(np.asarray(strata) == "b", 1000.0, 0.0)
    shifted = make_embeddings(80, durations=moved)
    plain, other = (fit_survival(cases, 0, strata).model.params_ for cases in (train, shifted))
    assert plain.to_numpy() == pytest.approx(other.to_numpy(), rel=1e-4, abs=1e-6)
    unstratified = [fit_survival(cases, 0).model.params_.to_numpy() for cases in (train, shifted)]
    assert np.abs(unstratified[0] - unstratified[1]).max() > 0.01


def test_stratified_equals_lifelines():
    train = make_embeddings(80)
    strata = np.arange(80) % 3
    table = pd.DataFrame(train.task(0).astype(float), columns=[f"e{i}" for i in range(8)])
    table = table.assign(duration=train.durations, event=train.events, stratum=strata)
    theirs = CoxPHFitter(penalizer=0.1).fit(table, "duration", "event", strata=["stratum"]).params_
    ours = fit_survival(train, 0, [str(s) for s in strata]).model.params_
    assert ours.to_numpy() == pytest.approx(theirs.to_numpy(), rel=1e-3, abs=1e-5)


def test_cases_of_unknown_survival_take_no_part():
    train = make_embeddings(40)
    durations = train.durations.copy()
    durations[[0, 3]] = np.nan
    known = make_embeddings(40, vectors=train.vectors, durations=durations, events=train.events)
    result = survival_probe(known, known, 0)
    assert len(result.case_ids) == 38
    rest = train.select(~np.isnan(durations))
    assert result.risk == pytest.approx(survival_probe(rest, rest, 0).risk)


def test_constant_dimensions_stay_out():
    train = make_embeddings(40, width=6)
    vectors = train.vectors.copy()
    vectors[:, :, 3:5] = 2.5
    constant = make_embeddings(40, vectors=vectors)
    without = make_embeddings(40, vectors=np.delete(vectors, [3, 4], axis=2))
    assert survival_probe(constant, constant, 0).risk == pytest.approx(
        survival_probe(without, without, 0).risk
    )


def test_extreme_embeddings_still_rank():
    train = make_embeddings(50)
    big = make_embeddings(50, vectors=train.vectors * 1e6)
    far = make_embeddings(50, vectors=train.vectors * 1e12)  # the partial hazards of these overflow
    assert survival_probe(big, far, 0).concordance_index == pytest.approx(
        survival_probe(train, train, 0).concordance_index, abs=1e-6
    )


@pytest.mark.parametrize(
    ("train", "test", "reason"),
    [
        ({"events": [0] * 8}, {}, "no death among the training cases"),
        ({"durations": [np.nan] * 8}, {}, "no death among the training cases"),
        ({"vectors": np.ones((8, 1, 8))}, {}, "all training cases have the same embedding"),
        ({}, {"durations": [np.nan] * 8}, "no case of known survival to score"),
        ({}, {"events": [0] * 8}, "no two scored cases"),
        ({}, {"durations": [3] * 8, "events": [1] * 8}, "no two scored cases"),
    ],
)
def test_survival_not_evaluable(train, test, reason):
    result = survival_probe(make_embeddings(8, **train), make_embeddings(8, **test), 0)
    assert result.reason.startswith(reason)
    assert np.isnan(result.concordance_index)


def test_a_fit_that_does_not_converge_is_reported(monkeypatch):
    monkeypatch.setattr(probes, "COX_OPTIONS", {"step_size": 0.25, "max_steps": 2})
    result = survival_probe(make_embeddings(30), make_embeddings(10), 0)
    assert "no convergence in 2 steps" in result.reason
    assert np.isnan(result.concordance_index)


@pytest.mark.parametrize(
    "error", [probes.ConvergenceError("High collinearity. See docs", "x"), np.linalg.LinAlgError("singular")]
)
def test_a_fit_that_fails_is_reported(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(probes.CoxModel, "fit", fail)
    result = survival_probe(make_embeddings(30), make_embeddings(10), 0)
    assert result.reason.startswith("the Cox model could not be fitted: ")
    assert result.reason.split(": ")[1] in ("High collinearity", "singular")


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_tiny_cohorts_never_crash(n):
    train, test = make_embeddings(n), make_embeddings(n, prefix="test")
    subtype, survival = subtype_probe(train, test, 0, 2), survival_probe(train, test, 0)
    assert subtype.reason or 0 <= subtype.balanced_accuracy <= 1
    assert survival.reason or 0 <= survival.concordance_index <= 1
    if n < 2:
        assert subtype.reason
        assert survival.reason


def test_warnings_of_the_fitters_go_to_the_log(caplog):
    rng = np.random.default_rng(0)
    almost_constant = make_embeddings(6, vectors=1e-4 * rng.normal(size=(6, 1, 8)))
    with caplog.at_level(logging.DEBUG):
        fit_survival(almost_constant, 0)
    assert "Cox probe of task token 0" in caplog.text
    assert "low variance" in caplog.text
