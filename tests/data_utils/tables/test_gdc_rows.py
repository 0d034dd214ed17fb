"""Several GDC rows of a case: which tumour, which time, which fate."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.tables import gdc
from data_utils.tables.cohorts import load_cohort
from data_utils.tables.values import events_of
from tests.data_utils.tables.test_gdc import NONE, clinical_row, write_tsv
from utils.files import FileError

KIND, PRIMARY = "diagnoses.classification_of_tumor", "diagnoses.diagnosis_is_primary_disease"


def read(tmp_path: Path, rows: list[dict[str, str]]) -> gdc.ClinicalExport:
    return gdc.read_clinical(write_tsv(tmp_path / "clinical.tsv", rows))


def clean(tmp_path: Path, rows: list[dict[str, str]]) -> tuple[pd.DataFrame, dict[str, str]]:
    return gdc.clean_cases(read(tmp_path, rows).cases, load_cohort("BRCA"), tmp_path / "clinical.tsv")


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("other", "primary"),
    [
        ({KIND: "metastasis"}, {KIND: "primary"}),
        ({KIND: "Prior primary"}, {KIND: NONE}),
        ({PRIMARY: "false"}, {PRIMARY: "true"}),
        ({KIND: "primary", PRIMARY: "false"}, {KIND: "primary", PRIMARY: "true"}),
    ],
)
def test_the_primary_tumour_counts(
    tmp_path: Path, other: dict[str, str], primary: dict[str, str], first: bool
) -> None:
    foreign = clinical_row(0, primary_diagnosis="Carcinoma, NOS", ajcc_pathologic_stage="Stage IV") | other
    own = clinical_row(0, ajcc_pathologic_stage=NONE) | primary
    export = read(tmp_path, [foreign, own] if first else [own, foreign])
    assert export.cases.loc[0, "primary_diagnosis"] == "Lobular carcinoma, NOS"
    assert export.cases.loc[0, "ajcc_pathologic_stage"] is None  # never that of another tumour
    noted = export.notes.set_index("field")
    assert noted.loc["primary_diagnosis", "taken"] == "Lobular carcinoma, NOS"
    assert "Carcinoma, NOS" in noted.loc["primary_diagnosis", "values"]


def test_other_tumours_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, [clinical_row(0) | {KIND: "metastasis"}])
    assert "rows of other tumours only, such as TCGA-AA-0000" in caplog.text


def test_contradicting_rows_give_one_row(tmp_path: Path) -> None:
    """Never the diagnosis of one row with the stage of another."""
    rows = [
        clinical_row(0, primary_diagnosis="Carcinoma, NOS", ajcc_pathologic_stage=NONE),
        clinical_row(0, ajcc_pathologic_stage="Stage III", ajcc_pathologic_t="T3"),
    ]
    case = read(tmp_path, rows).cases.loc[0]
    assert case[["primary_diagnosis", "ajcc_pathologic_stage"]].tolist() == [
        "Lobular carcinoma, NOS",
        "Stage III",
    ]


def test_rows_that_agree_complete_each_other(tmp_path: Path) -> None:
    rows = [clinical_row(0, ajcc_pathologic_t="T1"), clinical_row(0, ajcc_pathologic_n="N1")]
    export = read(tmp_path, rows)
    assert export.cases.loc[0, ["ajcc_pathologic_t", "ajcc_pathologic_n"]].tolist() == ["T1", "N1"]
    assert export.notes.empty


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["Alive", "Dead", "deceased", "LIVING", NONE]),
            st.sampled_from([NONE, "100", "900", "-950"]),
            st.sampled_from([NONE, "50", "700.0", "[Not Available]"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_fate_against_brute_force(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    names = ("vital_status", "days_to_death", "days_to_last_follow_up")
    written = [clinical_row(0, **dict(zip(names, row, strict=True))) for row in rows]
    deaths = [abs(float(death)) for _, death, _ in rows if death != NONE]
    ends = [float(end) for _, _, end in rows if end[0].isdigit()]
    said = {status.lower() for status, _, _ in rows if status != NONE}
    dead = bool(said & {"dead", "deceased"})
    wanted = (max(deaths) if deaths else max(ends, default=None)) if dead else max(ends, default=None)
    cases, dropped = clean(folder, written)
    if not said or wanted is None:
        assert list(dropped) == ["TCGA-AA-0000"]
    else:
        assert cases["vital_status"].tolist() == [int(dead)]
        assert cases["durations"].tolist() == pytest.approx([wanted / 30.44])


# ---------------------------------------------------------------------------- follow_up.tsv
def test_follow_up_table_beside(tmp_path: Path) -> None:
    rows = [
        clinical_row(0, days_to_last_follow_up=NONE),
        clinical_row(1),
        clinical_row(2, days_to_last_follow_up=NONE, vital_status="Dead", days_to_death="77"),
    ]
    follow = [
        {"cases.submitter_id": f"TCGA-AA-{n:04d}", "follow_ups.days_to_follow_up": days}
        for n in range(3)
        for days in ("50", "9132", NONE, "400")
    ]
    write_tsv(tmp_path / "follow_up.tsv", follow)
    cases, dropped = clean(tmp_path, rows)
    assert not dropped
    assert cases["durations"].tolist() == pytest.approx([9132 / 30.44, 100, 77 / 30.44])


def test_dropping_the_living_is_an_error(tmp_path: Path) -> None:
    rows = [clinical_row(n, days_to_last_follow_up=NONE) for n in range(3)]
    rows += [clinical_row(n, vital_status="Dead", days_to_death="30") for n in range(3, 5)]
    with pytest.raises(FileError, match=r"3 of 3 living and 0 of 2 dead.*follow_up\.tsv"):
        clean(tmp_path, rows)
    # A few without a time are left out as before.
    rows += [clinical_row(n) for n in range(5, 15)]
    cases, dropped = clean(tmp_path, rows)
    assert len(cases) == 12 and set(dropped.values()) == {"survival time missing"}


# ---------------------------------------------------------------------------- columns and cells
def test_columns_of_other_entities(tmp_path: Path) -> None:
    row = {f"diagnoses.{name}": value for name, value in clinical_row(0).items()}
    row |= {
        "cases.case_id": "id",
        "cases.submitter_id": "TCGA-AA-0000",
        "cases.project.project_id": "TCGA-BRCA",
    }
    row |= {"demographic.vital_status": "Alive", "demographic.days_to_death": NONE}
    row |= {"family_histories.vital_status": "Dead", "pathology_details.days_to_last_follow_up": "1"}
    case = read(tmp_path, [row]).cases.loc[0]
    assert (case["project_id"], case["vital_status"]) == ("TCGA-BRCA", "Alive")
    assert case["days_to_last_follow_up"] == "3044"


def test_a_column_twice(tmp_path: Path) -> None:
    row = clinical_row(0) | {"demographic.vital_status": "Dead"}
    with pytest.raises(FileError, match="2 columns vital_status that differ"):
        read(tmp_path, [row])
    assert len(read(tmp_path, [clinical_row(0) | {"demographic.vital_status": "Alive"}]).cases) == 1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"days_to_last_follow_up": "inf"}, "days_to_last_follow_up"),
        ({"days_to_last_follow_up": "1e9"}, "days_to_last_follow_up"),
        ({"vital_status": "Dead", "days_to_death": "36600"}, "days_to_death"),
        ({"days_to_last_follow_up": "5,20"}, "days_to_last_follow_up"),
        ({"age_at_index": "131"}, "age_at_index"),
        ({"age_at_index": "nine"}, "age_at_index"),
    ],
)
def test_impossible_numbers(tmp_path: Path, changes: dict[str, str], name: str) -> None:
    with pytest.raises(
        FileError, match=rf"clinical\.tsv has no possible number in {name} of case TCGA-AA-0003"
    ):
        clean(tmp_path, [clinical_row(2), clinical_row(3, **changes)])


def test_words_for_alive_and_dead() -> None:
    said = pd.Series(
        ["Dead", "DECEASED", "1", "1:DECEASED", "alive", "Living", "0", "0:LIVING", "2", None, "lost"]
    )
    assert events_of(said).fillna(-1).tolist() == [1, 1, 1, 1, 0, 0, 0, 0, -1, -1, -1]


def test_numbers_that_mean_the_opposite(tmp_path: Path) -> None:
    rows = [clinical_row(0, vital_status="0", days_to_death="30"), clinical_row(1, vital_status="1")]
    with pytest.raises(FileError, match="1 does not mean dead"):
        read(tmp_path, rows)


def test_values_not_understood_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        clinical_row(0),
        clinical_row(1, vital_status="Lost"),
        clinical_row(2, ajcc_pathologic_t="T7 or so"),
    ]
    cases, dropped = clean(tmp_path, rows)
    assert dropped == {"TCGA-AA-0001": "vital status not understood: Lost"}
    assert "{'Lost': 1}" in caplog.text
    assert gdc.strange_texts(cases, "f") == [("TCGA-AA-0002", "ajcc_pathologic_t not understood: T7 or so")]
    assert "{'T7 or so': 1}" in caplog.text
