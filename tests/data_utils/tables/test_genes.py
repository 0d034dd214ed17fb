"""Gene tables, standardisation and pathways, as the trainer uses them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from data_utils.make_gene_dataset import write_gene_table
from data_utils.tables.genes import GeneScaler, PathwayGroups, align_genes, read_gene_sites, read_gene_table
from data_utils.tables.pathway_table import read_pathway_table
from utils.files import FileError


def gene_table(cases: int = 6, genes: int = 4, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(3, 2, size=(cases, genes)).astype(np.float32)
    index = pd.Index([f"TCGA-AA-{case:04d}" for case in range(cases)], name="case_id")
    return pd.DataFrame(values, index=index, columns=[f"G{gene}" for gene in range(genes)])


# ---------------------------------------------------------------------------- gene table
@pytest.mark.parametrize("name", ["rna.csv", "rna.csv.gz", "rna.parquet"])
def test_gene_table_round_trip(tmp_path: Path, name: str) -> None:
    table = gene_table()
    write_gene_table(table, tmp_path / name)
    pd.testing.assert_frame_equal(read_gene_table(tmp_path / name), table)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case_id,A,B\nC1,1,2\nC2,,3\n", "1 cells.*gene A of case C2"),
        ("case_id,A,B\nC1,1,2\nC2,1,high\n", "case C2, gene B: 'high'"),
        ("case_id,A,B\nC1,1,inf\n", "case C1, gene B: 'inf'"),
        ("case_id,A,A\nC1,1,2\n", r"genes stand twice: \['A'\]"),
        ("case_id,A\nC1,1\nC1,2\n", r"cases stand twice: \['C1'\]"),
        ("case_id,A\n", "no case or no gene"),
        ("case_id\nC1\n", "no case or no gene"),
        ("", "is empty"),
        ("case_id,A\n C1 ,1\n", "blanks around 1 case ids, such as ' C1 '"),
        ("case_id;A\nC1;1\n", "has semicolons between the cells"),
    ],
)
def test_bad_gene_table(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "rna.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_gene_table(path)
    assert str(path) in str(caught.value)


def test_rows_that_no_patient_has(tmp_path: Path) -> None:
    path = tmp_path / "rna.csv"
    names = pd.Index(list("abc"), name="case_id")
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(3, 120)), names).add_prefix("G")
    table.to_csv(path)
    assert read_gene_table(path).shape == (3, 120)
    table.loc["b"] = 0.0
    table.to_csv(path)
    with pytest.raises(FileError, match=r"rna.csv has 0 for every gene of case b; leave .* out of the table"):
        read_gene_table(path)
    table.loc["b"] = table.loc["c"]
    table.to_csv(path)
    with pytest.raises(FileError, match="same values for all genes of the cases b and c; one is a copy"):
        read_gene_table(path)
    table.iloc[:, :50].to_csv(path)  # of a panel of mutations, say
    assert read_gene_table(path).shape == (3, 50)


def test_no_gene_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make_gene_dataset"):
        read_gene_table(tmp_path / "rna.csv")


# ---------------------------------------------------------------------------- standardisation
@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 1000))
def test_scaler_equals_scikit_learn(cases: int, genes: int, seed: int) -> None:
    table = gene_table(cases, genes, seed)
    ours = GeneScaler.fit(table).transform(table)
    theirs = StandardScaler().fit_transform(table.astype(np.float64))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert (ours.dtypes == np.float32).all()


def test_flat_gene_becomes_zero(caplog: pytest.LogCaptureFixture) -> None:
    table = gene_table().astype(np.float64).assign(G1=0.1)
    scaled = GeneScaler.fit(table).transform(table)
    assert (scaled["G1"] == 0).all()
    assert scaled["G0"].std() > 0.5
    assert "1 genes do not vary and become 0, such as G1" in caplog.text
    fitted_on_one = GeneScaler.fit(table.head(1)).transform(table)
    assert (fitted_on_one == 0).all().all()


def test_scaler_fitted_on_some_cases_serves_others() -> None:
    table = gene_table(20)
    scaler = GeneScaler.fit(table.head(10))
    expected = (table - table.head(10).mean()) / table.head(10).std(ddof=0)
    np.testing.assert_allclose(scaler.transform(table), expected, atol=1e-5)
    restored = GeneScaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    assert restored == scaler


def test_scaler_refuses_other_genes() -> None:
    scaler = GeneScaler.fit(gene_table())
    with pytest.raises(ValueError, match="align_genes"):
        scaler.transform(gene_table()[["G1", "G0", "G2", "G3"]])
    with pytest.raises(ValueError, match="no case or no gene"):
        GeneScaler.fit(gene_table().head(0))
    with pytest.raises(ValueError, match="differ in length"):
        GeneScaler.from_dict({"genes": ["A"], "mean": [1.0], "std": []})


def test_align_genes_for_a_new_cohort(caplog: pytest.LogCaptureFixture) -> None:
    aligned = align_genes(gene_table(), ["G2", "X", "G0"], 0.5)
    assert aligned.columns.tolist() == ["G2", "X", "G0"]
    assert "1 of 3 genes of the model are missing" in caplog.text
    scaler = GeneScaler.fit(aligned)
    assert (scaler.transform(aligned)["X"] == 0).all()
    restored = GeneScaler.from_dict(json.loads(json.dumps(scaler.to_dict())))  # NaN is no JSON
    pd.testing.assert_frame_equal(restored.transform(aligned), scaler.transform(aligned))


def test_too_many_missing_genes_are_refused_with_a_remedy_that_works() -> None:
    table, wanted = gene_table(genes=4), ["G0", "G1", "G2", "X"]
    align_genes(table, wanted, 0.25)
    with pytest.raises(
        ValueError, match=r"lacks 1 of 4 genes .*25.0%.*'X'.*'G0'.*zero --max_missing_genes 0.25$"
    ) as e:
        align_genes(table, wanted)
    align_genes(table, wanted, float(str(e.value).split()[-1]))


# ---------------------------------------------------------------------------- pathways
def pathway_table(member: np.ndarray) -> pd.DataFrame:
    index = pd.Index([f"G{row}" for row in range(member.shape[0])], name="gene")
    return pd.DataFrame(
        member.astype(np.int8), index=index, columns=[f"P{c}" for c in range(member.shape[1])]
    )


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 10**6), st.integers(1, 3))
def test_groups_hold_what_is_available(rows: int, columns: int, seed: int, min_genes: int) -> None:
    rng = np.random.default_rng(seed)
    table = pathway_table(rng.random((rows, columns)) < 0.4)
    available = {gene for gene in table.index if rng.random() < 0.7} | {"other"}
    members = {name: {g for g in table.index[table[name] == 1] if g in available} for name in table}
    kept = [name for name in table if len(members[name]) >= min_genes]
    if not kept:
        with pytest.raises(ValueError, match="no pathway keeps"):
            PathwayGroups.from_table(table, available, min_genes)
        return
    groups = PathwayGroups.from_table(table, available, min_genes)
    assert list(groups.names) == kept
    assert {groups.genes[i] for group in groups.indices for i in group} == set(groups.genes)
    assert list(groups.genes) == [gene for gene in table.index if gene in set(groups.genes)]
    for name, group in zip(groups.names, groups.indices, strict=True):
        assert {groups.genes[i] for i in group} == members[name]
        assert list(group) == sorted(group)
    assert PathwayGroups.from_dict(json.loads(json.dumps(groups.to_dict()))) == groups


def test_dropped_pathways_are_named_and_genes_in_none_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    groups = PathwayGroups.from_table(pathway_table(np.eye(3)), ["G0", "G2", "other"])
    assert groups.names == ("P0", "P2")
    assert groups.indices == ((0,), (1,))
    assert "1 of 3 pathways dropped, fewer than 1 of their genes are available, such as P1" in caplog.text
    assert "2 pathways over 2 genes; 1 genes of the table are in none and not read" in caplog.text


def test_no_pathway_left_shows_both_sides() -> None:
    with pytest.raises(ValueError, match=r"\['G0', 'G1', 'G2'\].*\['ENSG1'\]"):
        PathwayGroups.from_table(pathway_table(np.eye(3)), ["ENSG1"])


@pytest.mark.parametrize("indices", [[[0]], [[0], [2]], [[0], [-1]]])
def test_groups_that_do_not_fit(indices: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        PathwayGroups.from_dict({"names": ["P", "Q"], "genes": ["A", "B"], "indices": indices})


def test_read_pathway_table(tmp_path: Path) -> None:
    path = tmp_path / "pathways.csv"
    path.write_text("gene,P one,P two\nA,1,0\nB,1.0,1\n")
    table = read_pathway_table(path)
    assert table.loc["B"].to_dict() == {"P one": 1, "P two": 1}
    assert (table.dtypes == np.int8).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gene,P\nA,1\nB,2\n", "gene B in pathway P is '2'"),
        ("gene,P\nA,1\nB,\n", "gene B in pathway P is ''"),
        ("gene,P\nA,yes\n", "gene A in pathway P is 'yes'"),
        ("gene,P\nA,1\nA,0\n", r"genes stand twice: \['A'\]"),
        ("gene,P,P\nA,1,0\n", r"pathways stand twice: \['P'\]"),
        ("gene\nA\n", "no gene or no pathway"),
        ("", "is empty"),
    ],
)
def test_bad_pathway_table(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "pathways.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_pathway_table(path)
    assert str(path) in str(caught.value)


def test_no_pathway_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="MODALTUNE_PATHWAY_TABLE"):
        read_pathway_table(tmp_path / "pathways.csv")


def test_identifiers_of_patients_keep_their_zeros(tmp_path: Path) -> None:
    (tmp_path / "genes.csv").write_text("case_id,A,B\n0037,1,2\nH-1,3,4\n1e5,5,6\n")
    assert list(read_gene_table(tmp_path / "genes.csv").index) == ["0037", "H-1", "1e5"]
    (tmp_path / "sites.csv").write_text("case_id,site,A\n0037,X,1\n0038,Y,2\n")
    assert list(read_gene_table(tmp_path / "sites.csv").index) == ["0037", "0038"]
    assert list(read_gene_sites(tmp_path / "sites.csv").index) == ["0037", "0038"]
