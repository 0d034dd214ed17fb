"""Baselines and label objectives through the entry point: trained, evaluated again, applied elsewhere, resumed."""

import json

import numpy as np
import pandas as pd
import pytest

import train_modaltune
from tests.small_cohort import IN_DIM, MODEL_CONFIG, make_small_cohort
from utils.training import checkpoint
from utils.training.trainer import BEST_WEIGHTS, LAST_CHECKPOINT, Trainer

pytestmark = pytest.mark.usefixtures("quick_runs")
FEATURES = {"feature_dim": IN_DIM}
CONFIGS = {
    "abmil": FEATURES,
    "transmil": {**FEATURES, "dim": 16, "heads": 2, "landmarks": 4},
    "mlp": {},
    "snn": {},
    "gene_mixer": {"dim": 8, "hidden_dim": 8, "depth": 1, "num_tokens": 4},
    "clinical_mlp": {},
    "survpath": {**FEATURES, "dim": 16},
    "abmil_cat": {**FEATURES, "fusion": {"dim": 16}},
    "transmil_cat": {**FEATURES, "dim": 16, "heads": 2, "landmarks": 4},
    "mcat": {**FEATURES, "dim": 16, "heads": 2, "signatures": "signatures.csv"},
    **dict.fromkeys(("longnetvit_probe", "longnetvit_tuned", "longnetvit_cat"), MODEL_CONFIG),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    cohort = make_small_cohort(tmp_path_factory.mktemp("cohort"), train=12)
    rows = json.loads(cohort.split("train").read_text())["data"]
    for row in rows:
        number = int(row["case_id"].removeprefix("case-"))
        row["durations"], row["vital_status"] = 3.0 + 2 * number, 1
        if number == 5:
            row["primary_class"] = -1
    cohort.split("train").write_text(json.dumps({"data": rows}))
    (cohort.root / "signatures.csv").write_text("One,Two\nG1,G3\nG2,G4\nG9,\n")
    return cohort


def flags(cohort, output, name, **changes):
    config = dict(CONFIGS.get(name, json.loads(cohort.model_config.read_text())))
    if "signatures" in config:
        config["signatures"] = str(cohort.root / "signatures.csv")
    path = cohort.root / f"{name}.json"
    path.write_text(json.dumps(config))
    own = {"mil_name": name, "model_config": path, "clinical_location": cohort.clinical_values, "lr": 1e-2}
    return cohort.flags(output, **({"text_location": None} | own | changes))


def results(folder):
    table = pd.read_csv(folder / "results.csv")
    return table[table.run == "mean"].set_index(["task", "split", "metric"]).value


@pytest.mark.parametrize("name", CONFIGS)
def test_every_baseline_trains_and_is_evaluated_again(name, cohort, tmp_path):
    train_modaltune.main(flags(cohort, tmp_path / "run", name, num_epochs=1))
    found = results(tmp_path / "run")
    assert set(found.index.get_level_values("task")) == {"General"}
    metrics = set(found.index.get_level_values("metric"))
    assert {"balanced_accuracy", "head_balanced_accuracy", "head_concordance_index"} <= metrics
    run = checkpoint.load_weights(tmp_path / "run" / "seed_0" / BEST_WEIGHTS)["run"]
    assert run["objective"]["name"] == "multitask" and len(run["objective"]["bins"]["edges"]) == 5
    again = flags(cohort, tmp_path / "eval", name, eval_only=True, eval_weights=tmp_path / "run")
    train_modaltune.main(again)
    pd.testing.assert_series_equal(results(tmp_path / "eval"), found)


@pytest.mark.parametrize("objective", ["subtype", "survival", "multitask", "distill+multitask"])
def test_modaltune_trains_under_every_objective(objective, cohort, tmp_path, caplog):
    needs = {"text_location": cohort.texts} if "distill" in objective else {}
    with caplog.at_level("INFO"):
        changes = {"objective": objective, "num_epochs": 1, **needs}
        train_modaltune.main(flags(cohort, tmp_path, "longnetvit_gene_adapter", **changes))
    left_out = "1 training patients have no label that --objective subtype learns from"
    assert (left_out in caplog.text) == (objective == "subtype")
    found = results(tmp_path)
    heads = {key for key in found.index if key[2].startswith("head_")}
    assert {task for task, _, _ in heads} == {
        "subtype": {"Diagnosis"},
        "survival": {"Survival"},
        "multitask": {"Diagnosis", "Survival"},
        "distill+multitask": {"Diagnosis", "Survival"},
    }[objective]
    losses = pd.read_csv(tmp_path / "seed_0" / "metrics.csv").loss
    assert np.isfinite(losses).all()


def test_a_killed_baseline_goes_on_where_it_was(cohort, tmp_path, monkeypatch):
    train_modaltune.main(flags(cohort, tmp_path / "whole", "abmil_cat"))
    step = Trainer._train_epoch

    def die(self, dataset, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return step(self, dataset, epoch)

    monkeypatch.setattr(Trainer, "_train_epoch", die)
    with pytest.raises(KeyboardInterrupt):
        train_modaltune.main(flags(cohort, tmp_path / "killed", "abmil_cat"))
    monkeypatch.setattr(Trainer, "_train_epoch", step)
    train_modaltune.main(flags(cohort, tmp_path / "killed", "abmil_cat"))
    one, other = (
        checkpoint.load(tmp_path / folder / "seed_0" / LAST_CHECKPOINT) for folder in ("whole", "killed")
    )
    for part in ("model", "objective"):
        assert all(np.array_equal(one[part][name], other[part][name]) for name in one[part])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("abmil", {"objective": "distill"}, "abmil can be trained under multitask, subtype, survival"),
        ("abmil", {"task_weights": "1,2,3"}, "objective multitask has the parts subtype, survival"),
        ("abmil", {"nll_alpha": 2}, "--nll_alpha must be between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(name, changes, message, cohort, tmp_path, capsys):
    with pytest.raises((SystemExit, ValueError)) as stopped:
        train_modaltune.main(flags(cohort, tmp_path, name, **changes))
    assert message in str(stopped.value) + capsys.readouterr().err


def test_a_group_without_genes_is_named(cohort, tmp_path):
    words = flags(cohort, tmp_path, "mcat")
    (cohort.root / "signatures.csv").write_text("One,Two\nG1,NOBODY\n")
    with pytest.raises(ValueError, match=r"no gene of the groups \['Two'\]"):
        train_modaltune.main(words)
    (cohort.root / "signatures.csv").write_text("One,Two\nG1,G3\nG2,G4\nG9,\n")
