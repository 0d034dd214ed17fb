"""The table of a hospital becomes split files."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from data_utils.tables.cohorts import read_cohort
from tests.own_cohort import COLUMNS, HospitalCohort, patient
from tests.small_cohort import write_slide
from utils import constants
from utils.files import FileError


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HospitalCohort:
    monkeypatch.setattr(constants, "COHORTS_ROOT", tmp_path / "cohorts")
    return HospitalCohort.of(tmp_path, 30)


def everyone(rows: dict[str, list[dict]]) -> dict[str, dict]:
    return {row["slide_submitter_id"]: row for part in rows.values() for row in part}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "xlsx", "parquet"])
def test_every_format_gives_the_same_rows(cohort: HospitalCohort, suffix: str) -> None:
    rows = cohort.make("--further", "Grade", "Ki67", suffix=suffix)
    assert {name: len(part) for name, part in rows.items()} == {"train": 20, "val": 4, "test": 6}
    row = everyone(rows)["H-0007_S1"]
    assert row == {
        "case_id": "H-0007",
        "case_submitter_id": "H-0007",
        "project_id": "HOUSE",
        "primary_diagnosis": "lumb",
        "primary_class": 1,
        "durations": pytest.approx(310 / 30.44),
        "vital_status": 0,
        "age_at_index": 47,
        "ajcc_pathologic_stage": None,
        "ajcc_pathologic_t": None,
        "ajcc_pathologic_n": None,
        "ajcc_pathologic_m": None,
        "sex": "m",
        "hospital": None,
        "Grade": "2",
        "Ki67": "3.5",
        "gene_availability": 0,
        "slide_submitter_id": "H-0007_S1",
        "features_path": (cohort.features / "H-0007_S1.h5").resolve().as_posix(),
    }
    definition = json.loads(cohort.cohort_file.read_text())
    assert definition["classes"] == [["luma"], ["lumb"]]
    assert definition["class_names"] == ["LumA", "LumB"]


def test_the_cohort_file_serves_the_second_time(cohort: HospitalCohort) -> None:
    first = cohort.make()
    assert cohort.make(columns=()) == first


def test_identifiers_keep_their_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "COHORTS_ROOT", tmp_path / "cohorts")
    cohort = HospitalCohort.of(tmp_path, 12)
    for number, row in enumerate(cohort.rows):
        row["Pat-ID"] = f"{37 + number:04d}"
        (cohort.features / f"{patient(number)}_S1.h5").rename(cohort.features / f"{row['Pat-ID']}.h5")
    for suffix in ("csv", "xlsx", "parquet"):
        assert "0037" in {row["case_id"] for row in everyone(cohort.make(suffix=suffix)).values()}


def test_a_letter_in_one_character_or_two_is_the_same(cohort: HospitalCohort) -> None:
    """Other systems write names of files and tables otherwise (Unicode NFC and NFD)."""
    for number, row in enumerate(cohort.rows):
        one, two = (unicodedata.normalize(form, f"Mü-{number:03d}") for form in ("NFC", "NFD"))
        row["Pat-ID"], row["Subtype"] = (
            one,
            unicodedata.normalize(("NFC", "NFD")[number // 2 % 2], "äö"[number % 2]),
        )
        (cohort.features / f"{patient(number)}_S1.h5").rename(cohort.features / f"{two}_S1.h5")
    for suffix in ("csv", "xlsx"):
        rows = everyone(cohort.make(suffix=suffix))
        assert len(rows) == 30 and rows["Mü-007_S1"]["primary_diagnosis"] == "ö"
    assert json.loads(cohort.cohort_file.read_text())["class_names"] == ["ä", "ö"]


def test_slides_by_the_longest_patient_whose_name_they_begin_with(cohort: HospitalCohort) -> None:
    write_slide(cohort.features / "H-0001-B.h5", 4, 90)
    write_slide(cohort.features / "H-00012.h5", 4, 91)
    cohort.rows.append(cohort.rows[1] | {"Pat-ID": "H-0001-B"})
    rows = everyone(cohort.make())
    assert rows["H-0001-B"]["case_id"] == "H-0001-B"
    assert rows["H-0001_S1"]["case_id"] == "H-0001"
    assert cohort.dropped() == {("H-00012", ""): "no patient of the table"}


def test_slides_by_a_pattern(cohort: HospitalCohort) -> None:
    for file in list(cohort.features.iterdir()):
        file.rename(file.with_name(f"scan-{file.name}"))
    rows = everyone(cohort.make("--slide_pattern", r"scan-(H-\d+)_S\d"))
    assert rows["scan-H-0003_S1"]["case_id"] == "H-0003"
    with pytest.raises(ValueError, match="needs one group"):
        cohort.make("--slide_pattern", r"scan-H-\d+")


def test_one_row_a_slide(cohort: HospitalCohort) -> None:
    for row in cohort.rows:
        row["Slide"] = f"archive/{row['Pat-ID']}_S1.svs"
    write_slide(cohort.features / "second.h5", 4, 90)
    cohort.rows.append(cohort.rows[4] | {"Slide": "second"})
    cohort.rows.append(cohort.rows[5] | {"Slide": "third"})
    (cohort.features / "H-0006_S1.h5").unlink()
    write_slide(cohort.features / "stranger.h5", 4, 91)
    rows = cohort.make(columns=(*COLUMNS, "slide=Slide"))
    assert [r["slide_submitter_id"] for p in rows.values() for r in p if r["case_id"] == "H-0004"] == [
        "H-0004_S1",
        "second",
    ]
    assert cohort.dropped() == {
        ("third", "H-0005"): "no feature file",
        ("H-0006_S1", "H-0006"): "no feature file",
        ("stranger", ""): "no patient of the table",
    }


def test_a_given_split(cohort: HospitalCohort) -> None:
    for number, row in enumerate(cohort.rows):
        row["Set"] = ("Training", "validation", "TEST")[number % 3]
    cohort.rows[9]["Set"] = None
    rows = cohort.make("--split", "Set")
    assert {r["case_id"] for r in rows["val"]} == {patient(n) for n in range(1, 30, 3)}
    assert cohort.dropped() == {("", "H-0009"): "Set is empty"}
    for row in cohort.rows:
        row["Two sets"] = "test" if row["Set"] == "TEST" else "train"
    with pytest.raises(ValueError, match="Two sets puts nobody with a slide into val; all three are needed"):
        cohort.make("--split", "Two sets")
    cohort.rows[3]["Set"] = "holdout"
    with pytest.raises(ValueError, match="Set is 'holdout' for patient H-0003"):
        cohort.make("--split", "Set")


def test_hospitals_are_kept_apart(cohort: HospitalCohort) -> None:
    rows = cohort.make("--site_column", "Hospital")
    hospitals = {name: {row["hospital"] for row in part} for name, part in rows.items()}
    assert sum(map(len, hospitals.values())) == 4
    assert all(hospitals.values())
    cohort.rows[2]["Hospital"] = None
    with pytest.raises(ValueError, match=r"Hospital is missing for 1 patients such as.*H-0002"):
        cohort.make("--site_column", "Hospital")
    for row in cohort.rows:
        row["Hospital"] = "North"
    with pytest.raises(ValueError, match="three splits need three"):
        cohort.make("--site_column", "Hospital")


# ---------------------------------------------------------------------------- what is not known
def test_survival_and_class_may_be_missing(cohort: HospitalCohort) -> None:
    cohort.rows[3]["OS"] = None
    cohort.rows[4]["Status"] = "unknown"
    cohort.rows[5]["Subtype"] = None
    for row in cohort.rows:
        row["pT"] = "pT2" if row["Pat-ID"] != "H-0006" else 2
    rows = everyone(cohort.make(columns=(*COLUMNS, "t=pT")))
    assert (rows["H-0003_S1"]["durations"], rows["H-0003_S1"]["vital_status"]) == (None, None)
    assert rows["H-0004_S1"]["durations"] is None
    assert rows["H-0005_S1"]["primary_class"] == -1
    assert cohort.dropped() == {
        ("", "H-0003"): "kept without survival: no OS",
        ("", "H-0004"): "kept without survival: no Status",
        ("", "H-0006"): "ajcc_pathologic_t not understood: 2",
    }


def test_a_table_names_its_projects(cohort: HospitalCohort, caplog: pytest.LogCaptureFixture) -> None:
    """The union of cohorts refuses patients of projects that the cohort file does not list."""
    for row in cohort.rows:
        row |= {"Study": "North", "OS": row["OS"] / 365}
    cohort.rows[4]["Study"] = None
    with caplog.at_level("INFO"):
        rows = everyone(cohort.make(columns=(*COLUMNS, "project=Study")))
    assert (rows["H-0004_S1"]["project_id"], rows["H-0005_S1"]["project_id"]) == ("HOUSE", "North")
    assert read_cohort(cohort.cohort_file).projects == ("HOUSE", "North")
    assert "survival of 30 patients is known, 16 died; 0.0 to 0.1 months" in caplog.text
    assert "nobody was followed for 3 months; are the times really days?" in caplog.text


def test_a_cohort_without_survival_or_class(cohort: HospitalCohort) -> None:
    rows = everyone(cohort.make(columns=("patient=Pat-ID", "time=OS", "event=Status")))
    assert {row["primary_class"] for row in rows.values()} == {-1}
    assert "classes" not in json.loads(cohort.cohort_file.read_text())
    cohort.cohort_file.unlink()
    splits = cohort.make(columns=("patient=Pat-ID",))
    assert {name: len(part) for name, part in splits.items()} == {"train": 20, "val": 4, "test": 6}


# ---------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("OS", -3, "OS of 1 patients is impossible, the first is '-3' of patient H-0002"),
        ("OS", "soon", "'soon' of patient H-0002"),
        ("OS", 400_000, "'400000' of patient H-0002"),
        ("Status", "lost", r"Status is \['lost'\] for 1 patients such as \['H-0002'\].*neither dead"),
        ("Age", 150, "Age of 1 patients is impossible.*H-0002"),
        ("Pat-ID", "h-0003", "'h-0003' and 'H-0003' differ in upper and lower case"),
        ("Pat-ID", "H-0003", "stand in several rows, such as .*H-0003"),
        ("Pat-ID", None, "1 rows have no Pat-ID"),
    ],
)
def test_impossible_cells_are_named_before_anything_is_written(
    cohort: HospitalCohort, column: str, value: object, words: str
) -> None:
    cohort.rows[2][column] = value
    with pytest.raises(ValueError, match=words):
        cohort.make()
    assert not cohort.splits.exists()
    assert not cohort.cohort_file.exists()


def test_what_looks_like_another_unit_code_or_class_is_said(
    cohort: HospitalCohort, caplog: pytest.LogCaptureFixture
) -> None:
    cohort.make()
    for row in cohort.rows:
        row["censored"] = int(row["Status"] == "alive")
    columns = [name.replace("Status", "censored") for name in COLUMNS]
    with pytest.raises(FileError, match=r"censored sounds as if 1 meant censored.*say what its values mean"):
        cohort.make("--columns", *columns, columns=())
    said = cohort.make("--columns", *columns, "--dead", "0", "--alive", "1", columns=())
    assert everyone(said)["H-0007_S1"]["vital_status"] == 0
    cohort.rows[0]["Subtype"] = "LumAa"
    cohort.make("--columns", *COLUMNS, "--time_unit", "months", columns=())
    assert "'lumaa', which is in no class; was 'luma' meant?" in caplog.text
    assert "more than 20 years; are the times really months?" in caplog.text


def test_a_slide_of_two_patients(cohort: HospitalCohort) -> None:
    for row in cohort.rows:
        row["Slide"] = f"{row['Pat-ID']}_S1"
    cohort.rows[2]["Slide"] = "scans/H-0003_S1.svs"
    with pytest.raises(ValueError, match="slide H-0003_S1 belongs to the patients H-0002 and H-0003"):
        cohort.make(columns=(*COLUMNS, "slide=Slide"))


def test_rows_of_a_patient_that_contradict(cohort: HospitalCohort) -> None:
    for row in cohort.rows:
        row["Slide"] = f"{row['Pat-ID']}_S1"
    cohort.rows.append(cohort.rows[4] | {"Slide": "second", "Age": 11})
    with pytest.raises(ValueError, match=r"patient H-0004 disagree on Age: .*'11'"):
        cohort.make(columns=(*COLUMNS, "slide=Slide"))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (("patient=ID",), r"no columns \['ID'\]; it has \['Pat-ID', 'Subtype'"),
        (("class=Subtype",), "which column holds the patients"),
        (("patient=Pat-ID", "time=OS"), "needs both columns"),
        (("patient=Pat-ID", "colour=Sex"), r"unknown columns \['colour'\]"),
        (("patient=Pat-ID", "class=OS"), "OS holds 30 different values"),
    ],
)
def test_wrong_columns(cohort: HospitalCohort, columns: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cohort.make(columns=columns)


def test_a_time_needs_its_unit(cohort: HospitalCohort) -> None:
    cohort.make()
    definition = json.loads(cohort.cohort_file.read_text())
    del definition["table"]["time_unit"]
    cohort.cohort_file.write_text(json.dumps(definition))
    with pytest.raises(ValueError, match="unit of 'OS' is missing; time_unit is days, months, years"):
        cohort.make(columns=())


def test_flags_without_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    from data_utils import make_dataset

    with pytest.raises(SystemExit):
        make_dataset.parse_args(["--onco=HOUSE", "--dead", "1"])
    assert "--dead: these are for --table" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        make_dataset.parse_args(["--onco=St. Mary/1"])
    assert "'St. Mary/1' is no name of a cohort" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["Alive", "survived", "lost_to_follow_up", "no_longer_living"])
def test_event_columns_whose_1_is_a_living_patient(cohort: HospitalCohort, column: str) -> None:
    for number, row in enumerate(cohort.rows):
        row[column] = number % 2
    columns = tuple(name.replace("Status", column) for name in COLUMNS)
    with pytest.raises(FileError, match=f"{column} sounds as if 1 meant censored"):
        cohort.make(columns=columns)


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        ("Subtype", "Lum A", "Lum_A"),
        ("Subtype", "HER2-", "HER2\u2212"),
        ("Subtype", "1", "1.0"),
        ("Hospital", "North", "north"),
        ("Hospital", "St. Mary", "St.  Mary"),
    ],
)
def test_two_spellings_of_a_value_are_not_two_values(
    cohort: HospitalCohort, column: str, one: str, other: str
) -> None:
    """Hospitals of two spellings would be in two splits, a class would be two."""
    for number, row in enumerate(cohort.rows[:8]):
        row[column] = (one, other)[number % 2]
    with pytest.raises(FileError, match=rf"table\.csv: {column} is .*differ in spelling only"):
        cohort.make("--site_column", "Hospital")


def test_signs_and_case_of_classes(cohort: HospitalCohort) -> None:
    """HER2+ and HER2- differ by more than spelling; blanks and capitals do not tell classes apart."""
    for number, row in enumerate(cohort.rows):
        row["Subtype"] = ("HER2 +", "her2  +", "HER2 -", "HER2 -")[number % 4]
    rows = everyone(cohort.make())
    assert {row["primary_diagnosis"]: row["primary_class"] for row in rows.values()} == {
        "her2 +": 0,
        "her2 -": 1,
    }
