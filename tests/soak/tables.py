"""Sound tables of a small GDC cohort, and the commands that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_utils import make_clinical, make_dataset, make_gene_dataset
from data_utils.features.store import FeatureMeta, write_features
from data_utils.tables.gdc import split_paths
from data_utils.tables.tasks import read_tasks
from utils import constants
from utils.constants import SPLITS

CASES = 16
Rows = dict[str, Any]


class Tables:
    """Sound tables of a cohort in a folder, and the commands that read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        self.cases = [f"TCGA-AA-{n:04d}" for n in range(CASES)]
        self.clinical, self.slides = folder / "clinical.tsv", folder / "slide.tsv"
        rows = [self._clinical_row(n, case) for n, case in enumerate(self.cases)]
        pd.DataFrame(rows).to_csv(self.clinical, sep="\t", index=False)
        names = [f"{case}-01Z-00-DX1" for case in self.cases]
        slides = pd.DataFrame({"case_submitter_id": self.cases, "slide_submitter_id": names})
        slides.to_csv(self.slides, sep="\t", index=False)
        for name in names:
            patches = np.ones((2, 4), np.float32), np.zeros((2, 2), np.int64)
            write_features(folder / "features" / f"{name}.h5", *patches, FeatureMeta(encoder="gigapath"))
        self.expression, self.pathways = folder / "matrix.tsv", folder / "pathways.csv"
        genes = [f"GENE{n}" for n in range(8)]
        samples = [f"{case}-01" for case in self.cases]
        values = rng.normal(size=(8, CASES)).round(3)
        pd.DataFrame(values, pd.Index(genes, name="sample"), samples).to_csv(self.expression, sep="\t")
        member = pd.DataFrame({"P": [1, 0] * 4, "Q": [1] * 8}, pd.Index(genes, name="gene"))
        member.to_csv(self.pathways)
        self.genes, self.cohort, self.tasks = (folder / n for n in ("genes.csv", "cohort.json", "tasks.json"))
        self.cohort.write_text(constants.cohort_file("brca").read_text())
        self.tasks.write_text((constants.REPO_ROOT / "dataset" / "tasks.json").read_text())
        self.make_genes()
        self.make_splits()

    @staticmethod
    def _clinical_row(number: int, case: str) -> dict[str, str]:
        dead = number % 3 == 0
        return {
            "case_id": f"id-{number:02d}",
            "case_submitter_id": case,
            "project_id": "TCGA-BRCA",
            "age_at_index": str(40 + number),
            "vital_status": "Dead" if dead else "Alive",
            "days_to_death": str(300 + number) if dead else "'--",
            "days_to_last_follow_up": "'--" if dead else str(900 + number),
            "ajcc_pathologic_stage": "Stage IIA",
            "ajcc_pathologic_t": "T2",
            "ajcc_pathologic_n": "N0",
            "ajcc_pathologic_m": "M0",
            "primary_diagnosis": ("Lobular carcinoma, NOS", "Infiltrating duct carcinoma, NOS")[number % 2],
            "year_of_diagnosis": "2010",
        }

    def make_splits(self) -> Rows:
        """The patients of the split files, whichever split they are in."""
        flags = [
            f"--clinical={self.clinical}",
            f"--slides={self.slides}",
            f"--genomics_csv_path={self.genes}",
        ]
        flags += [f"--features_dir={self.folder / 'features'}", f"--splits_dir={self.folder / 'splits'}"]
        make_dataset.main(["--onco=brca", f"--cohort_json={self.cohort}", *flags])
        rows = {}
        for path in split_paths("BRCA", folder=self.folder / "splits").values():
            rows |= {row["case_submitter_id"]: row for row in json.loads(path.read_text())["data"]}
        return {
            case: {k: v for k, v in row.items() if k != "gene_availability"} for case, row in rows.items()
        }

    def make_genes(self) -> Rows:
        """The genes of every patient."""
        flags = [f"--expression={self.expression}", f"--pathways={self.pathways}", f"--output={self.genes}"]
        make_gene_dataset.main(["--onco=brca", f"--pancan_expression={self.expression}", *flags])
        table = pd.read_csv(self.genes, index_col=0)
        return {case: dict(row) for case, row in table.to_dict("index").items()}

    def make_clinical(self) -> Rows:
        """The raw clinical values of every patient."""
        output = self.folder / "clinical.pt"
        make_clinical.main(["--onco=brca", f"--splits_dir={self.folder / 'splits'}", f"--output={output}"])
        table = pd.read_csv(output.with_suffix(".csv"), index_col=0, dtype=str, keep_default_na=False)
        return {case: dict(row) for case, row in table.to_dict("index").items()}

    def split(self) -> Path:
        """The split file of the training patients."""
        return split_paths("BRCA", folder=self.folder / "splits")[SPLITS[0]]

    def read_tasks(self) -> Rows:
        """The tasks by name, as they are used."""
        found = read_tasks(self.tasks)
        return {task.name: {"task": task, "row": row} for row, task in enumerate(found.entries)}


class OwnTable:
    """The table of a user's own cohort, as CSV and as workbook, and the command that reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.csv, self.xlsx = folder, folder / "patients.csv", folder / "patients.xlsx"
        names = [f"P-{n:03d}" for n in range(CASES)]
        table = pd.DataFrame(
            {
                "Pat-ID": names,
                "Subtype": ["luminal", "basal"] * (CASES // 2),
                "OS": [f"{12 + n}.5" for n in range(CASES)],
                "Age": [str(40 + n) for n in range(CASES)],
                "Status": ["dead", "alive", "alive", "dead"] * (CASES // 4),
            }
        )
        table.to_csv(self.csv, index=False)
        table.to_excel(self.xlsx, index=False)
        for name in names:
            patches = np.ones((2, 4), np.float32), np.zeros((2, 2), np.int64)
            write_features(folder / "features" / f"{name}.h5", *patches, FeatureMeta(encoder="gigapath"))
        self.cohort = folder / "own.json"
        columns = dict(zip(("patient", "class", "time", "age", "event"), table.columns, strict=True))
        content = {"name": "OWN", "site": "breast", "classes": [["luminal"], ["basal"]]}
        self.cohort.write_text(json.dumps(content | {"table": {"columns": columns, "time_unit": "months"}}))

    def make_splits(self, table: Path) -> Rows:
        """The patients of the split files, whichever split they are in."""
        files = {"table": table, "cohort_json": self.cohort, "features_dir": self.folder / "features"}
        flags = [f"--{name}={value}" for name, value in files.items()]
        splits = self.folder / "splits"
        make_dataset.main(["--onco=OWN", "--genomics_csv_path=none", f"--splits_dir={splits}", *flags])
        rows = {}
        for path in split_paths("OWN", folder=splits).values():
            rows |= {row["case_submitter_id"]: row for row in json.loads(path.read_text())["data"]}
        return rows
