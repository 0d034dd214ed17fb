"""Genes that a new cohort lacks: at the mean, counted by pathway, refused beyond a share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.modalities import modality
from models.modalities.genes import GeneTable

STRUCTURE = {"names": ["P", "Q"], "genes": ["A", "B", "C", "D", "E"], "indices": [[0, 1], [1, 2, 3, 4]]}


def table_without(tmp_path: Path, missing: str, **options: Any) -> GeneTable:
    genes = [gene for gene in "ABCDE" if gene not in missing]
    values = np.random.default_rng(0).normal(size=(6, len(genes)))
    frame = pd.DataFrame(values, columns=genes, index=[f"H-{n:04d}" for n in range(6)])
    frame.to_csv(tmp_path / "genes.csv", index_label="case_id")
    flags = {"pathway_table": tmp_path / "none.csv", "gene_scaling": "site"} | options
    table = modality("genes").read(tmp_path / "genes.csv", flags, STRUCTURE)
    assert isinstance(table, GeneTable)
    return table


def test_missing_genes_stand_at_the_mean_and_are_counted_by_pathway(tmp_path: Path) -> None:
    table = table_without(tmp_path, "B", missing_genes="zero", max_missing_genes=0.2)
    encoded = table.encode(table.fit())
    assert all(vector[1] == 0 for vector in encoded.values())
    assert all(vector[0] != 0 for vector in encoded.values())
    assert table.missing_by_pathway == {"P": 0.5, "Q": 0.25}
    assert table.remark.startswith(
        "1 of 5 genes of the model are missing and stand at the mean, in 2 of 2 pathways"
    )
    assert table.describe(table.fit())["missing_by_pathway"] == {"P": 0.5, "Q": 0.25}


def test_none_missing_says_nothing(tmp_path: Path) -> None:
    table = table_without(tmp_path, "", missing_genes="error")
    assert (table.remark, table.missing_by_pathway) == ("", {})
    table.fit()


@pytest.mark.parametrize(
    ("missing", "options"),
    [
        ("B", {"missing_genes": "error"}),
        ("BC", {"missing_genes": "zero", "max_missing_genes": 0.2}),
        ("BC", {}),
    ],
)
def test_too_many_missing_genes_are_refused_by_the_run_and_the_doctor(
    tmp_path: Path, missing: str, options: dict[str, Any]
) -> None:
    table = table_without(tmp_path, missing, **options)
    with pytest.raises(ValueError, match=f"lacks {len(missing)} of 5 genes of the model"):
        table.fit()
    (found,) = [f for f in table.check() if f.area == "pathways"]
    assert found.level == "error"
    assert "--max_missing_genes" in found.what


def test_another_scale_than_that_of_the_training_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = table_without(tmp_path, "")
    fitted = table.fit()
    table.encode(fitted)
    assert not caplog.text
    pd.read_csv(tmp_path / "genes.csv", index_col=0).mul(100).to_csv(tmp_path / "genes.csv")
    flags = {"pathway_table": tmp_path / "none.csv", "gene_scaling": "site"}
    modality("genes").read(tmp_path / "genes.csv", flags, STRUCTURE).encode(fitted)
    assert "genes.csv: half of the values are more than" in caplog.text and "another scale?" in caplog.text
