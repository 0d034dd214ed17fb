"""Raw matrices and how they become the case x gene table."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_utils.make_gene_dataset import main
from data_utils.tables.expression import build_gene_table, constant_genes, read_expression
from data_utils.tables.gene_aliases import GeneAliases
from data_utils.tables.genes import read_gene_table
from utils.files import FileError

NO_ALIASES = GeneAliases({})
ALIASES = GeneAliases.from_table(["NEW", "G1"], ["OLD", "G0"], ["", ""])


def expression(**genes: list[float]) -> pd.DataFrame:
    samples = [f"TCGA-AA-{number:04d}-01" for number in range(len(next(iter(genes.values()))))]
    return pd.DataFrame(genes, index=samples, dtype=np.float32).T


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(line.replace(" ", "\t") for line in lines) + "\n")
    return path


def test_read_expression(tmp_path: Path) -> None:
    path = write(tmp_path / "m", "sample S1 S2", "A 1.5 -2", "?|10 3 4", "A 5 NA")
    matrix = read_expression(path)
    assert matrix.index.tolist() == ["A", "?|10", "A"]
    assert matrix.columns.tolist() == ["S1", "S2"]
    assert (matrix.dtypes == np.float32).all()
    assert matrix.iloc[0].tolist() == [1.5, -2.0]
    assert np.isnan(matrix.iat[2, 1])


def test_first_column_without_a_name(tmp_path: Path) -> None:
    assert read_expression(write(tmp_path / "m", " S1", "A 1")).loc["A", "S1"] == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["sample S1 S2", "A 1 2", "B 3 high"], "no finite number at gene B, sample S2: 'high'"),
        (["sample S1", "A inf"], "no finite number at gene A, sample S1: 'inf'"),
        (["sample S1 S2"], "no gene or no sample"),
        (["sample", "A"], "no gene or no sample"),
        (["sample S1", "A 1", "B 1 2 3 4"], "5 cells in line 3"),
    ],
)
def test_bad_matrix(tmp_path: Path, lines: list[str], words: str) -> None:
    path = write(tmp_path / "matrix.tsv", *lines)
    with pytest.raises(ValueError, match=words) as caught:
        read_expression(path)
    assert str(path) in str(caught.value)


def test_no_matrix(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Xena"):
        read_expression(tmp_path / "absent")
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty is empty"):
        read_expression(tmp_path / "empty")


def test_constant_genes_over_chunks(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m",
        "sample S1 S2",
        "FLAT 1 1",
        "VARIES 1 2",
        "HOLE NA 3",
        "MIXED 1 1",
        "MIXED 1 2",
        "NONE NA NA",
    )
    for rows in (1, 2, 100):
        assert constant_genes(path, rows) == {"FLAT", "HOLE", "NONE"}


def test_what_is_kept_of_the_genes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    matrix = expression(A=[1, 2], B=[3, 4], FLAT=[5, 6], OLD=[7, 8], SPARE=[9, 9])
    matrix = pd.concat([matrix, expression(A=[10, 20]), expression(**{"?|12": [0, 1]})])
    table = build_gene_table(matrix, ["FLAT", "NEW", "ABSENT", "A", "B"], {"FLAT"}, ALIASES)
    assert table.columns.tolist() == ["NEW", "A", "B"]  # order of the pathway table
    assert table.loc["TCGA-AA-0001"].tolist() == [8, 2, 4]  # first row of A; OLD became NEW
    assert table.index.name == "case_id"
    assert (
        "dropped 1 without symbol, 1 repeating a symbol (the first that varies counts), 1 constant"
        in caplog.text
    )
    assert "of 5 pathway genes 2 are missing (['FLAT', 'ABSENT']), 1 go by another name" in caplog.text


def test_renaming_never_overwrites_a_direct_match() -> None:
    table = build_gene_table(expression(G1=[1, 2]), ["G0", "G1"], (), ALIASES)
    assert table.columns.tolist() == ["G1"]


SAMPLES = {"TCGA-BB-0001-11": 1, "TCGA-BB-0001-06": 2, "TCGA-BB-0001-01B": 3, "TCGA-BB-0001-01A": 4}


@pytest.mark.parametrize(("tumor_only", "value"), [(False, 2), (True, 4)])
def test_several_samples_of_a_case(caplog: pytest.LogCaptureFixture, tumor_only: bool, value: float) -> None:
    caplog.set_level(logging.INFO)
    matrix = expression(A=[*SAMPLES.values(), 7, 8])
    matrix.columns = [*SAMPLES, "TCGA-AA-0001-01A-11R", "TCGA-CC-0001-11"]
    table = build_gene_table(matrix, ["A"], (), NO_ALIASES, tumor_only=tumor_only)
    assert table["A"].to_dict() == {"TCGA-AA-0001": 7, "TCGA-BB-0001": value}  # never normal tissue
    assert "2 of normal tissue left out" in caplog.text
    assert "1 cases have normal tissue only, and so no row, such as ['TCGA-CC-0001']" in caplog.text
    assert ("than their primary tumour, such as ['TCGA-BB-0001-06']" in caplog.text) != tumor_only


def test_normal_tissue_only() -> None:
    matrix = expression(A=[1])
    matrix.columns = ["TCGA-BB-0001-11"]
    with pytest.raises(ValueError, match="no sample is left"):
        build_gene_table(matrix, ["A"], (), NO_ALIASES)


def test_of_two_rows_of_a_gene_the_one_that_varies_counts() -> None:
    matrix = pd.concat([expression(A=[5, 5], B=[1, 2]), expression(A=[3, 4], B=[8, 9]), expression(A=[6, 7])])
    table = build_gene_table(matrix, ["A", "B"], (), NO_ALIASES)
    assert table.to_numpy().tolist() == [[3, 1], [4, 2]]


def test_barcodes_as_r_writes_them(tmp_path: Path) -> None:
    matrix = read_expression(write(tmp_path / "m", "sample TCGA.AA.0001.01 tcga-bb-0002-01", "A 1 2"))
    assert matrix.columns.tolist() == ["TCGA-AA-0001-01", "TCGA-BB-0002-01"]


def test_columns_that_are_no_samples_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = ["TCGA-AA-0001-01", "TCGA-BB-0002-01", "TCGA-CC-0003-01", "TARGET-30-PAAPFA-01A"]
    matrix = read_expression(write(tmp_path / "m", f"sample {' '.join(samples)} mean", "A 1 2 3 4 2"))
    assert matrix.columns.tolist() == samples and "no samples: ['mean']" in caplog.text
    assert read_expression(write(tmp_path / "m", "sample TCGA-AA-0001-01 S1", "A 1 2")).shape == (1, 2)


def test_columns_of_one_sample(tmp_path: Path) -> None:
    header = "sample TCGA-AA-0001-01 TCGA-AA-0001-01"
    assert read_expression(write(tmp_path / "m", header, "A 1 1", "B NA NA")).shape == (2, 1)
    with pytest.raises(FileError, match=r"columns of one sample that differ: \['TCGA-AA-0001-01'\]"):
        read_expression(write(tmp_path / "m", header, "A 1 1", "B 2 3"))


def test_missing_values(caplog: pytest.LogCaptureFixture) -> None:
    nan = float("nan")
    matrix = expression(A=[1, 2, 3, 100, nan], B=[nan, nan, 1, 2, 3])
    table = build_gene_table(matrix, ["A", "B"], (), NO_ALIASES)
    assert table.columns.tolist() == ["A"]
    assert table["A"].tolist() == [1, 2, 3, 100, 2.5]
    assert "1 genes dropped: without value in more than 20 % of the cases: ['B']" in caplog.text
    assert "1 missing values set to the median" in caplog.text
    with pytest.raises(ValueError, match=r"no gene is left.*'B'"):
        build_gene_table(matrix, ["B"], (), NO_ALIASES)


def test_clip() -> None:
    table = build_gene_table(expression(A=[-50, 3, 12]), ["A"], (), NO_ALIASES, clip=10)
    assert table["A"].tolist() == [-10, 3, 10]


def test_no_gene_matches_shows_both_sides() -> None:
    with pytest.raises(
        ValueError, match=r"pathway genes such as \['TP53'\], matrix genes such as \['ENSG1'\]"
    ):
        build_gene_table(expression(ENSG1=[1, 2]), ["TP53"], (), NO_ALIASES)


# ---------------------------------------------------------------------------- entry point
@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    write(tmp_path / "m", "sample TCGA-AA-0001-01 TCGA-AA-0002-01", "A 1 2", "B 20 4", "FLAT 0 1", "SAME 1 1")
    write(tmp_path / "pancan", "sample S1 S2", "A 1 2", "B 1 2", "FLAT 0 0")
    (tmp_path / "pathways.csv").write_text("gene,P,Q\nB,1,0\nFLAT,0,1\nA,1,0\nSAME,1,0\n")
    write(tmp_path / "hgnc", "symbol status alias_symbol prev_symbol", "A Approved  ")
    return [
        "--onco=brca",
        f"--expression={tmp_path / 'm'}",
        f"--pancan_expression={tmp_path / 'pancan'}",
        f"--pathways={tmp_path / 'pathways.csv'}",
        f"--hgnc={tmp_path / 'hgnc'}",
        f"--output={tmp_path / 'rna.csv'}",
    ]


def test_entry_point(tmp_path: Path, flags: list[str], caplog: pytest.LogCaptureFixture) -> None:
    main(flags)
    table = read_gene_table(tmp_path / "rna.csv")
    # SAME is constant in this cohort, but what counts is the pan-cancer matrix.
    assert table.columns.tolist() == ["B", "A", "SAME"]
    assert table["B"].to_dict() == {"TCGA-AA-0001": 20, "TCGA-AA-0002": 4}
    assert "1 of 2 pathways dropped, fewer than 1 of their genes are available, such as Q" in caplog.text
    assert pd.read_csv(tmp_path / "dropped_pathways_rna.csv").to_dict("list") == {
        "pathway": ["Q"],
        "genes": [1],
    }
    main([*flags, "--clip=10"])
    assert read_gene_table(tmp_path / "rna.csv")["B"].tolist() == [10, 4]
    with pytest.raises(FileError, match="is read by this command"):
        main([*flags, f"--output={tmp_path / 'm'}"])


def test_entry_point_without_pancancer_matrix(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("utils.constants.DATA_ROOT", tmp_path / "nothing")
    main([flag for flag in flags if "pancan" not in flag])
    assert read_gene_table(tmp_path / "rna.csv").columns.tolist() == ["B", "FLAT", "A"]
    assert "constant genes are looked for in the cohort alone" in caplog.text
    with pytest.raises(FileNotFoundError, match="--pancan_expression"):
        main([*flags, f"--pancan_expression={tmp_path / 'absent'}"])


def test_clip_must_be_positive(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        main([*flags, "--clip=0"])
