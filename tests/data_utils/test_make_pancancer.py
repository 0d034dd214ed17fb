"""Union of cohorts: nobody changes sides, tables are joined, faults are named."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from data_utils import make_pancancer
from data_utils.tables.genes import read_gene_sites, read_gene_table
from data_utils.tables.sentence_table import tasks_file
from data_utils.tables.tasks import published, read_tasks
from tests.small_cohort import split_row
from utils import constants
from utils.files import FileError

GENES = ["A1", "B2", "C3"]
SITES = {"BRCA": ("TCGA-BRCA", 0), "RCC": ("TCGA-KIRC", 100)}


@pytest.fixture
def roots(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "SPLITS_ROOT", tmp_path / "splits")
    monkeypatch.setattr(constants, "TABLES_ROOT", tmp_path / "tables")
    for site in SITES:
        write_site(site)
    return tmp_path


def rows_of(site, split):
    project, first = SITES[site]
    numbers = {"train": range(6), "val": range(6, 8), "test": range(8, 11)}[split]
    return [
        split_row(first + i, slide, f"{site}-{i}-{slide}.h5", i % 2, project_id=project, age_at_index=50 + i)
        for i in numbers
        for slide in range(1 + (i == 2))
    ]


def write_site(site, genes=GENES, table_rows=None):
    first = SITES[site][1]
    for split in constants.SPLITS:
        path = constants.split_file(site, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"data": rows_of(site, split)}))
    names = table_rows or [f"TCGA-AA-{first + i:04d}" for i in range(12)]  # one more than the splits hold
    values = np.random.default_rng(first).normal(10 * (first > 0), 2.0, size=(len(names), len(genes)))
    constants.TABLES_ROOT.mkdir(exist_ok=True)
    table = pd.DataFrame(values, index=pd.Index(names, name="case_id"), columns=genes)
    table.to_csv(constants.gene_table(site))
    torch.save(
        {f"case-{first + i}": torch.full((4, 512), float(first + i)) for i in range(11)},
        constants.text_table(site),
    )
    torch.save({site: {"class_0": torch.zeros(1, 512)}}, constants.candidate_table(site))


def join(*flags):
    make_pancancer.main(["--sites", *SITES, *flags])


def read_union(split):
    return json.loads(constants.split_file("PANCANCER", split).read_text())["data"]


def test_nobody_changes_sides(roots):
    join()
    for split in constants.SPLITS:
        union = read_union(split)
        assert union == [{**row, "site": site} for site in SITES for row in rows_of(site, split)]


def test_tables_are_joined(roots):
    join()
    joined = read_gene_table(constants.gene_table("PANCANCER"))
    sites = read_gene_sites(constants.gene_table("PANCANCER"))
    assert list(joined.columns) == GENES and len(joined) == 24
    for site in SITES:
        own = read_gene_table(constants.gene_table(site))
        assert (sites[own.index] == site).all()
        np.testing.assert_allclose(joined.loc[own.index], own, rtol=1e-4)
        assert read_gene_sites(constants.gene_table(site)) is None
    texts = torch.load(constants.text_table("PANCANCER"), weights_only=True)
    assert len(texts) == 22 and (texts["case-103"] == 103).all()
    candidates = torch.load(constants.candidate_table("PANCANCER"), weights_only=True)
    assert list(candidates) == list(SITES)
    clinical = torch.load(constants.clinical_tensors("PANCANCER"), weights_only=True)
    assert clinical.keys() == texts.keys() and all(v.shape == (5,) for v in clinical.values())


def test_counts(roots):
    join()
    counts = pd.read_csv(constants.split_file("PANCANCER", "train").parent / "counts_pancancer.csv")
    row = counts[(counts.site == "RCC") & (counts.primary_class == 0)].iloc[0]
    assert row[["train", "val", "test"]].tolist() == [3, 1, 2]
    patients = {r["case_id"]: r for r in rows_of("RCC", "train") if r["primary_class"] == 0}
    assert row["train_deaths"] == sum(r["vital_status"] for r in patients.values())


def test_running_again_changes_nothing(roots):
    join()
    before = {
        path: path.read_bytes() for path in roots.rglob("*pancancer*") if path.suffix in (".json", ".csv")
    }
    join()
    assert before and {path: path.read_bytes() for path in before} == before


# ---------------------------------------------------------------------------- differing genes
def test_differing_genes_stop_with_the_difference(roots):
    write_site("RCC", genes=["A1", "D4"])
    with pytest.raises(ValueError, match=r"BRCA lacks 1: D4; RCC lacks 2: B2, C3"):
        join()


def test_intersection_of_genes(roots):
    write_site("RCC", genes=["C3", "A1"])
    join("--genes", "intersection")
    assert list(read_gene_table(constants.gene_table("PANCANCER")).columns) == ["A1", "C3"]


def test_union_of_genes_leaves_gaps_for_whole_sites(roots):
    write_site("RCC", genes=["A1", "D4"])
    join("--genes", "union")
    table = read_gene_table(constants.gene_table("PANCANCER"))
    assert list(table.columns) == [*GENES, "D4"]
    gaps = table.isna().groupby(read_gene_sites(constants.gene_table("PANCANCER"))).all()
    assert gaps.loc["BRCA"].tolist() == [False, False, False, True]
    assert gaps.loc["RCC"].tolist() == [False, True, True, False]


def test_a_gap_within_a_site_is_a_fault(roots):
    join()
    path = constants.gene_table("PANCANCER")
    table = pd.read_csv(path, index_col=0)
    table.iloc[2, 1] = np.nan
    table.to_csv(path)
    with pytest.raises(ValueError, match="gene A1 of case TCGA-AA-0002"):
        read_gene_table(path)


def test_nothing_in_common(roots):
    write_site("RCC", genes=["D4"])
    with pytest.raises(ValueError, match="no gene in common"):
        join("--genes", "intersection")


# ---------------------------------------------------------------------------- bad input
def change_rows(site, split, change):
    path = constants.split_file(site, split)
    rows = json.loads(path.read_text())["data"]
    path.write_text(json.dumps({"data": change(rows)}))


def test_a_patient_in_two_splits(roots):
    stray = rows_of("BRCA", "train")[:1]
    change_rows("BRCA", "test", lambda rows: rows + stray)
    with pytest.raises(ValueError, match=r"more than one split.*case-0"):
        join()


def test_a_patient_in_two_sites(roots):
    change_rows("RCC", "test", lambda rows: [*rows, {**rows_of("BRCA", "val")[0], "project_id": "TCGA-KIRC"}])
    with pytest.raises(ValueError, match=r"patients of RCC that BRCA has too.*case-6"):
        join()


def test_a_project_of_another_cohort(roots):
    change_rows("RCC", "val", lambda rows: [{**row, "project_id": "TCGA-LUAD"} for row in rows])
    with pytest.raises(ValueError, match=r"TCGA-LUAD.*rcc\.json"):
        join()


def test_a_case_in_two_gene_tables(roots):
    write_site("RCC", table_rows=["TCGA-AA-0003", "TCGA-AA-0100"])
    with pytest.raises(ValueError, match="TCGA-AA-0003"):
        join()


@pytest.mark.parametrize("locate", [constants.text_table, constants.candidate_table])
def test_a_missing_table_names_the_site(roots, locate):
    locate("RCC").unlink()
    with pytest.raises(FileNotFoundError, match="for RCC first"):
        join()


def test_a_text_in_two_tables(roots):
    torch.save({"case-3": torch.zeros(4, 512)}, constants.text_table("RCC"))
    with pytest.raises(ValueError, match=r"repeats entries of another site.*case-3"):
        join()


def test_sentences_of_other_tasks(roots):
    own = published().plain()
    files = {site: tasks_file(constants.text_table(site)) for site in SITES}
    for file in files.values():
        file.write_text(json.dumps(own))
    join()
    assert read_tasks(tasks_file(constants.text_table("PANCANCER"))) == published()
    own["tasks"][1]["sentence"] = ["Diagnosis: {primary_diagnosis}"]
    files["RCC"].write_text(json.dumps(own))
    with pytest.raises(FileError, match=r"text_rcc.*other tasks than .*text_brca.*of Diagnosis"):
        join()


@pytest.mark.parametrize("flags", [["--sites", "BRCA", "BRCA"], ["--name", "rcc"]])
def test_flags_that_make_no_sense(roots, flags):
    with pytest.raises(SystemExit):
        join(*flags)


def test_genes_of_sites_on_different_scales_are_said(caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    log = pd.DataFrame(generator.normal(8, 2, (20, 5)), [f"a{n}" for n in range(20)], list("VWXYZ"))
    scores = ((log - log.mean()) / log.std()).set_axis([f"b{n}" for n in range(20)])
    make_pancancer.join_genes({"A": log, "B": scores}, "equal")
    assert not caplog.text
    make_pancancer.join_genes({"A": log, "B": (2**log).set_axis(scores.index)}, "equal")
    assert "the genes of B reach" in caplog.text and "different scales" in caplog.text
