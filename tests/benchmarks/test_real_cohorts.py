"""Networks and linear models of the test bed read the same genes."""

import numpy as np
import pandas as pd

from models.modalities.genes import ALL, GeneTable
from tests.benchmarks.real_cohorts import OTHER_GENES, with_other_genes, write_cohort


def test_genes_in_no_pathway_join_when_asked_for(tmp_path):
    genes, count = ["A", "B", "C", "D"], 12
    ids = [f"TCGA-AA-{i:04d}" for i in range(count)]
    rows = {
        "split": ["train"] * 4 + ["val"] * 4 + ["test"] * 4,
        "case_id": [f"case-{i}" for i in range(count)],
    }
    rows |= {"case_submitter_id": ids, "project_id": "TCGA-BRCA", "primary_class": [0, 1] * 6}
    rows |= {"primary_diagnosis": "a tumour", "durations": np.arange(1.0, 13), "vital_status": [0, 1] * 6}
    pd.DataFrame(rows | {"ajcc_pathologic_stage": "Stage I"}).to_csv(
        tmp_path / "house_cases.csv", index=False
    )
    values = np.random.default_rng(0).normal(size=(count, len(genes)))
    pd.DataFrame(values, pd.Index(ids, name="case_id"), genes).to_csv(tmp_path / "house_rna.csv.gz")
    # E is in no gene table, C and D are in no pathway.
    pathways = pd.DataFrame({"P": [1, 0, 0], "Q": [1, 1, 0]}, pd.Index(["B", "E", "C"], name="gene"))
    pathways.to_csv(tmp_path / "pathways_331.csv.gz")
    for flag, names, read in (
        (False, ("P", "Q"), ("B",)),
        (True, ("P", "Q", OTHER_GENES), ("B", "C", "A", "D")),
    ):
        cohort = write_cohort(tmp_path, "house", tmp_path / str(flag), other_genes=flag)
        table = GeneTable(cohort.files["genomics_csv_path"], cohort.files["pathway_table"], ALL)
        found, said = (
            table.pathways,
            [finding.what for finding in table.check() if finding.area == "pathways"],
        )
        assert ("3 further genes of the table are in no pathway and not read" in said[0]) is not flag
        assert (found.names, found.genes) == (names, read)
        assert cohort.splits["test"].values["genes"].shape == (4, len(read))
    assert [found.genes[i] for i in found.indices[2]] == ["C", "A", "D"]
    assert with_other_genes(pathways, ["B"]) is pathways
