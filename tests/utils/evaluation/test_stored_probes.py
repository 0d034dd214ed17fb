"""Stored probes against the models of scikit-learn and lifelines that they were made from."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from utils.evaluation.embeddings import Embeddings
from utils.evaluation.probes import fit_subtype, fit_survival
from utils.evaluation.stored_probes import StoredProbes, TaskProbes, store
from utils.files import FileError

WIDTH = 6


def cases(n, seed, classes=2, deaths=True):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % (classes + 1) - 1  # some of no class
    vectors = rng.normal(size=(n, 2, WIDTH)) + 0.8 * labels[:, None, None] * np.linspace(-1, 1, WIDTH)
    vectors[:, :, -1] = 3.0  # a dimension that does not vary
    durations = np.exp(rng.normal(size=n) - 0.7 * vectors[:, 0, 0]) * 20
    durations[::7] = np.nan
    events = (rng.random(n) < 0.6).astype(int) * int(deaths)
    return Embeddings(vectors, [f"P{i}" for i in range(n)], labels, durations, events, ["S"] * n)


def fitted(train, classes):
    return {
        name: (fit_subtype(train, task, classes), fit_survival(train, task))
        for task, name in enumerate(("General", "Survival"))
    }


@pytest.fixture(params=[2, 3])
def stored(request, tmp_path):
    train = cases(80, 0, request.param)
    probes = fitted(train, request.param)
    names = ["a", "b", "c"][: request.param]
    store(train, probes, names).save(tmp_path / "probes.npz")
    return train, probes, StoredProbes.load(tmp_path / "probes.npz")


def test_classes_equal_scikit_learn(stored):
    _, probes, found = stored
    new = cases(30, 1, len(found.class_names))
    for task, (name, (subtype, _)) in enumerate(probes.items()):
        expected = subtype.model.predict_proba(new.task(task))
        got = found.tasks[name].probabilities(new.task(task), len(found.class_names))
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_risk_and_survival_equal_lifelines(stored):
    train, probes, found = stored
    new, known = cases(30, 1), ~np.isnan(train.durations)
    # lifelines interpolates between deaths; the estimator is a step there.
    months = np.unique(train.durations[known][train.events[known] == 1])[::5]
    for task, (name, (_, survival)) in enumerate(probes.items()):
        table = pd.DataFrame(train.task(task)[known][:, :-1].astype(float)).assign(
            T=train.durations[known], E=train.events[known]
        )
        theirs = CoxPHFitter(penalizer=0.1).fit(table, "T", "E")
        vectors = pd.DataFrame(new.task(task)[:, :-1].astype(float))
        probe = found.tasks[name]
        risk = probe.risk(new.task(task).astype(float))
        # Another fit of the same optimum, then the model itself.
        np.testing.assert_allclose(risk, theirs.predict_log_partial_hazard(vectors), atol=1e-3)
        got = probe.survival(risk, months)
        for model, tolerance in ((theirs, 1e-3), (survival.model, 1e-6)):
            rows = vectors.set_axis(model.params_.index, axis=1)
            expected = model.predict_survival_function(rows, times=months).T.to_numpy()
            np.testing.assert_allclose(got, expected, atol=tolerance)
        np.testing.assert_allclose(risk, survival.score(_with_survival(new)).risk, atol=1e-8)


def _with_survival(new):
    everyone = np.ones(len(new))
    return Embeddings(new.vectors, new.case_ids, new.labels, everyone, everyone.astype(int), new.sites)


def test_percentiles_count_the_training_patients_below(stored):
    _, _, found = stored
    probe = found.tasks["General"]
    risk = np.array([probe.risks[0] - 1, probe.risks[40], probe.risks[-1] + 1, np.nan])
    slow = [
        100 * (np.sum(probe.risks < r) + 0.5 * np.sum(probe.risks == r)) / len(probe.risks) for r in risk[:3]
    ]
    assert probe.percentile(risk)[:3].tolist() == pytest.approx(slow) and slow[0] == 0 and slow[2] == 100
    assert np.isnan(probe.percentile(risk)[3])


def test_what_is_far_from_the_training_is_outside(stored):
    train, _, found = stored
    probe = found.tasks["General"]
    inside = probe.distance(cases(200, 3, len(found.class_names)).task(0))
    assert np.mean(inside > 1) < 0.1
    assert (probe.distance(train.task(0) + 15) > 1).all()


def test_no_survival_beyond_what_was_seen():
    probe = TaskProbes(hazard=np.array([0.1, 0.3]), hazard_months=np.array([2.0, 6.0]))
    found = probe.survival(np.array([0.0, np.log(2)]), [1, 2, 5.9, 6, 7])
    np.testing.assert_allclose(found[0, :4], np.exp([0, -0.1, -0.1, -0.3]))
    np.testing.assert_allclose(found[1, :4], np.exp([0, -0.2, -0.2, -0.6]))
    assert np.isnan(found[:, 4]).all()


def test_parts_that_could_not_be_fitted_say_why(tmp_path):
    train = cases(8, 0, deaths=False)
    train = Embeddings(
        train.vectors, train.case_ids, np.zeros(8, int), train.durations, train.events, train.sites
    )
    stored = store(train, fitted(train, 2), ["a", "b"])
    stored.save(tmp_path / "probes.npz")
    found = StoredProbes.load(tmp_path / "probes.npz")
    assert found.reasons == stored.reasons and len(found.reasons) == 6
    assert (
        "only class 0" in found.reasons["General/subtype"] and "no death" in found.reasons["General/survival"]
    )
    probe = found.tasks["General"]
    for values in (
        probe.probabilities(train.task(0), 2),
        probe.risk(train.task(0)),
        probe.distance(train.task(0)),
    ):
        assert np.isnan(values).all()


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("class_weights", lambda v: v[:, 1:], "General/.*does not fit"),
        ("class_bias", lambda v: v * np.nan, "General/class_bias holds something else than finite numbers"),
        ("class_rows", lambda v: v + 5, "General/class_rows is .* for"),
        ("cox_mean", lambda v: v.astype(str), "General/cox_mean holds something else"),
        ("precision", lambda v: v[0], "General/precision is"),
        ("risks", lambda v: v[::-1], "General/risks does not ascend"),
        ("hazard", lambda v: v[:0], "General/hazard"),
        ("risks", lambda v: v[:-1], "changed after they were written"),
        ("cox_weights", None, "some of cox_weights, cox_mean, risks only"),
    ],
)
def test_arrays_that_do_not_belong_together_are_named(stored, tmp_path, part, value, message):
    with np.load(tmp_path / "probes.npz") as content:
        arrays = dict(content)
    old = arrays.pop(f"General/{part}")
    np.savez(tmp_path / "probes.npz", **arrays, **({} if value is None else {f"General/{part}": value(old)}))
    with pytest.raises(FileError, match=rf"probes\.npz cannot be used: .*{message}.*evaluate the run again"):
        StoredProbes.load(tmp_path / "probes.npz")


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "probes.npz").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match=r"probes\.npz is no readable file of probes"):
        StoredProbes.load(tmp_path / "probes.npz")
