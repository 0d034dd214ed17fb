"""Predictions of new patients by runs, ensembles and bundles, through the command line."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
from tests.small_cohort import make_small_cohort
from tests.small_runs import save_as_published
from utils import checkpoint
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.stored_probes import PROBES
from utils.files import FileError
from utils.prediction.__main__ import main
from utils.training.trainer import BEST_WEIGHTS

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_small_cohort(tmp_path_factory.mktemp("cohort"), train=24)


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory, quick_runs):
    """A finished run of two seeds."""
    output = tmp_path_factory.mktemp("trained") / "run"
    train_modaltune.main(cohort.flags(output, num_epochs=1, multi_seed=2))
    return output


def as_new(cohort, root):
    """Features of the test patients under names of their own, and the table that says whose they are."""
    (root / "features").mkdir(parents=True)
    rows = []
    for row in json.loads(cohort.split("test").read_text())["data"]:
        name = f"slide-{len(rows)}"
        shutil.copy(row["features_path"], root / "features" / f"{name}.h5")
        rows.append({"patient": row["case_submitter_id"], "slide": name})
    pd.DataFrame(rows).to_csv(root / "patients.csv", index=False)
    return root


@pytest.fixture(scope="module")
def new(cohort, tmp_path_factory):
    return as_new(cohort, tmp_path_factory.mktemp("new"))


def predict(new, cohort, output, *runs, patients="patients.csv", **flags):
    words = [str(run) for run in runs]
    flags = {"genomics_csv_path": cohort.genes, "device": "cpu", **flags}
    words += [f"--features_dir={new / 'features'}", f"--output={output}"]
    words += [f"--patients={new / patients}"] if patients else []
    words += [f"--{name}={value}" for name, value in flags.items() if value is not None]
    status = main(words)
    return status, pd.read_csv(output, keep_default_na=False, na_values=[""])


def evaluated(run, seed, task="General"):
    """What the evaluation of the run wrote about its test patients, and the embeddings."""
    table = pd.read_csv(run / seed / "predictions" / "test.csv")
    return table[table["task"] == task].set_index("case_id")


def case_ids(cohort):
    rows = json.loads(cohort.split("test").read_text())["data"]
    return {row["case_submitter_id"]: row["case_id"] for row in rows}


def test_predictions_are_those_of_the_evaluation(trained, cohort, new, tmp_path):
    status, table = predict(new, cohort, tmp_path / "p.csv", trained)
    assert status == 0 and table["error"].isna().all()
    ids = case_ids(cohort)
    assert sorted(table["patient"]) == sorted(ids)
    seeds = [evaluated(trained, f"seed_{s}") for s in (0, 1)]
    for row in table.itertuples():
        case = ids[row.patient]
        for column in ("probability class 1", "risk"):
            values = [seed.loc[case, column] for seed in seeds]
            got = table.set_index("patient").loc[row.patient]
            assert got[column] == pytest.approx(np.mean(values), abs=1e-6)
            assert got[f"{column}_sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert table["risk_percentile"].between(0, 100).all()
    alive = table[["survival_12_months", "survival_36_months"]].dropna()
    assert (alive.to_numpy() >= 0).all() and (alive.iloc[:, 0] >= alive.iloc[:, 1]).all()


def test_a_bundle_predicts_alone(trained, cohort, new, tmp_path):
    _, before = predict(new, cohort, tmp_path / "before.csv", trained)
    copy = tmp_path / "elsewhere" / "run"
    shutil.copytree(trained, copy)
    checkpoint.main(["bundle", str(copy), str(tmp_path / "bundle")])
    shutil.rmtree(copy)
    _, after = predict(new, cohort, tmp_path / "after.csv", tmp_path / "bundle")
    pd.testing.assert_frame_equal(before, after, rtol=1e-6)
    card = (tmp_path / "bundle" / "README.md").read_text()
    for part in (
        "longnetvit_gene_adapter",
        "24 training patients",
        "Balanced accuracy",
        "no decision about a patient",
    ):
        assert part in card
    with (tmp_path / "bundle" / "seed_0" / BEST_WEIGHTS).open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(ValueError, match=r"1 files of the bundle are missing or changed: \['seed_0"):
        predict(new, cohort, tmp_path / "p.csv", tmp_path / "bundle")


def test_one_bad_patient_does_not_stop_the_others(trained, cohort, new, tmp_path):
    folder = tmp_path / "new"
    shutil.copytree(new, folder)
    table = pd.read_csv(folder / "patients.csv", dtype=str)
    first, second, *_ = table["patient"].unique()
    (folder / "features" / f"{table.loc[table.patient == first, 'slide'].iloc[0]}.h5").write_bytes(b"damaged")
    extra = {"H-0042": "nowhere", "H-0043": "scans/slide-x.svs", second: "gone", "H-0044": None}
    extra = pd.DataFrame({"patient": list(extra), "slide": list(extra.values())})
    shutil.copy(next((new / "features").glob("*.h5")), folder / "features" / "slide-x.h5")
    pd.concat([table, extra]).to_csv(folder / "patients.csv", index=False)
    status, found = predict(folder, cohort, tmp_path / "p.csv", trained)
    found = found.set_index("patient")
    assert status == 0 and found["error"].notna().sum() == 4
    assert found.loc["H-0042", "error"] == "no feature file for slide nowhere"
    assert found.loc["H-0044", "error"] == "no slide"
    assert "no RNA, which longnetvit_gene_adapter needs" in found.loc["H-0043", "error"]
    assert ".h5" in found.loc[first, "error"] and np.isnan(found.loc[first, "risk"])
    assert found.loc[second, "note"] == "no feature file for slide gone" and found.loc[
        second, "risk"
    ] == pytest.approx(found.loc[second, "risk"])
    status, found = predict(folder, cohort, tmp_path / "p.csv", trained, genomics_csv_path=None)
    assert status == 1 and found["error"].notna().all()


def test_file_names_say_whose_a_slide_is(trained, cohort, new, tmp_path):
    folder = tmp_path / "new" / "features"
    folder.mkdir(parents=True)
    sources = sorted((new / "features").glob("*.h5"))
    barcode = pd.read_csv(cohort.genes, index_col=0).index[0]
    for name, source in zip(
        ("TCGA-AA-0000-01Z-00-DX1", "TCGA-AA-0000-11A-01-TS1", "TCGA-AA-0000-01Z-00-DX2"),
        sources,
        strict=False,
    ):
        shutil.copy(source, folder / f"{name}.h5")
    genes = pd.read_csv(cohort.genes, index_col=0).rename(index={barcode: "TCGA-AA-0000"})
    genes.to_csv(tmp_path / "genes.csv")
    flags = {"patients": None, "genomics_csv_path": tmp_path / "genes.csv", "embeddings": tmp_path / "e.csv"}
    words = {**flags, "device": "cpu"}
    status, table = predict(tmp_path / "new", cohort, tmp_path / "p.csv", trained, **words)
    assert status == 0 and table["patient"].tolist() == ["TCGA-AA-0000"]
    assert table["slides"].item() == "TCGA-AA-0000-01Z-00-DX1;TCGA-AA-0000-01Z-00-DX2"
    assert "TS1 is of normal tissue" in table["note"].item()
    embedded = pd.read_csv(tmp_path / "e.csv")
    assert embedded["task"].tolist() == ["General", "Diagnosis", "Survival"] * 2


def test_embeddings_equal_those_of_the_run(trained, cohort, new, tmp_path):
    predict(new, cohort, tmp_path / "p.csv", trained, embeddings=tmp_path / "e.npz")
    ids = case_ids(cohort)
    with np.load(tmp_path / "e.npz") as found:
        assert found["models"].tolist() == ["run/seed_0", "run/seed_1"]
        for number in range(2):
            theirs = Embeddings.load(trained / f"seed_{number}" / "data" / "test_embeddings.npz")
            order = [theirs.case_ids.index(ids[patient]) for patient in found["patients"]]
            np.testing.assert_allclose(found["vectors"][number], theirs.vectors[order], atol=1e-6)


def test_probes_of_an_evaluation_and_published_weights(trained, cohort, new, tmp_path):
    weights = save_as_published(trained / "seed_0" / BEST_WEIGHTS, tmp_path / "published.pt")
    with pytest.raises(
        FileNotFoundError, match=r"published\.pt is no run folder.*--eval_only --eval_weights"
    ):
        predict(new, cohort, tmp_path / "p.csv", weights)
    flags = cohort.flags(tmp_path / "eval", eval_only=True, eval_weights=weights)
    train_modaltune.main(flags)
    checkpoint.main(["bundle", str(tmp_path / "eval"), str(tmp_path / "bundle")])
    for folder in ("eval", "bundle"):
        status, found = predict(new, cohort, tmp_path / "p.csv", tmp_path / folder)
        theirs, ids = evaluated(tmp_path / "eval", "seed_0"), case_ids(cohort)
        assert status == 0 and len(found) == len(ids)
        for row in found.itertuples():
            assert row.risk == pytest.approx(theirs.loc[ids[row.patient], "risk"], abs=1e-6)


def test_a_cohort_that_was_evaluated_keeps_its_own_scale(trained, new, tmp_path, quick_runs):
    """Its genes are standardised over itself; the means of the training would make them another patient's."""
    other = make_small_cohort(tmp_path / "other", first=100, train=24)
    genes = pd.read_csv(other.genes, index_col=0)
    (5 + 3 * genes).to_csv(other.genes)
    train_modaltune.main(other.flags(tmp_path / "ood", eval_only=True, eval_weights=trained))
    _, found = predict(as_new(other, tmp_path / "new"), other, tmp_path / "p.csv", tmp_path / "ood")
    theirs, ids = [evaluated(tmp_path / "ood", f"seed_{s}")["risk"] for s in (0, 1)], case_ids(other)
    for row in found.itertuples():
        assert row.risk == pytest.approx(np.mean([risk[ids[row.patient]] for risk in theirs]), abs=1e-6)


def test_what_is_no_run_is_said(trained, cohort, new, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for path in (tmp_path / "run").rglob(PROBES):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no probes\.npz.*Fit the probes"):
        predict(new, cohort, tmp_path / "p.csv", tmp_path / "run")
    with pytest.raises(ValueError, match="--task Nobody"):
        predict(new, cohort, tmp_path / "p.csv", trained, task="Nobody")
    pd.DataFrame({"patient": ["a", "b"], "slide": ["s", "s"]}).to_csv(new / "shared.csv", index=False)
    with pytest.raises(ValueError, match=r"slide s is of several patients: \['a', 'b'\]"):
        predict(new, cohort, tmp_path / "p.csv", trained, patients="shared.csv")
    pd.DataFrame({"patient": ["a", None], "slide": ["s", "t"]}).to_csv(new / "empty.csv", index=False)
    with pytest.raises(ValueError, match=r"1 rows have no patient, the first is {'slide': 't'}"):
        predict(new, cohort, tmp_path / "p.csv", trained, patients="empty.csv")
    pd.DataFrame({"Patient": ["a"], "slide": ["s"]}).to_csv(new / "columns.csv", index=False)
    with pytest.raises(ValueError, match=r"lacks the columns \['patient'\]; it has \['Patient', 'slide'\]"):
        predict(new, cohort, tmp_path / "p.csv", trained, patients="columns.csv")
    assert torch.load(trained / "seed_0" / BEST_WEIGHTS, weights_only=True)["run"]["seed"] == 0


@pytest.mark.parametrize("name", [BEST_WEIGHTS, PROBES])
def test_weights_and_probes_of_different_trainings(trained, cohort, new, tmp_path, name):
    """They fit in shape, and would predict nonsense."""
    shutil.copytree(trained, tmp_path / "run")
    shutil.copy(trained / "seed_1" / name, tmp_path / "run" / "seed_0" / name)
    with pytest.raises(FileError, match=rf"seed_0/{name} is not that of .*of different trainings"):
        predict(new, cohort, tmp_path / "p.csv", tmp_path / "run")
    for record in (tmp_path / "run").rglob("fitted_by.json"):  # as runs of older versions
        record.unlink()
    assert predict(new, cohort, tmp_path / "p.csv", tmp_path / "run")[0] == 0


def test_tables_of_patients_that_mix_them_up(trained, cohort, new, tmp_path):
    for rows, words in (
        (
            [("TCGA-AA-0001", "TCGA-AA-0002-01Z-00-DX1")],
            "DX1 belongs to the patients TCGA-AA-0002 and TCGA-AA-0001",
        ),
        ([("H-1", "a"), ("h-1", "b")], "'H-1' and 'h-1' differ in upper and lower case"),
    ):
        pd.DataFrame(rows, columns=["patient", "slide"]).to_csv(new / "mixed.csv", index=False)
        with pytest.raises(FileError, match=rf"mixed\.csv: .*{words}"):
            predict(new, cohort, tmp_path / "p.csv", trained, patients="mixed.csv")


def test_features_of_another_patient_are_said(trained, cohort, tmp_path, caplog):
    new = as_new(cohort, tmp_path / "new")
    shutil.copy(new / "features" / "slide-0.h5", new / "features" / "slide-2.h5")
    predict(new, cohort, tmp_path / "p.csv", trained)
    assert "hold the patches of another patient" in caplog.text and "slide-2.h5" in caplog.text


def test_two_outputs_in_one_file(trained, cohort, new, tmp_path, capsys):
    with pytest.raises(SystemExit):
        predict(new, cohort, tmp_path / "p.csv", trained, embeddings=tmp_path / "x" / ".." / "p.csv")
    assert "name two files" in capsys.readouterr().err and not (tmp_path / "p.csv").exists()
