"""GDC tables and split files."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from data_utils.tables import gdc as tcga
from data_utils.tables.cohorts import load_cohort

COLUMNS = [
    "case_id",
    "case_submitter_id",
    "project_id",
    "age_at_index",
    "vital_status",
    "days_to_death",
    "days_to_last_follow_up",
    "ajcc_pathologic_m",
    "ajcc_pathologic_n",
    "ajcc_pathologic_stage",
    "ajcc_pathologic_t",
    "primary_diagnosis",
    "year_of_diagnosis",
    "treatment_type",
]
NONE = "'--"


def clinical_row(number: int, **changes: str) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, NONE) | {
        "case_id": f"id-{number}",
        "case_submitter_id": f"TCGA-AA-{number:04d}",
        "project_id": "TCGA-BRCA",
        "age_at_index": "60",
        "vital_status": "Alive",
        "days_to_last_follow_up": "3044",
        "ajcc_pathologic_stage": "Stage IIA",
        "primary_diagnosis": "Lobular carcinoma, NOS",
        "year_of_diagnosis": "2010",
    }
    return row | changes


def write_tsv(path: Path, rows: list[dict[str, str]]) -> Path:
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path


def cleaned(tmp_path: Path, rows: list[dict[str, str]]) -> tuple[pd.DataFrame, dict[str, str]]:
    path = write_tsv(tmp_path / "clinical.tsv", rows)
    return tcga.clean_cases(tcga.read_clinical(path).cases, load_cohort("BRCA"), path)


def test_rows_of_a_case_collapse(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        clinical_row(1, age_at_index=NONE, treatment_type="Radiation"),
        clinical_row(0, ajcc_pathologic_t="not reported"),
        clinical_row(1, age_at_index="41", ajcc_pathologic_stage="Stage IV", treatment_type="Pharma"),
    ]
    table = tcga.read_clinical(write_tsv(tmp_path / "clinical.tsv", rows)).cases
    assert table["case_submitter_id"].tolist() == ["TCGA-AA-0000", "TCGA-AA-0001"]
    assert table.loc[1, "age_at_index"] == "41"  # the first value that is not missing
    assert table.loc[1, "ajcc_pathologic_stage"] == "Stage IIA"
    assert table.loc[0, "ajcc_pathologic_t"] is None
    assert "1 cases have several values of ajcc_pathologic_stage" in caplog.text


def test_column_names_of_recent_exports(tmp_path: Path) -> None:
    names = {
        "case_id": "cases.case_id",
        "case_submitter_id": "cases.submitter_id",
        "project_id": "project.project_id",
        "vital_status": "demographic.vital_status",
        "age_at_index": "demographic.age_at_index",
        "days_to_death": "demographic.days_to_death",
    }
    row = {names.get(name, f"diagnoses.{name}"): value for name, value in clinical_row(0).items()}
    row = {"demographic.submitter_id": "no", "diagnoses.case_id": "no", **row}
    table = tcga.read_clinical(write_tsv(tmp_path / "clinical.tsv", [row])).cases
    assert table.loc[0, ["case_id", "case_submitter_id"]].tolist() == ["id-0", "TCGA-AA-0000"]
    slides = write_tsv(
        tmp_path / "slide.tsv", [{"cases.submitter_id": "TCGA-AA-0000", "slides.submitter_id": "S"}] * 2
    )
    assert tcga.read_slides(slides).to_dict("records") == [
        {"case_submitter_id": "TCGA-AA-0000", "slide_submitter_id": "S"}
    ]


def test_absent_ajcc_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {name: value for name, value in clinical_row(0).items() if not name.startswith("ajcc")}
    table = tcga.read_clinical(write_tsv(tmp_path / "clinical.tsv", [row])).cases
    assert table.loc[0, list(tcga.AJCC_COLUMNS)].tolist() == [None] * 4
    assert "has no columns" in caplog.text


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (None, FileNotFoundError, "does not exist"),
        ([{"case_id": "a"}], ValueError, "lacks the columns.*vital_status"),
        ([], ValueError, "no rows"),
    ],
)
def test_bad_clinical_table(
    tmp_path: Path, rows: list[dict[str, str]] | None, error: type[Exception], words: str
) -> None:
    path = tmp_path / "clinical.tsv"
    if rows is not None:
        pd.DataFrame(rows, columns=COLUMNS if not rows else None).to_csv(path, sep="\t", index=False)
    with pytest.raises(error, match=words):
        tcga.read_clinical(path)


@pytest.mark.parametrize(
    ("status", "death", "follow_up", "months", "event"),
    [
        ("Dead", "304.4", "1", 10.0, 1),
        ("Dead", NONE, "608.8", 20.0, 1),
        ("Alive", "5", "304.4", 10.0, 0),
        ("Alive", NONE, "-304.4", 10.0, 0),
        ("Alive", NONE, "0", 0.0, 0),
    ],
)
def test_survival(tmp_path: Path, status: str, death: str, follow_up: str, months: float, event: int) -> None:
    row = clinical_row(0, vital_status=status, days_to_death=death, days_to_last_follow_up=follow_up)
    cases, dropped = cleaned(tmp_path, [row])
    assert cases.loc[0, "durations"] == pytest.approx(months)
    assert cases.loc[0, "vital_status"] == event
    assert not dropped


def test_clean_cases_gives_reasons(tmp_path: Path) -> None:
    cases, dropped = cleaned(
        tmp_path,
        [
            clinical_row(0, age_at_index=NONE),
            clinical_row(1, vital_status="Not Reported"),
            clinical_row(2, days_to_last_follow_up=NONE),
            clinical_row(3, project_id="TCGA-LUAD", vital_status=NONE),
            clinical_row(4, vital_status="Dead", days_to_last_follow_up=NONE),
        ],
    )
    assert dropped == {
        "TCGA-AA-0001": "vital status missing",
        "TCGA-AA-0002": "survival time missing",
        "TCGA-AA-0003": "project TCGA-LUAD not in BRCA",
        "TCGA-AA-0004": "survival time missing",
    }
    assert cases["case_id"].tolist() == ["id-0"]
    assert cases.loc[0, ["primary_diagnosis", "primary_class", "year_of_diagnosis"]].tolist() == [
        "lobular carcinoma",
        1,
        2010,
    ]
    assert cases["age_at_index"].isna().all()


def test_number_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clinical.tsv has no .* age_at_index of case TCGA-AA-0001: 'old'"):
        cleaned(tmp_path, [clinical_row(0), clinical_row(1, age_at_index="old")])


# ---------------------------------------------------------------------------- split files
def split_row(case: str, **changes: object) -> dict[str, object]:
    return {
        "case_id": case,
        "case_submitter_id": case.upper(),
        "project_id": "TCGA-BRCA",
        "primary_diagnosis": "lobular carcinoma",
        "durations": 12.5,
        "vital_status": 1,
        "age_at_index": 50,
        "ajcc_pathologic_stage": "Stage II",
        "ajcc_pathologic_t": "T1",
        "ajcc_pathologic_n": "N0",
        "ajcc_pathologic_m": "M0",
    } | changes


def write_splits(folder: Path, **splits: list[dict[str, object]]) -> dict[str, Path]:
    paths = tcga.split_paths("BRCA", folder=folder)
    for split, path in paths.items():
        path.write_text(json.dumps({"data": splits.get(split, [])}))
    return paths


def test_read_split_cases_takes_published_rows(tmp_path: Path) -> None:
    # Published files write missing values as NaN, which is how Python's JSON spells it.
    published = split_row(
        "a", ajcc_pathologic_stage=float("nan"), age_at_index=float("nan"), year_of_diagnosis="2008"
    )
    paths = write_splits(
        tmp_path,
        train=[published, published],
        val=[split_row("b", ajcc_pathologic_t=None)],
        test=[split_row("c")],
    )
    cases = tcga.read_split_cases(paths)
    assert cases[["case_id", "split"]].to_numpy().tolist() == [["a", "train"], ["b", "val"], ["c", "test"]]
    assert cases.loc[0, "ajcc_pathologic_stage"] is None
    assert cases.loc[1, "ajcc_pathologic_t"] is None
    assert cases["age_at_index"].isna().tolist() == [True, False, False]


def test_split_file_names(tmp_path: Path) -> None:
    assert tcga.split_paths("BRCA", "titan", tmp_path)["val"] == tmp_path / "val_brca_cls_feat_titan.json"


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({}, "hold no case"),
        ({"train": [split_row("a")], "test": [split_row("a")]}, r"more than one split: \['a'\]"),
        ({"train": [{"case_id": "a"}]}, "row 0 lacks.*durations"),
        ({"train": [split_row("a", age_at_index=[40])]}, r"train.*row 0, case a: age_at_index is '\[40\]'"),
        ({"train": [split_row("a", age_at_index=-1.5)]}, "row 0, case a: age_at_index is '-1.5'"),
        ({"train": [split_row("a", case_submitter_id=[1])]}, "row 0, case a: case_submitter_id is"),
        ({"train": [split_row("a", durations="many")]}, "row 0, case a: durations is 'many'"),
        ({"test": [split_row("a", ajcc_pathologic_t=2)]}, "test.*case a: ajcc_pathologic_t is '2'"),
    ],
)
def test_bad_split_files(tmp_path: Path, splits: dict[str, list[dict[str, object]]], words: str) -> None:
    paths = write_splits(tmp_path, **splits)
    with pytest.raises(ValueError, match=words):
        tcga.read_split_cases(paths)


def test_no_split_file(tmp_path: Path) -> None:
    paths = write_splits(tmp_path, train=[split_row("a")])
    paths["val"].write_text("[]")
    with pytest.raises(ValueError, match=r"val_brca_cls_feat.json is no split file"):
        tcga.read_split_cases(paths)
    paths["val"].unlink()
    with pytest.raises(FileNotFoundError, match=r"val_brca_cls_feat.json.*make_dataset"):
        tcga.read_split_cases(paths)


def test_log_counts_cases(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tcga.read_clinical(
        write_tsv(tmp_path / "clinical.tsv", [clinical_row(0), clinical_row(0), clinical_row(1)])
    )
    assert "2 cases in 3 rows" in caplog.text
