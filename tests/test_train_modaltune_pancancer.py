"""Pan-cancer training through its entry point, and its weights on a cohort they have never seen."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
import train_modaltune_pancancer
from data_utils.cases.cohort_data import CohortData
from data_utils.cases.datasets import ModalityOptions, PatchOptions
from models.modalities import read_tables
from tests.small_cohort import make_small_cohort
from utils import constants
from utils.arguments import parse_args

pytestmark = pytest.mark.usefixtures("quick_runs")
PROJECT = {"BRCA": "TCGA-BRCA", "GBMLGG": "TCGA-LGG"}


def candidates(*cohorts):
    generator = torch.Generator().manual_seed(0)
    names = {"class_0": 2, "class_1": 1, "died": 4, "censored": 4}
    return {
        cohort: {name: torch.randn(rows, 512, generator=generator) for name, rows in names.items()}
        for cohort in cohorts
    }


@pytest.fixture(scope="module")
def union(tmp_path_factory):
    """Two small cohorts in one, laid out as data_utils.make_pancancer does."""
    root = tmp_path_factory.mktemp("pancancer")
    parts = {site: make_small_cohort(root / site, first=100 * k) for k, site in enumerate(PROJECT)}
    joined = parts["BRCA"]
    for split in constants.SPLITS:
        rows = []
        for site, part in parts.items():
            data = json.loads(part.split(split).read_text())["data"]
            rows += [{**row, "project_id": PROJECT[site], "site": site} for row in data]
        joined.split(split).write_text(json.dumps({"data": rows}))
    tables = []
    for site, part in parts.items():
        table = pd.read_csv(part.genes)
        table.insert(1, "site", site)
        if site == "GBMLGG":
            table.iloc[:, 2:] = 50 + 7 * table.iloc[:, 2:]  # another laboratory
        tables.append(table)
    pd.concat(tables).to_csv(joined.genes, index=False)
    torch.save(torch.load(joined.texts) | torch.load(parts["GBMLGG"].texts), joined.texts)
    torch.save(candidates(*PROJECT), root / "candidates.pt")
    return joined


def flags(union, output, **changes):
    words = union.flags(output, candidate_location=union.root.parent / "candidates.pt", **changes)
    return [*words, "--sites", *PROJECT]


@pytest.fixture(scope="module")
def trained(union, tmp_path_factory, quick_runs):
    output = tmp_path_factory.mktemp("run") / "run"
    train_modaltune_pancancer.main(flags(union, output, site_sampling="balanced"))
    return output


def test_a_run_reports_every_site(trained):
    results = pd.read_csv(trained / "results.csv", keep_default_na=False)
    assert set(results.site) == {*PROJECT, "overall"}
    metrics = set(results[(results.run == "mean") & (results.site == "BRCA")].metric)
    assert {"balanced_accuracy", "pooled_concordance_index", "zero_shot_balanced_accuracy"} <= metrics
    assert "| | BRCA | GBMLGG | overall |" in (trained / "results.md").read_text()
    history = pd.read_csv(trained / "seed_0" / "metrics.csv")
    of_sites = history[[f"val_site_balanced_accuracy/{site}" for site in PROJECT]].mean(axis=1)
    np.testing.assert_allclose(history["val_balanced_accuracy/General"], of_sites)
    arguments = json.loads((trained / "config.json").read_text())["arguments"]
    assert arguments["data"]["options"]["genes"]["gene_scaling"] == "union"
    assert arguments["data"]["num_classes"] == [2, 2]


def test_weights_hold_what_deployment_needs(trained):
    weights = torch.load(trained / "seed_0" / "best_model_weights.pt", weights_only=True)
    assert set(weights["run"]["fitted"]["genes"]) == {"all"}
    assert "projector.0.weight" in weights["objective"]


def test_deployment_on_an_unseen_site_is_also_zero_shot(trained, tmp_path):
    unseen = make_small_cohort(tmp_path / "blca", first=500)
    torch.save(candidates("BLCA"), tmp_path / "candidates.pt")
    changes = {"eval_only": True, "eval_weights": trained, "candidate_location": tmp_path / "candidates.pt"}
    train_modaltune.main(unseen.flags(tmp_path / "run", **changes))
    results = pd.read_csv(tmp_path / "run" / "results.csv", keep_default_na=False)
    assert {"balanced_accuracy", "zero_shot_balanced_accuracy", "zero_shot_concordance_index"} <= set(
        results.metric
    )
    again = tmp_path / "again"  # the projector comes from the checkpoint, not from the seed
    train_modaltune.main(unseen.flags(again, **changes, seed=7))
    one, other = (
        pd.read_csv(folder / "seed_0" / "predictions" / "test.csv") for folder in (tmp_path / "run", again)
    )
    pd.testing.assert_frame_equal(one, other)
    other = pd.read_csv(again / "results.csv", keep_default_na=False)
    keep = results.metric.str.startswith("zero_shot")
    assert results[keep].value.tolist() == other[keep].value.tolist()


def test_clinical_values_of_all_sites_share_their_codes_and_patients_may_lack_rna(union, tmp_path):
    """Every third patient of the second site has no RNA; its clinical texts occur at no other site."""
    parts = [pd.read_csv(union.root.parent / site / "clinical.csv", index_col=0) for site in PROJECT]
    parts[1]["ajcc_pathologic_stage"] = "Stage IV"
    pd.concat(parts).to_csv(tmp_path / "clinical.csv")
    genes = pd.read_csv(union.genes)
    lacking = {f"TCGA-AA-{case:04d}" for case in range(100, 116, 3)}
    genes[~genes.case_id.isin(lacking)].to_csv(tmp_path / "genes.csv", index=False)
    changes = {
        "mil_name": "longnetvit_gene_clinical_adapter",
        "clinical_location": tmp_path / "clinical.csv",
        "genomics_csv_path": tmp_path / "genes.csv",
        "missing_modalities": "learned",
        "num_epochs": 1,
    }
    train_modaltune_pancancer.main(flags(union, tmp_path / "run", **changes))
    results = pd.read_csv(tmp_path / "run" / "results.csv", keep_default_na=False)
    rows = results[(results.run == "mean") & (results.task == "General") & (results.metric == "accuracy")]
    counts = rows.set_index(["split", "site"]).n.astype(float)
    assert (counts["test", "GBMLGG"], counts["test_complete", "GBMLGG"]) == (4, 2)
    assert counts["test", "BRCA"] == counts["test_complete", "BRCA"] == 4
    weights = torch.load(tmp_path / "run" / "seed_0" / "best_model_weights.pt", weights_only=True)
    stages = weights["run"]["fitted"]["clinical"]["codes"]["ajcc_pathologic_stage"]
    assert list(stages) == ["Stage I", "Stage II", "Stage III", "Stage IV"]


def read(words):
    data = parse_args("test", words, train_modaltune_pancancer.add_flags).data
    tables = read_tables(["genes"], data.files, data.options, {})
    return CohortData.read(data.split_files, tables, data.text_location, data.protocol, sites=data.sites)


@pytest.mark.parametrize("scaling", ["site", "union"])
def test_genes_are_standardised_within_sites_or_over_the_union(union, tmp_path, scaling):
    words = flags(union, tmp_path, gene_scaling=scaling)
    data = read(words)
    raw = pd.read_csv(union.genes, index_col=0)
    sites = raw.pop("site")
    if scaling == "site":
        expected = pd.concat(
            [(rows - rows.mean()) / rows.std(ddof=0) for _, rows in raw.groupby(sites, sort=False)]
        )
    else:
        expected = (raw - raw.mean()) / raw.std(ddof=0)
    fitted = data.fit(data.patients, ["genes"])
    scaled = data.tables["genes"].encode(fitted["genes"])
    columns = list(data.tables["genes"].pathways.genes)
    for case, row in expected[columns].iterrows():
        np.testing.assert_allclose(scaled[case], row, rtol=1e-3, atol=1e-4)
    parts = data.datasets(data.patients, fitted, PatchOptions(), ModalityOptions())
    assert parts["train"].sites == ["BRCA"] * 8 + ["GBMLGG"] * 8


def test_split_files_without_sites_are_understood_by_their_projects(union, tmp_path):
    changes = {}
    for split in constants.SPLITS:
        rows = json.loads(union.split(split).read_text())["data"]
        path = tmp_path / f"{split}.json"
        path.write_text(json.dumps({"data": [{k: v for k, v in row.items() if k != "site"} for row in rows]}))
        changes[f"{split}_json"] = path
    words = flags(union, tmp_path, **changes)
    data = read(words)
    assert [p.site for p in data.patients["val"]] == ["BRCA"] * 4 + ["GBMLGG"] * 4


def test_sites_filter_the_patients(union, tmp_path, caplog):
    data = read([*flags(union, tmp_path), "--sites", "BRCA"])
    assert {p.site for part in data.patients.values() for p in part} == {"BRCA"}
    assert "patients of GBMLGG are left out: --sites are BRCA" in caplog.text


def test_a_site_without_patients_is_named(union, tmp_path):
    words = [*union.flags(tmp_path), "--sites", "BRCA", "RCC"]
    with pytest.raises(ValueError, match=r"no patient of the split files is of RCC.*they hold BRCA, GBMLGG"):
        train_modaltune_pancancer.main(words)


@pytest.mark.parametrize("classes", ["2", "2,2,2", "2,1"])
def test_one_number_of_classes_per_site(union, tmp_path, classes, capsys):
    with pytest.raises(SystemExit):
        train_modaltune_pancancer.main(flags(union, tmp_path, num_classes=classes))
    assert "2 numbers" in capsys.readouterr().err


def test_another_scaling_of_genes_than_in_the_training_is_said(trained, union, tmp_path, caplog):
    words = flags(union, tmp_path / "again", eval_only=True, eval_weights=trained, gene_scaling="site")
    with caplog.at_level(logging.WARNING):
        train_modaltune_pancancer.main(words)
    assert "trained with --gene_scaling union, this evaluation uses site" in caplog.text
