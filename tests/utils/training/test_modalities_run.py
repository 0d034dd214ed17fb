"""Runs of ``train_modaltune.py`` with more modalities than genes, and with patients who lack some."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
from data_utils.tables.clinical import ClinicalCodes, RawClinical, read_clinical_table
from tests.small_cohort import make_small_cohort
from tests.small_runs import save_as_published, small_model
from utils import constants
from utils.evaluation.embeddings import Embeddings
from utils.files import write_json
from utils.training import checkpoint
from utils.training.trainer import BEST_WEIGHTS

pytestmark = pytest.mark.usefixtures("quick_runs")

CLINICAL = "longnetvit_gene_clinical_adapter"
EVERYTHING = "longnetvit_gene_clinical_vectors_adapter"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Patients 3, 9 and 13, of training, validation and test, have no RNA."""
    return make_small_cohort(tmp_path_factory.mktemp("cohort"), without_genes=(3, 9, 13))


@pytest.fixture(scope="module")
def clinical_run(cohort, tmp_path_factory, quick_runs):
    output = tmp_path_factory.mktemp("clinical")
    train_modaltune.main(
        cohort.flags(output, mil_name=CLINICAL, clinical_location=cohort.clinical_values, num_epochs=1)
    )
    return output


@pytest.fixture(scope="module")
def learned_run(cohort, tmp_path_factory, quick_runs):
    output = tmp_path_factory.mktemp("learned") / "run"
    flags = {"missing_modalities": "learned", "modality_dropout": 0.4, "num_epochs": 2}
    tables = {"clinical_location": cohort.clinical_values, "vectors_location": cohort.vectors}
    train_modaltune.main(cohort.flags(output, mil_name=EVERYTHING, **flags, **tables))
    return output


def report(folder):
    return (folder / "report.csv").read_text()


def embedded(folder, split="test"):
    return Embeddings.load(folder / "seed_0" / "data" / f"{split}_embeddings.npz")


def run_of(output):
    return checkpoint.load_weights(output / "seed_0" / BEST_WEIGHTS)["run"]


# ---------------------------------------------------------------------------- clinical
def test_codes_are_kept_with_the_run(clinical_run, cohort):
    codes = RawClinical(read_clinical_table(cohort.clinical_values).values).fit()
    assert run_of(clinical_run)["fitted"]["clinical"] == codes.to_dict()
    assert (
        json.loads((clinical_run / "config.json").read_text())["inputs"]["clinical"]["codes"]
        == codes.to_dict()
    )
    names = checkpoint.load_weights(clinical_run / "seed_0" / BEST_WEIGHTS)["model"]
    assert "modality_encoders.clinical.network.0.weight" in names
    assert not any("absent" in name for name in names)


def test_strict_codes_come_from_the_training_patients(cohort, tmp_path):
    flags = {"mil_name": CLINICAL, "clinical_location": cohort.clinical_values, "protocol": "strict"}
    train_modaltune.main(cohort.flags(tmp_path, num_epochs=1, **flags))
    codes = read_clinical_table(cohort.clinical_values).fit({f"case-{i}" for i in range(8)})
    assert run_of(tmp_path)["fitted"]["clinical"] == codes.to_dict()
    assert codes != read_clinical_table(cohort.clinical_values).fit()


def test_evaluating_a_clinical_run_reproduces_it(clinical_run, cohort, tmp_path):
    flags = {"mil_name": CLINICAL, "clinical_location": cohort.clinical_values, "eval_only": True}
    train_modaltune.main(cohort.flags(tmp_path, eval_weights=clinical_run, **flags))
    assert report(tmp_path / "seed_0") == report(clinical_run / "seed_0")


def test_tensors_with_the_same_codes_give_the_same_numbers(clinical_run, cohort, tmp_path):
    raw = read_clinical_table(cohort.clinical_values)
    torch.save(raw.encode(raw.fit()), tmp_path / "c.pt")
    write_json(tmp_path / "c_codes.json", {"protocol": "published", **raw.fit().to_dict()})
    flags = {"mil_name": CLINICAL, "clinical_location": tmp_path / "c.pt", "num_epochs": 1}
    train_modaltune.main(cohort.flags(tmp_path / "run", **flags))
    assert report(tmp_path / "run" / "seed_0") == report(clinical_run / "seed_0")
    assert run_of(tmp_path / "run")["fitted"]["clinical"] == run_of(clinical_run)["fitted"]["clinical"]


def test_published_clinical_weights_need_features_with_their_codes(clinical_run, cohort, tmp_path, caplog):
    weights = clinical_run / "seed_0" / BEST_WEIGHTS
    published = save_as_published(weights, tmp_path / "published.pt", CLINICAL)
    flags = {"mil_name": CLINICAL, "eval_only": True, "eval_weights": published}
    with pytest.raises(ValueError, match="the trained weights hold no clinical codes"):
        train_modaltune.main(cohort.flags(tmp_path / "no", clinical_location=cohort.clinical_values, **flags))
    raw = read_clinical_table(cohort.clinical_values)
    torch.save(raw.encode(raw.fit()), tmp_path / "c.pt")
    with caplog.at_level(logging.WARNING):
        train_modaltune.main(cohort.flags(tmp_path / "yes", clinical_location=tmp_path / "c.pt", **flags))
    assert "c.pt: not known whether its codes are those of the model" in caplog.text
    assert report(tmp_path / "yes" / "seed_0") == report(clinical_run / "seed_0")


@pytest.fixture
def new_cohort(tmp_path):
    """Another cohort, of unknown categories, one high age and one missing one."""
    other = make_small_cohort(tmp_path / "other", first=100)
    values = pd.read_csv(other.clinical_values, index_col=0)
    values.loc["case-112"] = [95, "Stage X", "T0", None, "M9"]
    values.loc["case-113", "age_at_index"] = None
    values.to_csv(other.clinical_values)
    return other


def test_a_new_cohort_is_encoded_with_the_codes_of_the_training(
    clinical_run, cohort, new_cohort, tmp_path, caplog
):
    flags = {"mil_name": CLINICAL, "eval_only": True, "eval_weights": clinical_run}
    with caplog.at_level(logging.WARNING):
        train_modaltune.main(
            new_cohort.flags(tmp_path / "ood", clinical_location=new_cohort.clinical_values, **flags)
        )
    for text in ("['Stage X'] get the code of unknown (1 of 16 cases)", "['M9']", "missing ages set to the"):
        assert text in caplog.text
    cases = embedded(tmp_path / "ood")
    assert cases.case_ids == [f"case-{i}" for i in range(112, 116)] and np.isfinite(cases.vectors).all()

    # Independently: the features written down by hand, as tensors.
    codes = ClinicalCodes.from_dict(run_of(clinical_run)["fitted"]["clinical"], "run")
    tensors = {}
    for case, row in pd.read_csv(new_cohort.clinical_values, index_col=0).iterrows():
        age, *texts = (None if pd.isna(value) else value for value in row)
        numbers = [
            table.get(text or "Nan", len(table))
            for text, table in zip(texts, codes.codes.values(), strict=True)
        ]
        tensors[case] = torch.tensor([(codes.median_age if age is None else age) / codes.max_age, *numbers])
    assert tensors["case-112"].tolist() == pytest.approx([95 / codes.max_age, 3, 1, 2, 1])
    torch.save(tensors, tmp_path / "by_hand.pt")
    train_modaltune.main(
        new_cohort.flags(tmp_path / "again", clinical_location=tmp_path / "by_hand.pt", **flags)
    )
    assert report(tmp_path / "again" / "seed_0") == report(tmp_path / "ood" / "seed_0")


def test_features_of_the_new_cohorts_own_codes_are_refused(clinical_run, new_cohort, tmp_path):
    raw = read_clinical_table(new_cohort.clinical_values)
    torch.save(raw.encode(raw.fit()), tmp_path / "c.pt")
    write_json(tmp_path / "c_codes.json", raw.fit().to_dict())
    flags = {"mil_name": CLINICAL, "eval_only": True, "eval_weights": clinical_run}
    with pytest.raises(ValueError, match=r"c\.pt was made with other codes than those of the trained model"):
        train_modaltune.main(new_cohort.flags(tmp_path / "ood", clinical_location=tmp_path / "c.pt", **flags))


# ---------------------------------------------------------------------------- missing modalities
def test_published_behaviour_leaves_patients_out_and_says_how_many(clinical_run, cohort, tmp_path, caplog):
    assert embedded(clinical_run, "train").case_ids == [f"case-{i}" for i in range(8) if i != 3]
    with caplog.at_level(logging.INFO):
        train_modaltune.main(cohort.flags(tmp_path, num_epochs=1))
    assert "test: 1 of 4 patients are left out: 1 have no RNA" in caplog.text
    assert "_complete" not in report(tmp_path / "seed_0")


def test_everyone_trains_and_is_evaluated(learned_run):
    table = pd.read_csv(learned_run / "results.csv")
    splits = [f"{split}{part}" for split in constants.SPLITS for part in ("", "_complete")]
    assert set(table.split) == set(splits)
    for split in constants.SPLITS:
        everyone, complete = (
            table[(table.split == name) & (table.metric == "balanced_accuracy") & (table.run == "mean")].n
            for name in (split, f"{split}_complete")
        )
        assert (everyone - 1).tolist() == complete.tolist()
        cases = embedded(learned_run, split)
        assert [case for case, whole in zip(cases.case_ids, cases.complete, strict=True) if not whole] == [
            {"train": "case-3", "val": "case-9", "test": "case-13"}[split]
        ]
    assert "**missing_modalities**: learned\n" in (learned_run / "results.md").read_text()
    arguments = json.loads((learned_run / "config.json").read_text())["arguments"]
    assert (arguments["data"]["missing_modalities"], arguments["training"]["modality_dropout"]) == (
        "learned",
        0.4,
    )


def test_the_complete_part_is_scored_by_the_same_probes(learned_run):
    folder = learned_run / "seed_0" / "predictions"
    everyone, complete = (pd.read_csv(folder / f"{name}.csv") for name in ("test", "test_complete"))
    kept = everyone[everyone.case_id != "case-13"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, complete)


def test_learned_tokens_learn_and_are_saved(learned_run):
    content = checkpoint.load_weights(learned_run / "seed_0" / BEST_WEIGHTS)
    model = small_model(EVERYTHING, vectors=(2, 5), missing="learned")
    initial = checkpoint.trainable_state(model)
    assert content["model"].keys() == initial.keys()
    for name in ("genes", "clinical", "vectors"):
        key = f"absent_tokens.{name}"
        assert not torch.equal(content["model"][key], initial[key]), name
    assert content["run"]["structures"]["vectors"] == [2, 5]


def test_modality_dropout_is_the_same_for_the_same_seed(learned_run, cohort, tmp_path):
    flags = {"missing_modalities": "learned", "modality_dropout": 0.4, "workers": 2, "mil_name": EVERYTHING}
    tables = {"clinical_location": cohort.clinical_values, "vectors_location": cohort.vectors}
    train_modaltune.main(cohort.flags(tmp_path / "again", **flags, **tables))
    assert report(tmp_path / "again" / "seed_0") == report(learned_run / "seed_0")
    flags["modality_dropout"] = 0.0
    train_modaltune.main(cohort.flags(tmp_path / "without", **flags, **tables))
    assert report(tmp_path / "without" / "seed_0") != report(learned_run / "seed_0")


def test_evaluating_it_needs_no_flag(learned_run, cohort, tmp_path):
    tables = {"clinical_location": cohort.clinical_values, "vectors_location": cohort.vectors}
    train_modaltune.main(cohort.flags(tmp_path / "again", eval_only=True, eval_weights=learned_run, **tables))
    assert report(tmp_path / "again" / "seed_0") == report(learned_run / "seed_0")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["model"]["missing_modalities"] == "learned"


def test_a_cohort_of_nothing_but_images(learned_run, new_cohort, tmp_path, caplog):
    flags = {"eval_only": True, "eval_weights": learned_run, "genomics_csv_path": None, "text_location": None}
    with caplog.at_level(logging.WARNING):
        train_modaltune.main(new_cohort.flags(tmp_path / "ood", **flags))
    for flag in ("genomics_csv_path", "clinical_location", "vectors_location"):
        assert f"no --{flag}: learned tokens stand for the" in caplog.text
    cases = embedded(tmp_path / "ood")
    said = "learned, nobody has clinical features or precomputed vectors or RNA"
    assert f"**missing_modalities**: {said}" in (tmp_path / "ood" / "results.md").read_text()
    assert len(cases) == 4 and not cases.complete.any() and np.isfinite(cases.vectors).all()
    assert set(pd.read_csv(tmp_path / "ood" / "results.csv").split) == set(constants.SPLITS)


def test_some_tables_of_a_new_cohort_are_used(learned_run, new_cohort, tmp_path):
    flags = {"eval_only": True, "eval_weights": learned_run, "mil_name": EVERYTHING}
    vectors = {}
    for name, changes in {
        "all": {"clinical_location": new_cohort.clinical_values, "vectors_location": new_cohort.vectors},
        "no_genes": {
            "genomics_csv_path": "none",
            "clinical_location": new_cohort.clinical_values,
            "vectors_location": new_cohort.vectors,
        },
        "no_vectors": {"clinical_location": new_cohort.clinical_values},
    }.items():
        train_modaltune.main(new_cohort.flags(tmp_path / name, **flags, **changes))
        cases = embedded(tmp_path / name)
        assert cases.complete.all() == (name == "all")
        vectors[name] = cases.vectors
    assert not np.allclose(vectors["all"], vectors["no_genes"])
    assert not np.allclose(vectors["all"], vectors["no_vectors"])


# ---------------------------------------------------------------------------- what stops a run
def test_weights_without_learned_tokens_cannot_do_without_a_modality(clinical_run, cohort, tmp_path):
    flags = {"mil_name": CLINICAL, "eval_only": True, "eval_weights": clinical_run}
    with pytest.raises(ValueError, match=f"{CLINICAL} needs --genomics_csv_path, which was not given"):
        train_modaltune.main(
            cohort.flags(tmp_path, genomics_csv_path=None, clinical_location=cohort.clinical_values, **flags)
        )
    with pytest.raises(ValueError, match="the weights have no learned tokens for missing modalities"):
        train_modaltune.main(
            cohort.flags(
                tmp_path,
                clinical_location=cohort.clinical_values,
                missing_modalities="learned",
                **flags,
            )
        )


def test_vectors_of_another_width_name_the_case(learned_run, new_cohort, tmp_path):
    torch.save({f"case-{i}": torch.zeros(2, 7) for i in range(100, 116)}, new_cohort.vectors)
    flags = {"eval_only": True, "eval_weights": learned_run, "vectors_location": new_cohort.vectors}
    with pytest.raises(ValueError, match=r"case case-100 has vectors \(2, 7\), the model takes \[2, 5\]"):
        train_modaltune.main(
            new_cohort.flags(tmp_path / "ood", clinical_location=new_cohort.clinical_values, **flags)
        )
