"""A hospital cohort as a user has it: one table of labels, feature files named by patient."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from data_utils import make_dataset
from data_utils.tables.gdc import split_paths
from tests.small_cohort import write_slide


def patient(number: int) -> str:
    return f"H-{number:04d}"


def patient_row(number: int) -> dict[str, object]:
    return {
        "Pat-ID": patient(number),
        "Subtype": ("LumA", "LumB")[number % 2],
        "OS": 100 + 30 * number,
        "Status": ("dead", "alive")[number // 2 % 2],
        "Age": 40 + number % 30,
        "Sex": "fm"[number % 2],
        "Grade": str(1 + number % 3),
        "Ki67": round(0.5 * number, 1),
        "Hospital": ("North", "South", "East", "West")[number % 4],
    }


COLUMNS = ("patient=Pat-ID", "class=Subtype", "time=OS", "event=Status", "age=Age", "sex=Sex")


@dataclass
class HospitalCohort:
    """Files below ``root``; change ``rows``, then call :meth:`make`."""

    root: Path
    rows: list[dict[str, object]] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path, patients: int) -> HospitalCohort:
        cohort = cls(root, [patient_row(number) for number in range(patients)])
        for number in range(patients):
            write_slide(cohort.features / f"{patient(number)}_S1.h5", 6 + number % 3, number)
        return cohort

    @property
    def features(self) -> Path:
        return self.root / "features"

    @property
    def splits(self) -> Path:
        return self.root / "splits"

    @property
    def cohort_file(self) -> Path:
        return self.root / "cohorts" / "house.json"

    def make(
        self, *flags: str, columns: tuple[str, ...] = COLUMNS, suffix: str = "csv"
    ) -> dict[str, list[dict]]:
        """Split rows of ``make_dataset --table``; the cohort file is written on the first call."""
        table = self.root / f"table.{suffix}"
        frame = pd.DataFrame(self.rows)
        if suffix == "xlsx":
            frame.to_excel(table, index=False)
        elif suffix == "parquet":
            frame.to_parquet(table)
        else:
            frame.to_csv(table, index=False, sep="\t" if suffix == "tsv" else ",")
        self.cohort_file.parent.mkdir(exist_ok=True)
        words = ["--onco=HOUSE", f"--table={table}", f"--features_dir={self.features}"]
        words += [f"--splits_dir={self.splits}", "--genomics_csv_path=none"]
        if columns:
            words += ["--columns", *columns]
        if any(column.startswith("time=") for column in columns) and "--time_unit" not in flags:
            words += ["--time_unit", "days"]
        if not self.cohort_file.is_file():
            words += ["--site", "breast"]
        make_dataset.main([*words, *flags])
        paths = split_paths("HOUSE", folder=self.splits)
        return {split: json.loads(path.read_text())["data"] for split, path in paths.items()}

    def dropped(self) -> dict[tuple[str, str], str]:
        table = pd.read_csv(self.splits / "dropped_house.csv", keep_default_na=False, dtype=str)
        return {(slide, case): reason for slide, case, reason in table.itertuples(index=False)}
