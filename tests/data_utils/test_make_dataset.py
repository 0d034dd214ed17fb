"""Split files: joining, reasons for what is left out, and the split itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from data_utils import make_dataset
from data_utils.features.store import FeatureMeta, write_features
from data_utils.tables.gdc import read_split_cases, split_paths
from utils import constants
from utils.files import FileError

NONE = "'--"
UUID = "0123ABCD-0123-4567-89AB-0123456789AB"
SECOND = "F123ABCD-0123-4567-89AB-0123456789AB"


def barcode(number: int) -> str:
    return f"TCGA-AA-{number:04d}"


def clinical_row(number: int, **changes: str) -> dict[str, str]:
    return {
        "case_id": f"id-{number:03d}",
        "case_submitter_id": barcode(number),
        "project_id": "TCGA-BRCA",
        "age_at_index": "60",
        "vital_status": "Dead",
        "days_to_death": "3044",
        "days_to_last_follow_up": NONE,
        "ajcc_pathologic_stage": "Stage IIA",
        "ajcc_pathologic_t": NONE,
        "ajcc_pathologic_n": "N0",
        "ajcc_pathologic_m": "M0",
        "primary_diagnosis": "Lobular carcinoma, NOS"
        if number % 3 == 0
        else "Infiltrating duct carcinoma, NOS",
        "year_of_diagnosis": "2010",
    } | changes


def write_feature(path: Path) -> None:
    write_features(
        path, np.ones((2, 4), np.float32), np.zeros((2, 2), np.int64), FeatureMeta(encoder="gigapath")
    )


class RawCohort:
    """Raw files of a small BRCA cohort; change the lists, then call ``run``."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, cases: int) -> None:
        monkeypatch.setattr(constants, "FEATURES_ROOT", root / "features")
        self.root = root
        self.clinical = [clinical_row(number) for number in range(cases)]
        self.slides = [(barcode(number), f"{barcode(number)}-01Z-00-DX1") for number in range(cases)]
        self.with_rna = [barcode(number) for number in range(cases)]
        self.features = constants.feature_dir("BRCA")
        for _, slide in self.slides:
            write_feature(self.features / f"{slide}.{UUID}.h5")

    def run(self, *flags: str) -> dict[str, list[dict]]:
        pd.DataFrame(self.clinical).to_csv(self.root / "clinical.tsv", sep="\t", index=False)
        columns = ["case_submitter_id", "slide_submitter_id"]
        pd.DataFrame(self.slides, columns=columns).to_csv(self.root / "slide.tsv", sep="\t", index=False)
        table = pd.DataFrame({"G": 1.0}, index=pd.Index(self.with_rna, name="case_id"))
        table.to_csv(self.root / "rna.csv")
        make_dataset.main(
            [
                "--onco=brca",
                f"--clinical={self.root / 'clinical.tsv'}",
                f"--slides={self.root / 'slide.tsv'}",
                f"--genomics_csv_path={self.root / 'rna.csv'}",
                f"--splits_dir={self.root / 'splits'}",
                *flags,
            ]
        )
        paths = split_paths("BRCA", folder=self.root / "splits")
        return {split: json.loads(path.read_text())["data"] for split, path in paths.items()}

    def dropped(self) -> dict[tuple[str, str], str]:
        table = pd.read_csv(self.root / "splits" / "dropped_brca.csv", keep_default_na=False)
        return {(slide, case): reason for slide, case, reason in table.itertuples(index=False)}


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawCohort:
    return RawCohort(tmp_path, monkeypatch, cases=30)


def test_rows_and_types(cohort: RawCohort) -> None:
    cohort.clinical[0] |= {"age_at_index": NONE, "year_of_diagnosis": NONE, "vital_status": "Alive"}
    cohort.clinical[0] |= {"days_to_last_follow_up": "304.4"}
    published = cohort.features / f"{barcode(3)}-01Z-00-DX1_featvec.pt"
    torch.save({"features": torch.ones(2, 4), "coords": torch.zeros(2, 2, dtype=torch.int64)}, published)
    (cohort.features / f"{barcode(3)}-01Z-00-DX1.{UUID}.h5").unlink()
    rows = {row["case_id"]: row for part in cohort.run().values() for row in part}
    assert len(rows) == 30 and rows["id-003"]["features_path"] == f"gigapath/TCGA-BRCA/{published.name}"
    assert rows["id-001"] == {
        "case_id": "id-001",
        "case_submitter_id": "TCGA-AA-0001",
        "project_id": "TCGA-BRCA",
        "primary_diagnosis": "infiltrating duct carcinoma",
        "primary_class": 0,
        "durations": 100.0,
        "vital_status": 1,
        "age_at_index": 60,
        "ajcc_pathologic_stage": "Stage IIA",
        "ajcc_pathologic_t": None,
        "ajcc_pathologic_n": "N0",
        "ajcc_pathologic_m": "M0",
        "year_of_diagnosis": 2010,
        "gene_availability": 1,
        "slide_submitter_id": "TCGA-AA-0001-01Z-00-DX1",
        "features_path": f"gigapath/TCGA-BRCA/TCGA-AA-0001-01Z-00-DX1.{UUID}.h5",
    }
    censored = rows["id-000"]
    assert censored["durations"] == pytest.approx(10.0)
    assert (censored["vital_status"], censored["age_at_index"], censored["year_of_diagnosis"]) == (
        0,
        None,
        None,
    )
    grade = {
        "name": "Grade",
        "sentence": "Grade: {grade}",
        "evaluate": [{"kind": "number", "column": "age_at_index"}],
    }
    (cohort.root / "tasks.json").write_text(json.dumps({"tasks": [grade]}))
    for number, row in enumerate(cohort.clinical):
        row |= {"grade": f"G{number % 3}", "demographic.gender": NONE if number == 1 else "female"}
    flags = ("--tasks", str(cohort.root / "tasks.json"), "--further", "demographic.gender")
    further = {row["case_id"]: row for part in cohort.run(*flags).values() for row in part}
    assert further["id-001"] == {**rows["id-001"], "grade": "G1", "demographic.gender": None}
    assert further["id-002"]["demographic.gender"] == "female"
    for flag, words in (
        ("durations", "would hide fields"),
        ("days_to_death", "survival is made of"),
        ("sex", "'sex'"),
    ):
        with pytest.raises(ValueError, match=words):
            cohort.run("--further", flag)
    integers = ("primary_class", "vital_status", "gene_availability", "age_at_index")
    assert all(type(rows["id-001"][key]) is int for key in integers)
    assert type(rows["id-001"]["durations"]) is float


def test_split_is_the_published_one(cohort: RawCohort) -> None:
    cohort.with_rna.remove(barcode(4))
    cohort.clinical[5] |= {"primary_diagnosis": "Metaplastic carcinoma, NOS"}
    cohort.slides.append((barcode(7), f"{barcode(7)}-01Z-00-DX2"))
    write_feature(cohort.features / f"{barcode(7)}-01Z-00-DX2.{UUID}.h5")
    cohort.clinical.reverse()  # the order of the tables does not matter
    rows = cohort.run()

    eligible = [number for number in range(30) if number not in (4, 5)]
    classes = [int(number % 3 == 0) for number in eligible]
    rest, test = train_test_split(eligible, test_size=0.2, random_state=0, stratify=classes)
    rest.sort()
    train, val = train_test_split(
        rest, test_size=0.15, random_state=0, stratify=[int(number % 3 == 0) for number in rest]
    )
    expected = {"train": [*train, 4, 5], "val": val, "test": test}
    assert {split: sorted({row["case_id"] for row in part}) for split, part in rows.items()} == {
        split: sorted(f"id-{number:03d}" for number in part) for split, part in expected.items()
    }
    by_case = {row["case_id"]: row for row in rows["train"]}
    assert (by_case["id-004"]["gene_availability"], by_case["id-004"]["primary_class"]) == (0, 0)
    assert (by_case["id-005"]["gene_availability"], by_case["id-005"]["primary_class"]) == (1, -1)
    both = [
        row["slide_submitter_id"][-3:] for part in rows.values() for row in part if row["case_id"] == "id-007"
    ]
    assert both == ["DX1", "DX2"]
    assert all(part == sorted(part, key=lambda row: row["case_id"]) for part in rows.values())
    assert len(read_split_cases(split_paths("BRCA", folder=cohort.root / "splits"))) == 30


def test_what_is_left_out_has_a_reason(cohort: RawCohort, caplog: pytest.LogCaptureFixture) -> None:
    slide = "{}-01Z-00-DX1".format
    cohort.clinical[0] |= {"days_to_death": NONE}
    cohort.clinical[1] |= {"vital_status": "Not Reported"}
    cohort.clinical[2] |= {"project_id": "TCGA-LUAD"}
    del cohort.clinical[3]
    (cohort.features / f"{slide(barcode(4))}.{UUID}.h5").unlink()
    (cohort.features / f"{slide(barcode(5))}.{UUID}.h5").write_bytes(b"half a file")
    cohort.slides.remove((barcode(6), slide(barcode(6))))
    write_feature(cohort.features / f"{slide(barcode(7))}.{SECOND}.h5")
    write_feature(cohort.features / "STRANGER.h5")
    (cohort.features / f".{slide(barcode(4))}.tmp.h5").write_bytes(b"in the making")
    rows = cohort.run()
    dropped = cohort.dropped()
    unreadable = dropped.pop((slide(barcode(5)), barcode(5)))
    assert unreadable.startswith("feature file cannot be read: ")
    assert dropped == {
        (slide(barcode(0)), barcode(0)): "survival time missing",
        (slide(barcode(1)), barcode(1)): "vital status missing",
        (slide(barcode(2)), barcode(2)): "project TCGA-LUAD not in BRCA",
        (slide(barcode(3)), barcode(3)): "no clinical row",
        (slide(barcode(4)), barcode(4)): "no feature file",
        (slide(barcode(6)), barcode(6)): "not in slide.tsv",
        ("", barcode(6)): "no slide in slide.tsv",
        ("STRANGER", "STRANGER"): "not in slide.tsv",
    }
    assert "has a second feature file" in caplog.text
    assert {row["case_id"] for part in rows.values() for row in part} == {f"id-{n:03d}" for n in range(7, 30)}


def test_ids_that_look_alike(cohort: RawCohort) -> None:
    """What nobody can see is no part of an id; what somebody mistakes is shown."""
    for number, text in enumerate(("\u200b{}", "{}\u00a0", "\u202a{}\u202c")):
        cohort.clinical[number]["case_submitter_id"] = text.format(barcode(number))
    assert len({row["case_submitter_id"] for part in cohort.run().values() for row in part}) == 30
    for other in (barcode(4).replace("-", "\u2013"), barcode(4).lower()):
        cohort.clinical[4]["case_submitter_id"] = other
        with pytest.raises(
            FileError, match=f"clinical.tsv and .*slide.tsv: '{other}' and '{barcode(4)}' differ"
        ):
            cohort.run()
    cohort.clinical[4]["case_submitter_id"] = barcode(4)
    cohort.with_rna[5] = barcode(5).replace("-", "\u2010")
    with pytest.raises(
        FileError, match=r"rna\.csv and the cohort: .* differ in upper and lower case or dashes"
    ):
        cohort.run()


@pytest.mark.parametrize("slide", [0, 1])
def test_a_slide_of_two_patients(cohort: RawCohort, slide: int) -> None:
    """Listed twice, or by a barcode that says another patient than its row."""
    name = f"{barcode(0)}-01Z-00-DX{1 + slide}"
    cohort.slides.append((barcode(1), name))
    message = f"slide.tsv: slide {name} belongs to the patients {barcode(0)} and {barcode(1)}"
    with pytest.raises(FileError, match=message):
        cohort.run()


@pytest.mark.parametrize("kind", ["all", "dx", "frozen"])
def test_kind_of_slides(cohort: RawCohort, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """The first ten cases have a frozen section beside the diagnostic slide, the next five nothing else."""
    caplog.set_level("INFO")
    frozen = [f"{barcode(number)}-01A-01-{'TS1' if number % 2 else 'BSA'}" for number in range(15)]
    for number, slide in enumerate(frozen):
        cohort.slides.append((barcode(number), slide))
        write_feature(cohort.features / f"{slide}.{UUID}.h5")
        if number >= 10:
            cohort.slides.remove((barcode(number), f"{barcode(number)}-01Z-00-DX1"))
            (cohort.features / f"{barcode(number)}-01Z-00-DX1.{UUID}.h5").unlink()
    rows = [row for part in cohort.run("--slide_kind", kind).values() for row in part]
    taken = {row["slide_submitter_id"] for row in rows}
    diagnostic = {slide for _, slide in cohort.slides} - set(frozen)
    wanted = {"all": diagnostic | set(frozen), "dx": diagnostic, "frozen": set(frozen)}[kind]
    assert taken == wanted and len(diagnostic) == 25
    reason = "not of --slide_kind"
    left_out = {slide: why for (slide, _), why in cohort.dropped().items() if why.startswith(reason)}
    assert left_out.keys() == (diagnostic | set(frozen)) - wanted
    if kind == "dx":
        assert set(left_out.values()) == {f"{reason} dx: one of the frozen sections (TS, MS, BS)"}
    counts = "25 diagnostic slides (DX), 15 frozen sections (TS, MS, BS), 0 of no known kind"
    assert f"{counts}; --slide_kind {kind} leaves out {len(left_out)}" in caplog.text


def test_features_elsewhere_and_another_encoder(cohort: RawCohort, tmp_path: Path) -> None:
    cohort.run()
    elsewhere = tmp_path / "elsewhere"
    cohort.features.rename(elsewhere)
    cohort.run("--features_encoder=titan", f"--features_dir={elsewhere}")
    paths = split_paths("BRCA", "titan", tmp_path / "splits")
    row = json.loads(paths["train"].read_text())["data"][0]
    assert row["features_path"].startswith(elsewhere.resolve().as_posix())
    assert (tmp_path / "splits" / "dropped_brca_titan.csv").is_file()


# ---------------------------------------------------------------------------- nothing matches
def test_no_features(cohort: RawCohort) -> None:
    with pytest.raises(FileNotFoundError, match="submit_extract_patches"):
        cohort.run(f"--features_dir={cohort.root}")


def test_no_slide_matches(cohort: RawCohort) -> None:
    cohort.slides = [("TCGA-ZZ-0000", "TCGA-ZZ-0000-01Z-00-DX1")]
    with pytest.raises(
        FileError, match=r"slide\.tsv: no slide is left.*no clinical row.*TCGA-AA-0000.*TCGA-AA-0000-01Z"
    ):
        cohort.run()


def test_no_expression_matches(cohort: RawCohort) -> None:
    cohort.with_rna = ["TCGA-ZZ-0000"]
    with pytest.raises(FileError, match=r"rna\.csv has a row for no case.*TCGA-AA-0000.*TCGA-ZZ-0000"):
        cohort.run()


def test_no_class_matches(cohort: RawCohort) -> None:
    cohort.clinical = [row | {"primary_diagnosis": "Sarcoma, NOS"} for row in cohort.clinical]
    with pytest.raises(
        ValueError, match=r"no diagnosis is in a class of cohort BRCA.*'sarcoma'.*'lobular carcinoma'"
    ):
        cohort.run()


def test_own_cohort_definition(cohort: RawCohort, tmp_path: Path) -> None:
    definition = {"name": "own", "projects": ["TCGA-BRCA"], "site": "breast", "classes": [["a"], ["sarcoma"]]}
    (tmp_path / "own.json").write_text(json.dumps(definition))
    cohort.clinical = [row | {"primary_diagnosis": "Sarcoma, NOS"} for row in cohort.clinical]
    rows = cohort.run(f"--cohort_json={tmp_path / 'own.json'}")
    assert {row["primary_class"] for row in rows["test"]} == {1}


def test_a_cohort_without_expression_is_split_like_any_other(cohort: RawCohort) -> None:
    with_rna = cohort.run()
    without = cohort.run("--genomics_csv_path=none")
    assert {row["gene_availability"] for part in without.values() for row in part} == {0}
    ids = [
        {s: [row["case_id"] for row in part] for s, part in split.items()} for split in (with_rna, without)
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(("flags", "tested"), [([], False), (["--split_without_genes"], True)])
def test_cases_without_expression_are_tested_on_if_wanted(
    cohort: RawCohort, flags: list[str], tested: bool
) -> None:
    cohort.with_rna = cohort.with_rna[:15]
    splits = cohort.run(*flags)
    assert any(row["gene_availability"] == 0 for row in splits["test"]) == tested
    assert any(row["gene_availability"] == 1 for row in splits["test"])


# ---------------------------------------------------------------------------- the split alone
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 1)), min_size=1, max_size=60), st.randoms())
def test_split_of_any_cohort(kinds: list[tuple[int, int]], random: object) -> None:
    cases = pd.DataFrame(kinds, columns=["primary_class", "gene_availability"])
    cases["case_id"] = [f"id-{number:03d}" for number in range(len(cases))]
    split_of = make_dataset.split_cases(cases)
    assert list(split_of) == cases["case_id"].tolist()
    eligible = cases[(cases["primary_class"] >= 0) & (cases["gene_availability"] == 1)]["case_id"]
    counts = pd.Series(split_of).loc[eligible].value_counts()
    assert {split_of[case] for case in set(cases["case_id"]) - set(eligible)} <= {"train"}
    if len(eligible) >= 3:
        assert counts.get("test") == int(np.ceil(0.2 * len(eligible)))
        assert counts.get("val") == int(np.ceil(0.15 * (len(eligible) - counts["test"])))
        assert counts.get("train") >= 1
    shuffled = cases.sample(frac=1, random_state=random.randint(0, 2**31 - 1))
    assert make_dataset.split_cases(shuffled) == split_of


@pytest.mark.parametrize(
    ("number", "splits", "words"),
    [
        (1, ["train"], "only 1 cases left: none for the test split"),
        (2, ["test", "train"], "only 1 cases left: none for the val split"),
        (3, ["test", "train", "val"], "too few cases to stratify"),
    ],
)
def test_tiny_cohorts(number: int, splits: list[str], words: str, caplog: pytest.LogCaptureFixture) -> None:
    cases = pd.DataFrame(
        {"case_id": list("abc")[:number], "primary_class": [0, 1, 0][:number], "gene_availability": 1}
    )
    assert sorted(make_dataset.split_cases(cases).values()) == splits
    assert words in caplog.text


def test_empty_split_is_written_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = RawCohort(tmp_path, monkeypatch, cases=2).run()
    assert [len(rows[split]) for split in ("train", "val", "test")] == [1, 0, 1]
    assert "the val split is empty" in caplog.text


def test_statuses_that_contradict_the_days(cohort: RawCohort, caplog: pytest.LogCaptureFixture) -> None:
    for number, row in enumerate(cohort.clinical):
        if number % 2:
            row |= {"vital_status": "Alive", "days_to_death": NONE, "days_to_last_follow_up": "500"}
    cohort.clinical[1]["days_to_death"] = "700"
    rows = {row["case_id"]: row for part in cohort.run().values() for row in part}
    assert rows["id-001"]["durations"] == pytest.approx(500 / 30.44)
    assert f"days to death of 1 living cases, such as {barcode(1)}, are not used" in caplog.text
    for row in cohort.clinical:
        row["vital_status"] = "Alive" if row["days_to_death"] != NONE else "Dead"
    with pytest.raises(FileError, match="days to death for 16 living cases and for no dead one"):
        cohort.run()
    for number, row in enumerate(cohort.clinical):
        row["vital_status"] = "12"[number % 2]
    with pytest.raises(FileError, match="vital status 1 and 2, and 1 may mean alive"):
        cohort.run()


def test_days_that_look_wrong_are_said(cohort: RawCohort, caplog: pytest.LogCaptureFixture) -> None:
    cohort.clinical[0]["days_to_death"] = "-3044"
    assert {row["durations"] for part in cohort.run().values() for row in part} == {100.0}
    assert f"days of 1 cases are negative, such as {barcode(0)}" in caplog.text
    assert "really days" not in caplog.text
    for row in cohort.clinical:
        row["days_to_death"] = "8"  # years
    cohort.run()
    assert "nobody was followed for 3 months; are its times really days?" in caplog.text


@pytest.mark.parametrize(("field", "value"), [("age_at_index", "-60"), ("year_of_diagnosis", "99999")])
def test_ages_and_years_that_cannot_be(cohort: RawCohort, field: str, value: str) -> None:
    cohort.clinical[2][field] = value
    with pytest.raises(FileError, match=f"no possible number in {field} of case {barcode(2)}: '{value}'"):
        cohort.run()


def test_a_case_has_one_barcode(cohort: RawCohort, caplog: pytest.LogCaptureFixture) -> None:
    cohort.clinical.append({**cohort.clinical[0], "case_id": "id-999"})
    cohort.run()
    assert "the rows of 1 cases have several values of case_id" in caplog.text
    cohort.clinical[1]["case_id"] = "id-000"
    with pytest.raises(
        FileError, match=rf"case_id id-000 has the barcodes \['{barcode(0)}', '{barcode(1)}'\]"
    ):
        cohort.run()


def test_spellings_of_a_diagnosis(cohort: RawCohort, caplog: pytest.LogCaptureFixture) -> None:
    cohort.clinical[0]["primary_diagnosis"] = "Lobular  carcinoma , NOS"
    cohort.clinical[3]["primary_diagnosis"] = "Lobular carcinoma NOS"
    rows = {row["case_id"]: row["primary_class"] for part in cohort.run().values() for row in part}
    assert (rows["id-000"], rows["id-003"]) == (rows["id-006"], -1)
    assert (
        "1 patients are of 'lobular carcinoma nos', which is in no class; was 'lobular carcinoma'"
        in caplog.text
    )


def test_genes_of_samples_are_not_passed_over(cohort: RawCohort) -> None:
    cohort.with_rna[4] = f"{barcode(4)}-01A"
    with pytest.raises(FileError, match=f"'{barcode(4)}-01A' is a sample of the patient '{barcode(4)}'"):
        cohort.run()
    cohort.with_rna[4] = f"{barcode(4)}-11A"  # normal tissue stands for nobody
    assert {row["case_id"]: row["gene_availability"] for row in cohort.run()["train"]}["id-004"] == 0
