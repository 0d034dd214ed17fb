import itertools
import logging
import math

import numpy as np
import pandas as pd
import pytest

from tests.utils.evaluation.evaluation_data import make_embeddings, slow_balanced_accuracy, slow_concordance
from utils import test_utils_modaltune
from utils.evaluation.embeddings import with_complete_parts
from utils.evaluation.probes import subtype_probe, survival_probe
from utils.evaluation.results import COLUMNS, write_results
from utils.evaluation.stored_probes import PROBES, StoredProbes
from utils.test_utils_modaltune import CohortEvaluator

TASKS = ("General", "Survival")


def make_splits(classes=2, **changes):
    sizes = {"train": 60, "val": 24, "test": 30}
    return {
        split: make_embeddings(n, tasks=2, classes=classes, seed=seed, prefix=split, **changes.get(split, {}))
        for seed, (split, n) in enumerate(sizes.items())
    }


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of the time of a report; tests of its numbers go without."""
    monkeypatch.setattr(test_utils_modaltune, "draw", lambda *args: None)


# ---------------------------------------------------------------------------- validation
def test_validation_metrics_are_those_of_the_probes():
    splits = make_splits()
    evaluator = CohortEvaluator(2, TASKS)
    metrics = evaluator.validate(splits["train"], splits["val"])
    assert list(metrics) == [
        f"val_{metric}/{task}"
        for task in TASKS
        for metric in ("balanced_accuracy", "accuracy", "concordance_index")
    ]
    for i, task in enumerate(TASKS):
        subtype = subtype_probe(splits["train"], splits["val"], i, 2)
        survival = survival_probe(splits["train"], splits["val"], i)
        assert metrics[f"val_balanced_accuracy/{task}"] == subtype.balanced_accuracy
        assert metrics[f"val_accuracy/{task}"] == subtype.accuracy
        assert metrics[f"val_concordance_index/{task}"] == survival.concordance_index
    assert evaluator.key == "val_balanced_accuracy/General"
    assert evaluator.score(metrics) == (
        metrics["val_balanced_accuracy/General"],
        metrics["val_concordance_index/General"],
    )


def test_the_score_orders_epochs():
    score = CohortEvaluator(2, TASKS).score

    def metrics(balanced, concordance):
        return {
            "val_balanced_accuracy/General": balanced,
            "val_concordance_index/General": concordance,
            "val_balanced_accuracy/Survival": 1.0,
        }

    worst_to_best = [
        (math.nan, math.nan),
        (math.nan, 0.9),
        (0.5, 0.9),
        (0.6, math.nan),
        (0.6, 0.1),
        (0.6, 0.2),
    ]
    scores = [score(metrics(*pair)) for pair in worst_to_best]
    assert all(one < other for one, other in itertools.pairwise(scores))
    assert score({}) == score(metrics(math.nan, math.nan))


def test_without_a_subtype_the_concordance_index_selects(caplog):
    splits = make_splits(val={"labels": [0] * 24})
    evaluator = CohortEvaluator(2, TASKS)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            metrics = evaluator.validate(splits["train"], splits["val"])
    assert evaluator.key == "val_concordance_index/General"
    assert 0 <= metrics[evaluator.key] <= 1
    assert math.isnan(metrics["val_balanced_accuracy/General"])
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 3  # once per token and once for the key, not every epoch
    assert any("concordance index selects the model" in m and "only class 0" in m for m in said)


def test_nothing_evaluable_does_not_stop_a_run():
    splits = make_splits(val={"labels": [-1] * 24, "events": [0] * 24})
    evaluator = CohortEvaluator(2, TASKS)
    metrics = evaluator.validate(splits["train"], splits["val"])
    assert all(math.isnan(value) for value in metrics.values())
    assert evaluator.key == "val_balanced_accuracy/General"
    assert evaluator.score(metrics) == (-math.inf, -math.inf)


# ---------------------------------------------------------------------------- report
def test_report(tmp_path):
    splits = make_splits()
    table = CohortEvaluator(2, TASKS, ["ductal", "lobular"]).report(splits, tmp_path, seed=7)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2 * 3 * 12
    assert set(table["seed"]) == {7}
    assert not table["value"].isna().any()
    # Resamples of few patients are calibrated worse than the patients themselves.
    unbiased = table[table["metric"] != "ece"]
    assert (unbiased["ci_low"] <= unbiased["value"]).all()
    assert (unbiased["value"] <= unbiased["ci_high"]).all()
    assert (table["reason"] == "").all()
    values = table.set_index(["task", "split", "metric"])["value"]
    assert values["General", "train", "balanced_accuracy"] > 0.9
    assert values["General", "test", "concordance_index"] > 0.65

    for split, n in (("train", 60), ("val", 24), ("test", 30)):
        predictions = pd.read_csv(tmp_path / "predictions" / f"{split}.csv")
        assert len(predictions) == 2 * n
        for task in TASKS:
            rows = predictions[predictions["task"] == task]
            assert rows["case_id"].tolist() == splits[split].case_ids
            assert rows["label"].tolist() == splits[split].labels.tolist()
            balanced = slow_balanced_accuracy(rows["label"].tolist(), rows["prediction"].tolist())
            assert values[task, split, "balanced_accuracy"] == pytest.approx(balanced)
            concordance = slow_concordance(*(rows[c].to_numpy() for c in ("duration", "event", "risk")))
            assert values[task, split, "concordance_index"] == pytest.approx(concordance)
            shares = rows["probability ductal"] + rows["probability lobular"]
            assert shares.tolist() == pytest.approx([1] * n)

    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    kinds = ("roc", "confusion", "reliability", "kaplan_meier")
    assert figures == {f"{task}_{kind}.png" for task in ("general", "survival") for kind in kinds}
    write_results([table], tmp_path, {"Protocol": "published"})
    assert "| Balanced accuracy |" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_the_test_split_is_split_at_the_median_training_risk(tmp_path, monkeypatch):
    from utils.evaluation import plots

    splits = make_splits()
    seen = []
    monkeypatch.setattr(plots, "roc", lambda *args: None)
    monkeypatch.setattr(plots, "confusion", lambda *args: None)
    monkeypatch.setattr(plots, "reliability", lambda *args: None)
    monkeypatch.setattr(plots, "kaplan_meier", lambda *args: seen.append(args[2]) or 0.5)
    CohortEvaluator(2, TASKS).report(splits, tmp_path, seed=0)
    for task, high in enumerate(seen):
        train = survival_probe(splits["train"], splits["train"], task).risk
        test = survival_probe(splits["train"], splits["test"], task).risk
        assert high.tolist() == (test > np.median(train)).tolist()
    assert len(seen) == 2


def test_three_classes(tmp_path, no_figures):
    table = CohortEvaluator(3, TASKS).report(make_splits(classes=3), tmp_path, seed=0)
    assert not table["value"].isna().any()
    assert "probability class 2" in pd.read_csv(tmp_path / "predictions" / "test.csv")


def test_unknown_classes_and_survival_are_predicted_and_not_scored(tmp_path, no_figures):
    labels, durations = np.arange(30) % 2, np.arange(30.0)
    labels[4], durations[[5, 6]] = -1, np.nan
    splits = make_splits(test={"labels": labels, "durations": durations})
    table = CohortEvaluator(2, TASKS).report(splits, tmp_path, seed=0)
    rows = table[table["split"] == "test"].set_index(["task", "metric"])
    assert rows.loc[("General", "balanced_accuracy"), "n"] == 29
    assert rows.loc[("General", "concordance_index"), "n"] == 28
    known = ~np.isnan(durations)
    assert rows.loc[("General", "concordance_index"), "events"] == splits["test"].events[known].sum()
    # What is predicted does not depend on what is known.
    predictions = pd.read_csv(tmp_path / "predictions" / "test.csv")
    CohortEvaluator(2, TASKS).report(make_splits(), tmp_path / "known", seed=0)
    of_known = pd.read_csv(tmp_path / "known" / "predictions" / "test.csv")
    columns = ["task", "case_id", "prediction", "probability class 0", "probability class 1", "risk"]
    assert not predictions[columns].isna().any(axis=None)
    pd.testing.assert_frame_equal(predictions[columns], of_known[columns])


def test_the_stored_probes_are_those_that_predicted(tmp_path, no_figures):
    splits = make_splits()
    CohortEvaluator(2, TASKS, ("ductal, NOS", "lobular")).report(splits, tmp_path, seed=0)
    probes = StoredProbes.load(tmp_path / PROBES)
    table = pd.read_csv(tmp_path / "predictions" / "test.csv")
    assert probes.class_names == ("ductal, NOS", "lobular") and list(probes.tasks) == list(TASKS)
    for task, (name, probe) in enumerate(probes.tasks.items()):
        vectors, written = splits["test"].task(task).astype(float), table[table.task == name]
        np.testing.assert_allclose(probe.risk(vectors), written.risk, rtol=0, atol=1e-6)
        written = written[["probability ductal, NOS", "probability lobular"]]
        np.testing.assert_allclose(probe.probabilities(vectors, 2), written, rtol=0, atol=1e-6)


def test_nothing_to_predict_with_leaves_empty_cells(tmp_path, no_figures):
    splits = make_splits(train={"labels": [-1] * 60, "events": [0] * 60})
    CohortEvaluator(2, TASKS).report(splits, tmp_path, seed=0)
    columns = ["prediction", "probability class 0", "probability class 1", "risk"]
    assert pd.read_csv(tmp_path / "predictions" / "test.csv")[columns].isna().all(axis=None)


def test_splits_that_cannot_be_evaluated_say_why(tmp_path):
    splits = make_splits(train={"labels": [1] * 60, "events": [0] * 60})
    table = CohortEvaluator(2, TASKS).report(splits, tmp_path, seed=0)
    assert table["value"].isna().all()
    assert set(table.loc[table["metric"] == "auc", "reason"]) == {"only class 1 among the training cases"}
    assert set(table.loc[table["metric"] == "concordance_index", "reason"]) == {
        "no death among the training cases"
    }
    assert not (tmp_path / "figures").exists()
    predictions = pd.read_csv(tmp_path / "predictions" / "test.csv")
    assert predictions[["prediction", "probability class 0", "risk"]].isna().all(axis=None)


def test_an_absent_class_leaves_the_other_metrics(tmp_path, no_figures):
    splits = make_splits(classes=3, test={"labels": np.arange(30) % 2})
    table = CohortEvaluator(3, TASKS).report(splits, tmp_path, seed=0)
    rows = table[(table["split"] == "test") & (table["task"] == "General")].set_index("metric")
    assert math.isnan(rows.loc["auc", "value"])
    assert rows.loc["auc", "reason"] == "a class has no case here"
    assert rows.loc["balanced_accuracy", "value"] > 0


def test_small_or_missing_splits(tmp_path, no_figures):
    splits = make_splits()
    nobody = splits["val"].select(np.zeros(24, dtype=bool))
    table = CohortEvaluator(2, TASKS).report({**splits, "val": nobody}, tmp_path, seed=0)
    rows = table[table["split"] == "val"]
    assert rows["value"].isna().all()
    assert set(rows["reason"]) == {"no case of known class to score", "no case of known survival to score"}
    table = CohortEvaluator(2, TASKS).report({k: splits[k] for k in ("train", "test")}, tmp_path, seed=0)
    assert set(table["split"]) == {"train", "test"}
    with pytest.raises(ValueError, match="fitted on the split 'train'"):
        CohortEvaluator(2, TASKS).report({"test": splits["test"]}, tmp_path, seed=0)


def test_the_seed_moves_only_the_intervals(tmp_path, no_figures):
    splits = make_splits()
    evaluator = CohortEvaluator(2, TASKS)
    first, again, other = (
        evaluator.report(splits, tmp_path / str(i), seed=s) for i, s in enumerate((0, 0, 1))
    )
    pd.testing.assert_frame_equal(first, again)
    assert first["value"].tolist() == other["value"].tolist()
    assert first["ci_low"].tolist() != other["ci_low"].tolist()


def test_complete_cases_are_scored_apart_by_the_same_probes(tmp_path, no_figures):
    complete = np.arange(30) % 3 > 0
    splits = make_splits(test={"complete": complete})
    table = CohortEvaluator(2, TASKS).report(with_complete_parts(splits), tmp_path, seed=0)
    assert set(table["split"]) == {"train", "val", "test", "test_complete"}
    alone = {"train": splits["train"], "test": splits["test"].select(complete)}
    expected = CohortEvaluator(2, TASKS).report(alone, tmp_path / "alone", seed=0)
    rows = [t[t["split"] == split] for t, split in ((table, "test_complete"), (expected, "test"))]
    pd.testing.assert_frame_equal(*(r.drop(columns="split").reset_index(drop=True) for r in rows))


# ---------------------------------------------------------------------------- refused input
def test_patients_in_two_splits_are_refused(tmp_path):
    splits = make_splits(test={"case_ids": ["train-3", *(f"test-{i}" for i in range(29))]})
    evaluator = CohortEvaluator(2, TASKS)
    with pytest.raises(ValueError, match="both train and test: train-3"):
        evaluator.report(splits, tmp_path, seed=0)
    with pytest.raises(ValueError, match="both train and val"):
        evaluator.validate(splits["train"], splits["train"])


def test_the_number_of_task_tokens_must_agree():
    splits = make_splits()
    with pytest.raises(ValueError, match="the train embeddings have 2 task tokens, the evaluator 3"):
        CohortEvaluator(2, ("General", "Diagnosis", "Survival")).validate(splits["train"], splits["val"])


def test_impossible_evaluators_are_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        CohortEvaluator(1, TASKS)
    with pytest.raises(ValueError, match="no task names"):
        CohortEvaluator(2, ())
    with pytest.raises(ValueError, match="1 class names for 2 classes"):
        CohortEvaluator(2, TASKS, ["ductal"])


def test_classes_are_called_by_their_names(tmp_path, no_figures):
    splits = make_splits(train={"labels": [1] * 60}, val={"labels": [0] * 24})
    table = CohortEvaluator(2, TASKS, ("ductal", "lobular")).report(splits, tmp_path, seed=0)
    assert set(table.loc[table.metric == "auc", "reason"]) == {"only lobular among the training cases"}
    splits = make_splits(val={"labels": [0] * 24})
    table = CohortEvaluator(2, TASKS, ("ductal", "lobular")).report(splits, tmp_path, seed=0)
    scored = table[(table.split == "val") & (table.metric == "balanced_accuracy")]
    assert set(scored.reason) == {"only ductal among the scored cases"}
