"""Every metric of a report against scikit-learn, scikit-survival or a slow count."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score
from sksurv.metrics import concordance_index_ipcw, cumulative_dynamic_auc, integrated_brier_score
from sksurv.util import Surv

from data_utils.tables.survival_bins import SurvivalBins
from tests.utils.evaluation.evaluation_data import make_embeddings
from utils.evaluation.heads import Head
from utils.evaluation.probes import fit_subtype, fit_survival
from utils.evaluation.rows import head_results, metric_rows, zero_shot_rows

TRAIN, TEST = make_embeddings(60, seed=1, prefix="a"), make_embeddings(40, seed=2, signal=1.0, prefix="b")


def values(results, prefix=""):
    return {row["metric"]: row["value"] for row in metric_rows(results, TRAIN, 0, prefix)}


def surv(*parts):
    durations, events = (np.concatenate([getattr(p, n) for p in parts]) for n in ("durations", "events"))
    return Surv.from_arrays(events.astype(bool), durations)


def breslow(times):
    """Survival of the test patients by a loop over the deaths of the training patients."""
    probe = fit_survival(TRAIN, 0)
    centre = TRAIN.task(0).astype(float).mean(axis=0)
    beta = probe.model.params_.to_numpy()
    risk_train, risk = ((c.task(0).astype(float) - centre) @ beta for c in (TRAIN, TEST))
    alive = np.ones((len(TEST), len(times)))
    for t, died in zip(TRAIN.durations, TRAIN.events, strict=True):
        if died:
            hazard = 1 / np.exp(risk_train[TRAIN.durations >= t]).sum()
            alive[:, times >= t] *= np.exp(-hazard * np.exp(risk))[:, None]
    return risk, alive


def test_subtype_rows():
    result = fit_subtype(TRAIN, 0, 2).score(TEST)
    found = values([result])
    y, p = result.labels, result.predictions
    assert found["recall"] == found["balanced_accuracy"] == pytest.approx(recall_score(y, p, average="macro"))
    assert found["precision"] == pytest.approx(precision_score(y, p, average="macro"))
    assert found["f1"] == pytest.approx(f1_score(y, p, average="macro"))
    assert found["brier"] == pytest.approx(2 * np.mean((result.probabilities[:, 1] - y) ** 2))
    gap = 0.0
    confidence = result.probabilities.max(axis=1)
    for k in range(10):
        inside = (confidence > k / 10) & (confidence <= (k + 1) / 10)
        gap += abs((confidence[inside] - (y == p)[inside]).sum()) / len(y)
    assert found["ece"] == pytest.approx(gap)


def test_survival_rows():
    times = np.quantile(TRAIN.durations[TRAIN.events == 1], [0.25, 0.5, 0.75])
    risk, alive = breslow(times)
    found = values([fit_survival(TRAIN, 0).score(TEST)])
    everyone, scored = surv(TRAIN, TEST), surv(TEST)
    assert times[0] > TEST.durations.min() and times[-1] < TEST.durations.max()
    assert found["concordance_ipcw"] == pytest.approx(concordance_index_ipcw(everyone, scored, risk)[0])
    assert found["dynamic_auc"] == pytest.approx(cumulative_dynamic_auc(everyone, scored, risk, times)[1])
    expected = integrated_brier_score(everyone, scored, alive, times)
    assert found["integrated_brier"] == pytest.approx(expected, rel=1e-6)


def test_rows_of_heads():
    rng = np.random.default_rng(0)
    bins = SurvivalBins.fit(TRAIN.durations, TRAIN.events, "test")
    head = Head(0, rng.normal(size=(4, 8)) / 4, np.zeros(4) - 1.0, bins)
    (result,) = head_results(
        {"survival": head, "subtype": Head(1, rng.normal(size=(2, 8)), np.zeros(2))}, 0, TEST
    )
    found = values([result], "head_")
    alive = np.ones((len(TEST), 4))
    for i, x in enumerate(TEST.task(0).astype(float)):
        for k in range(4):
            hazard = 1 / (1 + math.exp(-(head.weight[k] @ x + head.bias[k])))
            alive[i, k:] *= 1 - hazard
    everyone, scored, times = surv(TRAIN, TEST), surv(TEST), np.array(bins.edges[1:-1])
    expected = concordance_index_ipcw(everyone, scored, -alive.sum(axis=1))[0]
    assert found["head_concordance_ipcw"] == pytest.approx(expected)
    expected = cumulative_dynamic_auc(everyone, scored, 1 - alive[:, :3], times)[1]
    assert found["head_dynamic_auc"] == pytest.approx(expected)
    expected = integrated_brier_score(everyone, scored, alive[:, :3], times)
    assert found["head_integrated_brier"] == pytest.approx(expected)


def test_what_cannot_be_scored_has_a_reason_in_every_row():
    nobody_died = make_embeddings(20, seed=3, events=np.zeros(20))
    rows = metric_rows([fit_survival(TRAIN, 0).score(nobody_died)], TRAIN, 0)
    assert len(rows) == 4
    assert all(math.isnan(row["value"]) == bool(row["reason"]) for row in rows)
    assert {row["metric"]: row["reason"] for row in rows}["concordance_ipcw"].startswith(
        "no two scored cases"
    )
    early = make_embeddings(20, seed=3, durations=np.linspace(0.01, 0.02, 20))
    by_name = {row["metric"]: row for row in metric_rows([fit_survival(TRAIN, 0).score(early)], TRAIN, 0)}
    assert by_name["concordance_ipcw"]["reason"] == ""
    assert "none of the times" in by_name["dynamic_auc"]["reason"]
    assert "fewer than two" in by_name["integrated_brier"]["reason"]


def test_similarities_are_no_probabilities():
    result = fit_subtype(TRAIN, 0, 2).score(TEST)
    names = [row["metric"] for row in zero_shot_rows([result], 0)]
    assert names == ["zero_shot_balanced_accuracy", "zero_shot_accuracy"]
